"""`aot demo`: the whole program on a clip it draws itself, with the model that ships with it."""

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
from aot_cli.options import command
from aot_cli.output.console import notify, print_json, usage_line
from aot_cli.output.describe import VideoDescription, compression_json, describe_video, show_video
from aot_cli.output.page import FORCE, compression_page
from aot_cli.output.reproduce import ask_words
from aot_cli.output.screen import print_text
from aot_cli.output.strips import strips_of_file
from aot_cli.output.tables import AnswerPair, answer_table, frame_table, print_result
from aot_cli.output.terminal_pictures import ClipStrips, shows_pictures
from aot_cli.run import Chosen, compress_with_progress, load_pipeline
from aot_cli.session import current

if TYPE_CHECKING:
    from aot.reports.retention import Compression, RetentionReport
    from aot.shapes.questions import QA
    from aot.shapes.world import Scene
    from aot.video import VideoFile

__all__ = ["demo"]

_OWN_FOLDER = Path("aot-demo")  # what the demo wrote there it may replace
_SEED = 125  # a scene with motion and a change of color
_KINDS = ("describe", "change", "motion")


@command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the clip, its tokens and a page.")
    ] = _OWN_FOLDER,
    force: FORCE = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Draw a clip, inspect it, keep a tenth of its tokens, and ask with all of them and the tenth. No network.

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
        files = {"tokens_file": str(tokens), "page_file": str(page)}
        asked = {"questions": [asdict(pair) for pair in answers], "total_ms": seconds * 1e3}
        print_json("aot.demo/1", {**compression_json(str(video.path), kept), **files, **asked})
    else:
        _show(clip, tokens, page, found, strips, kept.report, answers)
        print_text(
            f"{seconds:.0f} s in all. Open {page} to see what was kept, watch {clip}, and ask it something of your own."
        )
        print_text(f"Of real videos ask the same without a preset: {REAL_MODEL} answers (1.8 GB, fetched once).")


def _ask_both_ways(
    scene: Scene, video: VideoFile, tokens: Path, page: Path, config: Config
) -> tuple[Compression, list[AnswerPair]]:
    """Return the compression, and every question's right answer and the model's two."""
    from aot.pipeline.run import Pipeline

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
    compression_page(page, kept, words, force=True, answers=pairs)
    notify(kept.report.notices)
    return kept, rows


def _questions(scene: Scene) -> list[QA]:
    from aot.shapes.questions import questions

    asked = {qa.kind: qa for qa in questions(scene)}
    return [asked[kind] for kind in _KINDS]


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
    print_text("  (then again with --method none)")
    print_result(answer_table(answers, report.visual_tokens, report.kept_tokens))
