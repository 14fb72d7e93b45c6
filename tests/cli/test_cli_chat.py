"""`aot chat`: piped lines in this process, and typed lines in a real terminal."""

from __future__ import annotations

import io
import json
import os
import re
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from aot.models.base import Turn
from aot_cli.chat_lines import opened_lines
from tests.support.cli_run import Aot, Run
from tests.support.documented import problems

SHORT = ("--max-new-tokens", "8")
QUESTIONS = ("What moves?", "Is it red, or blue?", "Why")
Chatted = Callable[..., Run]


@pytest.fixture
def chatted(run_aot: Aot, monkeypatch: pytest.MonkeyPatch) -> Chatted:
    """chatted(lines, *arguments): what `aot chat` prints if these lines are piped."""

    def run(lines: str, *arguments: str | Path) -> Run:
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        return run_aot("chat", *arguments)

    return run


def rows(run: Run) -> list[dict[str, object]]:
    return [json.loads(line) for line in run.out.splitlines()]


# --- Piped lines


def test_every_line_gets_one_line(chatted: Chatted, small: tuple[str, ...], clip_file: Path) -> None:
    run = chatted("\n".join(["", *QUESTIONS, "  "]), clip_file, *small, *SHORT, "--ratio", "0.5")
    assert (run.code, run.err) == (0, "")
    assert len(run.out.splitlines()) == 3
    assert ">>>" not in run.out


