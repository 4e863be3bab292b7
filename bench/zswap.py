"""The kernel's compressed cache in front of a swap file: switched on only inside the `with` block."""

import contextlib
import os
from pathlib import Path

from bench.missing import Missing
from bench.proc import field
from bench.swap import Swap, check_tools, switch_on

PARAMETERS = Path("/sys/module/zswap/parameters")
COMPRESSORS = ("lz4", "lzo-rle", "lzo")  # the first that the kernel has; all else stays as it is set
FILE_SYSTEMS = ("ext4", "xfs")  # that swapon takes a file from, whatever its options


def check(kind: str, swaps: Path = Path("/proc/swaps"), parameters: Path = PARAMETERS) -> None:
    """Say what is missing, before anything is changed; `kind` is the file system for the swap file."""
    if not (parameters / "enabled").exists():
        raise Missing(f"zswap (no {parameters})")
    if (parameters / "enabled").read_text().strip() == "Y" and len(swaps.read_text().splitlines()) > 1:
        raise Missing("a zswap that nobody uses (it is enabled here, in front of a swap)")
    if kind not in FILE_SYSTEMS:
        raise Missing(f"a --dir on {' or '.join(FILE_SYSTEMS)}, for a swap file ({kind} may have none)")
    check_tools()


def held(meminfo: Path = Path("/proc/meminfo")) -> dict[str, float]:
    """What zswap holds: pages as they were, and the RAM of its pool, under the names that zram has for them."""
    return {"orig_data_size": field(meminfo, "Zswapped") << 10, "mem_used_total": field(meminfo, "Zswap") << 10}


def file_bytes(size: int) -> int:
    """What a swap file has for so many bytes of an array, and for the rest of its process."""
    return size + size // 4


class ZswapSwap(Swap):
    """A swap file of highest priority with zswap in front of it."""

    def __init__(self, file: Path, size: int) -> None:
        super().__init__()
        self.file, self.size = file, size

    def begin(self, undo: contextlib.ExitStack) -> None:
        undo.callback(self.file.unlink, missing_ok=True)
        with self.file.open("xb") as out:
            os.fchmod(out.fileno(), 0o600)
            os.posix_fallocate(out.fileno(), 0, self.size)
        # Enabled first: before that the kernel takes any name for a compressor.
        self._set("enabled", "Y", undo)
        self.compressor = self._compressor(undo)
        switch_on(self.file, undo)

    def _set(self, name: str, value: str, undo: contextlib.ExitStack) -> None:
        parameter = PARAMETERS / name
        before = parameter.read_text().strip()
        parameter.write_text(value)
        undo.callback(parameter.write_text, before)

    def _compressor(self, undo: contextlib.ExitStack) -> str:
        for name in COMPRESSORS:
            with contextlib.suppress(OSError):
                self._set("compressor", name, undo)
                return name
        raise Missing(f"a kernel whose zswap knows {' or '.join(COMPRESSORS)}")
