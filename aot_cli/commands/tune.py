"""`aot tune`: find the smallest ratio that stays within a stated loss on the user's videos."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aot.errors import ConfigError
from aot.reports.retention import versions
from aot.runtime.atomic_writes import check_writable, make_folder, write_text
from aot.runtime.folder_lock import locked, removed_if_unused
from aot.text import visible
from aot_cli.options import GENERATION, INSIDE, JSON, MODEL, SAMPLING, Given, command, named_methods, shares
from aot_cli.output.console import StageBars, json_object, json_text, notify
from aot_cli.output.reproduce import ask_words, command_for
from aot_cli.output.screen import print_text
from aot_cli.output.tables import print_result
from aot_cli.output.tuned import tuned_table
from aot_cli.questions import asked_items
from aot_cli.session import current
from aot_cli.steps import choose_model, load_with_progress, refuse_selection, unknown_words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aot.config.schema import Config
    from aot.evaluation import Condition, Item
    from aot.tuning import Choice, Goal, Tuned
    from aot_cli.steps import Chosen

__all__ = ["tune_command"]

_METHODS = "standout,vidcom2,attention,kitoke,simplecluster,floc,aot"
_RATIOS = "50%,35%,25%,18%,12.5%,10%,7%,5%,3.5%,2.5%"
_MAX_LOSS, _MAX_DIVERGENCE = 1.0, 0.03
_ANSWERS, _RESULT, _PAGE = "answers.jsonl", "tune.json", "tune.html"


@command(SAMPLING, MODEL, INSIDE, GENERATION)
def tune_command(
    given: Given,
    videos: Annotated[
        list[str] | None,
        typer.Argument(metavar="[VIDEO|FOLDER]...", help="Your videos; 20 or more like those you will ask about."),
    ] = None,
    question: Annotated[
        list[str] | None,
        typer.Option("--question", "-q", help="Ask a question about every video. Repeatable.", show_default=False),
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            "--questions",
            help="A text file with a question per line, for every video; or a JSONL file as for `aot eval`, whose "
            "lines name their videos: video, question [, answer, options, family, id].",
        ),
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(
            "--max-loss",
            metavar="POINTS",
            help=f"Questions with answers: allow this loss of accuracy, in points (default: {_MAX_LOSS:g}).",
        ),
    ] = None,
    max_divergence: Annotated[
        float | None,
        typer.Option(
            "--max-divergence",
            metavar="NATS",
            help="Without answers: allow this mean divergence from the predictions with all tokens. At 0.03, each "
            f"token of the full answer becomes 3 % less likely on average (default: {_MAX_DIVERGENCE:g}).",
        ),
    ] = None,
    methods: Annotated[str, typer.Option("--methods", help="Comma-separated methods to choose from.")] = _METHODS,
    ratios: Annotated[
        str, typer.Option("--ratios", "--ratio", "-r", help="Comma-separated ratios to choose from.")
    ] = _RATIOS,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for answers, result and page; a later run continues there.")
    ] = Path("aot-tune"),
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FILE.yaml", help="Write the choice as a preset, for --preset.")
    ] = None,
    seed: Annotated[int, typer.Option("--order-seed", help="Seed of the order in which videos are measured.")] = 0,
    restart: Annotated[bool, typer.Option("--restart", help="Discard the answers in the folder.")] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            "-f",
            help="Let --save replace a file that aot tune did not write. Measured answers are kept either way.",
        ),
    ] = False,
    as_json: JSON = False,
) -> None:
    """Find the smallest ratio, and the method, that stay within a stated loss on your videos.

    The loss is the divergence from the predictions with all tokens, or, if every question has an
    answer, the loss of accuracy. Every video is encoded once. Methods race: most are dropped after
    a few videos, and few ratios are tried. The result says how sure it is, and a page shows what
    was measured. The same command continues an interrupted run.

    aot tune videos/ -q "what happens?" -q "how many people are there?" --save mine.yaml

    aot tune --questions questions.jsonl --max-loss 1 --save mine.yaml
    """
    refuse_selection(given)
    names, steps = named_methods(methods), shares("--ratios", ratios)
    items, opened = asked_items(videos or [], question or [], questions)
    goal = _goal(items, max_loss, max_divergence)
    with removed_if_unused(output):
        _check_outputs(output, save, force=force)
        chosen = choose_model(given)
        from aot.evaluation import build_conditions, off_budget
        from aot.tuning import tune

        notify(off_budget(build_conditions(chosen.config, names, steps)))
        model = load_with_progress(chosen)
        notify(unknown_words(model, [item.prompt for item in items]))
        try:
            with StageBars() as bars:
                tuned = tune(
                    items, opened, model, chosen.config, goal, output, methods=names, ratios=steps, seed=seed,
                    restart=restart, on_notice=lambda notice: notify([notice]), on_progress=_Progress(bars),
                )  # fmt: skip
        except KeyboardInterrupt:
            if (output / _ANSWERS).is_file():
                notify([f"what was measured so far is in {output}; the same command continues from there"])
            raise
    _write(tuned, output, chosen, names, save, as_json=as_json)
    if tuned.choice is None:
        raise typer.Exit(1)


def _goal(items: Sequence[Item], max_loss: float | None, max_divergence: float | None) -> Goal:
    """Return what is asked for: accuracy if all questions have answers, otherwise divergence."""
    from aot.tuning import Goal

    if max_loss is not None and max_divergence is not None:
        raise ConfigError("--max-loss and --max-divergence exclude each other; give one")
    known = items[0].answer is not None
    if max_loss is not None and not known:
        raise ConfigError('--max-loss needs answers: give every line of --questions an "answer", or --max-divergence')
    by_accuracy = known and max_divergence is None
    if by_accuracy:
        flag, value = "--max-loss", _MAX_LOSS if max_loss is None else max_loss
    else:
        flag, value = "--max-divergence", _MAX_DIVERGENCE if max_divergence is None else max_divergence
    if not 0 <= value < float("inf"):
        raise ConfigError(f"{flag} must be 0 or more, got {value:g}")
    return Goal("accuracy" if by_accuracy else "divergence", value)


def _check_outputs(output: Path, save: Path | None, *, force: bool) -> None:
    from aot.tuning import is_own_preset

    if save is not None:
        if save.suffix not in (".yaml", ".yml"):
            raise ConfigError(f"--save {save} must end in .yaml, so that --preset reads it as a file")
        check_writable(save, overwrite=force or is_own_preset(save))
    make_folder(output)
    for name in (_ANSWERS, _RESULT, _PAGE):
        check_writable(output / name, overwrite=True)
    with locked(output):  # fails now, not after the model was loaded
        pass


class _Progress:
    """Show what is done and about how much time is left."""

    def __init__(self, bars: StageBars) -> None:
        self._bars, self._started_s = bars, current().elapsed_s

    def __call__(self, done: int, total: float) -> None:
        """Show that `done` of about `total` measurements are done."""
        self._bars("tune", done, max(round(total), done))
        left_s = (total - done) * (current().elapsed_s - self._started_s) / done
        current().stage = f"tune, {done} of about {total:.0f}, about {timedelta(seconds=round(left_s))} left"


def _write(
    tuned: Tuned, output: Path, chosen: Chosen, methods: Sequence[str], save: Path | None, *, as_json: bool
) -> None:
    """Write result, page and preset, and print the result."""
    from aot.tuning import answer, explanations, render_page

    saved = save if save and tuned.choice else None
    if save and not saved:
        kept = "; the file there, of an earlier run, is kept" if save.exists() else ""
        notify([f"no preset was written to {save}, because no method stays within the limit{kept}"])
    if saved:
        write_text(saved, _preset(tuned, chosen.config, methods, saved.name), overwrite=True)
    page = output / _PAGE
    write_text(
        page, render_page(tuned, _facts(tuned, chosen.config), _commands(tuned, chosen.config, saved)), overwrite=True
    )
    toy = {"toy_model": chosen.config.model.name == "shapes"}
    plain = {
        **asdict(tuned), "sentences": answer(tuned), "page_file": page, "preset_file": saved, **toy,
        "config": chosen.config.to_dict(), "versions": versions(),
    }  # fmt: skip
    text = json_text(json_object("aot.tune/1", plain))
    write_text(output / _RESULT, text + "\n", overwrite=True)
    if as_json:
        print_text(text)
        return
    print_result(*answer(tuned), "", tuned_table(tuned), *explanations(tuned))
    print_text(f"{page}: the page; {output / _RESULT}: all figures" + (f"; {saved}: the preset" if saved else ""))


def _facts(tuned: Tuned, config: Config) -> Mapping[str, str]:
    """Return what was measured on, by name."""
    from aot.tuning import counted

    about = f"{counted(tuned.questions, 'question')} about {counted(tuned.videos, 'video')}"
    frames = f"{config.sampling.fps:g} per second" if config.sampling.fps else str(config.sampling.frames)
    full = {} if tuned.full_accuracy is None else {"accuracy with all tokens": f"{100 * tuned.full_accuracy:.1f} %"}
    return {
        "model": visible(str(config.model.name)),
        "frames": frames,
        "measured on": about,
        "tokens per video": f"{tuned.visual_tokens:.0f} before compression",
        **full,
        "aot": versions()["aot"],
    }


def _commands(tuned: Tuned, config: Config, saved: Path | None) -> Mapping[str, str]:
    """Return the commands of the page, by what they do."""
    found = {}
    ask = ask_words("clip.mp4", ["what happens?"])
    if saved:
        found["Ask with this choice"] = shlex.join(["aot", *ask, "--preset", str(saved)])
    elif tuned.choice:
        found["Ask with this choice"] = command_for(ask, _condition(tuned.choice, config).config)
    return {**found, "This page was made by": shlex.join(["aot", *sys.argv[1:]])}


def _condition(choice: Choice, config: Config) -> Condition:
    from aot.evaluation import build_conditions

    (condition,) = build_conditions(config, [choice.measured.method], [choice.measured.ratio])
    return condition


def _preset(tuned: Tuned, config: Config, methods: Sequence[str], name: str) -> str:
    from aot.tuning import answer, preset_text

    assert tuned.choice is not None
    facts = {**_facts(tuned, config), "methods": ", ".join(methods)}
    return preset_text(name, _condition(tuned.choice, config).config, facts, answer(tuned))
