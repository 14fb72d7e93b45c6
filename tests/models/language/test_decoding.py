"""Ids are those of stock `generate`, whichever kind of steps writes them, and a step does little beside the model."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from aot.compression.in_llm import InnerReduction, divide
from aot.config.schema import Config, GenerationConfig, ModelConfig, build_config
from aot.models import load_model
from aot.models.language import answer as answer_module
from aot.models.language import decode_graph, word_choice
from aot.models.language.decode_graph import BoundSteps, GraphSteps
from aot.models.language.decoding import Decoding
from aot.models.language.lean_decoder import why_not_lean
from aot.models.language.slots import Slots, slot_cache
from aot.models.language.text_pieces import TextPieces
from aot.plugins import INNER
from aot.shapes.questions import questions
from aot.shapes.render import render
from aot.shapes.world import sample_scene
from aot.types import CompressedTokens
from tests.support.compressed import compress_frames
from tests.support.decoded import KINDS, error_of_products, ids_of, steps_of, stock_ids
from tests.support.model_inputs import frames_for
from tests.support.qwen_inputs import frames_of
from tests.support.tiny_checkpoint import make_checkpoint
from tests.support.tiny_internvl import make_internvl
from tests.support.tiny_qwen import make_qwen3_vl, make_qwen25_vl

HERE = ("lean", "whole", "bound")  # kinds of steps that need no GPU
QUESTIONS = ["What moves?", "Is it red, or blue, or something else?", "Why"]
LONG = GenerationConfig(max_new_tokens=20, min_new_tokens=20)
DRAWN = GenerationConfig(max_new_tokens=20, min_new_tokens=20, temperature=1.4, seed=3)
FAMILIES: dict[str, Callable[[Path], Path]] = {
    "llava": lambda folder: make_checkpoint(folder, grid=9),
    "internvl": lambda folder: make_internvl(folder, text="qwen2"),
    "internvl of llama": lambda folder: make_internvl(folder, text="llama"),
    "internvl of mistral": lambda folder: make_internvl(folder, text="mistral"),
    "qwen 2.5": make_qwen25_vl,
    "qwen 3": make_qwen3_vl,
    "qwen 3 moe": lambda folder: make_qwen3_vl(folder, experts=4),
}
LEAN = [name for name in FAMILIES if name != "internvl of mistral"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {
        name: load_model(ModelConfig(name=str(make(tmp_path_factory.mktemp("m"))), device="cpu", dtype="float32"))
        for name, make in FAMILIES.items()
    }


@pytest.fixture
def bundled() -> Any:
    return load_model(ModelConfig(name="shapes", device="cpu", dtype="float32"))


def kept(model: Any, config: Config | None = None) -> CompressedTokens:
    frames = frames_of((24, 40), 5) if hasattr(model, "_sizes") else frames_for(model)
    return compress_frames(model, frames, config or Config(method="uniform", ratio=0.5))


@pytest.mark.parametrize("options", [LONG, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("family", FAMILIES)
def test_ids_are_those_of_generate(models: dict[str, Any], family: str, options: GenerationConfig) -> None:
    model = models[family]
    tokens = kept(model)
    for question in QUESTIONS[:2]:
        expected = stock_ids(model, model.prompt(tokens, question), options)
        assert len(expected) == 20
        for kind in HERE if family in LEAN else ("whole",):
            assert ids_of(model.generate(tokens, question, options), kind) == expected, kind


@pytest.mark.parametrize("name", INNER)
@pytest.mark.parametrize("family", LEAN)
def test_behind_reductions_inside_all_kinds_of_steps_agree(models: dict[str, Any], family: str, name: str) -> None:
    """Layers then hold different numbers of rows."""
    model = models[family]
    config = build_config({"ratio": 0.4, "method": "uniform", "inner": {"name": name}})
    inner = divide(config, model.language_layers)[1]
    tokens = kept(model, divide(config, model.language_layers)[0])
    plain, *others = (ids_of(model.generate(tokens, QUESTIONS[1], LONG, inner), kind) for kind in ("whole", *HERE))
    assert others == [plain] * len(HERE)
    if name not in ("prunevid", "framefusion"):  # which may drop the same from all layers
        assert lengths(model, tokens, inner) > 1


def lengths(model: Any, tokens: CompressedTokens, inner: InnerReduction | None) -> int:
    """How many different numbers of rows the layers hold."""
    with steps_of("bound") as steps:
        list(model.generate(tokens, QUESTIONS[1], GenerationConfig(max_new_tokens=2, min_new_tokens=2), inner)._words())
    (bound,) = steps
    assert isinstance(bound, BoundSteps)
    return len(bound._masks)


# What is asked of an answer whose ids are `w` when nothing is.
RULES: dict[str, Callable[[list[int]], dict[str, Any]]] = {
    "penalty": lambda w: {"repetition_penalty": 8.0},
    "no repeats": lambda w: {"no_repeat_ngram_size": 2},
    "no repeats of one": lambda w: {"no_repeat_ngram_size": 1},
    "bad words": lambda w: {"bad_words_ids": [[2], [w[0]], [w[1], w[2]], [*w[:3], w[3]]]},
    "never": lambda w: {"suppress_tokens": [w[0], w[2]]},
    "not first": lambda w: {"begin_suppress_tokens": [w[0], 0]},
    "ends": lambda w: {"eos_token_id": [2, w[1]]},
    "all": lambda w: {
        "repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "suppress_tokens": [w[3]], "bad_words_ids": [[*w[:2]]],
    },
    "filters": lambda w: {"top_k": 2, "top_p": 0.5},
}  # fmt: skip
ASKED = ["what happens ?", "is there a red square ?"]


def follow(model: Any, rules: str, words: list[int]) -> None:
    for name, value in RULES[rules](words).items():
        setattr(model.network.generation_config, name, value)


@pytest.mark.parametrize("temperature", [0.0, 3.0])
@pytest.mark.parametrize("least", [0, 12])
@pytest.mark.parametrize("rules", RULES)
def test_rules_are_those_of_generate(bundled: Any, rules: str, least: int, temperature: float) -> None:
    tokens, question = kept(bundled), ASKED[0]
    options = GenerationConfig(max_new_tokens=24, min_new_tokens=least, temperature=temperature, seed=1)
    plain = ids_of(bundled.generate(tokens, question, options), "lean")
    assert len(plain) > 12
    follow(bundled, rules, plain)
    expected = stock_ids(bundled, bundled.prompt(tokens, question), options)
    for kind in HERE:
        assert ids_of(bundled.generate(tokens, question, options), kind) == expected, kind
    if rules != "no repeats" or temperature == 0:  # in what is drawn wildly nothing repeats
        assert (expected != plain) == (rules != "filters" or temperature > 0)


@pytest.mark.parametrize("kind", HERE)
@pytest.mark.parametrize("rules", ["all", "filters"])
def test_several_questions_under_rules(bundled: Any, kind: str, rules: str) -> None:
    """Padding between the video and a shorter question is no word of its prompt."""
    tokens = kept(bundled)
    follow(bundled, rules, ids_of(bundled.generate(tokens, ASKED[0], LONG), "lean"))
    options = GenerationConfig(max_new_tokens=16, min_new_tokens=8, temperature=1.1, seed=4)
    asked = ["what happens ?", "is there a red square ?", "what ?", "how many objects are there in all ?"]
    alone = ["".join(bundled.generate(tokens, question, options)) for question in asked]
    with steps_of(kind):
        assert bundled.read(tokens).answers(asked, options) == alone


@pytest.mark.parametrize("kind", HERE)
def test_room_for_words_grows(bundled: Any, kind: str) -> None:
    """Slots, and positions whose rotations are computed in advance, are used up more than once."""
    tokens, options = kept(bundled), GenerationConfig(max_new_tokens=80, min_new_tokens=80)
    expected = stock_ids(bundled, bundled.prompt(tokens, ASKED[0]), options)
    with patch.object(answer_module, "MOST_ROOM", 16):
        assert ids_of(bundled.generate(tokens, ASKED[0], options), kind) == expected


# --- The bundled model


def test_the_bundled_model_writes_what_generate_does(bundled: Any) -> None:
    """Sixty questions; `python tests/models/language/test_decoding.py 500` asks more."""
    assert not unlike(bundled, 60)


def unlike(model: Any, count: int) -> list[str]:
    """The questions, of so many about drawn scenes, whose answers are others than stock `generate`'s."""
    found, asked, options = list[str](), 0, GenerationConfig(max_new_tokens=40)
    for seed in itertools.count(5000):
        scene = sample_scene(seed)
        pixels = torch.from_numpy(render(scene, range(8), model.image_size[0])).permute(0, 3, 1, 2).contiguous()
        frames = replace(frames_for(model, 8), pixels=pixels)
        tokens = compress_frames(model, frames, Config(ratio=0.25))
        for each in questions(scene)[-6:]:
            if asked == count:
                return found
            asked += 1
            written = ids_of(model.generate(tokens, each.question, options), "lean")
            if written != stock_ids(model, model.prompt(tokens, each.question), options):
                found.append(each.question)
    raise AssertionError("scenes never end")