def test_answers_follow_earlier_turns(chatted: Chatted, run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    """They are those of the library, which one prefill of the whole history gives; the video is encoded once."""
    import aot

    answers = [str(row["answer"]) for row in rows(chatted("\n".join(QUESTIONS), clip_file, *small, *SHORT, "--json"))]
    alone = [run_aot("ask", clip_file, question, *small, *SHORT).out.strip() for question in QUESTIONS]
    assert answers[0].strip() == alone[0] and answers[1:] != alone[1:]
    with aot.Session(small[1], sampling={"frames": 8}, generation={"max_new_tokens": 8}) as session:
        tokens = session.compress(clip_file)
        for number, question in enumerate(QUESTIONS):
            conversation = session.converse(tokens)
            conversation.turns = [Turn(*turn) for turn in zip(QUESTIONS[:number], answers, strict=False)]
            assert "".join(conversation.ask(question)) == answers[number]


def test_json_lines_are_as_documented(chatted: Chatted, small: tuple[str, ...], clip_file: Path) -> None:
    run = chatted("one?\n/ratio 50%\ntwo?\n/kept\n/clear\nthree?", clip_file, *small, *SHORT, "--json")
    found = rows(run)
    assert run.code == 0
    assert [row["schema"] for row in found] == ["aot.chat/1", "aot.chat/1", "aot.inspect.kept/1", "aot.chat/1"]
    assert not [problem for row in found for problem in problems(row)]
    answers = [row for row in found if row["schema"] == "aot.chat/1"]
    assert [row["question"] for row in answers] == ["one?", "two?", "three?"]
    assert [row["turn"] for row in answers] == [1, 2, 1]
    assert [row["ratio"] for row in answers] == [0.1, 0.5, 0.5]
    assert [row["kept_tokens"] == row["budget_tokens"] for row in answers] == [True] * 3
    assert answers[0]["kept_tokens"] * 5 == answers[1]["kept_tokens"] == found[2]["kept_tokens"]  # type: ignore[operator]


def test_a_tokens_file(chatted: Chatted, run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    run_aot("compress", clip_file, "-o", "t.pt", *small)
    expected = chatted("\n".join(QUESTIONS), clip_file, *small, *SHORT).out
    run = chatted("\n".join(QUESTIONS), "t.pt", *small[:2], *SHORT)
    assert (run.code, run.out) == (0, expected)
    run = chatted("/ratio 0.5", "t.pt", *small[:2], *SHORT)
    assert run.code == 2
    assert "t.pt is already compressed; chat about the video to change ratio" in run.err


def test_commands(chatted: Chatted, small: tuple[str, ...], clip_file: Path) -> None:
    lines = "/ratio\n/method uniform\n/frames 4\n/kept\n/help\n/exit\nnever asked?"
    run = chatted(lines, clip_file, *small, *SHORT)
    assert run.code == 0
    ratio, method, frames, *help_lines = [line for line in run.err.splitlines() if "note:" not in line]
    assert ratio == "ratio 0.1; kept 20 of 200 tokens (10.00%)"
    assert method.startswith("method uniform; kept 20 of 200 tokens (10.00%); decode")
    assert frames.startswith("frames 4; kept 10 of 100 tokens (10.00%); decode")
    assert [line.split()[0] for line in help_lines[:-1]] == [
        "/ratio", "/method", "/frames", "/kept", "/save", "/clear", "/help", "/exit",
    ]  # fmt: skip
    assert "uniform, ratio 0.1" in run.out and "never" not in run.out


def test_another_ratio_is_that_of_the_command_line(chatted: Chatted, small: tuple[str, ...], clip_file: Path) -> None:
    changed = chatted("/ratio 0.5\n/frames 4\nWhat moves?", clip_file, *small, *SHORT)
    expected = chatted("What moves?", clip_file, *small[:2], "--frames", "4", "--ratio", "0.5", *SHORT)
    assert changed.out == expected.out


def test_the_settings_of_the_bundled_model_remain(
    chatted: Chatted, clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AOT_MODEL", raising=False)
    run = chatted("/ratio 50%\nis there a cut?", clip_file, "--json")  # no model is named
    assert [(row["visual_tokens"], row["kept_tokens"]) for row in rows(run)] == [(512, 256)]


def test_save(chatted: Chatted, run_aot: Aot, small: tuple[str, ...], clip_file: Path) -> None:
    run = chatted("What moves?\n/save a b.md\n/save t.pt\n/save t.safetensors", clip_file, *small, *SHORT)
    assert run.code == 0
    text = Path("a b.md").read_text(encoding="utf-8")
    assert text == f"# {clip_file}\n\n**What moves?**\n\n{run.out}"
    for name in ("t.pt", "t.safetensors"):
        assert run_aot("ask", name, "What moves?", *small[:2], *SHORT).out == run.out
    run = chatted("/save t.pt", clip_file, *small, *SHORT)
    assert run.code == 1 and "t.pt exists" in run.err


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("/ratoi 1", 2, "there is no command /ratoi; did you mean /ratio?"),
        ("/", 2, "there is no command /; /help lists the commands"),
        ("/ratio 7", 2, "/ratio must be in (0, 1], got 7"),
        ("/ratio many", 2, "/ratio must be"),
        ("/ratio 0.001", 2, "tokens"),
        ("/frames 0", 2, "/frames must be at least 1, got 0"),
        ("/method nothing", 2, "/method must be one of"),
        ("/save", 2, "name a file: /save NAME.pt"),
        ("/save a.txt", 2, "name a file"),
        ("what is <video>?", 2, "the question contains <video>, which the model reserves"),
    ],
)
def test_the_first_error_ends_piped_lines(
    chatted: Chatted, small: tuple[str, ...], clip_file: Path, line: str, code: int, says: str
) -> None:
    run = chatted(f"{line}\nWhat moves?", clip_file, *small, *SHORT)
    assert (run.code, run.out) == (code, "")
    assert says in run.err.splitlines()[-1]


def test_an_error_is_an_object_on_one_line(chatted: Chatted, small: tuple[str, ...], clip_file: Path) -> None:
    run = chatted("What moves?\n/ratio 7", clip_file, *small, *SHORT, "--json")
    assert [row["schema"] for row in rows(run)] == ["aot.chat/1", "aot.error/1"]
    assert run.code == 2


def test_questions_come_from_stdin_and_the_video_does_not(chatted: Chatted) -> None:
    run = chatted("what?", "-")
    assert run.code == 2 and "the video cannot be -" in run.err


def test_frames_are_not_chosen_by_questions(chatted: Chatted, small: tuple[str, ...], clip_file: Path) -> None:
    run = chatted("what?", clip_file, *small, "--select-frames", "2")
    assert run.code == 2 and "select" in run.err


def test_what_is_no_text_is_refused(
    chatted: Chatted, run_aot: Aot, small: tuple[str, ...], clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9?\n"), encoding="utf-8"))
    run = run_aot("chat", clip_file, *small)
    assert run.code == 2 and "the line is not UTF-8 text" in run.err


def test_the_toy_says_what_it_is(chatted: Chatted, clip_file: Path) -> None:
    run = chatted("is there a flash?", clip_file, "--model", "shapes", "--frames", "2")
    assert "the toy model was trained on single questions" in run.err


# --- A terminal


class Terminal:
    """`aot chat` in a pseudo-terminal of 100 columns."""

    def __init__(self, folder: Path, *arguments: str | Path) -> None:
        pty = pytest.importorskip("pty", reason="pseudo-terminals are of Unix")
        try:
            self._child, self._master = pty.fork()
        except OSError:  # as in a container without /dev/pts
            pytest.skip("this machine has no pseudo-terminals")
        if not self._child:
            os.chdir(folder)
            os.environ.pop("NO_COLOR", None)
            os.environ |= {
                "TERM": "xterm-256color", "COLORTERM": "truecolor", "PYTHONUTF8": "1", "COLUMNS": "100",
                "XDG_STATE_HOME": str(folder / "state"),
            }  # fmt: skip
            code = "from aot_cli.entry import script; script()"
            os.execv(sys.executable, [sys.executable, "-c", code, "chat", *map(str, arguments)])
        self._written, self.shown, self._read = b"", "", 0

    def until(self, text: str, timeout_s: float = 120) -> str:
        """Wait until the terminal shows `text` after what was seen before; return what came before it."""
        stop = time.monotonic() + timeout_s
        while text not in self.shown[self._read :]:
            assert time.monotonic() < stop and self._more(stop), (text, self.shown)
        found = self.shown.index(text, self._read)
        before, self._read = self.shown[self._read : found], found + len(text)
        return before

    def _more(self, stop: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(stop - time.monotonic(), 0))
        try:
            part = os.read(self._master, 65536) if ready else b""
        except OSError:  # how Linux says that the other end was closed
            part = b""
        # Without colors and the codes of line editing; the last character may not be whole yet.
        self._written += part
        self.shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", self._written.decode(errors="ignore"))
        return bool(part)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def kill(self, number: int) -> None:
        os.kill(self._child, number)

    def code(self) -> int:
        stop = time.monotonic() + 60
        while self._more(stop):
            pass
        os.close(self._master)
        return os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])


