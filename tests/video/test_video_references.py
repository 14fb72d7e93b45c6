"""Frames that nothing refers to are left out, and those that remain stay the same to the bit."""

from __future__ import annotations

import threading
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import FRAMES, real_clip
from numpy.typing import NDArray

from aot.config.schema import SamplingConfig
from aot.video import decode, decode_pyav, open_video, probe
from aot.video.decode_pyav import PyavReader
from aot.video.player import Player
from aot.video.references import References
from aot.video.source import open_container
from tests.support import make_videos as make

pytestmark = pytest.mark.smoke

QUIET = "log-level=none:"
KINDS = {
    "plain": ("libx264", "mp4", {"g": "30", "bf": "3"}),
    "start codes": ("libx264", "ts", {"g": "30", "bf": "3"}),
    "bare": ("libx264", "mkv", {"g": "90", "bf": "2", "x264-params": "open-gop=1:b-pyramid=strict:keyint=20"}),
    "fields": ("libx264", "mp4", {"g": "30", "bf": "3", "flags": "+ildct+ilme"}),
    "h265": ("libx265", "mp4", {"g": "30", "bf": "3", "x265-params": QUIET + "b-adapt=0:bframes=4"}),
    "layers": ("libx265", "ts", {"g": "30", "x265-params": QUIET + "temporal-layers=1:open-gop=1"}),
    "vp9": ("libvpx-vp9", "webm", {"g": "30", "deadline": "realtime", "cpu-used": "8"}),
}


