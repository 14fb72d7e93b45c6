"""What `aot chat` holds between two lines, and its commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from aot.config.layers import Layer, build_layers
from aot.config.strict import nested
from aot.errors import ConfigError
from aot.pipeline.replies import Reply, write_reply
from aot.runtime.atomic_writes import write_text
from aot.storage.tokens_file import SUFFIXES, save_tokens
from aot.text import check_question_text, did_you_mean, one_line
from aot_cli.given_settings import Given
from aot_cli.options import FLAGS
from aot_cli.output.console import log, notify, print_json, usage_line
from aot_cli.output.describe import compression_json, show_compression
from aot_cli.output.screen import print_text
from aot_cli.output.strips import strips_of_pictures
from aot_cli.session import current
from aot_cli.steps import compress_with_progress, unknown_words

if TYPE_CHECKING:
    from aot.models.base import Conversation
    from aot.pipeline.run import Pipeline
    from aot.reports.retention import Compression
    from aot.video import VideoFile

__all__ = ["COMMANDS", "Chat"]


@dataclass
class Chat:
    """A video, what was kept of it, and the conversation about it.

    Attributes:
        source: the video or tokens file, as named on the command line.
        given: the settings of the command line.
        pipeline: the model and the settings in use.
        kept: the kept tokens.
        video: the open video; None for a tokens file.
        is_typed: whether a user types the lines.
        traced: whether pictures of the frames are collected.
        is_over: whether the user has left.
    """

    source: str
    given: Given
    pipeline: Pipeline
    kept: Compression
    video: VideoFile | None = None
    is_typed: bool = False
    traced: bool = False
    is_over: bool = False
    conversation: Conversation = field(init=False)
    _changes: list[Layer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.conversation = self.pipeline.converse(self.kept.tokens)

    def handle(self, line: str) -> None:
        """Answer a question, or run a command, which begins with a slash.

        Raises:
            ConfigError: If there is no such command, or the question cannot be asked.
        """
        if not line.startswith("/"):
            self._answer(line)
            return
        name, _, words = line.partition(" ")
        if name not in COMMANDS:
            meant = did_you_mean(name, COMMANDS) or "/help lists the commands"
            raise ConfigError(f"there is no command {name}; {meant}")
        COMMANDS[name].run(self, words.strip())

    # --- Questions

    def _answer(self, question: str) -> None:
        """Print the answer while it is generated; with --json, print an object after its end."""
        check_question_text(question)
        current().stage = "answer"
        notify(unknown_words(self.pipeline.model, [question]))
        answer = self.conversation.ask(question)
        reply = write_reply(lambda: answer, self._print_piece)
        notify([*reply.notices, *([] if reply.text.strip() else ["the model's answer is empty"])])
        log(f"answer: {reply.prompt_tokens} tokens read, {reply.output_tokens} written, {reply.answer_ms:.0f} ms")
        if current().as_json:
            print_json("aot.chat/1", self._row(question, reply))
        else:
            print_text()

    def _print_piece(self, text: str) -> None:
        if not current().as_json:
            # A pipe gets one line per answer.
            print_text(text if self.is_typed else one_line(text), end="")

    def _row(self, question: str, reply: Reply) -> dict[str, object]:
        report = self.kept.report
        return {
            "source": self.source,
            "toy_model": report.model.toy_model,
            "method": report.config.method,
            "ratio": report.config.ratio,
            "visual_tokens": report.visual_tokens,
            "budget_tokens": report.budget_tokens,
            "kept_tokens": report.kept_tokens,
            "turn": len(self.conversation.turns),
            "question": question,
            "answer": reply.text,
            "prompt_tokens": reply.prompt_tokens,
            "output_tokens": reply.output_tokens,
            "first_token_ms": reply.first_token_ms,
            "answer_ms": reply.answer_ms,
        }

    # --- Commands

    def set(self, path: str, text: str) -> None:
        """Compress the video with another value of the setting `path`; without text, show it."""
        if text:
            self._compress_again(path, text)
        config, value = self.pipeline.config, path.rpartition(".")[2]
        shown = getattr(config.sampling if path.startswith("sampling.") else config, value)
        report = self.kept.report
        print_text(f"{value} {shown}; {usage_line(report, report.stage_ms if text else {})}", to_stderr=True)

    def _compress_again(self, path: str, text: str) -> None:
        """Replace pipeline, tokens and conversation; the turns stay. An error changes nothing."""
        if self.video is None:
            raise ConfigError(f"{self.source} is already compressed; chat about the video to change {path}")
        flag = FLAGS[path]
        change = Layer(nested({path: flag.read(text)}), names={path: f"/{path.rpartition('.')[2]}"})
        changes, model = [*self._changes, change], self.pipeline.config.model
        # The name, because the bundled model has settings of its own.
        layers = self.given.layers({"model": {"name": model.name}})
        config = replace(build_layers([*layers, *changes]), model=model)
        pipeline = type(self.pipeline)(self.pipeline.model, config)
        kept = compress_with_progress(pipeline, self.video, traced=self.traced)
        conversation = pipeline.converse(kept.tokens)
        conversation.turns = self.conversation.turns
        self.pipeline, self.kept, self.conversation, self._changes = pipeline, kept, conversation, changes
        notify(kept.report.notices)

    def show_kept(self) -> None:
        """Print what was kept of each frame, with pictures where the terminal can show them."""
        if current().as_json:
            files = {"page_file": None, "overlay_file": None}
            print_json("aot.inspect.kept/1", {**compression_json(self.source, self.kept), **files})
            return
        pictures = self.kept.pictures
        show_compression(self.source, self.kept, strips_of_pictures(self.kept, pictures) if pictures else None)

    def save(self, name: str) -> None:
        """Write the tokens, or the conversation if the file is called .md; never replace a file.

        Raises:
            ConfigError: If no file is named, or its suffix is wrong.
            OutputError: If the file exists or cannot be written.
        """
        path = Path(name)
        if path.suffix in SUFFIXES:
            save_tokens(path, self.kept.tokens, self.kept.report)
        elif path.suffix == ".md":
            turns = (f"**{turn.question}**\n\n{turn.answer}\n" for turn in self.conversation.turns)
            write_text(path, "\n".join([f"# {self.source}\n", *turns]), overwrite=False)
        else:
            raise ConfigError("name a file: /save NAME.pt or NAME.safetensors (tokens), or NAME.md (conversation)")
        print_text(f"saved {path}", to_stderr=True)

    def forget(self) -> None:
        """Forget the turns; the video stays as it is."""
        self.conversation.turns = []

    def leave(self) -> None:
        """End the conversation after this line."""
        self.is_over = True


class ChatCommand(NamedTuple):
    """A command of `aot chat`, its words in `/help`, and what they mean."""

    run: Callable[[Chat, str], None]
    words: str = ""
    meaning: str = ""


def _show_help() -> None:
    shown = [(f"{name} {each.words}".strip(), each.meaning) for name, each in COMMANDS.items() if each.meaning]
    width = max(len(words) for words, _ in shown)
    lines = [f"{words:{width}}  {meaning}" for words, meaning in shown]
    print_text("\n".join([*lines, "Ctrl-C stops an answer. Every other line is a question."]), to_stderr=True)


COMMANDS: Mapping[str, ChatCommand] = MappingProxyType(
    {
        "/ratio": ChatCommand(lambda chat, text: chat.set("ratio", text), "[R]", "keep this share of the tokens"),
        "/method": ChatCommand(lambda chat, text: chat.set("method", text), "[NAME]", "compress with this method"),
        "/frames": ChatCommand(lambda chat, text: chat.set("sampling.frames", text), "[N]", "sample this many frames"),
        "/kept": ChatCommand(lambda chat, text: chat.show_kept(), "", "show what was kept of each frame"),
        "/save": ChatCommand(Chat.save, "FILE", "write the tokens (.pt, .safetensors) or the conversation (.md)"),
        "/clear": ChatCommand(lambda chat, text: chat.forget(), "", "forget the conversation, not the video"),
        "/help": ChatCommand(lambda chat, text: _show_help(), "", "list the commands"),
        "/exit": ChatCommand(lambda chat, text: chat.leave(), "", "end, as Ctrl-D does"),
        "/bye": ChatCommand(lambda chat, text: chat.leave()),
        "/quit": ChatCommand(lambda chat, text: chat.leave()),
    }
)