def test_without_a_home_no_lines_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("could not determine home directory")

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    with opened_lines(["/help"]) as lines:
        assert lines.is_terminal
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from aot.shapes.clips import write_clip
    from aot.shapes.world import sample_scene

    clip = tmp_path_factory.mktemp("drawn") / "clip.mp4"
    write_clip(sample_scene(125), clip)
    return clip


def test_three_turns_in_a_terminal(drawn: Path) -> None:
    """The third question needs the first; Ctrl-C stops a line, and Ctrl-D ends."""
    folder = drawn.parent
    terminal = Terminal(folder, "clip.mp4", "--model", "shapes")

    def said() -> str:
        """What came before the next prompt, without the line that was typed."""
        return terminal.until(">>> ").partition("\n")[2].strip()

    terminal.until("/help lists the commands")
    terminal.until(">>> ")
    # Line editing: a letter is put in nine places to the left.
    terminal.type("which way does the sqare move?" + "\x1b[D" * 9 + "u\n")
    assert said() == "right"
    terminal.type("is there a cut?\n")
    assert said() == "no"
    terminal.type("what color is it?\n")
    assert said() == "green"
    terminal.type("/save first.m\x7f\x7f.md\n")
    assert said() == "saved first.md"
    # Tab completes a command. Without the first question, the third means nothing.
    terminal.type("/cl\t\n")
    assert said() == ""
    terminal.type("what color is it?\n")
    assert said() == "purple"
    # Ctrl-C at the prompt; the line before is one key away.
    terminal.type("some words")
    terminal.until("some words")
    time.sleep(0.5)  # Python misses a signal that arrives while it handles another key
    terminal.type("\x03")
    terminal.until("(/exit or Ctrl-D ends)")
    terminal.until(">>> ")
    terminal.type("\x1b[A\n")
    assert terminal.until(">>> ").startswith("what color is it?")
    terminal.type("/ratio 7\n")
    assert said() == "aot: /ratio must be in (0, 1], got 7"
    terminal.type("/kept\n")
    assert terminal.until("kept of each frame").count("▀") == 8 * 16 * 16 // 2
    terminal.until(">>> ")
    terminal.type("\x04")
    assert terminal.code() == 0
    kept = (folder / "state" / "aot" / "chat_history").read_text(encoding="utf-8").splitlines()
    assert kept[:2] == ["which way does the square move?", "is there a cut?"]
    turns = "".join(
        f"\n**{asked}**\n\n{answer}\n" for asked, answer in zip(kept, ("right", "no", "green"), strict=False)
    )
    assert (folder / "first.md").read_text(encoding="utf-8") == "# clip.mp4\n" + turns


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_an_answer(small_folder: Path, clip_file: Path, tmp_path: Path, number: int) -> None:
    """Ctrl-C stops the answer and keeps its words; SIGTERM ends the command."""
    long = ("--set", "generation.min_new_tokens=6000", "--max-new-tokens", "6000")
    terminal = Terminal(tmp_path, clip_file, "--model", small_folder, "--frames", "4", *long)
    terminal.until(">>> ")
    terminal.type("What moves?\n")
    terminal.until("What moves?")
    while len(terminal.shown) - terminal._read < 40:
        assert terminal._more(time.monotonic() + 60)
    if number == signal.SIGTERM:
        terminal.kill(number)
        assert terminal.code() == 143
        return
    terminal.type("\x03")
    terminal.until("(stopped)")
    terminal.until(">>> ")
    terminal.type("/save said.md\n")
    terminal.until("saved said.md")
    terminal.type("/exit\n")
    assert terminal.code() == 0
    said = (tmp_path / "said.md").read_text(encoding="utf-8").split("**What moves?**\n\n")[1]
    assert 20 < len(said.strip()) < 5900
