"""LLaVA-Video's geometry: 13 x 13 means and a newline behind every row, against a layout written out by hand.

transformers has no class that lays it out so; what is its own here are the vision tower and the projector.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import avg_pool2d
from transformers import LlavaOnevisionForConditionalGeneration

from aot.compression.methods import build_method
from aot.compression.methods.subset import pooled_saliency
from aot.compression.ops.grid import pool
from aot.config.schema import Config, ModelConfig, build_config
from aot.config.sources import resolve_config
from aot.models import load_model
from aot.models.families.llava import Llava
from aot.models.families.llava_geometry import LlavaGeometry, time_instruction
from aot.models.language.prompt import NEWLINE
from aot.types import CompressedTokens, Pooling, VideoFrames
from tests.support.checkpoint_files import edit_json
from tests.support.model_inputs import PROMPTS, QUESTION, frames_for, stock_inputs

FRAMES, SIDE = 3, 13
GRID, EVERY_ROW = (LlavaGeometry(newline=newline) for newline in ("grid", "every_row"))


def tokens_at(cells: list[tuple[int, int, int]], frames: int, side: int = SIDE, **changes: Any) -> CompressedTokens:
    """Tokens that are nothing but their cells (frame, row, col), in this order."""
    count = len(cells)
    frame, row, col = torch.tensor(cells, dtype=torch.int32).view(-1, 3).unbind(1)
    return CompressedTokens(
        features=torch.arange(count, dtype=torch.float32)[:, None],
        frame=frame,
        row=row,
        col=col,
        role=torch.zeros(count, dtype=torch.uint8),
        mass=torch.ones(count),
        grid=(side, side),
        **{"timestamps_s": tuple(float(k) for k in range(frames)), "clips": (), **changes},
    )


def every_cell(frames: int, side: int = SIDE) -> list[tuple[int, int, int]]:
    return [(int(f), int(r), int(c)) for f, r, c in np.ndindex(frames, side, side)]


# --- The order of tokens and newlines


def rows_of(geometry: LlavaGeometry, tokens: CompressedTokens) -> Sequence[int]:
    rows = geometry.run(tokens).rows
    assert list(geometry.run(tokens, indexed=False).rows) == list(rows)
    return rows


@pytest.mark.parametrize("frames", [1, 2, 64])
@pytest.mark.parametrize("geometry", [GRID, EVERY_ROW], ids=["grid", "every_row"])
def test_all_tokens_are_an_array_with_a_column_of_newlines(geometry: LlavaGeometry, frames: int) -> None:
    laid_out = np.full((frames, 13, 14), NEWLINE)
    laid_out[:, :, :13] = np.arange(frames * 169).reshape(frames, 13, 13)
    assert list(rows_of(geometry, tokens_at(every_cell(frames), frames))) == laid_out.flatten().tolist()


def test_at_real_size_there_are_182_rows_a_frame() -> None:
    assert len(rows_of(GRID, tokens_at(every_cell(64), 64))) == 64 * 182 == 11648


def rows_by_hand(cells: list[tuple[int, int, int]], frames: int, side: int, *, always: bool) -> list[int]:
    rows = []
    for frame in range(frames):
        for row in range(side):
            here = [(col, k) for k, (f, r, col) in enumerate(cells) if (f, r) == (frame, row)]
            rows += [k for _, k in sorted(here)]
            rows += [NEWLINE] * (always or bool(here))
    return rows


@given(data=st.data(), frames=st.integers(1, 4), side=st.integers(1, 5))
def test_rows_without_a_kept_token(data: st.DataObject, frames: int, side: int) -> None:
    """They lose their newline, or keep it ("every_row"). Tokens come in any order, and some cells twice, as in AOT."""
    cell = st.sampled_from(every_cell(frames, side))
    cells = data.draw(st.lists(cell, min_size=1, max_size=12))
    tokens = tokens_at(cells, frames, side)
    assert list(rows_of(GRID, tokens)) == rows_by_hand(cells, frames, side, always=False)
    assert list(rows_of(EVERY_ROW, tokens)) == rows_by_hand(cells, frames, side, always=True)


def test_a_few_rows_written_out() -> None:
    tokens = tokens_at([(1, 2, 0), (0, 1, 2), (1, 2, 0), (0, 1, 0)], frames=3, side=3)
    nothing = [NEWLINE] * 3
    assert list(rows_of(GRID, tokens)) == [3, 1, NEWLINE, 0, 2, NEWLINE]
    assert list(rows_of(EVERY_ROW, tokens)) == [
        *[NEWLINE, 3, 1, NEWLINE, NEWLINE],
        *[NEWLINE, NEWLINE, 0, 2, NEWLINE],
        *nothing,
    ]


def test_newlines_after_frames() -> None:
    """One ("frame"), or as many as a frame has rows ("frame_rows"); frames of which nothing is kept have them too."""
    tokens = tokens_at([(1, 2, 0), (0, 1, 2), (1, 2, 0), (0, 1, 0)], frames=3, side=3)
    for newline, count in (("frame", 1), ("frame_rows", 3)):
        geometry = LlavaGeometry(newline=newline)  # type: ignore[arg-type]
        after = [NEWLINE] * count
        assert list(rows_of(geometry, tokens)) == [3, 1, *after, 0, 2, *after, *after]
        whole = geometry.run(tokens_at(every_cell(2, 3), 2, 3))
        assert list(whole.rows) == [*range(9), *after, *range(9, 18), *after]
        assert list(whole.offsets or ()) == list(range(whole.span or 0)) == list(range(18 + 2 * count))


def test_the_methods_order_with_newlines() -> None:
    """A keyframe (0) as it was, distinct tokens of a later frame, and the keyframe as it became: each with newlines."""
    cells = [(0, 0, 1), (0, 2, 0), (0, 2, 1), (1, 0, 0), (0, 0, 1), (0, 2, 0), (0, 2, 1)]
    tokens = tokens_at(cells, frames=3, side=3)
    end = [NEWLINE]
    for newline, expected in (
        ("grid", [0, *end, 1, 2, *end, 3, *end, 4, *end, 5, 6, *end]),
        ("every_row", [0, *end, *end, 1, 2, *end, 3, *end, *end, *end, 4, *end, *end, 5, 6, *end]),
        ("frame", [0, 1, 2, *end, 3, *end, 4, 5, 6, *end]),
        ("frame_rows", [0, 1, 2, *3 * end, 3, *3 * end, 4, 5, 6, *3 * end]),
        ("one_token", [0, 1, 2, 3, 4, 5, 6, *end]),
        ("none", [0, 1, 2, 3, 4, 5, 6]),
    ):
        assert list(rows_of(LlavaGeometry(newline=newline, order="method"), tokens)) == expected  # type: ignore[arg-type]
    assert list(rows_of(LlavaGeometry(order="raster"), tokens)) == [0, 4, 1, 5, 2, 6, 3, NEWLINE]


def test_otherwise_the_methods_order_stays() -> None:
    tokens = tokens_at([(1, 2, 0), (0, 1, 2), (0, 0, 0)], frames=2, side=3)
    assert list(rows_of(LlavaGeometry(newline="one_token"), tokens)) == [0, 1, 2, NEWLINE]
    assert list(rows_of(LlavaGeometry(newline="none"), tokens)) == [0, 1, 2]


# --- Which geometry a checkpoint has


@pytest.mark.parametrize(
    ("name", "description", "is_video"),
    [
        ("lmms-lab/LLaVA-Video-7B-Qwen2", {}, True),
        ("/models/Llava-Video-7B-hf", {}, True),
        ("/models/mine", {"_name_or_path": "someone/LLaVA-Video-7B-Qwen2-hf"}, True),
        ("/models/mine", {"mm_newline_position": "grid", "mm_spatial_pool_mode": "bilinear"}, True),
        ("/models/mine", {"mm_newline_position": "one_token"}, False),
        ("/models/llava-video", {"mm_newline_position": "one_token"}, False),
        ("/data/llava-video-tests/llava-onevision-0.5b/", {}, False),
        ("/data/llava-video-tests/mine", {"_name_or_path": "/llava-video/llava-onevision"}, False),
        ("/models/LLaVA-Video", {"_name_or_path": "llava-hf/llava-onevision-qwen2-7b-ov-hf"}, False),
        ("/hub/models--lmms-lab--LLaVA-Video-7B-Qwen2/snapshots/0123abc", {}, True),
        ("/llava-video/models--llava-hf--llava-onevision/snapshots/0123abc", {}, False),
        ("llava-hf/llava-onevision-qwen2-7b-ov-hf", {"_name_or_path": None}, False),
    ],
)
def test_how_it_is_recognized(name: str, description: dict[str, Any], is_video: bool) -> None:
    expected = (Pooling("average", 2), "grid") if is_video else (Pooling("bilinear", 2), "one_token")
    found = LlavaGeometry.of(ModelConfig(name=name), description)
    assert (found.pool, found.newline) == expected


def test_the_folder_one_stands_in_has_a_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, newline in (("LLaVA-Video-7B", "grid"), ("mine", "one_token")):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert LlavaGeometry.of(ModelConfig(name="."), {}).newline == newline


def test_what_is_asked_for_comes_first() -> None:
    video = LlavaGeometry(Pooling("average", 2), "grid")
    assert video.asked_for(ModelConfig()) == video
    assert video.asked_for(ModelConfig(pool="bilinear")) == LlavaGeometry(newline="grid")
    assert video.asked_for(ModelConfig(newline="every_row")) == LlavaGeometry(video.pool, "every_row")


# --- A whole model


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A port of LLaVA-Video to transformers' layout, known by its name alone."""
    return Path(shutil.copytree(tiny_folder, tmp_path_factory.mktemp("models") / "LLaVA-Video-tiny-hf"))


