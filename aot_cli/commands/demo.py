"""`aot demo`: show every step on a drawn clip with the bundled model."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aot.config.schema import BUNDLED_MODEL, REAL_MODEL, Config
from aot.config.sources import resolve_config
from aot.runtime.atomic_writes import check_writable, make_folder
from aot.storage.tokens_file import save_tokens
from aot_cli.options import JSON, command
from aot_cli.output.console import notify, print_json, usage_line
from aot_cli.output.describe import VideoDescription, compression_json, describe_video, show_video
from aot_cli.output.page import FORCE
from aot_cli.output.reproduce import ask_words, command_for
from aot_cli.output.screen import print_text
from aot_cli.output.strips import strips_of_file
from aot_cli.output.tables import AnswerPair, answer_table, frame_table, print_result
from aot_cli.output.terminal_pictures import ClipStrips, shows_pictures
from aot_cli.session import current
from aot_cli.steps import Chosen, compress_with_progress, load_pipeline

if TYPE_CHECKING:
    from aot.reports.retention import Compression, RetentionReport
    from aot.shapes.questions import QA
    from aot.shapes.world import Scene
    from aot.video import VideoFile

__all__ = ["demo"]

_OWN_FOLDER = Path("aot-demo")  # the demo may replace its files there
_SEED = 125  # a scene with motion and a change of color
_KINDS = ("describe", "change", "motion")


@command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the clip, its tokens and an HTML page.")
    ] = _OWN_FOLDER,
    force: FORCE = False,
    as_json: JSON = False,
) -> None:
    """Draw a clip, keep a tenth of its tokens, and compare the answers with those of all tokens.

    The demo uses the bundled model and needs no network.

    aot demo
    """
    from aot.shapes.clips import write_clip
    from aot.shapes.world import sample_scene
    from aot.video import open_file

    started = time.perf_counter()
    clip, tokens, page = output / "clip.mp4", output / "tokens.pt", output / "kept.html"
    make_folder(output)
    for path in (clip, tokens, page):
        check_writable(path, overwrite=force or output == _OWN_FOLDER)
    scene = sample_scene(_SEED)
    current().stage = "draw a clip"
    write_clip(scene, clip)
    config = resolve_config({}, BUNDLED_MODEL, folder=output)
    with open_file(clip) as video:
        found = describe_video(video.index, config)
        notify(found.notices)
        kept, answers = _ask_both_ways(scene, video, tokens, page, config)
        strips = strips_of_file(video, found, config.sampling) if shows_pictures() and not as_json else None
    seconds = time.perf_counter() - started
    if as_json:
        files = {"tokens_file": tokens, "page_file": page}
        answered = {"questions": [asdict(pair) for pair in answers], "total_ms": seconds * 1e3}
        print_json("aot.demo/1", {**compression_json(str(video.path), kept), **files, **answered})
    else:
        _show(clip, tokens, page, found, strips, kept.report, answers)
        print_text(
            f"{seconds:.0f} s in total. Open {page} to see what was kept, watch {clip}, and ask your own questions."
        )
        print_text(f"For real videos leave out the preset: {REAL_MODEL} then answers (1.8 GB, downloaded once).")


def _ask_both_ways(
    scene: Scene, video: VideoFile, tokens: Path, page: Path, config: Config
) -> tuple[Compression, list[AnswerPair]]:
    """Return the compression, and the answers to each question with all and with kept tokens."""
    from aot.pipeline.run import Pipeline
    from aot.reports import html

    pipeline = load_pipeline(Chosen(config))
    kept = compress_with_progress(pipeline, video, traced=True)
    everything = compress_with_progress(Pipeline(pipeline.model, replace(config, method="none")), video)
    save_tokens(tokens, kept.tokens, kept.report, overwrite=True)
    rows = []
    for qa in _questions(scene):
        question = _as_spoken(qa.question)
        of_all, of_kept = ("".join(pipeline.answer(given.tokens, question)) for given in (everything, kept))
        rows.append(AnswerPair(question, _as_spoken(qa.answer), of_all, of_kept))
    pairs = [(row.question, row.answer_of_kept) for row in rows]
    words = ask_words(str(video.path), [question for question, _ in pairs])
    html.write(kept, page, command=command_for(words, kept.report.config), answers=pairs, overwrite=True)
    notify(kept.report.notices)
    return kept, rows


def _questions(scene: Scene) -> list[QA]:
    from aot.shapes.questions import questions

    by_kind = {qa.kind: qa for qa in questions(scene)}
    return [by_kind[kind] for kind in _KINDS]


def _as_spoken(text: str) -> str:
    return text.replace(" .", ".").replace(" ?", "?")


def _show(
    clip: Path,
    tokens: Path,
    page: Path,
    found: VideoDescription,
    strips: ClipStrips | None,
    report: RetentionReport,
    answers: list[AnswerPair],
) -> None:
    print_text(f"$ aot inspect {clip} --preset shapes\n")
    show_video(str(clip), found, strips)
    print_text(f"\n$ aot compress {clip} -o {tokens} --preset shapes --ratio 0.1")
    print_result(frame_table(report.frames), usage_line(report, report.stage_ms))
    print_text(f'\n$ aot ask {clip} "{answers[0].question}" --preset shapes --html {page}')
    print_text("  (and again with --method none)")
    print_result(answer_table(answers, report.visual_tokens, report.kept_tokens))
