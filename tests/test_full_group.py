"""A memory cgroup that is full in the middle of a page: the kernel has made a part of it, and says ENOMEM.

A library in front of libc's ioctl says so once, after the first 4 KiB. What has come may have been written to by others
before the rest follows, as by a thread that does not know of all this: the library does that, too.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import MODES

SOURCE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <linux/ioctl.h>
#include <linux/userfaultfd.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>
#define MOVE ((3UL << 30) | (40UL << 16) | (0xAAUL << 8) | 5UL) /* UFFDIO_MOVE, which old headers do not have */
static volatile uint64_t low, high;
static volatile int moves, parts, writes, said;
void arm(uint64_t from, uint64_t to, int no_moves, int writer) {
    low = from; high = to; moves = no_moves; writes = writer; parts = 1; said = 0;
}
int has_said(void) { return said; }
int ioctl(int fd, unsigned long request, ...) {
    va_list list;
    va_start(list, request);
    void *at = va_arg(list, void *);
    va_end(list);
    uint64_t to = high ? *(uint64_t *)at : 0; /* dst, of both */
    if (request == MOVE && moves && to >= low && to < high) { errno = ENOMEM; return -1; }
    if (request == UFFDIO_COPY && to >= low && to < high) {
        struct uffdio_copy *c = at;
        if (parts == 1) {
            struct uffdio_copy first = *c;
            parts = 2;
            first.len = 4096;
            if (syscall(SYS_ioctl, fd, request, &first) == 0) { c->copy = 4096; errno = EAGAIN; return -1; }
            return -1;
        }
        if (parts == 2) {
            parts = 0;
            said = 1;
            if (writes) *(volatile char *)low = 0x5a;
            c->copy = -ENOMEM;
            errno = ENOMEM;
            return -1;
        }
    }
    return (int)syscall(SYS_ioctl, fd, request, at);
}
"""

SCRIPT = """
import ctypes, sys
import numpy as np
import frontswap

page, way = int(sys.argv[1]), sys.argv[2]
library = ctypes.CDLL(sys.argv[3])
library.arm.argtypes = [ctypes.c_uint64] * 2 + [ctypes.c_int] * 2
memory = frontswap.Memory("32M", page=page, **({"swap": None} if way == "put back" else {}))
rng = np.random.default_rng(0)
# what is put back is noise, which the pool refuses
expected = rng.integers(0, 256 if way == "put back" else 4, page, np.uint8)
array = memory.empty((page,), "u1") if way == "first touch" else memory.array(expected)
low = array.ctypes.data
if way != "put back" and way != "first touch":
    memory.advise(array, "cold")
library.arm(low, low + page, way == "put back", way in ("put back", "write"))
if way == "put back":
    memory.advise(array, "cold")
elif way == "read":
    array[page // 2]
else:
    array[page // 2] = expected[page // 2]
assert library.has_said()
library.arm(0, 0, 0, 0)
if way == "first touch":
    assert np.flatnonzero(array).tolist() in ([], [page // 2])
    array[:] = expected
elif way != "read":
    assert array[0] == 0x5A, "what another thread has written is gone"
    array[0] = expected[0]
assert np.array_equal(array, expected)
array[:] = expected[::-1]
memory.advise(array, "cold")
assert np.array_equal(array, expected[::-1])
assert memory.statistics().poisoned == 0
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here")
    if MODES[0].why_not():
        pytest.skip(f"pages are put back by UFFDIO_MOVE: {MODES[0].why_not()}")
    folder = tmp_path_factory.mktemp("full")
    (folder / "full.c").write_text(SOURCE)
    made = folder / "full.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made, folder / "full.c"], check=True)
    return made


@pytest.mark.parametrize("page", [8192, 65536])
@pytest.mark.parametrize("way", ["put back", "read", "write", "first touch"])
def test_the_rest_follows(library: Path, way: str, page: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(page), way, str(library)],
        env={"PATH": "/usr/bin:/bin", "LD_PRELOAD": str(library), "FRONTSWAP_REGISTER": "early"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
