"""Damaged copies of a valid file, and the check that a reader answers each with a result or a named error."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from interproto_lib.errors import InterprotoError

Input = TypeVar("Input")

_HUGE_LENGTHS = (0x7FFFFFFF, 0xFFFFFFFF, 0x1FFFFFFF, 2**62, 2**63 - 1, 2**64 - 1, 2**40, 10**9)
_FOREIGN_TEXT = (
    b"\r\n",
    b"\r",
    b"\xef\xbb\xbf",  # byte order marks: UTF-8, UTF-16, UTF-32
    b"\xff\xfe",
    b"\xfe\xff",
    b"\xff\xfe\0\0",
    "Jürgen".encode("latin-1"),
    "Jürgen".encode("utf-16"),
    b"\xed\xa0\x80",  # half of a surrogate pair
    b"\x1b[2J",
    b"../../x",
    b"nan",
    b"-1",
    b"1e999",
    b"9" * 400,
)


def mutations(content: bytes, *, n: int, seed: int) -> Iterator[bytes]:
    """Yield `n` damaged copies of a file: the empty one, then one to three changes each, the same for equal seeds."""
    draw = random.Random(seed)
    for number in range(n):
        changed = b"" if number == 0 else content
        for _ in range(draw.choice((1, 1, 1, 2, 3)) if number else 0):
            changed = draw.choice(_CHANGES)(changed, draw)
        yield changed


def assert_only_named_errors(call: Callable[[Input], object], inputs: Iterable[Input]) -> int:
    """Run `call` on each input, let only errors of the library's own kinds pass, and return how many were refused."""
    n_refused = 0
    for number, content in enumerate(inputs):
        refusal: InterprotoError | None = None
        try:
            call(content)
        except InterprotoError as error:
            refusal = error
        except Exception as error:
            raise AssertionError(
                f"input {number} gives {type(error).__name__}: {error}\nIt is {content!r:.2000}"
            ) from error
        if refusal is not None:
            assert str(refusal).strip(), f"input {number} is refused without a word: {content!r:.2000}"
            n_refused += 1
    return n_refused


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randint(0, len(content))]


def _cut_front(content: bytes, draw: random.Random) -> bytes:
    return content[draw.randint(0, min(len(content), 64)) :]


def _flip_bits(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8, 64)) if changed else 0):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _replace_run(content: bytes, draw: random.Random) -> bytes:
    start, end = _span(content, draw)
    return content[:start] + draw.randbytes(end - start) + content[end:]


def _null_run(content: bytes, draw: random.Random) -> bytes:
    start, end = _span(content, draw)
    return content[:start] + draw.choice((b"\0", b"\xff")) * (end - start) + content[end:]


def _huge_length(content: bytes, draw: random.Random) -> bytes:
    size = draw.choice((4, 8))
    value = draw.choice((*_HUGE_LENGTHS, len(content) + draw.randint(-8, 8), draw.getrandbits(64)))
    written = struct.pack("<Q", value % 2 ** (8 * size))[:size]
    step = draw.choice((1, 4))
    start = draw.randint(0, len(content)) // step * step
    return content[:start] + written + content[start + size :]


def _insert_text(content: bytes, draw: random.Random) -> bytes:
    start = draw.choice((0, len(content), draw.randint(0, len(content))))
    return content[:start] + draw.choice(_FOREIGN_TEXT) + content[start:]


def _foreign_line_ends(content: bytes, draw: random.Random) -> bytes:
    return content.replace(b"\n", draw.choice((b"\r\n", b"\r", b"\n\n", b"")))


def _repeat_block(content: bytes, draw: random.Random) -> bytes:
    start, end = _span(content, draw)
    return content[:end] + content[start:end] * draw.choice((1, 1, 3)) + content[end:]


def _swap_blocks(content: bytes, draw: random.Random) -> bytes:
    a, b, c, d = sorted(draw.randint(0, len(content)) for _ in range(4))
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


def _remove_block(content: bytes, draw: random.Random) -> bytes:
    start, end = _span(content, draw)
    return content[:start] + content[end:]


def _span(content: bytes, draw: random.Random) -> tuple[int, int]:
    start = draw.randint(0, len(content))
    return start, min(len(content), start + draw.choice((1, 2, 4, 8, 16, 64, 512)))


_CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _cut,
    _cut_front,
    _flip_bits,
    _flip_bits,
    _replace_run,
    _null_run,
    _huge_length,
    _huge_length,
    _insert_text,
    _foreign_line_ends,
    _repeat_block,
    _swap_blocks,
    _remove_block,
)
