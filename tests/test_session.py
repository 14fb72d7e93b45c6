"""A session: one model with its settings, from many threads, in data sets, and on the page of the documentation."""

from __future__ import annotations

import json
import pickle
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import aot
from aot.errors import ConfigError, ModelError, TokensFileError

PAGE = Path(__file__).parents[1] / "docs" / "session.md"
QUESTIONS = ["What moves?", "Is it red, or blue, or something else?", "Why", "How many are there?"]


@pytest.fixture(scope="module")
def kept(session: aot.Session, clip_file: Path) -> aot.Compression:
    return session.compress(clip_file)


def test_the_examples_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from aot.shapes.clips import write_clip
    from aot.shapes.world import sample_scene

    monkeypatch.chdir(tmp_path)
    write_clip(sample_scene(125), Path("clip.mp4"))
    *blocks, last = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    with ThreadPoolExecutor(1) as pool:  # a browser of other tests leaves an event loop in this thread
        for block in blocks:
            pool.submit(exec, block, names).result()
    shown = capsys.readouterr().out.splitlines()
    assert "the green square is large and moves right." in shown[0]
    assert "128 of 512 tokens" in shown
    assert shown[-3:-2] == ["['no', 'no']"] and shown[-1] == "torch.Size([128, 192])"
    server = names["server"]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    body = json.dumps({"question": "is there a flash?"}).encode()
    with urlopen(f"http://127.0.0.1:{server.server_port}/", data=body) as reply:
        assert reply.read() == b"no"
    server.shutdown()
    server.server_close()
    exec(last, names)
    with pytest.raises(ConfigError, match="the session is closed"):
        names["session"].ask("clip.mp4", "what?")


# --- Settings


def test_settings_are_those_of_build_config(session: aot.Session, small_folder: Path) -> None:
    model = {"name": str(small_folder), "device": "cpu", "dtype": "float32"}
    settings = {"ratio": 0.2, "sampling": {"frames": 4}, "generation": {"max_new_tokens": 12}}
    assert session.config == aot.build_config({"model": model, **settings})


def test_presets_are_overridden(small_folder: Path) -> None:
    found = aot.Session(small_folder, preset="paper/onevision-r10", ratio="15%", method="uniform").config
    assert (found.ratio, found.method, found.model.name) == (0.15, "uniform", str(small_folder))
    assert found.aot == aot.Session(small_folder, preset="paper/onevision-r10").config.aot


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"ratio": 2}, "ratio"), ({"smapling": {}}, "smapling"), ({"sampling": {"frames": 0}}, "sampling.frames")],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        aot.Session("shapes", **settings)


def test_no_model_is_refused() -> None:
    with pytest.raises(ModelError, match="no model is set"):
        aot.Session()


# --- Sources


def test_all_sources_give_one_answer(
    session: aot.Session, kept: aot.Compression, clip_file: Path, tmp_path: Path
) -> None:
    expected = "".join(session.pipeline.answer(kept.tokens, QUESTIONS[0]))
    aot.save_tokens(tmp_path / "t.pt", kept.tokens, kept.report)
    for source in (clip_file, str(clip_file), tmp_path / "t.pt", kept, kept.tokens):
        assert session.ask(source, QUESTIONS[0]) == expected
    assert "".join(session.stream(kept, QUESTIONS[0])) == expected
    assert "".join(session.converse(kept).ask(QUESTIONS[0])) == expected


def test_many_questions_are_answered_as_one(session: aot.Session, kept: aot.Compression) -> None:
    assert session.ask_many(kept, QUESTIONS) == [session.ask(kept, question) for question in QUESTIONS]
    assert session.ask_many(kept, []) == []


def test_the_question_chooses_frames(small_folder: Path, clip_file: Path) -> None:
    sampling = {"frames": 8, "select_frames": 2}
    with aot.Session(small_folder, sampling=sampling, generation={"max_new_tokens": 4}) as selecting:
        assert selecting.ask(clip_file, "what does the bird eat?")
        with pytest.raises(ConfigError, match="question"):
            selecting.converse(clip_file)


def test_tokens_of_another_model_are_refused(session: aot.Session, kept: aot.Compression, tmp_path: Path) -> None:
    model = replace(kept.report.model, fingerprint="other")
    other = aot.Compression(kept.tokens, replace(kept.report, model=model))
    aot.save_tokens(tmp_path / "t.pt", other.tokens, other.report)
    for source in (other, tmp_path / "t.pt"):
        with pytest.raises(TokensFileError, match="were made by"):
            session.ask(source, QUESTIONS[0])


# --- Threads and processes


def test_threads_get_what_they_get_alone(session: aot.Session, clip_file: Path) -> None:
    expected = [session.ask(clip_file, question) for question in QUESTIONS]
    assert len(set(expected)) > 1
    fresh = aot.Session.of(session.config)  # its method is not built yet
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda question: fresh.ask(clip_file, question), QUESTIONS * 4)) == expected * 4


def test_a_pickled_session_loads_its_own_model(session: aot.Session, kept: aot.Compression) -> None:
    written = pickle.dumps(session)
    assert len(written) < 10_000
    other = pickle.loads(written)
    assert other.config == session.config
    assert other.pipeline.model is not session.pipeline.model
    assert other.ask(kept, QUESTIONS[0]) == session.ask(kept, QUESTIONS[0])


class Kept(Dataset[torch.Tensor]):
    def __init__(self, session: aot.Session, clip: Path) -> None:
        self.session, self.clip = session, clip

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.session.compress(self.clip).tokens.features


def test_in_the_workers_of_a_data_loader(session: aot.Session, kept: aot.Compression, clip_file: Path) -> None:
    loader = DataLoader(Kept(session, clip_file), batch_size=None, num_workers=1, multiprocessing_context="spawn")
    found = list(loader)
    assert len(found) == 3
    assert all(torch.equal(each, kept.tokens.features) for each in found)


def test_a_closed_session_refuses(small_folder: Path) -> None:
    with aot.Session(small_folder) as closed:
        pass
    closed.close()
    with pytest.raises(ConfigError, match="closed"):
        closed.compress("clip.mp4")