@pytest.fixture(params=KINDS)
def video(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    codec, suffix, options = KINDS[request.param]
    path: Path = make.write(tmp_path / f"{request.param}.{suffix}", FRAMES, codec=codec, options=options)
    return path


def left_out(path: Path) -> list[bool]:
    """Whether each packet is left out, in decoding order."""
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        references = References(context.codec.canonical_name, context.extradata)
        return [not references.needed(bytes(packet)) for packet in container.demux(video=0) if packet.size]


def without_seeking(path: Path) -> list[NDArray[np.uint8]]:
    index = probe(path)
    with open_container(path, "") as container:
        player = Player(container, index, unwanted=threading.Event())
        return [picture.rgb for picture in player.in_order(range(len(index.pts)), seeking=False)]


@pytest.mark.parametrize("lanes", [1, 3])
def test_every_choice_of_frames_is_as_decoded_from_the_start(
    video: Path, lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_pyav, "side_by_side", lambda pixels: lanes)
    every, index, random = without_seeking(video), probe(video), np.random.default_rng(1)
    assert len(every) == FRAMES
    for count in (1, 2, 3, 7, 20, FRAMES):
        positions = sorted(random.choice(FRAMES, count, replace=False).tolist())
        pictures = list(PyavReader(video, index, positions).pictures)
        assert [picture.position for picture in pictures] == positions
        assert not any(picture.damaged for picture in pictures)
        assert all(np.array_equal(picture.rgb, every[picture.position]) for picture in pictures)


def test_what_is_left_out(tmp_path: Path) -> None:
    shares = {}
    for name, (codec, suffix, options) in KINDS.items():
        path = make.write(tmp_path / f"{name}.{suffix}", FRAMES, codec=codec, options=options)
        shares[name] = sum(left_out(path)) / FRAMES
    assert shares["fields"] == shares["vp9"] == 0
    assert min(share for name, share in shares.items() if name not in ("fields", "vp9")) > 0.2


def test_a_lower_temporal_layer_is_needed() -> None:
    parameters, in_layer_0, in_layer_1 = b"\x42\x01\x02", b"\0\0\1\x00\x01\xff", b"\0\0\1\x00\x02\xff"
    references = References("hevc", b"\0\0\0\1" + parameters)
    assert (references.needed(in_layer_0), references.needed(in_layer_1)) == (True, False)


@pytest.mark.parametrize("codec", ["h264", "hevc"])
@pytest.mark.parametrize("header", [None, b"", b"\1", b"\1" + bytes(40), b"\0\0\1\x67\x64", b"\xff" * 30])
def test_nothing_is_left_out_without_parameters(codec: str, header: bytes | None) -> None:
    references = References(codec, header)
    assert all(
        references.needed(data) for data in (b"", b"\0\0\1", b"\0\0\1\x01", b"\0\0\1\x01\x10", b"\0\0\0\2\x01\x10")
    )


def test_a_lost_frame_that_nothing_refers_to_makes_no_other_doubtful(one_gop: Path, tmp_path: Path) -> None:
    free = next(number for number, free in enumerate(left_out(one_gop)) if free and number > 20)
    broken = make.overwrite_packets(one_gop, tmp_path / "broken.mp4", [free])
    got = decode(broken, SamplingConfig(frames=9))
    assert make.read_all(got.pixels.numpy()) == [k * (FRAMES - 1) // 8 for k in range(9)]


@pytest.mark.parametrize("frames", [3, 17, FRAMES])
def test_damage_is_reported_as_by_decoding_everything(frames: int, damaged: Path) -> None:
    with open_video(damaged, SamplingConfig(frames=frames)) as video:
        with open_container(damaged, "") as container:
            player = Player(container, video.index, unwanted=threading.Event())
            expected = list(player.in_order(video.plan.positions, seeking=True))
        found = list(PyavReader(damaged, video.index, video.plan.positions).pictures)
    assert [(one.position, one.damaged) for one in found] == [(one.position, one.damaged) for one in expected]
    assert all(np.array_equal(one.rgb, other.rgb) for one, other in zip(found, expected, strict=True))


def test_leaving_early_ends_all_decoders(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_pyav, "side_by_side", lambda pixels: 3)
    pictures = PyavReader(clip, probe(clip), range(FRAMES)).pictures
    assert next(pictures).position == 0
    assert sum(thread.name == "aot-ahead" for thread in threading.enumerate()) == 3
    pictures.close()
    assert not any(thread.name == "aot-ahead" for thread in threading.enumerate())


def test_an_error_of_a_decoder_comes_after_the_frames_before_it(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_pyav, "side_by_side", lambda pixels: 3)
    real = Player.only_needed

    def failing(player: Player, positions: tuple[int, ...]) -> object:
        if positions[0] == 40:
            raise MemoryError
        return real(player, positions)

    monkeypatch.setattr(Player, "only_needed", failing)
    pictures = PyavReader(clip, probe(clip), range(FRAMES)).pictures
    assert [next(pictures).position for _ in range(40)] == list(range(40))
    with pytest.raises(MemoryError):
        next(pictures)


def test_a_damaged_real_clip_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    path = real_clip("corrupted.mp4")
    alone = decode(path, SamplingConfig(frames=50), size=(32, 32))
    monkeypatch.setattr(decode_pyav, "side_by_side", lambda pixels: 2)
    together = decode(path, SamplingConfig(frames=50), size=(32, 32))
    assert (together.timestamps_s, together.notices) == (alone.timestamps_s, alone.notices)


def test_a_wanted_frame_that_is_not_read_again_is_lost_and_no_other_comes_twice(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A demuxer that resynchronizes after damage may find other packets than when the index was made."""
    index, real = probe(clip), Player._packets
    monkeypatch.setattr(
        Player, "_packets", lambda player: (packet for packet in real(player) if packet.pts != index.pts[45])
    )
    found = [picture.position for picture in PyavReader(clip, index, range(40, 50)).pictures]
    assert found == [40, 41, 42, 43, 44, 46, 47, 48, 49]


def test_decoding_that_is_given_up_ends_at_the_next_packet(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, opened = PyavReader(clip, probe(clip), range(FRAMES)), []
    real = decode_pyav.open_container
    monkeypatch.setattr(decode_pyav, "open_container", lambda *given: (opened.append(given), real(*given))[1])
    assert next(reader.pictures).position == 0
    reader.give_up()
    assert len(list(reader.pictures)) < 9  # of the first stretch, what was decoded already
    assert len(opened) == 1
