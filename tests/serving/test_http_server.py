"""The server with a real (tiny) model and the client of OpenAI, on the loopback."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import openai
import pytest

import aot
from aot.pipeline.run import Pipeline
from aot.serving.http.service import Service
from aot.storage.tokens_file import load_tokens
from tests.support.http_server import Running, running
from tests.support.web_server import Reply, serve

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
QUESTIONS = ("What moves?", "Is it red?", "How many are there?")
ENCODED = 'aot_stage_seconds_count{stage="encode"}'


@pytest.fixture(scope="module")
def folder(clip_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos, and one that only a link outside leads to."""
    folder = tmp_path_factory.mktemp("allowed")
    shutil.copy(clip_file, folder / "one.mp4")
    command = ("ffmpeg", "-v", "error", "-i", clip_file, "-vf", "negate", folder / "two.mp4")
    subprocess.run(command, check=True)
    (folder / "link.mp4").symlink_to(clip_file)
    return folder


@pytest.fixture
def server(session: aot.Session, folder: Path) -> Iterator[Running]:
    with running(session.pipeline, folders=(folder,)) as server:
        yield server


def client_of(server: Running, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


def messages(url: str, *texts: str) -> list[Any]:
    first = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": texts[0]}]
    rest = [{"role": ("assistant", "user")[index % 2], "content": text} for index, text in enumerate(texts[1:])]
    return [{"role": "user", "content": first}, *rest]


def ask(server: Running, url: str, *texts: str, **more: Any) -> Any:
    return client_of(server).chat.completions.create(model="tiny", messages=messages(url, *texts), **more)


def streamed(server: Running, url: str, *texts: str) -> str:
    chunks = list(ask(server, url, *texts, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


# --- Answers


def test_streams_about_two_videos_from_several_threads(session: aot.Session, folder: Path, server: Running) -> None:
    cases = [(folder / name, question) for name in ("one.mp4", "two.mp4") for question in QUESTIONS]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda case: streamed(server, case[0].as_uri(), case[1]), cases * 2))
    assert answers == [session.ask(video, question) for video, question in cases] * 2
    assert len(set(answers)) > 1
    assert server.metric(ENCODED) == 2
    assert server.metric('aot_token_cache_requests_total{result="miss"}') == 2
    assert server.metric('aot_token_cache_requests_total{result="memory"}') == 10
    assert server.metric('aot_requests_total{path="/v1/chat/completions",status="200"}') == 12
    assert (server.places.tickets, server.places.running) == (0, 0)


def test_earlier_turns_are_in_the_request(session: aot.Session, folder: Path, server: Running) -> None:
    conversation = session.converse(folder / "one.mp4")
    first, second = ("".join(conversation.ask(question)) for question in QUESTIONS[:2])
    assert streamed(server, (folder / "one.mp4").as_uri(), QUESTIONS[0], first, QUESTIONS[1]) == second
    assert second != session.ask(folder / "one.mp4", QUESTIONS[1])


def test_whole_answers_have_their_usage(session: aot.Session, folder: Path, server: Running) -> None:
    url = "data:video/mp4;base64," + base64.b64encode((folder / "one.mp4").read_bytes()).decode()
    kept = session.compress(folder / "one.mp4").report
    found = ask(server, url, QUESTIONS[0], max_completion_tokens=3, temperature=0, user="me")
    assert (found.choices[0].finish_reason, found.usage.completion_tokens) == ("length", 3)
    assert (found.usage.visual_tokens, found.usage.kept_tokens) == (kept.visual_tokens, kept.kept_tokens)
    assert found.usage.total_tokens == found.usage.prompt_tokens + 3
    assert session.ask(folder / "one.mp4", QUESTIONS[0]).startswith(found.choices[0].message.content.strip())
    *_, last = ask(server, url, QUESTIONS[0], stream=True, stream_options={"include_usage": True})
    assert (last.choices, last.usage.kept_tokens) == ([], kept.kept_tokens)
    assert server.metric('aot_visual_tokens_total{when="before"}') == 2 * kept.visual_tokens
    assert server.metric('aot_visual_tokens_total{when="after"}') == 2 * kept.kept_tokens


def test_an_answer_is_never_longer_than_the_server_allows(folder: Path, server: Running) -> None:
    assert ask(server, (folder / "one.mp4").as_uri(), "What?", max_tokens=10**6).usage.completion_tokens <= 12


def test_the_list_of_models(server: Running) -> None:
    assert [model.id for model in client_of(server).models.list()] == ["tiny"]
    assert urlopen(f"{server.url}/health").read() == b'{"status":"ok"}'


def test_tokens_of_a_video(session: aot.Session, folder: Path, server: Running, tmp_path: Path) -> None:
    path, body = tmp_path / "tokens.safetensors", json.dumps({"video_url": (folder / "one.mp4").as_uri()}).encode()
    with urlopen(Request(f"{server.url}/v1/compress", body, {"Content-Type": "application/json"})) as reply:
        path.write_bytes(reply.read())
    assert session.ask(path, QUESTIONS[0]) == session.ask(folder / "one.mp4", QUESTIONS[0])
    assert "one.mp4" not in load_tokens(path).report.video.path  # others get this file for the same content


def test_what_was_encoded_is_kept_on_disk(session: aot.Session, folder: Path, tmp_path: Path) -> None:
    options = {"folders": (folder,), "cache_folder": tmp_path, "cache_disk_mb": 10}
    url, found = (folder / "one.mp4").as_uri(), []
    for encoded in (1, 0):
        with running(session.pipeline, **options) as server:
            found += [streamed(server, url, QUESTIONS[0]), streamed(server, url, QUESTIONS[0])]
            assert server.metric(ENCODED) == encoded
            assert server.metric('aot_token_cache_requests_total{result="disk"}') == 1 - encoded
    assert len(set(found)) == 1
    other = Pipeline(session.pipeline.model, aot.build_config({**session.config.to_dict(), "ratio": 0.5}))
    with running(other, **options) as server:
        streamed(server, url, QUESTIONS[0])
        assert server.metric(ENCODED) == 1  # with other settings


# --- Refusals


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("file:///etc/passwd", "not a file in a folder"),
        ("FOLDER/../secret.mp4", "not a file in a folder"),
        ("FOLDER/%2e%2e/secret.mp4", "not a file in a folder"),
        ("FOLDER/link.mp4", "not a file in a folder"),
        ("FOLDER/missing.mp4", "not a file in a folder"),
        ("FOLDER", "not a file in a folder"),
        ("FOLDER/one.mp4%00", "not a file in a folder"),
        ("file://example.org/one.mp4", "not a file in a folder"),
        ("/etc/passwd", "must begin with"),
        ("ftp://example.org/a.mp4", "must begin with"),
        ("http://example.org/a.mp4", "must begin with"),
        ("concat:/etc/passwd", "must begin with"),
        ("https://127.0.0.1/a.mp4", "not a host of the public internet"),
        ("https://localhost/a.mp4", "not a host of the public internet"),
        ("https://[::1]/a.mp4", "not a host of the public internet"),
        ("https://2130706433/a.mp4", "not a host of the public internet"),
        ("https://169.254.169.254/latest/meta-data", "not a host of the public internet"),
        ("https://[::ffff:10.0.0.1]/a.mp4", "not a host of the public internet"),
        ("https://[x", "cannot be fetched"),
        ("data:video/mp4;base64,!!!!", "base64 after it"),
        ("data:video/mp4,abc", "base64 after it"),
        ("data:video/mp4;base64,", "is empty"),
        ("data:video/mp4;base64,AAAA", "is not a video"),
        ("data:video/mp4;base64," + base64.b64encode(b"#EXTM3U\n/etc/passwd").decode(), "not a video"),
        ("", "must begin with"),
    ],
)
def test_videos_that_are_refused(server: Running, folder: Path, url: str, says: str) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        ask(server, url.replace("FOLDER", folder.as_uri()), "what?")
    assert says in raised.value.message
    assert "\n" not in raised.value.message and "Traceback" not in raised.value.message
    assert server.places.tickets == 0


