"""Measure requests per second of `aot serve`, with its own decoding and with vLLM, with and without compression.

    python docs/serving/engines.py [--seconds 5] [--rounds 3]

It needs an environment with `aot` and vLLM, and a machine with no other load. Four servers of the bundled model run;
they are measured one after the other in every round, so that a change of the machine's speed meets all of them. The
clips are encoded before. The table is printed in Markdown: the median over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.request import Request, urlopen

from aot.shapes.clips import write_clip
from aot.shapes.world import sample_scene

CLIENTS, CLIPS = (1, 4, 16), 8
SERVERS = {
    (engine, kept): ("--engine", engine, "--ratio", kept)
    for engine in ("transformers", "vllm")
    for kept in ("0.1", "1")
}


def start(flags: tuple[str, ...], folder: Path) -> tuple[subprocess.Popen[str], str]:
    """Start a server; return it and its address."""
    words = [sys.executable, "-m", "aot_cli", "serve", "--model", "shapes", "--allow", str(folder), "--port", "0"]
    variables = {"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ}
    more = ("--max-concurrent", "16", *flags)
    process = subprocess.Popen([*words, *more], env=variables, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    for line in process.stderr:
        if found := re.search(r"at (http\S+)", line):
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return process, found[1]
    raise SystemExit(f"the server did not start: {more}")


def ask(url: str, clip: Path) -> str:
    """Return the answer to one request."""
    parts = [
        {"type": "video_url", "video_url": {"url": clip.as_uri()}},
        {"type": "text", "text": "what happens?"},
    ]
    body = json.dumps({"model": "shapes", "messages": [{"role": "user", "content": parts}]}).encode()
    with urlopen(Request(f"{url}/chat/completions", body, {"Content-Type": "application/json"})) as response:
        return str(json.load(response)["choices"][0]["message"]["content"])


def rate(url: str, clips: list[Path], clients: int, seconds: float) -> float:
    """Return the requests per second of `clients` that ask for `seconds`."""
    done, stop_s = [0] * clients, time.perf_counter() + seconds

    def run(client: int) -> None:
        while time.perf_counter() < stop_s:
            ask(url, clips[(client + done[client]) % len(clips)])
            done[client] += 1

    start_s = time.perf_counter()
    threads = [threading.Thread(target=run, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - start_s)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = [folder / f"{seed}.mp4" for seed in range(CLIPS)]
        for seed, clip in enumerate(clips):
            write_clip(sample_scene(seed), clip)
        servers = {key: start(flags, folder) for key, flags in SERVERS.items()}
        try:
            said = {key: [ask(url, clip) for clip in clips] for key, (_, url) in servers.items()}
            for kept in ("0.1", "1"):
                assert said["transformers", kept] == said["vllm", kept], "the engines answer differently"
            found: dict[tuple[str, str, int], list[float]] = {}
            for number in range(options.rounds):
                for clients in CLIENTS:
                    for key, (_, url) in servers.items():
                        found.setdefault((*key, clients), []).append(rate(url, clips, clients, options.seconds))
                print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        finally:
            for process, _ in servers.values():
                process.terminate()
                process.wait()
    print("| engine | kept | " + " | ".join(f"{clients} client{'s' * (clients > 1)}" for clients in CLIENTS) + " |")
    print("|---|---|" + "---|" * len(CLIENTS))
    for engine, kept in SERVERS:
        rates = (statistics.median(found[engine, kept, clients]) for clients in CLIENTS)
        print(f"| {engine} | {float(kept):.0%} | " + " | ".join(f"{each:.1f}" for each in rates) + " |")


if __name__ == "__main__":
    main()
