"""What the commands share: choose and load the model, look at the video, compress, with progress bars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aot.errors import VideoError
from aot_cli.console import StageBars, log, notify, prepare_libraries

if TYPE_CHECKING:
    from aot.config import Config
    from aot.models import VideoModel
    from aot.pipeline import Compression
    from aot_cli.options import Given

__all__ = [
    "check_video",
    "compress_with_progress",
    "config_for_video",
    "config_with_model",
    "load_with_progress",
    "refuse_selection",
    "unknown_words",
]


_MOST_WORDS = 10


def config_with_model(given: Given, base: Mapping[str, Any] | None = None) -> Config:
    """The configuration with a model in it; where the user named none, one line says which is used.

    The bundled model looks at as many frames as it was trained on, unless something else is asked for.
    """
    from aot.config import BUNDLED_MODEL
    from aot.models.default import default_model
    from aot.settings import model_settings
    from aot.strict import merge_settings

    config = given.config(base)
    name = config.model.name or default_model()
    if config.model.name is None:
        notify([_introduce(name, bundled=name == BUNDLED_MODEL)])
    elif name != BUNDLED_MODEL:
        return config
    return given.config(merge_settings(base or {}, model_settings(name)))


def config_for_video(source: str, given: Given, methods: Sequence[str] | None = None) -> Config:
    """`config_with_model` for one video, which is looked at before anything is said or loaded. A line tells of settings
    given for other methods than those that compress it: `methods`, or that of the configuration.
    """
    check_video(source)
    config = config_with_model(given)
    used = [name.partition("+")[0] for name in methods or [config.method]]
    notify([f"settings of {owner} were given, which {', '.join(used)} will not use" for owner in _unused(given, used)])
    return config


def _unused(given: Given, methods: Sequence[str]) -> list[str]:
    """Owners of settings that were given by flag or `--set` and are of none of `methods`."""
    from aot.config import AOT_METHODS

    owners = [name for name in given.settings.get("methods") or {} if name not in methods]
    for_aot = given.settings.get("aot") and not set(methods) & set(AOT_METHODS)
    return [*owners, "aot"] if for_aot else owners


def _introduce(name: str, *, bundled: bool) -> str:
    if not bundled:
        return f"no model is set; {name} is in the cache and answers; --model or AOT_MODEL chooses another"
    from aot.config import REAL_MODEL

    return (
        "no model is set, so the bundled shapes model answers: it sees drawn circles, squares, triangles, stars and "
        f"crosses and how they move, nothing of the real world; for that, --model {REAL_MODEL} (1.8 GB)"
    )


def unknown_words(model: VideoModel, questions: Iterable[str]) -> list[str]:
    """A notice about words that the model cannot read, if there are any."""
    unknown = list(
        dict.fromkeys(word for question in dict.fromkeys(questions) for word in model.unknown_words(question))
    )
    more = f" and {len(unknown) - _MOST_WORDS} more" if len(unknown) > _MOST_WORDS else ""
    return [f"{model.identity.name} does not know: {', '.join(unknown[:_MOST_WORDS])}{more}"] if unknown else []


def load_with_progress(config: Config) -> VideoModel:
    """The model `config` names."""
    prepare_libraries(config.model.offline)
    from aot.models import load_model

    with StageBars() as bars, bars.stage("load model"):
        model = load_model(config.model)
    placed = ", ".join(f"{name} {value}" for name, value in model.placement.items())
    log(f"model: {model.identity.name}, {placed}")
    return model


def compress_with_progress(
    source: str,
    config: Config,
    model: VideoModel | None = None,
    questions: Sequence[str] = (),
    *,
    traced: bool = False,
) -> tuple[VideoModel, Compression]:
    """The model and what it makes of the video; `questions` may choose among its frames. traced: with a trace."""
    model = model or load_with_progress(config)
    from aot.pipeline import compress_video

    with StageBars() as bars:
        result = compress_video(source, model, config, bars, questions, traced=traced)
    _log_decisions(result)
    return model, result


def _log_decisions(result: Compression) -> None:
    report, tokens = result.report, result.tokens
    rows, cols = tokens.grid
    log(
        f"video: {report.video['codec']}, {report.video['width']} x {report.video['height']}, {len(report.frames)} of "
        f"{report.video['frames']} frames, {rows} x {cols} tokens each, in {len(tokens.clips)} clips"
    )
    for name, ms in report.stage_ms.items():
        log(f"{name}: {ms / 1e3:.2f} s")
    settings = f"method {report.config['method']}, ratio {report.config['ratio']:g}"
    budget = "" if report.budget_tokens is None else f" for a budget of {report.budget_tokens}"
    log(f"{settings}: kept {report.kept_tokens} of {report.visual_tokens} tokens{budget}")
    for name, fact in report.facts.items():
        if fact is not None:
            log(f"{name}: {fact}")
    for place, size in report.peak_bytes.items():
        log(f"peak memory ({place}): {size / 1e6:.0f} MB")


def refuse_selection(given: Given) -> None:
    """For a command that has no question, or several videos' questions, before it says or loads anything.

    Raises:
        ConfigError: frames are to be chosen by a question.
    """
    sampling = given.config().sampling
    if sampling.select_frames is not None:  # otherwise not worth the import of torch
        from aot.selection import check_questions

        check_questions(sampling, ())


def check_video(path: str) -> None:
    """
    Raises:
        VideoError: `path` is no video, or a tokens file.
    """
    from aot.tokens_file import is_tokens_file
    from aot.video import probe

    if is_tokens_file(path):
        raise VideoError(f"{path} is a tokens file already; name a video")
    if path != "-":
        probe(path)
