"""The compiled inner loops (loops.c): built into a folder, then called without the GIL through ctypes."""

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.missing import Missing

LOOPS = Path(__file__).with_name("loops.c")

Words = NDArray[np.uint64]


def build(folder: Path) -> Path:
    """Compile the loops into `folder` and return the library's path."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise Missing("a C compiler (gcc or cc) for the inner loops")
    library = folder / "loops.so"
    command = [compiler, "-O3", "-march=native", "-shared", "-fPIC", str(LOOPS), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"a working C compiler: {compiler} says {done.stderr.strip()}")
    return library


def words(array: NDArray[Any]) -> Words:
    """See any contiguous array as the 64-bit words that all loops work on."""
    return array.reshape(-1).view(np.uint64)


class Loops:
    """One method per function of loops.c; arrays in, Python numbers out."""

    def __init__(self, library: Path) -> None:
        code = ctypes.CDLL(str(library))
        address, size, word = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint64
        for name, arguments, result in (
            ("fill", [address, address, size], None),
            ("scan", [address, size], word),
            ("mix", [address, size, address], None),
            ("unsorted", [address, size], ctypes.c_int64),
            ("unsorted_words", [address, size], ctypes.c_int64),
            ("rmw", [address, size, word], None),
            ("touch", [address, address, size, word, word, address, address], size),
            ("differ", [address, address, size, word], ctypes.c_int64),
        ):
            function = getattr(code, name)
            function.argtypes, function.restype = arguments, result
        self._code = code

    def fill(self, to: Words, source: Words) -> None:
        self._code.fill(to.ctypes.data, source.ctypes.data, to.nbytes)

    def scan(self, data: Words) -> int:
        return int(self._code.scan(data.ctypes.data, data.size))

    def mix(self, data: Words) -> tuple[int, int]:
        out = np.zeros(2, np.uint64)
        self._code.mix(data.ctypes.data, data.size, out.ctypes.data)
        return int(out[0]), int(out[1])

    def unsorted(self, data: NDArray[np.float64] | Words) -> int:
        compare = self._code.unsorted if data.dtype == np.float64 else self._code.unsorted_words
        return int(compare(data.ctypes.data, data.size))

    def rmw(self, data: Words, flip: int) -> None:
        self._code.rmw(data.ctypes.data, data.size, flip)

    def touch(
        self, data: Words, places: Words, nanoseconds: Words, seconds: int = 0, *, flip: int = 0
    ) -> tuple[int, int]:
        """Touch each place, with a write if `flip` is not 0, and fill in what each took.

        Return how many were done and the sum of what was read."""
        total = ctypes.c_uint64()
        done = self._code.touch(
            data.ctypes.data,
            places.ctypes.data,
            places.size,
            flip,
            seconds,
            nanoseconds.ctypes.data,
            ctypes.byref(total),
        )
        return int(done), total.value

    def differ(self, data: Words, expected: Words, *, flip: int = 0) -> int:
        """First word that is not as expected, flipped, or -1."""
        return int(self._code.differ(data.ctypes.data, expected.ctypes.data, data.size, flip))
