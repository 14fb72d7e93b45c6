"""Define the objects that `--json` prints: keys, types and units. This module makes docs/json.md.

A type is string, integer, number, boolean, object (any keys), any, or the name of a part below.
`[type]` is an array, `{type}` an object with any keys and values of `type`; `type?` may be null.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from aot_cli.output.screen import print_text

__all__ = ["OBJECTS", "PARTS", "Key", "markdown"]


class Key(NamedTuple):
    """A key of a JSON object; an `optional` key may be missing."""

    name: str
    type: str
    meaning: str
    optional: bool = False


_NOTICES = Key("notices", "[string]", "the notes that stderr shows after `note:`, also with `--quiet`")
_VERSIONS = Key("versions", "{string}", "of Python and of the libraries that affect the numbers")
_CONFIG = Key(
    "config", "object", "every resolved setting, as in `aot presets show NAME --json`; of `methods`, those given"
)
_MODEL = Key("model", "model", "the model, its device and its settings")
_TOY = Key("toy_model", "boolean", "whether the bundled model was used, which only knows drawn shapes")
_PAGE = Key("page_file", "string?", "the page of `--html`")
_SOURCE = Key("source", "string", "the video or tokens file, as named on the command line")
_COUNTS = (
    Key("visual_tokens", "integer", "of all frames, before compression"),
    Key("budget_tokens", "integer?", "number of tokens that the ratio allows; null: no fixed number"),
    Key("kept_tokens", "integer", "given to the language model"),
)
_LOAD = Key(
    "language_model_load", "number", "share of `visual_tokens` in a layer of the language model, mean over layers"
)
_ANSWER_MS = (
    Key("first_token_ms", "number?", "from the question to the first piece of the answer"),
    Key("answer_ms", "number", "from the question to the end of the answer"),
)
_TIMES = (Key("timestamps_s", "[number]", "of the encoded frames"), Key("clips", "[clip]", "groups of frames"))
_RUN = (
    _SOURCE,
    _TOY,
    *_COUNTS,
    Key("retention", "number", "`kept_tokens` / `visual_tokens`, 0 to 1"),
    Key("frames", "[frame]", "the kept tokens of each frame"),
    *_TIMES,
    Key("stage_ms", "{number}", "`decode`, `encode`, `compress`; empty for a tokens file"),
    Key(
        "peak_bytes",
        "{integer?}",
        "most memory so far of the process (`host`) and on its GPU (`device`); null: not known",
    ),
    Key("facts", "object", "what the method reports"),
    _MODEL,
    Key("video", "video", "the file"),
    _CONFIG,
    _VERSIONS,
)
_TOKENS = Key("tokens_file", "string", "the file with the kept tokens, or with the prompt (`--format prompt-embeds`)")
_ENVIRONMENT = Key("environment", "environment", "the machine")

_CARD = (
    Key("name", "string", "for `--method` or `--inner`"),
    Key("acts", "string", "where it acts"),
    Key("paper", "string", "empty for a baseline"),
    Key("exact", "boolean", "whether the number of kept tokens equals the budget"),
    Key("remark", "string", "what is kept and merged; for a broken plug-in, the error"),
    Key("least", "string", "the lowest ratio; empty: any"),
    Key("needs", "[string]", "data from the vision tower; missing for `inner`", optional=True),
)

PARTS: Mapping[str, Sequence[Key]] = MappingProxyType(
    {
        "frame": (
            Key("frame", "integer", "from 0"),
            Key("timestamp_s", "number", "in the video"),
            Key("clip", "integer", "its clip, from 0"),
            Key("is_keyframe", "boolean", "of its clip"),
            Key("similarity", "number?", "cosine to the frame before; null for the first"),
            Key("own", "integer", "tokens of a keyframe, or of a frame outside groups"),
            Key("distinct", "integer", "tokens of a later frame that changed"),
            Key("merged", "integer", "tokens into which others were merged"),
            Key("kept", "integer", "own + distinct + merged"),
            Key(
                "retention",
                "number",
                "share of this frame's tokens; above 1 if tokens of other frames are merged into it",
            ),
        ),
        "clip": (
            Key("clip", "integer", "from 0"),
            Key("keyframe", "integer", "its first frame"),
            Key("members", "[integer]", "its frames"),
            Key("timestamps_s", "[number]", "of its frames"),
        ),
        "model": (
            Key("name", "string", "on the hub, a folder, or `shapes`"),
            Key("revision", "string?", "commit on the hub; null for a folder"),
            Key("fingerprint", "string", "of the weights that define its tokens"),
            _TOY,
            Key("device", "string", "cpu, cuda:0, mps"),
            Key("dtype", "string", "float32, bfloat16, float16"),
            Key("attention", "string", "kernels of the vision tower"),
            Key("vision_blocks", "integer", "of the vision tower"),
            Key("width", "integer", "of a token", optional=True),
            Key("saliency_blocks", "[integer]", "blocks whose attention the method read", optional=True),
            Key("positions", "string", "of kept tokens in the prompt: `packed` or `original`"),
            Key("token_order", "string", "in which kept tokens are read: `raster` or `method`", optional=True),
            Key("pooling", "string", "of a frame's patches", optional=True),
            Key("newline", "string", "which rows have a newline token", optional=True),
        ),
        "video": (
            Key("path", "string", "of the file"),
            Key("container", "string", "format"),
            Key("codec", "string", "of the pictures"),
            Key("width", "integer", "pixels, upright"),
            Key("height", "integer", "pixels, upright"),
            Key("rotation_degrees", "integer", "clockwise, applied"),
            Key("stream_index", "integer", "of the video stream"),
            Key("video_streams", "integer", "how many there are"),
            Key("frames", "integer", "that can be shown"),
            Key("header_frames", "integer", "in the container's header; 0: not known"),
            Key("discarded_frames", "integer", "hidden by an edit list"),
            Key("keyframes", "integer", "seek points"),
            Key("duration_s", "number", "of the pictures"),
            Key("average_fps", "number", "frames per second"),
            Key("variable_frame_rate", "boolean", ""),
            Key("has_audio", "boolean", "not used"),
            Key("mirrored", "boolean", "left and right are exchanged after the rotation, applied"),
        ),
        "answer": (
            Key("question", "string", ""),
            Key("answer", "string", ""),
            Key("prompt_tokens", "integer", "read: text and visual tokens"),
            Key("output_tokens", "integer", "generated"),
            *_ANSWER_MS,
        ),
        "prediction": (
            Key("tokens_per_frame", "integer", ""),
            Key("tokens_before", "integer", "before compression"),
            Key("tokens_after", "any", "an integer, or a string if it depends on the content or the model"),
            Key("assuming", "string", "which model"),
        ),
        "tuned": (
            Key("method", "string", ""),
            Key("ratio", "number", "0 to 1"),
            Key("state", "string", "`passes`, `fails`, `open` (on some videos, undecided), `refused`, `not measured`"),
            Key("loss", "loss?", "null: not measured"),
            Key("same_answers", "number?", "share of the questions with the greedy answer of all tokens; divergence"),
            Key("kept_tokens", "number?", "mean over videos"),
            Key("compress_ms", "number?", "median over videos"),
        ),
        "loss": (
            Key("videos", "integer", "on which it was measured"),
            Key("mean", "number", "over all questions about these videos"),
            Key("low", "number?", "of the 95 % interval over videos; null with one video"),
            Key("high", "number?", "of the 95 % interval over videos; null with one video"),
            Key("spread", "number", "standard deviation of the mean over resamples of the videos"),
            Key("within", "number?", "share of the resamples within the limit; null with one video"),
        ),
        "tuned_choice": (
            Key("measured", "tuned", ""),
            Key("tied", "[string]", "methods that cannot be told apart from it"),
            Key("is_settled", "boolean", "`within` is at least 0.95"),
            Key("videos_to_settle", "integer?", "about how many more videos; null: no number, or not known"),
        ),
        "tuned_video": (
            Key("video", "string", "file name"),
            Key("loss", "number", "mean over its questions"),
            Key("questions", "[tuned_question]", "with the largest losses"),
        ),
        "tuned_question": (
            Key("question", "string", ""),
            Key("right", "string?", "the right answer, if known"),
            Key("with_all", "string", "the answer with all tokens"),
            Key("with_kept", "string", "the answer with the kept tokens"),
            Key("loss", "number", ""),
        ),
        "compared": (
            Key("condition", "string", "method and ratio"),
            Key("method", "string", ""),
            Key("ratio", "number", "0 to 1"),
            Key("answer", "string", ""),
            *_COUNTS[1:],
            _LOAD,
            Key("encode_ms", "number", "shared by methods that do not merge inside the tower"),
            Key("compress_ms", "number", ""),
            *_ANSWER_MS,
            Key("answer_bytes", "integer?", "additional memory of answering; null: not measured"),
            Key("fidelity", "fidelity?", "to the full-token model; null: `--reference off`"),
        ),
        "fidelity": (
            Key(
                "divergence",
                "number",
                "of the next-token distributions from those of the full-token model along its own greedy answer: "
                "Kullback-Leibler, nats, mean over the answer's tokens and its end; a lower bound, as all but the 256 "
                "most likely tokens count as one",
            ),
            Key("agreement", "number", "share of these positions at which greedy decoding takes the same token"),
            Key("same_answer", "boolean", "whether the greedy answer is the same, token by token"),
        ),
        "mean fidelity": (
            Key("divergence", "interval", "mean over questions, nats; see `fidelity`"),
            Key("agreement", "interval", "mean over questions"),
            Key("same_answer", "interval", "share of questions"),
        ),
        "condition": (
            Key("name", "string", "method or variant"),
            Key("ratio", "number", "0 to 1"),
            Key("micro", "interval?", "mean score over questions; null: the data set has no answers"),
            Key("macro", "interval?", "mean score over families; null: as `micro`"),
            Key("families", "{interval}", "mean score of each family; empty: as `micro`"),
            Key(
                "against", "{difference}", "difference to `none` and `random` at the same ratio, on the same questions"
            ),
            Key("timed_in_runs", "[integer]", "numbers of the runs, from 1, in which its times were measured"),
            Key("kept_tokens", "number", "mean over videos"),
            Key("budget_tokens", "number?", "mean over videos; null: no fixed number"),
            _LOAD,
            *(
                Key(name, "number", "median over videos")
                for name in ("encode_ms", "compress_ms", "first_token_ms", "answer_ms")
            ),
            Key("fidelity", "mean fidelity?", "to the full-token model; null: no `--reference full`"),
        ),
        "difference": (
            Key("micro", "interval", "mean difference over questions"),
            Key("macro", "interval", "mean difference over families"),
        ),
        "interval": (
            Key("mean", "number", "0 to 1; of differences -1 to 1; of divergences 0 or more"),
            Key("low", "number?", "of the 95 % interval; null: not available, with fewer than two videos"),
            Key("high", "number?", "of the 95 % interval; null: as `low`"),
        ),
        "failure": (
            Key("id", "string", "of the video in the batch"),
            Key("question", "string?", "null: the video was only compressed"),
            Key("error", "string", "as `aot ask` prints it"),
        ),
        "arm": (
            Key("name", "string", "`stock`, `none` or the method"),
            Key("prompt_tokens", "integer", "text and visual tokens"),
            Key("kept_tokens", "integer", "visual tokens"),
            Key("output_tokens", "integer", "generated"),
            Key(
                "figures",
                "{figure}",
                "`encode_ms` + `compress_ms` + `prefill_ms` (the rest) = `first_token_ms` in each round; "
                "`answer_ms` until the last token; `tokens_per_s` after the first",
            ),
            Key("host_bytes", "integer?", "additional memory, the most of all rounds; null: not measured"),
            Key("device_bytes", "integer?", "the same on the GPU, beyond the weights"),
            Key("counts", "[stage counts]", "work of each stage, from runs that are not timed"),
            Key("achieved", "{number}", "`encode_flops_per_s`, `prefill_flops_per_s`; `tokens_bytes_per_s` of weights"),
        ),
        "stage counts": (
            Key("stage", "string", "`encode`, `compress`, `prefill`, or `tokens`: all after the first"),
            Key("launches", "integer?", "by the host of a GPU; without one, operations of torch; null: not known"),
            Key("waits", "integer?", "of the host for the GPU; without one, those there would be; null: not known"),
            Key("flops", "integer", "of matrix products, convolutions and attention"),
        ),
        "comparison": (
            Key("arm", "string", "name of an arm"),
            Key("against", "string", "name of the other arm"),
            Key("faster", "{figure}", "how many times, by figure, from pairs of one round"),
        ),
        "ceilings": (
            Key("flops_per_s", "number", "of a large matrix product in the model's dtype"),
            Key("copy_bytes_per_s", "number", "read and written by a large copy"),
        ),
        "figure": (
            Key("median", "number", "of the rounds"),
            Key("least", "number", "of the rounds"),
            Key("most", "number", "of the rounds"),
        ),
        "size": (
            Key("frames", "integer", "F"),
            Key("side", "integer", "patches per side g"),
            Key("width", "integer", "of the features, D"),
            Key("anchors", "integer", "per frame, M"),
            Key("ratio", "number", "of the pooled tokens"),
        ),
        "environment": (
            Key("device", "string", "cpu, cuda:0, mps"),
            Key("device_name", "string", ""),
            Key("cpus", "integer", ""),
            Key("threads", "integer", "of torch"),
        ),
        "card": _CARD,
        "method": (
            *_CARD,
            Key("description", "[string]", "paragraphs"),
            Key("settings", "[setting]", ""),
            Key("presets", "[string]", "that choose this method"),
            Key("example", "string?", "of a setting; null: it has no settings"),
        ),
        "setting": (
            Key("path", "string", "for `--set`"),
            Key("type", "string", ""),
            Key("rule", "string", "its range; empty: none"),
            Key("default", "any", ""),
            Key("default_text", "string", "in the form for `--set`"),
            Key("meaning", "string", "one sentence"),
            Key("flag", "string?", "of the same setting; null: none"),
        ),
        "resolved setting": (
            Key("path", "string", "for `--set`"),
            Key("value", "any", ""),
            Key("source", "string", "a flag, a variable, `--set`, a file, `preset NAME`, `model NAME` or `default`"),
        ),
        "demo question": (
            Key("question", "string", ""),
            Key("expected", "string", "the right answer"),
            Key("answer_of_all", "string", "with all tokens"),
            Key("answer_of_kept", "string", "with the kept tokens"),
        ),
        "check": (
            Key("name", "string", "what is checked"),
            Key("outcome", "string", "passed, failed or skipped"),
            Key("detail", "string", "what was found, or why it was skipped"),
            Key("elapsed_ms", "number", ""),
        ),
        "preset": (Key("name", "string", "for `--preset`"), Key("purpose", "string", "")),
        "cache": (
            Key("folder", "string", "of the Hugging Face hub"),
            Key("models", "[string]", "in it"),
            Key("HF_HUB_OFFLINE", "boolean", ""),
            Key("AOT_MODEL", "string?", "null: not set"),
            Key("default_model", "string", "used without `--model`"),
        ),
    }
)

OBJECTS: Mapping[str, Sequence[Key]] = MappingProxyType(
    {
        "aot.ask/1": (
            Key("answer", "string", "to the first question"),
            Key("answers", "[answer]", "to every question"),
            Key("engine", "string", "what generated the answers, if not transformers", optional=True),
            _LOAD,
            *_RUN,
            _PAGE,
            _NOTICES,
        ),
        "aot.chat/1": (
            _SOURCE,
            _TOY,
            Key("method", "string", "in use when the question was asked"),
            Key("ratio", "number", "in use when the question was asked"),
            *_COUNTS,
            Key("turn", "integer", "from 1; `/clear` begins again"),
            *PARTS["answer"],
            _NOTICES,
        ),
        "aot.compress/1": (
            _TOKENS,
            Key("report_file", "string?", "of `--report`; a .json file has this object"),
            _PAGE,
            *_RUN,
            _NOTICES,
        ),
        "aot.export/1": (
            Key("folder", "string", "of the language model"),
            Key("files", "[string]", "in the folder"),
            Key("size_bytes", "integer", "of all files"),
            Key("dtype", "string", "the number format of the weights"),
            Key("model_name", "string", "the checkpoint"),
            _TOY,
            _NOTICES,
        ),
        "aot.batch/1": (
            Key("videos", "integer", "in the list"),
            Key("earlier", "integer", "videos that earlier runs have done"),
            Key("failed", "integer", "videos with an error; if there are any, the exit code is 1"),
            Key("not_done", "integer", "videos that are left, because more than `--max-failures` failed"),
            Key("answers", "integer", "without an error"),
            Key("visual_tokens", "integer", "of all videos, before compression"),
            Key("kept_tokens", "integer", "of all videos"),
            Key("elapsed_s", "number", "of this run, without loading the model"),
            Key("videos_per_minute", "number?", "of this run; null: there was nothing left to do"),
            Key("failures", "[failure]", "every question without an answer"),
            Key("results_file", "string", "one row per video and question"),
            Key("tokens_folder", "string?", "null: `--no-tokens`"),
            Key("reports_folder", "string?", "of `--reports`"),
            _TOY,
            Key("model_name", "string", "on the hub, or a folder"),
            _CONFIG,
            _VERSIONS,
            _NOTICES,
        ),
        "aot.inspect.kept/1": (*_RUN, _PAGE, Key("overlay_file", "string?", "the video of `--overlay`"), _NOTICES),
        "aot.inspect.video/1": (
            _SOURCE,
            Key("video", "video", "the file"),
            *_TIMES,
            Key("prediction", "prediction", "of the token counts"),
            _NOTICES,
        ),
        "aot.compare/1": (
            _SOURCE,
            Key("question", "string", ""),
            _COUNTS[0],
            Key("decode_ms", "number", "once for all methods"),
            Key("methods", "[compared]", "those that answered; `notices` has the others"),
            _TOY,
            _MODEL,
            _CONFIG,
            _VERSIONS,
            _PAGE,
            _NOTICES,
        ),
        "aot.eval/1": (
            Key("videos", "integer", ""),
            Key("questions", "integer", ""),
            Key("families", "{integer}", "number of questions in each"),
            Key("visual_tokens", "number", "before compression, mean over videos"),
            Key("decode_ms", "number", "median over videos"),
            Key("encode_ms", "number", "median over videos, of the first condition"),
            Key("conditions", "[condition]", "methods and variants at their ratios"),
            Key("scoring", "string", "how an answer is judged"),
            _TOY,
            _CONFIG,
            _VERSIONS,
            _NOTICES,
        ),
        "aot.tune/1": (
            Key("by", "string", "`accuracy` (losses in points) or `divergence` (in nats)"),
            Key("limit", "number", "the largest mean loss that is allowed"),
            Key("videos", "integer", ""),
            Key("questions", "integer", ""),
            Key("visual_tokens", "number", "before compression, mean over videos"),
            Key("full_accuracy", "number?", "with all tokens, 0 to 1; null by divergence"),
            Key("choice", "tuned_choice?", "the smallest ratio within the limit; null: keep all tokens"),
            Key("closest", "tuned?", "without a choice the lowest loss, otherwise that at the next smaller ratio"),
            Key("measured", "[tuned]", "all methods at all ratios"),
            Key("worst", "[tuned_video]", "the videos that lose most at the choice, or without one at `closest`"),
            Key("sentences", "[string]", "the result in words"),
            Key("page_file", "string", "the page"),
            Key("preset_file", "string?", "the preset of `--save`"),
            _TOY,
            _CONFIG,
            _VERSIONS,
            _NOTICES,
        ),
        "aot.bench.video/2": (
            Key("frames", "integer", "encoded"),
            _COUNTS[0],
            Key("rounds", "integer", ""),
            Key("decode_ms", "figure", "of the file; every run begins with decoded frames"),
            Key("arms", "[arm]", "`stock` (transformers; missing if left out), `none` (all tokens), kept tokens"),
            Key("comparisons", "[comparison]", "of each arm with those before it"),
            Key("ceilings", "ceilings", "what the device reaches at most, measured"),
            _PAGE,
            _MODEL,
            _CONFIG,
            _ENVIRONMENT,
            _VERSIONS,
            _NOTICES,
        ),
        "aot.bench.compressor/1": (
            Key("size", "size", "of the input"),
            Key("dtype", "string", "of the features"),
            Key("rounds", "integer", ""),
            Key("figures", "{figure}", "names end in their unit"),
            Key("kept_tokens", "integer", ""),
            Key("feature_bytes", "integer", "of the input"),
            Key("extra_host_bytes", "integer?", "most memory beyond the input; null: not measured"),
            Key("extra_device_bytes", "integer?", "the same on the GPU"),
            Key("copy_bytes_per_s", "number", "of a plain copy, reading and writing counted"),
            Key("of_copy", "number", "bandwidth of one pass through the input / that of a copy"),
            _ENVIRONMENT,
            _VERSIONS,
            _NOTICES,
        ),
        "aot.demo/1": (
            _TOKENS,
            Key("page_file", "string", "the page"),
            Key("questions", "[demo question]", ""),
            Key("total_ms", "number", ""),
            *_RUN,
            _NOTICES,
        ),
        "aot.methods/1": (
            Key("methods", "[card]", "for `--method`"),
            Key("inner", "[card]", "for `--inner`"),
            _NOTICES,
        ),
        "aot.method/1": (
            Key("methods", "[method]", "with this name", optional=True),
            Key("inner", "[method]", "with this name", optional=True),
            _NOTICES,
        ),
        "aot.presets/1": (Key("presets", "[preset]", ""), _NOTICES),
        "aot.preset/1": (Key("name", "string", "for `--preset`"), Key("purpose", "string", ""), _CONFIG, _NOTICES),
        "aot.settings/1": (Key("settings", "[setting]", ""), _NOTICES),
        "aot.settings.resolved/1": (Key("settings", "[resolved setting]", ""), _NOTICES),
        "aot.doctor/1": (
            _VERSIONS,
            Key("devices", "{string}", ""),
            Key("decoders", "{string}", ""),
            Key("for_large_models", "{string}", "optional packages"),
            Key("model_cache", "cache", ""),
            Key("selftest", "[check]", "of `--selftest`", optional=True),
            _NOTICES,
        ),
        "aot.error/1": (
            Key("error", "string", "the error and its remedy"),
            Key(
                "exit_code",
                "integer",
                "1 runtime, 2 usage, 3 video, 4 model, 5 memory, 130 interrupted, 143 terminated",
            ),
            _NOTICES,
        ),
    }
)
_COMMANDS = {
    "aot.ask/1": "`aot ask`",
    "aot.chat/1": "`aot chat`: for every answer one object on one line; `/kept` adds one of `aot.inspect.kept/1`",
    "aot.compress/1": "`aot compress`, and the file of `--report x.json`",
    "aot.inspect.kept/1": "`aot inspect` with `--model`, or for a tokens file",
    "aot.inspect.video/1": "`aot inspect` without `--model`",
    "aot.compare/1": "`aot compare`",
    "aot.batch/1": "`aot batch`, also if some videos fail",
    "aot.export/1": "`aot export`",
    "aot.eval/1": "`aot eval`, and its results.json",
    "aot.tune/1": "`aot tune`, and its tune.json; exit code 1 without a choice",
    "aot.bench.video/2": "`aot bench video`",
    "aot.bench.compressor/1": "`aot bench compressor`",
    "aot.demo/1": "`aot demo`",
    "aot.methods/1": "`aot methods`",
    "aot.method/1": "`aot methods NAME`",
    "aot.presets/1": "`aot presets list`",
    "aot.preset/1": "`aot presets show NAME`",
    "aot.settings/1": "`aot settings`",
    "aot.settings.resolved/1": "`aot settings --show`",
    "aot.doctor/1": "`aot doctor`",
    "aot.error/1": "Every command that fails",
}
_PREFACE = """\
# What `--json` prints

