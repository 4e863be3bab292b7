"""What is there of an array: as the kernel tells it, in all the ways that it has, and with swap of its own."""

from __future__ import annotations

import mmap
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, MiB, Mode, run_child

from frontswap.core import presence

SCAN, PAGEMAP, MINCORE, NOTHING = range(4)


def test_all_ways_to_look_say_the_same() -> None:
    with mmap.mmap(-1, 64 * MiB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        memory = np.frombuffer(area, "u1")
        memory.reshape(-1, 4096)[np.random.default_rng(3).random(64 * MiB // 4096) < 0.4, 5] = 1
        memory[32 * MiB : 40 * MiB] = 2
        at = memory.ctypes.data
        found = [presence.regions(at, 64 * MiB, way) for way in (SCAN, PAGEMAP, MINCORE)]
        flat = [
            np.concatenate([np.arange(start, end, 4096) for start, end, _ in regions]).tolist() for regions in found
        ]
        assert flat[0] == flat[1] == flat[2]
        assert len(flat[0]) > 5000
        assert presence.regions(at, 64 * MiB, NOTHING) == [(at, at + 64 * MiB, False)]
        del memory


@pytest.fixture
def kernel_swap() -> Iterator[None]:
    """The kernel has swap: a zram of 256 MiB, for as long as the test lasts."""
    if not ROOT:
        pytest.skip("needs root: gives the kernel swap")
    size = Path("/sys/block/zram0/disksize")
    if not size.exists() or size.read_text(encoding="ascii").strip() != "0":
        pytest.skip("no zram device, or somebody uses it")
    size.write_text("256M", encoding="ascii")
    try:
        subprocess.run(["mkswap", "/dev/zram0"], check=True, capture_output=True)
        subprocess.run(["swapon", "/dev/zram0"], check=True, capture_output=True)
        try:
            yield
        finally:
            subprocess.run(["swapoff", "/dev/zram0"], check=True, capture_output=True)
    finally:
        Path("/sys/block/zram0/reset").write_text("1", encoding="ascii")


SWAPPED = """
from frontswap.core import presence
MADV_PAGEOUT = 21
MADVISE = 28 if os.uname().machine == "x86_64" else 233
libc = ctypes.CDLL(None, use_errno=True)
memory = frontswap.Memory("64M")
data = walk(1 << 20)
array = memory.array(data)
half = memory.zeros(1 << 18)
half.reshape(-1, 512)[::2] = 1
for a in (array[: 3 << 18], half):
    # By its number: libc's function is a hint that is swallowed on arrays.
    assert libc.syscall(MADVISE, ctypes.c_void_p(a.ctypes.data), ctypes.c_size_t(a.nbytes), MADV_PAGEOUT) == 0
found = presence.regions(array.ctypes.data, array.nbytes, 3 if {ordinary} else 1)
present = sum(end - start for start, end, _ in found)
seen = memory.statistics().resident_bytes
big = memory.zeros(8 << 20)
now = memory.statistics()
same(array, data)
assert half.reshape(-1, 512)[::2].all() and not half.reshape(-1, 512)[1::2].any()
big[:] = 1
memory.advise(array, "cold")
memory.advise(half, "cold")
same(array, data)
assert half.reshape(-1, 512)[::2].all() and not half.reshape(-1, 512)[1::2].any()
half[:] = 2
assert (half == 2).all()
print(json.dumps([present, seen, now.resident_bytes]))
"""


@pytest.mark.parametrize("ordinary", [False, True])
def test_what_the_kernel_has_swapped_out_is_not_absent(mode: Mode, ordinary: bool, kernel_swap: None) -> None:
    code = SWAPPED.format(ordinary=ordinary)
    done = run_child(code, mode=mode, ordinary=ordinary, environment={"FRONTSWAP_REGISTER": "late"}).check()
    present, seen, resident = done.result
    assert present == 8 * MiB
    assert seen < 8 * MiB, "the kernel has swapped nothing out"
    # Who may not ask takes everything as there, with holes.
    assert resident == 10 * MiB
