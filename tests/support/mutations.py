"""Ways to damage bytes, drawn by a seeded generator."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from random import Random

__all__ = ["mutated"]

_NUMBERS = (0, 1, 2, 3, 7, 127, 128, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 2, 10**6)
_NAME = re.compile(rb"[A-Za-z][A-Za-z0-9 ]{3}")
_HEAD = 600  # bytes at either end of a file in which most of its structure is
_MOST_BYTES = 2**18

Mutator = Callable[[Random, bytes, Sequence[bytes]], bytes]


def mutated(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Return the bytes with one to four changes; `others`: files that pieces may come from."""
    for _ in range(random.choice((1, 1, 1, 2, 3, 4))):
        data = random.choice(_MUTATORS)(random, data, others)[:_MOST_BYTES]
    return data


def _span(random: Random, data: bytes) -> tuple[int, int]:
    """The ends of a run of bytes, mostly a short one."""
    first = random.randrange(len(data) + 1)
    length = int(2 ** random.uniform(0, 12))
    return first, min(len(data), first + length)


def _offset(random: Random, data: bytes) -> int:
    """The index of a byte, one of three times near an end of the file."""
    if not data:
        return 0
    near = min(len(data), _HEAD)
    return random.choice((random.randrange(near), len(data) - 1 - random.randrange(near), random.randrange(len(data))))


def _written(data: bytes, offset: int, new: bytes) -> bytes:
    return data[:offset] + new[: max(0, len(data) - offset)] + data[offset + len(new) :]


def flip_bits(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 4, 32)) if data else 0):
        changed[_offset(random, data)] ^= 1 << random.randrange(8)
    return bytes(changed)


def set_bytes(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    first, stop = _span(random, data)
    filling = random.choice((b"\0", b"\xff", None))
    length = stop - first
    return data[:first] + (random.randbytes(length) if filling is None else filling * length) + data[stop:]


def set_number(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    return _written(data, _offset(random, data), _number(random))


def set_field(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Change a number just after or before a name of four letters, as boxes, chunks and atoms have one."""
    names = [found.start() for found in _NAME.finditer(data)]
    if not names:
        return set_number(random, data, others)
    offset = random.choice(names) + random.choice((-4, -2, 4, 5, 8, 12, 16, 20, 24, 4 * random.randrange(1, 30)))
    return _written(data, max(0, offset), _number(random))


def _number(random: Random) -> bytes:
    number, form = random.choice((*_NUMBERS, random.getrandbits(32))), random.choice((">I", "<I", ">H", "<H", "B"))
    return struct.pack(form, number % 2 ** (8 * struct.calcsize(form)))


def truncate(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def remove(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    first, stop = _span(random, data)
    return data[:first] + data[stop:]


def insert(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    first, stop = _span(random, data)
    return data[:first] + random.randbytes(stop - first) + data[first:]


def repeat(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    first, stop = _span(random, data)
    return data[:stop] + data[first:stop] * random.choice((1, 1, 2, 16)) + data[stop:]


def splice(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Put a piece of another file over or between the bytes."""
    other = random.choice(others)
    first, stop = _span(random, other)
    offset = random.randrange(len(data) + 1)
    return data[:offset] + other[first:stop] + data[random.choice((offset, offset + stop - first)) :]


def join(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    return data + random.choice((data, random.choice(others)))


def swap(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    one, two = sorted((random.randrange(len(data) + 1), random.randrange(len(data) + 1)))
    length = min(int(2 ** random.uniform(0, 10)), two - one)
    head, tail = data[one : one + length], data[two : two + length]
    return data[:one] + tail + data[one + length : two] + head + data[two + length :]


_MUTATORS: tuple[Mutator, ...] = (
    flip_bits, flip_bits, set_bytes, set_number, set_field, set_field, truncate, remove, insert, repeat, splice, join,
    swap,
)  # fmt: skip