With `--json` stdout has one JSON object and nothing else (`aot chat`: an object per line, for every answer). If the
command fails or the command line is wrong, it is `aot.error/1`, and the exit code is `exit_code`. `schema` names the
object; its number increases when a key is removed or changes its meaning, not when a key is added. A key means the same
in every object. Units are in the names: `_s` seconds, `_ms` milliseconds, `_bytes`; shares are from 0 to 1. A number
that is not finite is null.

In the tables `[type]` is an array, `{type}` an object with any keys and values of this type, `type?` may be null, and
`object` may have any keys; other names are the objects under "Parts". Keys in *italics* may be missing.
"""


def markdown() -> str:
    """Return the text of docs/json.md."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _PREFACE
    yield "## Objects"
    for name, keys in OBJECTS.items():
        schema = Key("schema", "string", f'"{name}"')
        yield from _table(name, f"{_COMMANDS[name]}.", (schema, *keys))
    yield "\n## Parts"
    for name, keys in PARTS.items():
        yield from _table(name, "", keys)


def _table(name: str, text: str, keys: Sequence[Key]) -> Iterator[str]:
    yield f"\n### {name}\n"
    if text:
        yield f"{text}\n"
    yield "| key | type | |"
    yield "|---|---|---|"
    for key in keys:
        shown = f"*{key.name}*" if key.optional else key.name
        yield f"| {shown} | {key.type} | {key.meaning} |"


if __name__ == "__main__":
    print_text(markdown(), end="")
