"""The data: made once per kind, in memory of the bench itself (a memfd), so that no child is charged for it.

A child maps it read-only. Its pages are resident all the time, so filling an array from it costs a memcpy and
no I/O, for every subject the same."""

import mmap
import os
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bench.missing import Missing
from bench.native import Loops, words

BLOCK = 64 << 10
CHUNK = 4 << 20
TEXT_WANTED = 512 << 20
TEXT_NEEDED = 32 << 20
TEXT_SUFFIXES = frozenset(
    {".py", ".pyi", ".pyx", ".h", ".hpp", ".c", ".cpp", ".js", ".rst", ".txt", ".md", ".pl", ".pm"}
)

ELSEWHERE = Path("/usr")

Bytes = NDArray[np.uint8]
Stream = Callable[[int], Bytes]


@dataclass(frozen=True)
class Kind:
    """A kind of data, and the dtype of the arrays that hold it."""

    name: str
    dtype: str
    what: str
    numeric: bool
    flip: int  # what a write changes in each word of 8 bytes: no compressor notices


BITS = 0x0101010101010101  # repeats stay repeats, bit planes bit planes
SIGN = 1 << 63  # measurements stay measurements: -20.13 for 20.13

KINDS = (
    Kind("float64", "f8", "random walks, rounded to 2 and 3 decimals in turn", True, SIGN),
    Kind("int32", "i4", "slow counters and random ids below 100,000 in turn", True, BITS),
    Kind("text", "u1", "program sources and texts of this machine", False, BITS),
    Kind("mixed", "u1", "64 KiB each of a float64 walk (3 decimals), int32 counters and text in turn", False, SIGN),
)


def kind(name: str) -> Kind:
    return next(known for known in KINDS if known.name == name)


def floats(rng: np.random.Generator, *decimals: int) -> Stream:
    """Random walks with steps around 1: each piece starts where the one before ended; decimals take turns."""
    turn, last = 0, 100.0

    def take(size: int) -> Bytes:
        nonlocal turn, last
        walk = rng.standard_normal(size // 8)
        walk[0] += last
        np.cumsum(walk, out=walk)
        np.round(walk, decimals[turn % len(decimals)], out=walk)
        walk += 0.0  # no -0.0: NumPy's sort may turn one into 0.0, and the sum of all bits must stay
        turn, last = turn + 1, float(walk[-1])
        return walk.view(np.uint8)

    return take


def counters(rng: np.random.Generator) -> Stream:
    """Counters that go up by one at every tenth element or so, as sorted keys and event counts do."""
    last = 0

    def take(size: int) -> Bytes:
        nonlocal last
        steps = (rng.integers(0, 10, size // 4, dtype=np.int8) == 0).astype(np.int32)
        steps[0] += last % (1 << 30)
        counted = np.cumsum(steps, dtype=np.int32)
        last = int(counted[-1])
        return counted.view(np.uint8)

    return take


def ids(rng: np.random.Generator) -> Stream:
    return lambda size: rng.integers(0, 100_000, size // 4, dtype=np.int32).view(np.uint8)


def in_turn(*streams: Stream) -> Stream:
    turn = -1

    def take(size: int) -> Bytes:
        nonlocal turn
        turn += 1
        return streams[turn % len(streams)](size)

    return take


def text(source: Bytes) -> Stream:
    """The text again and again. A period of many MiB that is no multiple of a page: out of any page's reach."""
    at = 0

    def take(size: int) -> Bytes:
        nonlocal at
        piece = np.take(source, np.arange(at, at + size), mode="wrap")
        at = (at + size) % len(source)
        return piece

    return take


def blocks(*streams: Stream) -> Stream:
    """64 KiB of each stream in turn; every piece has as many blocks of each."""

    def take(size: int) -> Bytes:
        rounds = -(-size // (BLOCK * len(streams)))
        parts = [stream(rounds * BLOCK).reshape(rounds, BLOCK) for stream in streams]
        return np.stack(parts, axis=1).reshape(-1)[:size]

    return take


def text_files(roots: tuple[Path, ...]) -> Iterator[Path]:
    """Files that look like text, in an order that does not depend on the file system."""
    for root in roots:
        for folder, folders, names in os.walk(root):
            folders.sort()
            for name in sorted(names):
                path = Path(folder, name)
                if path.suffix in TEXT_SUFFIXES and not path.is_symlink():
                    yield path


def gather_text(wanted: int, needed: int = TEXT_NEEDED) -> Bytes:
    """Real text of this machine, each file once."""
    roots = (Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib")), ELSEWHERE)
    seen: set[tuple[int, int]] = set()
    parts: list[bytes] = []
    size = 0
    for path in text_files(roots):
        stat = path.stat()
        if (stat.st_dev, stat.st_ino) in seen:
            continue
        seen.add((stat.st_dev, stat.st_ino))
        content = path.read_bytes()
        if b"\0" not in content:
            parts.append(content)
            size += len(content)
        if size >= wanted:
            break
    if size < needed:
        raise Missing(f"{needed >> 20} MiB of text below {', '.join(map(str, roots))}; there are {size >> 20}")
    return np.frombuffer(b"".join(parts), np.uint8)


def stream(name: str, rng: np.random.Generator, size: int) -> Stream:
    """Make the stream of a kind; `size` says how much will be taken of it in all."""

    def prose() -> Stream:
        return text(gather_text(min(size, TEXT_WANTED), min(size, TEXT_NEEDED)))

    makers: dict[str, Callable[[], Stream]] = {
        "float64": lambda: floats(rng, 2, 3),
        "int32": lambda: in_turn(counters(rng), ids(rng)),
        "text": prose,
        "mixed": lambda: blocks(floats(rng, 3), counters(rng), prose()),
    }
    return makers[name]()


class Source:
    """The bytes of one kind, in a memfd, with what is needed to know them again."""

    def __init__(self, name: str, size: int, seed: int, loops: Loops) -> None:
        self.kind, self.size = kind(name), size
        self.fd = os.memfd_create(f"frontswap-bench-{name}")
        os.ftruncate(self.fd, size)
        self._map = mmap.mmap(self.fd, size)
        to = np.frombuffer(self._map, np.uint8)
        take = stream(name, np.random.default_rng(seed), size)
        for at in range(0, size, CHUNK):
            piece = min(CHUNK, size - at)
            to[at : at + piece] = take(piece)
        self.checksum = loops.scan(words(to))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._map.close()
        os.close(self.fd)


def open_source(fd: int, size: int) -> NDArray[Any]:
    """Map a source in a child: read-only, every page present, so that reading it never faults."""
    mapped = mmap.mmap(fd, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, prot=mmap.PROT_READ)
    return np.frombuffer(mapped, np.uint64)
