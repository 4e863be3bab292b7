"""The compiled side of `bench.hooks` (slots.c): built into a folder, called without the GIL through ctypes."""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.missing import Missing

HERE = Path(__file__).parent


def build(source: str, folder: Path) -> Path:
    """Compile one C file of this folder into `folder` and return the library's path."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise Missing("a C compiler (gcc or cc)")
    library = folder / Path(source).with_suffix(".so").name
    command = [compiler, "-O2", "-shared", "-fPIC", "-fno-builtin-malloc", str(HERE / source), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"a working C compiler: {compiler} says {done.stderr.strip()}")
    return library


class Slots:
    """One method per function of slots.c."""

    def __init__(self, library: Path) -> None:
        code = ctypes.CDLL(str(library))
        address, size, word = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint64
        code.write_pages.argtypes = [ctypes.c_int, address, size, address, size]
        code.spin.argtypes, code.spin.restype = [word], word
        self._code = code

    def write_pages(self, fd: int, data: NDArray[np.uint8], page: int, offsets: NDArray[np.uint32]) -> None:
        """Write pages of `page` bytes from `data` to their offsets (in pages)."""
        error: int = self._code.write_pages(fd, data.ctypes.data, page, offsets.ctypes.data, len(offsets))
        if error:
            raise OSError(error, os.strerror(error))

    def spin(self, turns: int) -> None:
        """Keep a processor busy."""
        self._code.spin(turns)