def test_positions_that_depend_on_the_length_are_computed_by_the_model(
    bundled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = slot_cache(bundled.language.config, 4)
    assert why_not_lean(bundled.language, cache) is None
    for kind in ("dynamic", "longrope"):
        monkeypatch.setattr(bundled.language.rotary_emb, "rope_type", kind)
        assert kind in str(why_not_lean(bundled.language, cache))


# --- What a step does


class _Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        views = ("view", "slice", "select", "unsqueeze", "transpose", "t.", "expand", "as_strided", "alias", "split")
        self.count += not function.__name__.startswith(views)
        return function(*args, **(kwargs or {}))


@contextmanager
def counted() -> Iterator[_Operations]:
    with _Operations() as operations:
        yield operations


@pytest.mark.parametrize(("kind", "limit"), [("lean", 19), ("bound", 34), ("whole", 56)])
def test_operations_of_a_step(bundled: Any, kind: str, limit: int) -> None:
    """What is launched for a word: so much a layer, and little beside."""
    answer = bundled.generate(kept(bundled), ASKED[0], LONG)
    with steps_of(kind) as steps:
        words = answer._words()
        for _ in range(4):
            next(words)
    with torch.inference_mode(), counted() as operations:
        steps[0].step()
    layers = bundled.language_layers
    assert operations.count <= layers * limit + 45


@pytest.mark.parametrize("kind", HERE)
def test_keys_and_values_stay_where_they_are(bundled: Any, kind: str) -> None:
    answer = bundled.generate(kept(bundled), ASKED[0], LONG)
    with steps_of(kind) as steps:
        words = answer._words()
        for _ in range(3):
            next(words)
        decoding: Decoding = steps[0]._decoding  # type: ignore[attr-defined]
        addresses = [layer.keys.data_ptr() for layer in decoding.cache.layers]
        assert len(list(words)) == 17
    assert [layer.keys.data_ptr() for layer in decoding.cache.layers] == addresses


def test_bound_steps_touch_the_same_memory_each_time(bundled: Any) -> None:
    """As a CUDA graph demands: nothing that a step goes on from is a new tensor."""
    answer = bundled.generate(kept(bundled), ASKED[0], DRAWN)
    with steps_of("bound") as steps:
        words = answer._words()
        for _ in range(3):
            next(words)
        decoding: Decoding = steps[0]._decoding  # type: ignore[attr-defined]

        def addresses() -> list[int]:
            state = [decoding._word, decoding._past.ids, decoding._past.count, steps[0]._step]  # type: ignore[attr-defined]
            masks, choice = list(steps[0]._masks.values()), decoding._choice._drawn  # type: ignore[attr-defined]
            assert choice is not None
            return [each.data_ptr() for each in (*state, *masks, choice._clocks)]

        before = addresses()
        for _ in range(5):
            next(words)
        assert addresses() == before


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_attention_by_products(dtype: torch.dtype, error: float) -> None:
    assert error_of_products(dtype) < error


class _Graph:
    """A CUDA graph that holds nothing: what is captured runs, and fails in a filter."""

    capturing = False

    def capture_begin(self, capture_error_mode: str) -> None:
        type(self).capturing = True

    def capture_end(self) -> None:
        type(self).capturing = False
        raise RuntimeError("operation failed due to a previous error during capture")


@pytest.mark.parametrize("name", ["eta_cutoff", None])
def test_a_note_names_what_cannot_be_captured(bundled: Any, monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    """The words are written all the same."""

    def fail(*inputs: Any) -> None:
        if _Graph.capturing:
            raise RuntimeError("operation not permitted when stream is capturing\nSearch for more")

    def cut(ids: Any, scores: Tensor) -> Tensor:
        fail()
        return scores

    monkeypatch.setattr(torch.cuda, "CUDAGraph", _Graph)
    monkeypatch.setattr(decode_graph, "_side_stream", lambda device: nullcontext())
    monkeypatch.setattr(decode_graph, "_free_generator", lambda device: None)
    if name:
        monkeypatch.setattr(word_choice, "_filters", lambda settings: {name: cut})
    else:
        bundled.network.lm_head.register_forward_pre_hook(fail)
    answer = bundled.generate(kept(bundled), ASKED[0], DRAWN)
    expected = ids_of(answer, "lean")
    assert ids_of(answer, "graph") == expected
    reason = (
        f"{name} of generation_config.json" if name else "a step (operation not permitted when stream is capturing)"
    )
    said = f"the answer is written without a CUDA graph, which is slower: {reason} cannot be captured"
    assert answer.notices == (said,)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[GraphSteps]:
    """Graphs without CUDA: what replays a step runs it. Lists the steps of each graph."""
    made: list[GraphSteps] = []

    def record(steps: GraphSteps) -> Callable[[], None]:
        made.append(steps)
        return steps._words

    monkeypatch.setattr(GraphSteps, "_record", record)
    monkeypatch.setattr(decode_graph, "_side_stream", lambda device: nullcontext())
    return made


def launched(answer: Any, expected: list[int]) -> bool:
    """Whether an answer, which must be as expected, launched a step before the graph's."""
    with steps_of("graph") as picked:
        assert list(answer._words()) == expected
    return picked[0]._launched  # type: ignore[attr-defined, no-any-return]


def test_only_the_first_answer_of_a_kind_warms_up(bundled: Any, recorded: list[GraphSteps]) -> None:
    tokens = kept(bundled)
    for question, options, warms_up in [
        (ASKED[0], LONG, True), (ASKED[1], LONG, False), (ASKED[1], DRAWN, True), (ASKED[0], DRAWN, False),
        (ASKED[0], replace(LONG, max_new_tokens=30), False),
    ]:  # fmt: skip
        answer = bundled.generate(tokens, question, options)
        assert launched(answer, ids_of(answer, "lean")) == warms_up
        assert not answer.notices
    assert len(recorded) == 5


def test_a_capture_that_fails_without_a_warm_up_is_tried_again(
    bundled: Any, recorded: list[GraphSteps], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = bundled.generate(kept(bundled), ASKED[0], LONG)
    expected = ids_of(answer, "lean")
    assert launched(answer, expected)
    record, failures = GraphSteps._record, [RuntimeError("operation not permitted when stream is capturing")]

    def fail_once(steps: GraphSteps) -> Callable[[], None]:
        if failures:
            raise failures.pop()
        return record(steps)

    monkeypatch.setattr(GraphSteps, "_record", fail_once)
    assert launched(answer, expected)
    assert not answer.notices
    assert len(recorded) == 2


def test_slots_that_are_empty_are_never_seen() -> None:
    """What is behind the rows that are held may be anything that is a number."""
    slots = Slots(4)
    keys = torch.randn(1, 2, 5, 8)
    slots.update(keys, keys)
    assert slots.capacity == 16
    assert not slots.keys[:, :, 5:].any()
    seen, _ = slots.update(keys[:, :, :1], keys[:, :, :1])
    assert seen.shape[2] == 6
    assert torch.equal(seen, torch.cat([keys, keys[:, :, :1]], 2))


# --- Text


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("family", ["llava", "internvl", "qwen 3"])
def test_pieces_are_the_whole_text(models: dict[str, Any], family: str, seed: int) -> None:
    tokenizer, drawn = models[family].tokenizer, random.Random(seed)
    text = "".join(drawn.choice(["a", "b ", " cd", "é", "\n", "字", "🎈", "ب", ", "]) for _ in range(200))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids += [drawn.randrange(len(tokenizer)) for _ in range(100)]
    pieces = TextPieces(tokenizer)
    found = []
    for word in ids:
        pieces.add(word)
        found.append(pieces.complete())
    assert "".join([*found, pieces.end()]) == tokenizer.decode(ids, skip_special_tokens=True)
    assert sum(map(bool, found)) > 20


def test_text_is_handed_over_now_and_then(bundled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = bundled.generate(kept(bundled), ASKED[0], LONG)
    monkeypatch.setattr(answer_module, "_BETWEEN_PIECES_S", 0.0)
    often = list(answer)
    monkeypatch.setattr(answer_module, "_BETWEEN_PIECES_S", 1e9)
    begun, first, rest = answer
    assert len(often) > 10
    assert [begun, first] == often[:2]
    assert (begun, first + rest) == ("", "".join(often))


def test_unknown_kinds_are_none() -> None:
    assert set(HERE) | {"graph"} == set(KINDS)


if __name__ == "__main__":
    import sys

    torch.set_num_threads(1)
    print(unlike(load_model(ModelConfig(name="shapes", device="cpu", dtype="float32")), int(sys.argv[1])))
