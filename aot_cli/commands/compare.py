"""`aot compare`: answer one question about one video with several methods."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from aot.errors import ConfigError
from aot.reports.retention import versions
from aot.text import check_question_text
from aot_cli.options import GENERATION, INSIDE, JSON, METHODS, MODEL, SAMPLING, Given, command, named_methods, shares
from aot_cli.output.console import StageBars, notify, print_json
from aot_cli.output.outputs import check_outputs
from aot_cli.output.page import FORCE, HTML, comparison_page
from aot_cli.output.reproduce import command_for
from aot_cli.output.tables import comparison, print_result
from aot_cli.session import current
from aot_cli.steps import choose_model_for_video, load_with_progress, opened_video, unknown_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aot.evaluation import Outcome, Task
    from aot.video import VideoFile

__all__ = ["compare"]

_METHODS = "none,random,attention,aot,standout,vidcom2,holitom,flashvid"
_COLUMNS = (
    "kept_tokens", "budget_tokens", "language_model_load", "encode_ms", "compress_ms", "first_token_ms", "answer_ms",
    "answer_bytes",
)  # fmt: skip


@command(SAMPLING, MODEL, INSIDE, GENERATION)
def compare(
    video: Annotated[str, typer.Argument(help="A video file or URL.", show_default=False)],
    question: Annotated[str, typer.Argument(help="The question to answer.", show_default=False)],
    given: Given,
    methods: METHODS = _METHODS,
    ratios: Annotated[
        str | None,
        typer.Option("--ratio", "--ratios", "-r", help="Comma-separated ratios (default: the setting `ratio`, 0.1)."),
    ] = None,
    reference: Annotated[
        Literal["full", "off"],
        typer.Option("--reference", help="Compare the predictions with those with all tokens, or (off) save the time."),
    ] = "full",
    html: HTML = None,
    force: FORCE = False,
    as_json: JSON = False,
) -> None:
    """Compare the answers, tokens, times and memory of several methods for one question.

    The video is encoded once for all methods that do not change the encoder.

    aot compare clip.mp4 "what happens?" --methods aot,standout,fastvid --ratio 0.1
    """
    check_question_text(question)
    names = named_methods(methods)
    check_outputs(video, {"--html": html}, force=force)
    with opened_video(video, given) as file:
        chosen = choose_model_for_video(file, given, names)
        from aot.evaluation import Item, Task, build_conditions, off_budget
        from aot.pipeline.report import model_record
        from aot.pipeline.run import Pipeline

        config = chosen.config
        wanted = [config.ratio] if ratios is None else shares("--ratio", ratios)
        conditions = build_conditions(config, names, wanted)
        model = load_with_progress(chosen)
        notify([*unknown_words(model, [question]), *off_budget(conditions)])
        item = Item(id="compare", video=Path(video), question=question, answer=None)
        tasks = [Task(condition, Pipeline(model, condition.config), [item]) for condition in conditions]
        outcomes = _outcomes(file, tasks, with_reference=reference == "full", traced=html is not None)
    of_model = model_record(model)
    if html:
        words = ["compare", video, question, "--methods", ",".join(names), "--ratio", ",".join(map(str, wanted))]
        words += [] if reference == "full" else ["--reference", reference]
        command = command_for(words, config, leave_out=("method", "ratio"))
        comparison_page(html, outcomes, command, current().notices, force=force)
    if as_json:
        rows = [_row(outcome) for outcome in outcomes]
        shared = {name: getattr(outcomes[-1].answered[0], name) for name in ("visual_tokens", "decode_ms")}
        answered = {"source": video, "question": question, **shared, "methods": rows, "page_file": html}
        of_run = {"toy_model": of_model.toy_model, "model": of_model.to_dict(), "config": config.to_dict()}
        print_json("aot.compare/1", {**answered, **of_run, "versions": versions()})
        return
    print_result(*comparison(question, outcomes))


def _outcomes(video: VideoFile, tasks: Sequence[Task], *, with_reference: bool, traced: bool) -> list[Outcome]:
    """Return the outcomes of all tasks that succeed; print a note for each task that fails.

    Raises:
        ConfigError: If all tasks fail.
    """
    from aot.evaluation import answer_video

    session = current()
    outcomes: list[Outcome] = []
    with StageBars() as bars:
        answering = answer_video(
            video,
            tasks,
            session.notify,
            references={} if with_reference else None,
            measure_memory=True,
            traced=traced,
        )
        for done, outcome in enumerate(answering, 1):
            bars("compare", done, len(tasks))
            if outcome.refusal:
                session.notify(f"{outcome.condition.key} is left out: {outcome.refusal.error}")
            else:
                outcomes.append(outcome)
    if not outcomes:
        raise ConfigError(
            "all methods failed, so there is nothing to compare; use a higher --ratio, or other --methods"
        )
    return outcomes


def _row(outcome: Outcome) -> dict[str, object]:
    asked, (answered,) = outcome.condition, outcome.answered
    head = {"condition": answered.condition, "method": asked.name, "ratio": asked.ratio, "answer": answered.predicted}
    near = None if answered.fidelity is None else asdict(answered.fidelity)
    return {**head, **{name: getattr(answered, name) for name in _COLUMNS}, "fidelity": near}