def load(folder: Path, **changes: Any) -> Llava:
    model = load_model(ModelConfig(name=str(folder), device="cpu", dtype="float32", **changes))
    assert isinstance(model, Llava)
    return model


@pytest.fixture(scope="module")
def model(folder: Path) -> Llava:
    return load(folder)


@pytest.fixture(scope="module")
def stock(folder: Path) -> Any:
    return LlavaOnevisionForConditionalGeneration.from_pretrained(folder, dtype="float32").eval()


@pytest.fixture(scope="module")
def pooled(model: Llava, stock: Any) -> torch.Tensor:
    """[F, 13, 13, D] from the pixels, by the stock tower and projector and torch's pooling."""
    pixels = (frames_for(model, FRAMES).pixels.float() / 255 - 0.5) / 0.5
    with torch.inference_mode():
        hidden = stock.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
        maps = stock.model.multi_modal_projector(hidden).unflatten(1, (27, 27)).permute(0, 3, 1, 2)
        return avg_pool2d(maps, 2).permute(0, 2, 3, 1)


def text_embeddings(stock: Any, model: Llava, text: str) -> torch.Tensor:
    ids = torch.tensor(model.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.long)
    with torch.inference_mode():
        embedded: torch.Tensor = stock.get_input_embeddings()(ids)
    return embedded


