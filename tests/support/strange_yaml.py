"""Settings as YAML that nobody would write by accident: dates, tags, anchors, keys given twice, control characters."""

from __future__ import annotations

from random import Random
from typing import Any

import yaml

__all__ = ["written"]

_SCALARS = (
    "2024-13-01", "2024-01-01", "2024-01-01T00:00:00Z", "!!int abc", "!!float x", "!!binary @@",
    "!!python/name:os.system", "!!python/object/apply:os.mkdir [canary/yaml]", "!!timestamp x", "!!set {a, b}",
    "!!omap [a: 1]", "!!null x", "!x y", "9" * 5000, "0x" + "f" * 3000, "0b2", "0o9", "1:60:60", "190:20:30", ".inf",
    "-.INF", ".NaN", "1e999", "1_0", "=", "<<", "'", '"', "|", ">-", "- -", "? x", "&a 1", "*a", "&a [*a]", "@x",
    "`x", "%TAG", "\0", "\x1b[1m", "\x85", "\ufeff1", "\t1", "yes", "no", "on", "~", "[" * 2000, "{a: " * 1000,
    "- " * 1500, "x" * 100_000, "# x", "", "'\\x1b'", '"\\x1b\\ud800"',
)  # fmt: skip


def written(random: Random, value: Any) -> str:
    """Return YAML for a value, in nine of ten times with something strange in it."""
    text = yaml.safe_dump(_writable(value), allow_unicode=True, default_flow_style=random.choice((True, False)))
    if random.random() < 0.1:
        return str(text)
    lines = str(text).splitlines() or [""]
    place = random.randrange(len(lines))
    form = random.choice(("scalar", "scalar", "scalar", "scalar", "twice", "merge", "document", "tab", "bomb", "deep"))
    if form == "scalar":
        lines[place] = lines[place].partition(":")[0] + ": " + random.choice(_SCALARS)
    elif form == "twice":
        lines.append(lines[place])
    elif form == "merge":
        lines.insert(place, "<<: " + random.choice(("{ratio: 1}", "[{ratio: 1}, {ratio: 2}]", "1", "*x", "[1]")))
    elif form == "document":
        lines.insert(place, random.choice(("---", "...", "%YAML 9.9", "--- !x")))
    elif form == "tab":
        lines[place] = "\t" + lines[place]
    elif form == "bomb":
        lines = _bomb(random.choice(("methods", "preset", "ratio")))
    else:
        lines.append("methods: " + random.choice(("{a: " * 300 + "1" + "}" * 300, "[" * 300 + "]" * 300)))
    return "\n".join(lines) + "\n"


def _bomb(key: str) -> list[str]:
    """Little text that aliases make much of."""
    levels = [f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 9)}]" for level in range(1, 9)]
    return ["l0: &l0 [x, x]", *levels, f"{key}: *l8"]


def _writable(value: Any) -> Any:
    """What YAML's writer takes: text without halves of characters, and numbers that it can print."""
    if isinstance(value, dict):
        return {_writable(key): _writable(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_writable(child) for child in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**4000:
        return 10**4000
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
