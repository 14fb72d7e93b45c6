"""`aot bench`: measure time and memory with and without compression, or of the compressor alone."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aot.config.layers import Layer, build_layers
from aot.config.schema import BUNDLED_MODEL, Config
from aot.errors import ConfigError
from aot.reports.retention import versions
from aot.runtime.atomic_writes import write_text
from aot.runtime.memory import explained_memory
from aot.runtime.temporary_files import temporary_file
from aot_cli.options import COMPRESSION, GENERATION, JSON, MODEL, SAMPLING, Given, command, read_number
from aot_cli.output.bench_tables import bench_table, compressor_table
from aot_cli.output.console import StageBars, notify, prepare_libraries, print_json
from aot_cli.output.outputs import check_outputs
from aot_cli.output.page import FORCE
from aot_cli.output.reproduce import command_for
from aot_cli.output.tables import print_result
from aot_cli.steps import choose_model, load_with_progress, opened_video, refuse_selection

if TYPE_CHECKING:
    from aot.bench import Figure, VideoTimes
    from aot.config.strict import Settings
    from aot.models import VideoModel

__all__ = ["app"]

app = typer.Typer(
    help="Measure time and memory: from `video` file to answer, or of the `compressor` alone.", no_args_is_help=True
)

_ANSWER_TOKENS = 32
_DEMO_SEED = 184
_DRAWN = "clip.mp4"  # the name of the drawn clip, which is no file of the user's
_BUSY = 2.0  # slowest / fastest run; a higher ratio means that other programs disturb the runs


@app.command("video")
@command(SAMPLING, MODEL, COMPRESSION, GENERATION)
def bench_video(
    given: Given,
    clip: Annotated[str | None, typer.Argument(help="A video file or URL; by default a drawn clip of 8 s.")] = None,
    synthetic: Annotated[
        str | None,
        typer.Option("--synthetic", metavar="shapes|onevision-0.5b|onevision-7b",
                     help="Use a model of this size with random weights; needs no download."),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Number of runs of each, interleaved.")] = 5,
    question: Annotated[str, typer.Option("--question", "-q", help="The question to answer.")] = "what happens?",
    html: Annotated[
        Path | None, typer.Option("--html", help="Write an HTML page that shows where the time goes.")
    ] = None,
    force: FORCE = False,
    as_json: JSON = False,
) -> None:  # fmt: skip
    """Compare answers of stock transformers, with all tokens and with kept tokens: times and work.

    Runs are interleaved and begin with decoded frames. Figures are medians (minimum-maximum).

    aot bench video --synthetic shapes
    """
    refuse_selection(given)
    check_outputs(clip or _DRAWN, {"--html": html}, force=force)
    base = {"generation": {"max_new_tokens": _ANSWER_TOKENS}}
    with _clip(clip, given) as path:
        if synthetic is None:
            chosen = choose_model(given, base)
            config, model = chosen.config, load_with_progress(chosen)
        else:
            config, model = _synthetic_model(synthetic, _without_model(given), base)
        if not config.compresses:
            raise ConfigError("--method none and --ratio 1 keep all tokens; choose others, to compare with all tokens")
        from aot.bench import time_video
        from aot.bench.rows import ceilings_text, decode_text, legend_text
        from aot.pipeline.report import model_record

        notices: list[str] = []
        with StageBars() as bars, bars.stage("bench"):
            times = time_video(path, model, config, question, rounds, notices.append)
    notices += _busy(times.arms[0].figures["answer_ms"])
    notify(notices)
    environment = _environment(model.placement["device"])
    if html:
        given_words = [*([clip] if clip else []), *(["--synthetic", synthetic] if synthetic else [])]
        words = ["bench", "video", *given_words, "--rounds", str(rounds), "-q", question]
        facts = {"model": model.identity.name, "machine": str(environment)}
        _write_page(html, times, facts, _command(words, config, synthetic), notices, force=force)
    if as_json:
        of_run = {"model": model_record(model).to_dict(), "config": config.to_dict(), "page_file": html}
        of_machine = {"environment": asdict(environment), "versions": versions()}
        print_json("aot.bench.video/2", {**asdict(times), **of_run, **of_machine})
        return
    about = f"{model.identity.name}, {environment}"
    print_result(
        bench_table(times), "\n".join((decode_text(times), ceilings_text(times.ceilings), legend_text(), about))
    )


def _command(words: list[str], config: Config, synthetic: str | None) -> str:
    """Return the command that repeats a run; a synthetic model has no name for `--model`."""
    if synthetic is None:
        return command_for(words, config)
    named = replace(config, model=replace(config.model, name=BUNDLED_MODEL))
    return command_for(words, named, leave_out=["model.name"])


def _write_page(
    path: Path, times: VideoTimes, facts: dict[str, str], command: str, notices: list[str], *, force: bool
) -> None:
    from aot.bench.page import render_bench_page

    write_text(path, render_bench_page(times, facts, command, notices), overwrite=force)
    notify([f"the page is in {path}"])


@app.command("compressor")
@command()
def bench_compressor(
    frames: Annotated[int, typer.Option("--frames", min=1, help="Number of frames F.")] = 32,
    side: Annotated[int, typer.Option("--grid", min=2, help="Patches per side of a frame, g.")] = 27,
    width: Annotated[int, typer.Option("--width", min=1, help="Feature width D.")] = 3584,
    anchors: Annotated[int, typer.Option("--anchors", min=1, help="Number of anchors M per frame.")] = 126,
    ratio: Annotated[str, typer.Option("--ratio", "-r", help="Share of the pooled tokens to keep, in (0, 1].")] = "0.1",
    device: Annotated[str, typer.Option("--device", help="Device: auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="Number format: float32, bfloat16 or float16.")] = "float32",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Number of timed runs, after one to warm up.")] = 7,
    as_json: JSON = False,
) -> None:
    """Time both phases of AOT on random features, with memory and achieved share of the bandwidth.

    aot bench compressor --frames 32 --width 3584
    """
    named = {"ratio": "--ratio", "model.device": "--device", "model.dtype": "--dtype"}
    settings = {"ratio": read_number(ratio), "model": {"device": device, "dtype": dtype}}
    config = build_layers([Layer(settings, names=named)])
    if anchors > side**2:
        raise ConfigError(f"--anchors {anchors} is more than the {side**2} patches of a {side} x {side} --grid")
    from aot.bench import CompressorSize, time_compressor
    from aot.models.loading.checkpoints import pick_device, pick_dtype

    target = pick_device(device)
    size = CompressorSize(frames, side, width, anchors, config.ratio)
    with explained_memory(), StageBars() as bars, bars.stage("bench"):
        times = time_compressor(size, target, pick_dtype(dtype, target), rounds)
    notify(_busy(times.figures["total_ms"]))
    environment = _environment(str(target))
    if as_json:
        of_input = {"size": asdict(size), "rounds": rounds, "dtype": dtype}
        of_machine = {"environment": asdict(environment), "versions": versions()}
        print_json("aot.bench.compressor/1", {**asdict(times), **of_input, **of_machine})
        return
    print_result(compressor_table(size, times), str(environment))


def _without_model(given: Given) -> Given:
    """Return `given` without the model's name from AOT_MODEL.

    Raises:
        ConfigError: If the command line names a model.
    """
    if given.is_typed("model.name"):
        raise ConfigError("--synthetic and --model name two models; give one")
    variables = given.variables.settings
    model = {name: value for name, value in variables.get("model", {}).items() if name != "name"}
    return replace(given, variables=replace(given.variables, settings={**variables, "model": model}))


def _synthetic_model(synthetic: str, given: Given, base: Settings) -> tuple[Config, VideoModel]:
    from aot.bench import SYNTHETIC, synthetic_model

    if synthetic not in SYNTHETIC:
        raise ConfigError(f"--synthetic must be one of {', '.join(SYNTHETIC)}, got {synthetic}")
    if synthetic == BUNDLED_MODEL:
        base = {**base, "model": {"name": BUNDLED_MODEL}}
    config = given.config(base)
    prepare_libraries(offline=True)
    with StageBars() as bars, bars.stage("make model"):
        return config, synthetic_model(synthetic, replace(config.model, name=None))


@contextmanager
def _clip(source: str | None, given: Given) -> Iterator[Path]:
    """Yield the path of the video `source`; if `source` is None, the path of a drawn clip."""
    if source is not None:
        with opened_video(source, given) as video:
            yield video.path
        return
    from aot.shapes.clips import encode_clip
    from aot.shapes.world import sample_scene

    with temporary_file(Path(tempfile.gettempdir())) as path:
        encode_clip(sample_scene(_DEMO_SEED), path)
        yield path


def _busy(figure: Figure) -> list[str]:
    """Return a notice if the longest time in `figure` is much longer than the shortest."""
    if figure.most <= _BUSY * figure.least:
        return []
    spread = f"{figure.least:.0f} to {figure.most:.0f} ms"
    return [f"equal runs took {spread}, so other programs use this machine; repeat without other load"]


@dataclass(frozen=True, slots=True)
class _Environment:
    """The machine and the libraries of a measurement."""

    device: str
    device_name: str
    cpus: int | None
    threads: int

    def __str__(self) -> str:
        libraries = ", ".join(f"{name} {versions()[name]}" for name in ("torch", "transformers"))
        return f"{self.device} ({self.device_name}), {self.threads} thread{'s' * (self.threads > 1)}, {libraries}"


def _environment(device: str) -> _Environment:
    import torch

    is_cuda = torch.device(device).type == "cuda"
    name = torch.cuda.get_device_name(device) if is_cuda else platform.processor() or platform.machine()
    return _Environment(device, name, os.cpu_count(), torch.get_num_threads())