def compress(model: Llava, frames: VideoFrames, config: Config) -> CompressedTokens:
    method = build_method(config)
    budget = config.token_budget(len(frames.pixels), model.tokens_per_frame)
    return method.compress(model.encode(frames, method.needs), budget)


def test_27_patches_become_13_means(model: Llava, pooled: torch.Tensor) -> None:
    assert (model.pool, model.geometry.newline) == (Pooling("average", 2), "grid")
    assert (model.grid, model.tokens_per_frame) == ((27, 27), 169)
    tokens = compress(model, frames_for(model, FRAMES), Config(method="none"))
    torch.testing.assert_close(tokens.features, pooled.reshape(-1, 32), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "config", [Config(method="none"), Config(method="aot", ratio=1.0), Config(method="attention", ratio=1.0)]
)
def test_the_prompt_is_the_straight_line_layout(model: Llava, stock: Any, pooled: torch.Tensor, config: Config) -> None:
    newline = stock.model.image_newline.detach().expand(FRAMES, SIDE, 1, -1)
    video = torch.cat([pooled, newline], 2).reshape(FRAMES * 182, -1)
    before, after = (text_embeddings(stock, model, text) for text in PROMPTS["native"].split("<video>"))
    expected = torch.cat([before, video, after])
    prompt = model.prompt(compress(model, frames_for(model, FRAMES), config), QUESTION)
    torch.testing.assert_close(prompt.embeddings[0], expected, rtol=1e-5, atol=1e-6)
    with torch.inference_mode():
        found, wanted = (
            each(inputs_embeds=rows).logits
            for each, rows in ((model.network, prompt.embeddings), (stock, expected[None]))
        )
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
    assert found.std() > 0.1