def test_private_hosts_if_they_are_allowed(session: aot.Session, clip_file: Path) -> None:
    replies = {"/clip.mp4": Reply(clip_file.read_bytes()), "/page": Reply(b"<html>", kind="text/html")}
    with serve(replies) as web, running(session.pipeline, allows_private=True) as server:
        assert streamed(server, web("/clip.mp4"), QUESTIONS[0]) == session.ask(clip_file, QUESTIONS[0])
        with pytest.raises(openai.BadRequestError, match="is a web page"):
            ask(server, web("/page"), "what?")


def test_videos_that_are_too_large_or_long(session: aot.Session, folder: Path) -> None:
    content = (folder / "one.mp4").read_bytes()
    replies = {
        "/long": Reply(content),
        "/announced": Reply(b"x", announced=2 * 10**6),
        "/large": Reply(b"x" * 1_500_000),
    }
    options: dict[str, Any] = {"allows_private": True, "video_mb": 1, "longest_s": 1}
    with serve(replies) as web, running(session.pipeline, **options) as server:
        for path, says in (("/long", "longer than 1 s"), ("/announced", "larger than 1 MB"), ("/large", "larger than")):
            with pytest.raises(openai.BadRequestError, match=says):
                ask(server, web(path), "what?")


def test_questions_that_the_model_cannot_read(folder: Path, server: Running) -> None:
    for texts, says in (
        (("<|im_end|>",), "which the model reserves"),
        (("what?", "<|im_start|>", "and?"), "which the model reserves"),
        ((" ",), "must have a question"),
        (("word " * 10**5,), "tokens"),
    ):
        with pytest.raises(openai.BadRequestError, match=says):
            ask(server, (folder / "one.mp4").as_uri(), *texts)


