"""Steps that commands share: open the video, choose and load the model, compress."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aot.compression.methods import Method, build_method, check_method_settings
from aot.config.schema import AOT_METHODS, BUNDLED_MODEL, REAL_MODEL, Config
from aot.config.strict import Settings, merge_settings
from aot.errors import VideoError
from aot.models import FoundModel, ModelIdentity, VideoModel, describe_model, fetch_model, identify_model, load_found
from aot.models.loading.default_model import default_model
from aot.models.loading.lookup import look_up
from aot.serving.engines.options import TRANSFORMERS, EngineOptions, check_family, check_prompts, open_engine
from aot.storage.tokens_file import is_tokens_file
from aot_cli.output.console import StageBars, log, notify, prepare_libraries, quiet_libraries
from aot_cli.session import current

if TYPE_CHECKING:
    from aot.models.loading.hub import Listing
    from aot.pipeline.run import Pipeline
    from aot.reports.retention import Compression, ModelRecord
    from aot.video import FrameIndex, VideoFile
    from aot_cli.options import Given

__all__ = [
    "Chosen",
    "choose_model",
    "choose_model_for_video",
    "choose_model_for_videos",
    "compress_with_progress",
    "fetch_and_identify",
    "load_pipeline",
    "load_with_progress",
    "log_decisions",
    "opened_video",
    "queue_with_progress",
    "refuse_selection",
    "unknown_words",
]


_MOST_WORDS, _MOST_LETTERS = 10, 40


@dataclass(frozen=True, slots=True)
class Chosen:
    """A configuration with the name of a model.

    Attributes:
        config: The settings.
        to_fetch: The list of the model's files on the hub; None if no file has to be downloaded.
        method: The method object if it was built to check the settings, otherwise None.
    """

    config: Config
    to_fetch: Listing | None = None
    method: Method | None = None


def choose_model(given: Given, base: Settings | None = None) -> Chosen:
    """Choose a model on this machine or on the hub, with at most one request to the hub.

    Print a note if the user names no model and the default model is not available.
    """
    config = given.config(base) if base else given.resolved
    quiet_libraries(config.model.offline)
    current().stage = "looking for the model"
    if config.model.name is not None:
        return Chosen(config, look_up(config.model))  # before torch is imported, which takes seconds
    default = default_model(config.model)
    if default.lacking is not None:
        notice = _introduce(default.name, default.lacking)
        current().notify(notice, even_if_quiet=default.name == BUNDLED_MODEL)  # a toy is useless on real videos
    config = given.config(merge_settings(base or {}, {"model": {"name": default.name}}))
    return Chosen(config, default.to_fetch)


def choose_model_for_video(video: VideoFile, given: Given, methods: Sequence[str] | None = None) -> Chosen:
    """Choose a model; check the settings against the video's index and the model's config.json.

    Print a note if the user gave settings of methods that are not in `methods` (default: the
    configured method).
    """
    _segments(video.index, given.resolved)  # raises before any download
    chosen = choose_model(given)
    _notify_unused(given, methods or [chosen.config.method])
    if methods is not None:
        return chosen
    return replace(chosen, method=_checked_method(chosen, _segments(video.index, chosen.config)))


def choose_model_for_videos(given: Given) -> Chosen:
    """Choose a model for many videos; check the settings against the model's config.json."""
    chosen = choose_model(given)
    _notify_unused(given, [chosen.config.method])
    return replace(chosen, method=_checked_method(chosen, ()))


def _notify_unused(given: Given, methods: Sequence[str]) -> None:
    used = [name.partition("+")[0] for name in methods]
    notify([f"the settings of {owner} have no effect on {', '.join(used)}" for owner in _unused(given, used)])


def _segments(index: FrameIndex, config: Config) -> list[int]:
    """Return the number of sampled frames in each segment; segments are compressed separately.

    Raises:
        VideoError: If there is no frame in the time range.
    """
    from aot.video import plan_frames, segment_lengths

    sampling = config.sampling
    frames = len(plan_frames(index, sampling).positions)
    return segment_lengths(min(frames, sampling.select_frames or frames), sampling.segment_frames)


def _checked_method(chosen: Chosen, segments: Sequence[int]) -> Method | None:
    config = chosen.config
    prepare_libraries(config.model.offline)
    from aot.pipeline.checks import build_checked_method

    return build_checked_method(describe_model(config.model, chosen.to_fetch), config, segments)


def _unused(given: Given, methods: Sequence[str]) -> list[str]:
    """Return the methods to which the user gave settings, but which are not in `methods`."""
    owners = [name for name in given.settings.get("methods") or {} if name not in methods]
    for_aot = given.settings.get("aot") and not set(methods) & set(AOT_METHODS)
    return [*owners, "aot"] if for_aot else owners


def _introduce(name: str, lacking: str) -> str:
    if name != BUNDLED_MODEL:
        return f"using {name} from the cache, as {REAL_MODEL} is not there and {lacking}; --model chooses another"
    return (
        f"toy model in use (shapes): {lacking}, and no real model is in the cache. The toy only knows drawn circles, "
        "squares, triangles, stars and crosses and their motions, in 8 frames by default. For real answers run "
        f"this once online, which downloads {REAL_MODEL} (1.8 GB), or give --model FOLDER; "
        "--model shapes hides this note"
    )


def unknown_words(model: VideoModel, questions: Iterable[str]) -> list[str]:
    """Return one note about the words that the model does not know; [] if all are known."""
    unknown = list(
        dict.fromkeys(word for question in dict.fromkeys(questions) for word in model.unknown_words(question))
    )
    shown = ", ".join(_cut(word) for word in unknown[:_MOST_WORDS])
    more = f" and {len(unknown) - _MOST_WORDS} more" if len(unknown) > _MOST_WORDS else ""
    return [f"{model.identity.name} does not know: {shown}{more}"] if unknown else []