@pytest.mark.parametrize("newline", ["grid", "every_row"])
def test_few_tokens_are_rows_of_the_whole(folder: Path, stock: Any, pooled: torch.Tensor, newline: Any) -> None:
    """A method that keeps tokens as they are: what is left of the whole layout, indexed by hand."""
    model = load(folder, newline=newline)
    tokens = compress(model, frames_for(model, FRAMES), Config(method="attention", ratio=0.04))
    kept = set(zip(*(each.tolist() for each in (tokens.frame, tokens.row, tokens.col)), strict=True))
    assert len(kept) == len(tokens.features) == 20
    rows = []
    for frame in range(FRAMES):
        for row in range(SIDE):
            here = [pooled[frame, row, col] for col in range(SIDE) if (frame, row, col) in kept]
            rows += [*here, stock.model.image_newline.detach()] if here or newline == "every_row" else []
    before, after = (text_embeddings(stock, model, text) for text in PROMPTS["native"].split("<video>"))
    expected = torch.cat([before, torch.stack(rows), after])
    found = model.prompt(tokens, QUESTION).embeddings[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    newlines = len(rows) - 20
    assert newlines == FRAMES * SIDE if newline == "every_row" else 0 < newlines <= 20


def test_aot_reads_in_the_order_of_the_grid(model: Llava) -> None:
    """AOT emits clip by clip and keyframes twice; LLaVA-Video reads frame by frame and row by row."""
    tokens = compress(model, frames_for(model, FRAMES), Config(ratio=0.1))
    cells = list(zip(*(each.tolist() for each in (tokens.frame, tokens.row, tokens.col)), strict=True))
    assert cells != sorted(cells)
    rows = rows_by_hand(cells, FRAMES, SIDE, always=False)
    prompt = model.prompt(tokens, QUESTION)
    visual = prompt.token[prompt.token != -1].tolist()
    assert visual == rows
    at = (prompt.token >= 0).nonzero()[:, 0]
    assert torch.equal(prompt.embeddings[0, at], tokens.features[prompt.token[at]])


def test_the_stock_forward_lays_it_out_as_onevision(model: Llava, stock: Any, tiny_model: Llava) -> None:
    """14 x 14 and one newline, whatever the name: why there is no stock model to compare with."""
    frames = frames_for(model, FRAMES)
    inputs = stock_inputs(tiny_model, frames, PROMPTS["native"])
    slots = int((inputs["input_ids"] == model.video_token).sum())
    prompt = model.prompt(compress(model, frames, Config(method="none")), QUESTION)
    assert (slots, int((prompt.token != -1).sum())) == (FRAMES * 196 + 1, FRAMES * 182)
    assert int((prompt.token == NEWLINE).sum()) == FRAMES * SIDE
    with torch.inference_mode():
        assert stock(**inputs).logits.shape[1] == prompt.embeddings.shape[1] + slots - FRAMES * 182
        with pytest.raises(ValueError, match="do not match"):
            stock(input_ids=prompt.ids, pixel_values_videos=inputs["pixel_values_videos"])


def test_the_preset_reads_aot_as_it_is_emitted(folder: Path) -> None:
    """Clip by clip, the keyframe twice: what `--preset llava-video` keeps of the published order."""
    config = resolve_config({}, "llava-video")
    model = load(folder, token_order=config.model.token_order)
    tokens = compress(model, frames_for(model, FRAMES), config)
    prompt = model.prompt(tokens, QUESTION)
    assert prompt.token[prompt.token >= 0].tolist() == list(range(len(tokens.features)))
    assert tokens.cell.tolist() != sorted(tokens.cell.tolist())


def test_visionzip_as_published_is_read_with_its_slip(folder: Path) -> None:
    """Dominant tokens in raster order, each in the row of one in the order of attention, a newline after every row."""
    model = load(folder, newline="every_row")
    settings = {"methods": {"visionzip": {"paper_exact": True}}, "method": "visionzip", "ratio": 0.1}
    tokens = compress(model, frames_for(model, FRAMES), build_config(settings))
    method = build_method(build_config(settings))
    visual = model.encode(frames_for(model, FRAMES), method.needs)
    attention = pooled_saliency(visual, -1)
    features, share = pool(visual.features, visual.grid, visual.pool), len(tokens.features) // FRAMES
    dominant = int(share * 54 / 64)
    prompt = model.prompt(tokens, QUESTION)
    video = prompt.token[prompt.token != -1].tolist()
    for frame in range(FRAMES):
        ranked = attention[frame].sort(descending=True, stable=True).indices[:dominant]
        taken = {int(read): features[frame, cell] for read, cell in zip(ranked, ranked.sort().values, strict=True)}
        for _ in range(SIDE):
            line = video[: video.index(NEWLINE)]
            video = video[len(line) + 1 :]
            for token in line:
                cell = int(tokens.cell[token]) % SIDE**2
                if cell in taken:
                    assert torch.equal(tokens.features[token], taken.pop(cell))
        assert not taken
    assert not video


# --- The time instruction


def test_the_time_instruction_says_when_the_frames_are() -> None:
    tokens = tokens_at([(0, 0, 0)], frames=3, timestamps_s=(0.0, 1.504, 3.0), duration_s=4.256)
    assert time_instruction(tokens) == (
        "The video lasts for 4.26 seconds, and 3 frames are uniformly sampled from it. "
        "These frames are located at 0.00s,1.50s,3.00s.Please answer the following questions related to this video."
    )
    without = tokens_at([(0, 0, 0)], frames=2, timestamps_s=(0.0, 2.5))
    assert time_instruction(without).startswith("The video lasts for 2.50 seconds, and 2 frames")


@pytest.mark.parametrize("newline", ["grid", "one_token", "none"])
def test_it_stands_between_the_video_and_the_question(folder: Path, newline: Any) -> None:
    model = load(folder, time_instruction=True, newline=newline)
    tokens = compress(model, frames_for(model, FRAMES), Config(method="none"))
    prompt = model.prompt(tokens, QUESTION)
    ids = prompt.ids[0].tolist()
    visual = [k for k, token in enumerate(prompt.token.tolist()) if token != -1]
    assert visual == list(range(visual[0], visual[-1] + 1))
    before, after = (model.tokenizer.decode(part) for part in (ids[: visual[0]], ids[visual[-1] + 1 :]))
    assert before == PROMPTS["native"].split("<video>")[0]
    assert after == f"\n{time_instruction(tokens)}" + PROMPTS["native"].split("<video>")[1]


def test_without_being_asked_nothing_is_said_of_time(model: Llava) -> None:
    tokens = compress(model, frames_for(model, FRAMES), Config(method="none"))
    prompt = model.prompt(tokens, QUESTION)
    text = model.tokenizer.decode(prompt.ids[0][prompt.token == -1])
    assert text == PROMPTS["native"].replace("<video>", "")


def test_several_questions_read_the_same_rows(model: Llava) -> None:
    """The prefix that questions share ends with the last newline, or with the time instruction."""
    tokens = compress(model, frames_for(model, FRAMES), Config(ratio=0.2))
    assert (
        model.prompt(tokens, QUESTION).video_end == int((model.prompt(tokens, QUESTION).token != -1).nonzero()[-1]) + 1
    )


def test_the_hubs_ports_may_say_what_they_are_in_their_config(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "port"))
    assert load(folder).tokens_per_frame == 196
    edit_json(folder / "config.json", _name_or_path="someone/LLaVA-Video-7B-Qwen2-hf")
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"] == "llava_onevision"
    assert load(folder).tokens_per_frame == 169
