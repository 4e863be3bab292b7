"""Mappings without a reservation, before the registration: they count as what is there of them, and in time."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from heaps import MAPS, start
from helpers import FRONTSWAP, PATIENCE, Mode, run_child

LATE = {"FRONTSWAP_REGISTER": "late"}
#: asserts that nothing is registered: who gets no processor for long looks too late to know
exact = pytest.mark.skipif(PATIENCE > 1, reason="an emulated machine is too slow to see what is not there in time")
MORE = """
def threads():
    return len(os.listdir("/proc/self/task"))
def registered():
    return mem.statistics().registered
before = threads()
n = 640 << 20
"""


def loose(
    code: str,
    mode: Mode | None = None,
    *,
    limit: str = "512M",
    swap: str = "auto",
    timeout: float = 120,
    ordinary: bool = False,
) -> None:
    """Run a snippet in a process with a heap of that limit, which nothing has been registered for."""
    begun = start(limit=limit, swap=swap)
    done = run_child(begun + MAPS + MORE + code, mode=mode, environment=LATE, timeout=timeout, ordinary=ordinary)
    done.check()


@exact
def test_what_is_not_there_does_not_count(seam: Mode) -> None:
    """More addresses than the limit has bytes; who looks is a thread, from then on."""
    loose(
        """
at = take(n, NORESERVE)
assert ours(at) and not registered()
assert threads() == before + 1
array = view(at, n)
data = noise(10 * MiB)
array[5 << 20 : 15 << 20] = data
array[50 << 20 : 70 << 20] = 2
other = malloc(10 * MiB)
view(other, 10 * MiB)[:] = data
time.sleep(0.3)
assert not registered() and threads() == before + 1
assert np.array_equal(array[5 << 20 : 15 << 20], data)
array[130 << 20 : 630 << 20] = 3
wait_until(registered, "the registration")
assert np.array_equal(array[5 << 20 : 15 << 20], data) and np.array_equal(view(other, 10 * MiB), data)
for low in range(130, 630, 20):
    assert (array[low << 20 : low + 20 << 20] == 3).all()
libc.free(other)
assert munmap(at, n) == 0
assert left(data) == 0
""",
        seam,
    )


def test_a_small_limit_has_nothing_to_spare(seam: Mode) -> None:
    """Who touches faster than anybody looks would be over it: all of them count, and nobody looks."""
    loose(
        """
at = take(n, NORESERVE)
assert registered()
""",
        seam,
        limit="128M",
    )


@exact
def test_what_is_reserved_counts_whole(seam: Mode) -> None:
    """Beside them, whether it is there or not; 128 MiB of the limit are kept."""
    loose(
        """
at = take(n, NORESERVE)
view(at, n)[: 40 << 20] = 1
first = malloc(60 * MiB)
assert not registered()
second = malloc(270 * MiB)
assert registered()
""",
        seam,
    )


def test_it_is_found_without_an_allocation(seam: Mode) -> None:
    """Page by page, by several threads: whoever looks finds it before all of it is there."""
    loose(
        """
at = take(n, NORESERVE)
array = view(at, n).reshape(-1, 4096)
PAGES = 36000
def touch(number):
    for page in range(PAGES):
        array[number * 40000 + page] = (page + number) % 251
tasks = [threading.Thread(target=touch, args=(number,)) for number in range(4)]
for task in tasks:
    task.start()
for task in tasks:
    task.join()
wait_until(registered, "the registration")
for number in range(4):
    for page in range(PAGES):
        assert (array[number * 40000 + page] == (page + number) % 251).all()
wait_until(lambda: mem.statistics().used_bytes <= 512 * MiB, "what is above the limit leaves")
assert mem.statistics().poisoned == 0
""",
        seam,
    )


@exact
def test_it_fits_again(seam: Mode) -> None:
    """What has been unmapped, and emptied, is not there; who maps it anew has the thread go on."""
    loose(
        """
for turn in range(3):
    at = take(n, NORESERVE)
    view(at, n)[: 80 << 20] = 1
    assert madvise(at, 80 << 20, DONTNEED) == 0
    time.sleep(0.05)
    view(at, n)[200 << 20 : 280 << 20] = 1
    time.sleep(0.05)
    assert not registered() and threads() == before + 1
    assert munmap(at, n) == 0
at = take(n, NORESERVE)
view(at, n)[: 600 << 20] = 7
wait_until(registered, "the registration")
for low in range(0, 600, 20):
    assert (view(at, n)[low << 20 : low + 20 << 20] == 7).all()
""",
        seam,
    )


@exact
def test_a_lower_limit(seam: Mode) -> None:
    loose(
        """
at = take(n, NORESERVE)
view(at, n)[: 60 << 20] = 5
time.sleep(0.05)
mem.resize("400M")
assert not registered()
mem.resize("160M")
assert registered()
for low in range(0, 60, 20):
    assert (view(at, n)[low << 20 : low + 20 << 20] == 5).all()
""",
        seam,
    )


@exact
def test_charged_while_everything_fits_again(seam: Mode) -> None:
    """Nobody looks then, so what the last look found says nothing of what is touched from then on."""
    loose(
        """