def _cut(word: str) -> str:
    return word if len(word) <= _MOST_LETTERS else f"{word[:_MOST_LETTERS]}..."


def load_pipeline(
    chosen: Chosen,
    made_by: ModelRecord | None = None,
    engine: EngineOptions = TRANSFORMERS,
    *,
    as_embeddings: bool = False,
) -> Pipeline:
    """Load the model, start the engine, and return a pipeline with the chosen settings.

    `as_embeddings` is whether prompts leave the process; with an engine they do.
    """
    has_engine = engine.name != "transformers"
    if has_engine:
        check_prompts(chosen.config)  # a tokens file may have brought settings
    model = load_with_progress(chosen, made_by, as_embeddings=as_embeddings or has_engine)
    from aot.pipeline.run import Pipeline

    answerer, method = None, chosen.method
    if has_engine:
        with StageBars() as bars, bars.stage("start engine"):
            answerer = open_engine(model, engine)
    return Pipeline(model, chosen.config, (lambda outer: method) if method else build_method, answerer=answerer)


def load_with_progress(
    chosen: Chosen, made_by: ModelRecord | None = None, *, as_embeddings: bool = False
) -> VideoModel:
    """Load and return the model; if files have to be downloaded first, print a note.

    Args:
        chosen: The settings with the model's name.
        made_by: The model that made the tokens of a file; another model is an error.
        as_embeddings: Whether prompts leave the process; it is an error if the model's cannot.
    """
    found = _fetched(chosen, as_embeddings=as_embeddings)
    if made_by is not None:
        from aot.pipeline.checks import check_same_model

        check_same_model(made_by, identify_model(found))
    with StageBars() as bars, bars.stage("load model"):
        model = load_found(found)
    placed = ", ".join(f"{name} {value}" for name, value in model.placement.items())
    log(f"model: {model.identity.name}, {placed}")
    return model


def fetch_and_identify(chosen: Chosen, *, as_embeddings: bool = False) -> tuple[Chosen, ModelIdentity]:
    """Download the model if needed; return the choice without a download, and the identity.

    For `as_embeddings` see `load_with_progress`.
    """
    return replace(chosen, to_fetch=None), identify_model(_fetched(chosen, as_embeddings=as_embeddings))


def _fetched(chosen: Chosen, *, as_embeddings: bool = False) -> FoundModel:
    prepare_libraries(chosen.config.model.offline)
    check_method_settings(chosen.config)
    found = describe_model(chosen.config.model, chosen.to_fetch)
    if as_embeddings:
        check_family(found.implementation, str(found.config.name))
    fetch_model(found, lambda sentence: notify([sentence]))
    return found


def compress_with_progress(
    pipeline: Pipeline, video: VideoFile, questions: Sequence[str] = (), *, traced: bool = False
) -> Compression:
    """Compress `video` with progress bars, and log the decisions of the pipeline."""
    result = queue_with_progress(pipeline, video, questions, traced=traced)
    log_decisions(result)
    return result


def queue_with_progress(
    pipeline: Pipeline, video: VideoFile, questions: Sequence[str] = (), *, traced: bool = False
) -> Compression:
    """Compress `video` with progress bars; to read the report may still wait for the device."""
    with StageBars() as bars:
        return pipeline.compress(video, questions, traced=traced, on_progress=bars)


def log_decisions(result: Compression) -> None:
    """Log the decisions of a pipeline that has just compressed a video."""
    report, tokens = result.report, result.tokens
    rows, cols = tokens.grid
    log(
        f"video: {report.video.codec}, {report.video.width} x {report.video.height}, {len(report.frames)} of "
        f"{report.video.frames} frames, {rows} x {cols} tokens each, in {len(tokens.clips)} clips"
    )
    for name, ms in report.stage_ms.items():
        log(f"{name}: {ms / 1e3:.2f} s")
    settings = f"method {report.config.method}, ratio {report.config.ratio:g}"
    budget = "" if report.budget_tokens is None else f" for a budget of {report.budget_tokens}"
    log(f"{settings}: kept {report.kept_tokens} of {report.visual_tokens} tokens{budget}")
    for name, fact in report.facts.items():
        if fact is not None:
            log(f"{name}: {fact}")
    for device, size in report.peak_bytes.items():
        log(f"peak memory ({device}): " + ("not known" if size is None else f"{size / 1e6:.0f} MB"))


def refuse_selection(given: Given) -> None:
    """Reject the selection of frames by question, which the calling command does not support.

    Raises:
        ConfigError: If `sampling.select_frames` is set.
    """
    sampling = given.resolved.sampling
    if sampling.select_frames is not None:  # the import below takes seconds
        from aot.pipeline.frame_selection import check_questions

        check_questions(sampling, ())


@contextmanager
def opened_video(source: str, given: Given) -> Iterator[VideoFile]:
    """Open the video `source` (a file, a URL or -) and index its frames.

    Raises:
        ConfigError: If a setting is wrong; settings are checked before a download.
        VideoError: If `source` is not a video, or is a tokens file.
    """
    from aot.video import open_file

    sampling = given.resolved.sampling
    if is_tokens_file(source):
        raise VideoError(f"{source} is already a tokens file; give a video")
    with ExitStack() as stack:
        with StageBars() as bars:
            video = stack.enter_context(open_file(source, sampling, bars.megabytes("fetch")))
        yield video
