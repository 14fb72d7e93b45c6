"""No command shows a user what libraries have to say to programmers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

# One process for all commands, since imports are most of its time; each is `python -m aot_cli ...` in it.
RUN_ALL = """
import contextlib, io, json, runpy, sys

for words in json.loads(sys.argv[1]):
    sys.argv = ["aot", *words]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_module("aot_cli", run_name="__main__", alter_sys=True)
        except SystemExit as left:
            code = left.code or 0
    print(json.dumps([words, code, out.getvalue(), err.getvalue()]))
"""
CLIP, TOKENS = "aot-demo/clip.mp4", "aot-demo/tokens.pt"
SMALL = ("--model", "shapes", "--frames", "4")
BRIEF = (*SMALL, "--max-new-tokens", "2")
COMMANDS = (
    ("demo",),
    ("ask", CLIP, "what happens?", *BRIEF),
    ("ask", CLIP, "-q", "what happens?", "-q", "what moves?", *BRIEF, "--temperature", "1"),
    ("ask", CLIP, "what happens?", *BRIEF, "--ratio", "0.6", "--inner", "fastv"),
    ("ask", TOKENS, "what happens?", "--model", "shapes", "--max-new-tokens", "2"),
    ("compress", CLIP, "-o", "kept.pt", *SMALL),
    ("batch", CLIP, "-q", "what happens?", "-o", "batch", *BRIEF),
    ("inspect", CLIP),
    ("inspect", TOKENS),
    ("methods",),
    ("doctor",),
    ("compare", CLIP, "what happens?", *BRIEF, "--methods", "aot,visionzip,tome", "--ratio", "0.4"),
    ("eval", "--shapes", "1", "-o", "results", *BRIEF, "--methods", "uniform", "--ratios", "0.2"),
    ("bench", "video", CLIP, *BRIEF, "--rounds", "1"),
)


def test_no_warning_reaches_a_user(tmp_path: Path) -> None:
    kinds = ("FutureWarning", "DeprecationWarning", "PendingDeprecationWarning")
    flags = [word for kind in kinds for word in ("-W", f"error::{kind}")]
    words = [sys.executable, *flags, "-c", RUN_ALL, json.dumps(COMMANDS)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AOT_")}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    ran = [json.loads(line) for line in done.stdout.splitlines()]
    assert [tuple(run[0]) for run in ran] == list(COMMANDS)
    for command, code, _, err in ran:
        assert code == 0, (command, err)
        assert "Warning" not in err, (command, err)
    assert "Warning" not in done.stderr
