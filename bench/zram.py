"""The kernel's compressed swap: a zram device of its own, in use as swap only inside the `with` block.

A device that is there already is not touched where the kernel can add one (zram-control); otherwise zram0 is
borrowed if nobody uses it, and gets its algorithm back."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from bench.missing import Missing
from bench.swap import Swap, check_tools, switch_on

CONTROL = Path("/sys/class/zram-control")


@dataclass(frozen=True)
class PoolUse:
    """The first columns of mm_stat, under the kernel's names."""

    orig_data_size: int
    compr_data_size: int
    mem_used_total: int
    mem_used_max: int


def read_pool(mm_stat: Path) -> PoolUse:
    orig, compressed, used, _, used_max, *_ = map(int, mm_stat.read_text().split())
    return PoolUse(orig, compressed, used, used_max)


def check(algorithm: str) -> None:
    """Say what is missing before anything is changed."""
    if not CONTROL.exists() and not Path("/sys/block/zram0").exists():
        raise Missing("the zram module (no /sys/class/zram-control)")
    check_tools()
    known = Path("/sys/block/zram0/comp_algorithm")
    if known.exists() and algorithm not in known.read_text().replace("[", "").replace("]", "").split():
        raise Missing(f"a kernel whose zram knows {algorithm}")
    if not (CONTROL / "hot_add").exists() and int(Path("/sys/block/zram0/disksize").read_text()):
        raise Missing("a zram device that is not in use (zram0 is, and this kernel cannot add one)")


class ZramSwap(Swap):
    """One zram device as the swap of highest priority."""

    def __init__(self, algorithm: str, size: int) -> None:
        super().__init__()
        self.algorithm, self.size = algorithm, size

    def begin(self, undo: contextlib.ExitStack) -> None:
        number, added = self._device()
        self.device, self.sys = Path(f"/dev/zram{number}"), Path(f"/sys/block/zram{number}")
        if added:
            undo.callback((CONTROL / "hot_remove").write_text, str(number))
        else:
            undo.callback(self._write, "comp_algorithm", self._algorithm_now())
        undo.callback(self._write, "reset", "1")
        self._write("comp_algorithm", self.algorithm)
        self._write("disksize", str(self.size))
        switch_on(self.device, undo)

    def _device(self) -> tuple[int, bool]:
        if (CONTROL / "hot_add").exists():
            return int((CONTROL / "hot_add").read_text()), True
        return 0, False

    def _algorithm_now(self) -> str:
        return (self.sys / "comp_algorithm").read_text().partition("[")[2].partition("]")[0]

    def _write(self, name: str, value: str) -> None:
        (self.sys / name).write_text(value)

    @property
    def mm_stat(self) -> Path:
        return self.sys / "mm_stat"
