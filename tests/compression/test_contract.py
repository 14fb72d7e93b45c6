"""What comes back from a method or an inner reduction is checked, and its author named where it is wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from aot import plugins as registry
from aot.compression.in_llm import LayerPoint, Reduction, State
from aot.compression.methods import Card, build_method
from aot.compression.methods.subset import keep_subset
from aot.config.schema import AOTConfig, ClipConfig, Config, GenerationConfig, InterConfig
from aot.errors import BudgetError, MemoryLimitError, MethodError, NumericsError
from aot.models.families.llava import Llava
from aot.pipeline.chunk_compressor import ChunkCompressor
from aot.runtime.stages import StageClock
from aot.types import Clip, CompressedTokens, Needs, Role, SourceWeights, VisualTokens
from tests.support.compressed import compress_frames
from tests.support.model_inputs import QUESTION, frames_for

FRAMES = 4
RATIO = 0.2
CPU = torch.device("cpu")

Change = Callable[[CompressedTokens], Any]


@dataclass(frozen=True)
class Changed:
    """Keeps the first tokens, and then something is wrong with them."""

    card: ClassVar = Card("after pooling")
    needs: ClassVar = Needs()
    change: Change = lambda kept: kept

    def compress(self, tokens: VisualTokens, budget: int) -> Any:
        return self.change(keep_subset(tokens, torch.arange(budget)))


def compressed(model: Llava, method: Any, config: Config | None = None, *, traced: bool = False) -> CompressedTokens:
    config = config or Config(method="uniform", ratio=RATIO)
    return compress_frames(model, frames_for(model, FRAMES), config, method, traced=traced)


def with_first(name: str, value: float) -> Change:
    """The same tokens but for one value of the first."""

    def changed(kept: CompressedTokens) -> CompressedTokens:
        values = getattr(kept, name).clone()
        values[0] = value
        return replace(kept, **{name: values})

    return changed


def without_first(kept: CompressedTokens) -> CompressedTokens:
    names = ("features", "frame", "row", "col", "role", "mass")
    return replace(kept, **{name: getattr(kept, name)[1:] for name in names})


def with_sources(**wrong: Any) -> Change:
    """The same tokens with right sources but for one value."""
    right = SourceWeights(20, torch.arange(20), torch.arange(20), torch.ones(20))
    return lambda kept: replace(kept, sources=replace(right, **wrong))


def test_right_tokens_pass(small_model: Llava) -> None:
    assert len(compressed(small_model, Changed()).features) == round(RATIO * FRAMES * 25)
    assert compressed(small_model, Changed(with_sources())).sources is None
    traced = compressed(small_model, Changed(with_sources()), traced=True).sources
    assert traced is not None and traced.source.tolist() == list(range(20))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda kept: None, "returned a NoneType, not aot.types.CompressedTokens"),
        (without_first, "kept 19 tokens where exactly 20 were due"),
        (with_first("features", float("nan")), "returned features with NaN or infinite values"),
        (with_first("frame", 4), "returned a frame outside of 0 .. 3"),
        (with_first("row", -1), "returned a row outside of 0 .. 4"),
        (with_first("col", 5), "returned a col outside of 0 .. 4"),
        (with_first("role", len(Role)), "returned a role outside of 0 .. 3"),
        (with_first("mass", 0.0), "returned a mass that is not a finite number above 0"),
        (with_first("mass", float("inf")), "returned a mass that is not a finite number above 0"),
        (with_first("mass", 2.0), "returned a token of mass above 1 whose role is not MERGED"),
        (lambda kept: replace(kept, features=kept.features[:, :-1]), "returned features [20, 31], not [K, 32]"),
        (lambda kept: replace(kept, features=kept.features.double()), "features in torch.float64, not torch.float32"),
        (lambda kept: replace(kept, frame=kept.frame.long()), "returned frame in torch.int64, not torch.int32"),
        (lambda kept: replace(kept, mass=kept.mass[1:]), "returned mass [19], not [20]"),
        (lambda kept: replace(kept, row=kept.row.tolist()), "returned row of type list, not [20]"),
        (lambda kept: replace(kept, role=kept.role.to("meta")), "returned role on meta, not on cpu"),
        (lambda kept: replace(kept, grid=(3, 3)), "returned the grid (3, 3), not the pooled (5, 5)"),
        (lambda kept: replace(kept, timestamps_s=(0.0,)), "returned other timestamps than it was given"),
        (lambda kept: replace(kept, clips=(Clip(0, 3),)), "returned clips that do not cover frames 0 .. 3"),
        (lambda kept: replace(kept, clips=(Clip(0, 4), Clip(3, 4))), "returned clips that do not cover frames 0 .. 3"),
        (lambda kept: replace(kept, facts={"share": np.float64(0.5) * np.ones(1)}), "the fact share of type ndarray"),
        (lambda kept: replace(kept, facts={"share": float("nan")}), "the fact share nan, which no report can hold"),
        (lambda kept: replace(kept, sources=1), "returned sources of type int, not aot.types.SourceWeights"),
        (with_sources(token=[0]), "returned sources whose token, source and weight are not all [E]"),
        (with_sources(source=torch.zeros(3, dtype=torch.long)), "token, source and weight are not all [E]"),
        (with_sources(weight=torch.ones(20, dtype=torch.long)), "in torch.int64, torch.int64 and torch.int64, not in"),
        (with_sources(token=torch.arange(1, 21)), "returned sources that lack kept tokens, or name others"),
        (with_sources(count=21), "returned sources that lack kept tokens, or name others"),
        (with_sources(source=torch.arange(20) - 1), "returned a source outside of 0 .. 99"),
        (with_sources(source=torch.arange(20) + 81), "returned a source outside of 0 .. 99"),
        (with_sources(weight=torch.zeros(20)), "returned source weights that are not positive"),
        (with_sources(weight=torch.full((20,), 1.1)), "or that sum to more than 1 in a token"),
    ],
)  # fmt: skip
def test_wrong_tokens_are_an_error(
    small_model: Llava, change: Change, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug_in(monkeypatch, "methods", Changed)
    with pytest.raises(MethodError) as error:
        compressed(small_model, Changed(change))
    assert told in str(error.value)
    assert str(error.value).startswith("the plug-in stranger of the package strange 1.2 ")
    assert "use another method, and report this to its authors" in str(error.value)


def test_tracing_is_on_no_clock(small_model: Llava) -> None:
    asked = []

    class Slow(Changed):
        def compress(self, tokens: VisualTokens, budget: int) -> Any:
            asked.append(tokens.traced)
            time.sleep(0.5 * tokens.traced)
            return super().compress(tokens, budget)

    compressed(small_model, Slow())
    assert asked == [False]
    clock = StageClock(CPU)
    compressor = ChunkCompressor(Slow(), Config(method="uniform", ratio=RATIO), clock, traced=True)
    compressor.add(small_model.encode(frames_for(small_model, FRAMES), Needs()))
    assert asked == [False, False, True]
    assert clock.stage_ms["compress"] < 500


def plug_in(monkeypatch: pytest.MonkeyPatch, kind: Any, cls: type) -> None:
    """As if the class came from another package, called strange."""
    point: Any = SimpleNamespace(
        name="stranger",
        value=f"{cls.__module__}:{cls.__qualname__}",
        module=cls.__module__,
        dist=SimpleNamespace(name="strange", version="1.2"),
    )
    monkeypatch.setattr(registry, "_plugged_in", lambda asked: {"stranger": point} if asked == kind else {})


def test_one_of_our_own_is_named_as_users_know_it(small_model: Llava) -> None:
    class Broken(type(build_method(Config(method="uniform", ratio=0.5)))):  # type: ignore[misc]
        def compress(self, tokens: VisualTokens, budget: int) -> CompressedTokens:
            return super().compress(tokens, budget + 1)

    with pytest.raises(MethodError, match=r"^uniform kept 21 tokens where exactly 20 were due; .*report this$"):
        compressed(small_model, Broken())


def test_one_of_our_own_that_overflows_is_told_by_its_cause(small_model: Llava) -> None:
    with pytest.raises(NumericsError, match="too large for float32"):
        compressed(small_model, Changed(with_first("features", float("inf"))))


def test_a_method_that_may_keep_less_keeps_no_more(small_model: Llava) -> None:
    @dataclass(frozen=True)
    class Loose(Changed):
        card: ClassVar = Card("after pooling", exact=False)

        def compress(self, tokens: VisualTokens, budget: int) -> Any:
            return keep_subset(tokens, torch.arange(budget + int(self.change(None))))

    assert len(compressed(small_model, Loose(lambda _: -3)).features) == 17
    with pytest.raises(MethodError, match="kept 21 tokens where 1 to 20 were due"):
        compressed(small_model, Loose(lambda _: 1))


def test_published_counts_are_free_up_to_all_tokens(small_model: Llava) -> None:
    published = Config(ratio=0.9, aot=AOTConfig(budget="paper", clips=ClipConfig(frames=2)))
    with pytest.raises(BudgetError, match=r"aot as published keeps 1\d\d tokens of 100; use a lower --ratio, or exact"):
        compressed(small_model, None, published)
    less = replace(published, aot=replace(published.aot, inter=InterConfig(keyframe="original")))
    assert len(compressed(small_model, None, less).features) <= 100


def test_no_gradients_come_out(small_model: Llava) -> None:
    weight = torch.nn.Parameter(torch.ones(()))
    scaled: Change = lambda kept: replace(kept, features=kept.features * weight, mass=kept.mass * weight)  # noqa: E731

    def insisting(kept: CompressedTokens) -> CompressedTokens:
        with torch.enable_grad():
            return replace(kept, features=kept.features.clone() * weight, mass=kept.mass * weight)

    for change in (scaled, insisting):
        kept = compressed(small_model, Changed(change))
        assert not kept.features.requires_grad and not kept.mass.requires_grad
        assert kept.features.is_leaf


# --- Exceptions inside a plug-in


def failing(error: Exception) -> Change:
    def fail(_: object) -> None:
        raise error

    return fail


def test_a_failure_names_the_plug_in(small_model: Llava, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):  # one of our own, whose traceback is what helps
        compressed(small_model, Changed(failing(ZeroDivisionError("by\nzero"))))
    plug_in(monkeypatch, "methods", Changed)
    with pytest.raises(MethodError) as error:
        compressed(small_model, Changed(failing(ZeroDivisionError("by\nzero"))))
    assert str(error.value).startswith(
        "the plug-in stranger of the package strange 1.2 failed (ZeroDivisionError: by zero)"
    )
    assert isinstance(error.value.__cause__, ZeroDivisionError)
    with pytest.raises(BudgetError, match="as the method says"):
        compressed(small_model, Changed(failing(BudgetError("as the method says"))))
    with pytest.raises(MemoryLimitError):
        compressed(small_model, Changed(failing(MemoryError())))


def test_so_do_failures_elsewhere(small_model: Llava, monkeypatch: pytest.MonkeyPatch) -> None:
    class Needy(Changed):
        needs: ClassVar = property(failing(KeyError("layer")))  # type: ignore[arg-type]

    class Odd(Changed):
        needs: ClassVar = {"layer": 1}  # type: ignore[assignment]

    class Merging(Changed):
        clips = plan = lambda self, *_: 1 // 0
        needs: ClassVar = property(lambda self: Needs(merging=self))  # type: ignore[assignment]

    class Untraceable(Changed):
        def compress(self, tokens: VisualTokens, budget: int) -> Any:
            if tokens.traced:
                raise IndexError("place")
            return super().compress(tokens, budget)

    plug_in(monkeypatch, "methods", Changed)
    for method, told in (
        (Needy(), "failed (KeyError: 'layer')"),
        (Odd(), "has needs of type dict, not aot.types.Needs"),
        (Merging(), "failed (ZeroDivisionError"),
        (Untraceable(), "failed (IndexError: place)"),
    ):
        with pytest.raises(MethodError) as error:
            compressed(small_model, method, traced=True)
        assert f"the plug-in stranger of the package strange 1.2 {told}" in str(error.value)


# --- Inside the language model


@dataclass(frozen=True)
class Dropping:
    """Before the second layer, drops what it is told to."""

    card: ClassVar = Card("second layer")
    found: Callable[[State], Any] = lambda state: Reduction(state.visual[::2])
    says: float = 1.0

    def load(self, layers: int) -> float:
        return self.says

    def with_load(self, load: float, layers: int) -> Dropping:
        return self

    def points(self, layers: int) -> tuple[LayerPoint, ...]:
        return (LayerPoint(1),)

    def reduce(self, state: State) -> Any:
        return self.found(state)


def answer_with(model: Llava, inner: Any) -> str:
    tokens = compressed(model, None)
    return "".join(model.generate(tokens, QUESTION, GenerationConfig(max_new_tokens=2), inner))


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (lambda state: None, "did not return a Reduction"),
        (lambda state: Reduction(state.visual.int()), "did not return a Reduction"),
        (lambda state: Reduction(state.question[:1]), "dropped a row of text, or one row twice"),
        (lambda state: Reduction(state.visual[:1].repeat(2)), "dropped a row of text, or one row twice"),
        (lambda state: Reduction(state.visual[:1] + 10_000), "dropped a row outside of 0 .. "),
        (lambda state: Reduction(state.visual, state.hidden[:, :-1]), "returned hidden states [1, "),
        (
            lambda state: Reduction(state.visual, state.hidden * torch.nan),
            "returned hidden states with NaN or infinite values",
        ),
        (failing(RuntimeError("shapes")), "failed (RuntimeError: shapes)"),
    ],
)
def test_a_wrong_reduction_is_an_error(
    small_model: Llava, found: Any, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug_in(monkeypatch, "inner", Dropping)
    assert answer_with(small_model, Dropping()) is not None
    with pytest.raises(MethodError) as error:
        answer_with(small_model, Dropping(found))
    assert f"the plug-in stranger of the package strange 1.2 {told}" in str(error.value)


def test_a_reduction_that_saves_less_than_it_says_is_an_error(small_model: Llava) -> None:
    with pytest.raises(MethodError, match=r"Dropping left the layers 63\.5% .* not 30\.0%"):
        answer_with(small_model, Dropping(says=0.3))


def test_every_name_is_found_again() -> None:
    for name in registry.METHODS:
        assert registry.called(registry.find(name)) == name
    for name in registry.INNER:
        assert registry.called(registry.find(name, "inner")(), "inner") == name


def test_this_file_is_no_plug_in() -> None:
    assert not registry.is_plugged_in(Changed())
    assert registry.called(Changed()) == "Changed"