def test_defects_are_internal_errors(
    folder: Path, server: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(Service, "_tokens", fail)
    with pytest.raises(openai.InternalServerError) as raised:
        ask(server, (folder / "one.mp4").as_uri(), "what?")
    assert "internal error (RuntimeError)" in raised.value.message and "secret" not in raised.value.message
    assert "secret" in caplog.text
    assert server.places.tickets == 0


# --- The command


def test_the_command_and_the_page(tmp_path: Path, folder: Path) -> None:
    """The examples of the page run; SIGTERM lets an answer finish, and the exit code is 0."""
    shutil.copy(folder / "one.mp4", tmp_path / "clip.mp4")
    (tmp_path / "keys").write_text("secret\n")
    words = (
        "serve",
        "--port",
        "0",
        "--allow",
        tmp_path,
        "--api-key-file",
        "keys",
        "--model",
        "shapes",
        "--frames",
        "4",
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "aot_cli", *map(str, words)], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if line.startswith("serving shapes at "))
        address = line.split()[-1]
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=address, api_key="wrong", max_retries=0).models.list()
        text = PAGE.read_text(encoding="utf-8").replace("http://127.0.0.1:8000/v1", address)
        text = text.replace("/srv/videos", str(tmp_path)).replace("KEY", "secret")
        (curl,) = re.findall(r"```console\n\$ (curl .*?)```", text, re.DOTALL)
        done = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, check=True)
        assert '"kept_tokens":' in done.stdout, done.stdout
        (example,) = re.findall(r"```python\n(import openai.*?)```", text, re.DOTALL)
        done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=True)
        assert done.stdout.strip()

        client = openai.OpenAI(base_url=address, api_key="secret")
        url = (tmp_path / "clip.mp4").as_uri()
        stream = client.chat.completions.create(model="shapes", messages=messages(url, "what happens?"), stream=True)
        chunks = [next(stream)]
        os.kill(process.pid, signal.SIGTERM)
        chunks += stream
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
