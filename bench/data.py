"""The data: made once per kind, in memory of the bench itself (a memfd), so that no child is charged for it.

A child maps it read-only. Its pages are resident all the time, so filling an array from it costs a memcpy and
no I/O, for every subject the same."""

import importlib.util
import mmap
import os
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from bench.missing import Missing
from bench.native import Loops, words

if TYPE_CHECKING:
    from PIL.Image import Image

BLOCK = 64 << 10
CHUNK = 4 << 20
TEXT_WANTED = 512 << 20
TEXT_NEEDED = 32 << 20
TEXT_SUFFIXES = frozenset(
    {".py", ".pyi", ".pyx", ".h", ".hpp", ".c", ".cpp", ".js", ".rst", ".txt", ".md", ".pl", ".pm"}
)

ELSEWHERE = Path("/usr")
NEW_YEAR = 1_767_225_600_000_000_000  # 2026-01-01, in nanoseconds since 1970

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
SIGNS = 0x8000000080000000  # of two float32
HALF_SIGNS = 0x8000800080008000

KINDS = (
    Kind("float64", "f8", "random walks, rounded to 2 and 3 decimals in turn", True, SIGN),
    Kind("float32-walk", "f4", "random walks as they come, not rounded", True, SIGNS),
    Kind("float32-noise", "f4", "normal noise, whose lower 24 of 32 bits no compressor can shrink", True, SIGNS),
    Kind("int32", "i4", "slow counters and random ids below 100,000 in turn", True, BITS),
    Kind("int32-ids", "i4", "random ids below 100,000 alone", True, BITS),
    Kind("timestamps", "i8", "int64 nanoseconds of events a millisecond apart, in whole microseconds", True, BITS),
    Kind("sparse", "f8", "zeros, and noise at one place in fifty", True, SIGN),
    Kind("bfloat16", "u2", "weights of layers: normal, each layer with a spread of its own", True, HALF_SIGNS),
    Kind("text", "u1", "program sources and texts of this machine", False, BITS),
    Kind("images", "u1", "photographs as RGB, each time at another size and turned another way", False, BITS),
    # A dtype without a size of elements, as malloc() has none: the codec has to find out.
    Kind("mixed", "V1", "64 KiB each of a float64 walk (3 decimals), int32 counters and text in turn", False, SIGN),
)


def kind(name: str) -> Kind:
    return next(known for known in KINDS if known.name == name)


def floats(rng: np.random.Generator, *decimals: int, dtype: str = "f8") -> Stream:
    """Random walks with steps around 1: each piece starts where the one before ended; decimals take turns."""
    turn, last = 0, 100.0

    def take(size: int) -> Bytes:
        nonlocal turn, last
        walk = rng.standard_normal(size // np.dtype(dtype).itemsize)
        walk[0] += last
        np.cumsum(walk, out=walk)
        if decimals:
            np.round(walk, decimals[turn % len(decimals)], out=walk)
        walk += 0.0  # no -0.0: NumPy's sort may turn one into 0.0, and the sum of all bits must stay
        turn, last = turn + 1, float(walk[-1])
        return walk.astype(dtype, copy=False).view(np.uint8)

    return take


def noise(rng: np.random.Generator) -> Stream:
    return lambda size: rng.standard_normal(size // 4, np.float32).view(np.uint8)


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


def timestamps(rng: np.random.Generator) -> Stream:
    last = NEW_YEAR

    def take(size: int) -> Bytes:
        nonlocal last
        times = rng.exponential(1000, size // 8).astype(np.int64) * 1000
        times[0] += last
        np.cumsum(times, out=times)
        last = int(times[-1])
        return times.view(np.uint8)

    return take


def sparse(rng: np.random.Generator) -> Stream:
    def take(size: int) -> Bytes:
        values = np.zeros(size // 8)
        places = rng.integers(0, values.size, values.size // 50)
        values[places] = rng.standard_normal(places.size)
        return values.view(np.uint8)

    return take


def weights(rng: np.random.Generator) -> Stream:
    """bfloat16, the upper half of a float32 rounded to nearest; each piece is a layer."""

    def take(size: int) -> Bytes:
        spread = np.float32(0.02 * 2 ** rng.uniform(-1, 1))
        bits = (rng.standard_normal(size // 2, np.float32) * spread).view(np.uint32)
        bits += 0x7FFF + ((bits >> 16) & 1)  # ties to even
        return (bits >> 16).astype(np.uint16).view(np.uint8)

    return take


def photographs(rng: np.random.Generator, known: "list[Image]") -> Stream:
    """Each time smaller by another factor and turned another way, so that no bytes come again."""
    rest, turn = np.empty(0, np.uint8), 0

    def next_one() -> Bytes:
        nonlocal turn
        picture, turn = known[turn % len(known)], turn + 1
        factor = rng.uniform(0.5, 1)
        shrunk = picture.resize((round(picture.width * factor), round(picture.height * factor)))
        turned = np.rot90(np.asarray(shrunk), int(rng.integers(4)))
        return np.ascontiguousarray(turned[:: rng.choice((-1, 1))]).reshape(-1)

    def take(size: int) -> Bytes:
        nonlocal rest
        parts, have = [rest], len(rest)
        while have < size:
            parts.append(next_one())
            have += len(parts[-1])
        whole = np.concatenate(parts)
        rest = whole[size:]
        return whole[:size]

    return take


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


def gather_photographs() -> "list[Image]":
    """Real ones: of the samples that matplotlib has, and scikit-learn where it is installed."""
    import matplotlib as mpl
    from PIL import Image

    found = [Path(mpl.get_data_path(), "sample_data/grace_hopper.jpg")]
    if learn := importlib.util.find_spec("sklearn"):
        found += sorted(Path(str(learn.origin)).parent.glob("datasets/images/*.jpg"))
    if not found[0].exists():
        raise Missing(f"a photograph (matplotlib's {found[0]})")
    return [Image.open(path).convert("RGB") for path in found]


def stream(name: str, rng: np.random.Generator, size: int) -> Stream:
    """Make the stream of a kind; `size` says how much will be taken of it in all."""

    def prose() -> Stream:
        return text(gather_text(min(size, TEXT_WANTED), min(size, TEXT_NEEDED)))

    makers: dict[str, Callable[[], Stream]] = {
        "float64": lambda: floats(rng, 2, 3),
        "float32-walk": lambda: floats(rng, dtype="f4"),
        "float32-noise": lambda: noise(rng),
        "int32": lambda: in_turn(counters(rng), ids(rng)),
        "int32-ids": lambda: ids(rng),
        "timestamps": lambda: timestamps(rng),
        "sparse": lambda: sparse(rng),
        "bfloat16": lambda: weights(rng),
        "text": prose,
        "images": lambda: photographs(rng, gather_photographs()),
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
