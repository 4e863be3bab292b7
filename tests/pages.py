"""Pages of bytes, and buffers with canaries, for the tests of the codec."""

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frontswap.core import codec

Bytes = NDArray[np.uint8]
Make = Callable[[int, int], Bytes]  # seed and size of a page
KINDS = {"lz4": codec.LZ4, "shuffle": codec.SHUFFLE, "bitshuffle": codec.BITSHUFFLE}
TYPESIZES = [1, 2, 4, 8, 16]
SIZES: dict[int, np.dtype[np.unsignedinteger[Any]]] = {4: np.dtype("u4"), 8: np.dtype("u8")}  # of sparse elements
CANARY = 0xA5
MARGIN = 256


def as_bytes(a: NDArray[np.generic], page: int) -> Bytes:
    return np.frombuffer(a.tobytes()[:page], np.uint8)


def walk(seed: int, page: int, dtype: str = "f8", decimals: int = 2) -> Bytes:
    steps = np.random.default_rng(seed).standard_normal(page // np.dtype(dtype).itemsize)
    return as_bytes(np.round(steps.cumsum(), decimals).astype(dtype), page)


def ids(seed: int, page: int) -> Bytes:
    return as_bytes(np.random.default_rng(seed).integers(0, 100_000, page // 4).astype("i4"), page)


def noise(seed: int, page: int) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, page, np.uint8)


def text(seed: int, page: int) -> Bytes:
    words = [b"page ", b"swap ", b"fault ", b"reclaim ", b"store ", b"load\n", b"invalidate ", b"frontswap ", b"slot "]
    chosen = np.random.default_rng(seed).integers(0, len(words), page // 4)
    return np.frombuffer(b"".join(words[i] for i in chosen)[:page], np.uint8)


def half_noise(seed: int, page: int) -> Bytes:
    return np.concatenate([noise(seed, page // 2), np.zeros(page // 2, np.uint8)])


def sparse(seed: int, page: int, typesize: int = 8, part: float = 1 / 50, background: int = 0) -> Bytes:
    """One value, and others at random places."""
    rng = np.random.default_rng(seed)
    values = np.full(page // typesize, background, SIZES[typesize])
    others = rng.random(len(values)) < part
    values[others] = rng.integers(1, 1 << 8 * typesize - 1, others.sum(), np.uint64)
    return as_bytes(values, page)


def pager_of(core: object) -> int:
    """Where the core has the pager of a plane, or of the core of areas."""
    # The first of Hooks' own fields, behind the object's head and its table of methods.
    found = ctypes.c_void_p.from_address(id(core) + 24).value
    assert found is not None
    return found


def capsule_function(module: Any, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    """A C function of a module of the core."""
    capsule = module.__pyx_capi__[name]
    get_name, get_pointer = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return ctypes.CFUNCTYPE(result, *arguments)(get_pointer(capsule, get_name(capsule)))


class Guarded:
    """A buffer of n bytes between canaries."""

    def __init__(self, n: int) -> None:
        self.whole = np.full(MARGIN + n + MARGIN, CANARY, np.uint8)
        self.inside = self.whole[MARGIN : MARGIN + n]

    @property
    def address(self) -> int:
        return int(self.inside.ctypes.data)

    def check(self) -> None:
        assert (self.whole[:MARGIN] == CANARY).all()
        assert (self.whole[MARGIN + len(self.inside) :] == CANARY).all()