at = take(n, NORESERVE)
view(at, n)[: 10 << 20] = 1
assert not registered() and mem._plane.charged() < 256 * MiB
mem.resize("1000M")
view(at, n)[: 600 << 20] = 2
assert not registered() and mem._plane.charged() >= mem._plane.present() >= 600 * MiB
""",
        seam,
    )


@exact
def test_forked_children(seam: Mode) -> None:
    """A child has what was there, and a thread of its own; so has its parent still."""
    loose(
        """
at = take(n, NORESERVE)
array = view(at, n)
array[: 20 << 20] = 3
def touch(value):
    array[130 << 20 : 630 << 20] = value
    wait_until(registered, "the registration")
    assert (array[: 20 << 20] == 3).all()
    for low in range(130, 630, 20):
        assert (array[low << 20 : low + 20 << 20] == value).all()
for turn in range(3):
    pid = os.fork()
    if pid == 0:
        try:
            assert not registered()
            touch(turn)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert not registered() and (array[: 20 << 20] == 3).all()
touch(9)
""",
        seam,
    )


@pytest.mark.slow
def test_forks_and_mappings_beside_the_thread(seam: Mode) -> None:
    """It looks while others map, touch, unmap and fork, and registers the arena in the middle of that."""
    loose(
        """
import random
end = time.monotonic() + 4
wrong = []
threading.excepthook = lambda raised: (wrong.append(raised), threading.__excepthook__(raised))
def work(seed):
    rng = random.Random(seed)
    while time.monotonic() < end:
        size = rng.randrange(8, 256) * MiB
        at = take(size, NORESERVE if rng.random() < 0.8 else 0) if size > 64 * MiB else take(size, NORESERVE)
        if at == FAILED:
            continue
        array = view(at, size).reshape(-1, 4096)
        most = len(array) if time.monotonic() > end - 3 else 300
        pages = rng.sample(range(len(array)), rng.randrange(1, most))
        for page in pages:
            array[page, :8] = page % 251
        for page in pages:
            if not (array[page, :8] == page % 251).all() or array[page, 8:].any():
                wrong.append((seed, page))
        assert munmap(at, size) == 0
def fork():
    while time.monotonic() < end:
        pid = os.fork()
        if pid == 0:
            time.sleep(0.01)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
tasks = [threading.Thread(target=work, args=(seed,)) for seed in range(4)] + [threading.Thread(target=fork)]
for task in tasks:
    task.start()
for task in tasks:
    task.join()
assert not wrong, wrong[:3]
assert mem.statistics().poisoned == 0
assert left() == 0
""",
        seam,
    )


@exact
def test_a_registration_that_fails() -> None:
    """It is said, and tried again; an allocation is refused until then."""
    loose(
        """
at = take(n, NORESERVE)
array = view(at, n)
read, write = os.pipe()
saved = os.dup(2)
os.dup2(write, 2)
low, high = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, high))
array[: 600 << 20] = 7
assert b"cannot be evicted" in os.read(read, 4096)
assert not registered() and malloc(8 * MiB) is None
resource.setrlimit(resource.RLIMIT_NOFILE, (low, high))
os.dup2(saved, 2)
wait_until(registered, "the registration")
for low in range(0, 600, 20):
    assert (array[low << 20 : low + 20 << 20] == 7).all()
""",
    )


@pytest.mark.slow
def test_the_thread_goes_on_beside_registrations_that_fail() -> None:
    """Each allocation that is refused has tried by itself: while it does, the arena is registered, and is not after."""
    loose(
        """
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # it is late then, and finds another attempt begun
at = take(n, NORESERVE)
array = view(at, n)
low, high = resource.getrlimit(resource.RLIMIT_NPROC)
resource.setrlimit(resource.RLIMIT_NPROC, (1, high))
array[: 600 << 20] = 7
end = time.monotonic() + 2
while time.monotonic() < end:
    assert malloc(2 * MiB) is None
resource.setrlimit(resource.RLIMIT_NPROC, (low, high))
wait_until(registered, "the registration")
for low in range(0, 600, 20):
    assert (array[low << 20 : low + 20 << 20] == 7).all()
""",
        ordinary=True,  # root may have as many threads as there are
    )


@exact
@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs pyarrow")
def test_pyarrow_in_less_than_it_reserves() -> None:
    """Its mimalloc reserves 1 GiB with the first allocation."""
    code = """
import pyarrow, pyarrow.compute
assert pyarrow.default_memory_pool().backend_name == "mimalloc"
words = pyarrow.array([f"word {number}" for number in range(200_000)])
joined = pyarrow.compute.binary_join_element_wise(words, words, "-")
assert joined[7].as_py() == "word 7-word 7"
"""
    done = subprocess.run(
        [FRONTSWAP, "run", "--memory", "512M", "--summary", "json", "-c", code],
        capture_output=True,
        text=True,
        timeout=60 * PATIENCE,
        check=False,
        cwd=Path(sys.executable).parent,
        env={**os.environ, **LATE},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stderr.splitlines()[-1])["frontswap"]["registered"] is False
