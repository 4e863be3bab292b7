"""Forked processes: each has the bytes of the moment of the fork, may write its own, and may end in any order.

Without care this is silent corruption (DESIGN.md 5.4): the child's arena loses its registration, and what was evicted
reads as zeros.
"""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest
from forks import child
from helpers import Mode, run_child, without_notice


@pytest.mark.parametrize("page", [65536, pytest.param(4096, marks=pytest.mark.slow)])
def test_each_side_keeps_its_own_bytes(mode: Mode, page: int) -> None:
    """Both write the same pages, resident, clean and evicted ones, while the other reads them."""
    child(
        """
def work():
    assert right()
    for turn in range(2):
        array[turn::4096] ^= 255
        floats[:] *= 2
    assert np.array_equal(array[0::4096], data[0::4096] ^ 255) and np.array_equal(array[1::4096], data[1::4096] ^ 255)
    assert np.array_equal(array[2::4096], data[2::4096])
    assert np.array_equal(floats, numbers * 4)
    assert memory.statistics().poisoned == 0
one = forked(work)
array[::4096] ^= 15
assert np.array_equal(array[::4096], data[::4096] ^ 15) and np.array_equal(array[1::4096], data[1::4096])
array[::4096] ^= 15
assert right()
two = forked(work)
assert right()
ended(one)
ended(two)
assert right()
assert memory.statistics().poisoned == 0
""",
        mode,
        page=page,
    )


def test_as_an_ordinary_user(seam: Mode) -> None:
    child("pid = forked(right); array[::4096] ^= 15; array[::4096] ^= 15; ended(pid)", seam, ordinary=True)


def test_protection_of_clean_pages_is_back_in_the_child(mode: Mode) -> None:
    """Fork clears it: a write to a CLEAN page would not be seen, and its old record would come back."""
    child(
        """
small = memory.array(data[:4 << 20])
for generation in range(3):
    memory.advise(small, "cold")
    quiet(memory)
    assert np.array_equal(small, data[:4 << 20])       # in again, clean
    def work():
        small[::4096] = 7
        memory.advise(small, "cold")
        quiet(memory)
        assert (small[::4096] == 7).all() and np.array_equal(small[1::4096], data[1:4 << 20:4096])
        assert right()
    pid = forked(work)
    small[::4096] = 9
    memory.advise(small, "cold")
    quiet(memory)
    assert (small[::4096] == 9).all() and np.array_equal(small[1::4096], data[1:4 << 20:4096])
    small[::4096] = data[:4 << 20:4096]
    ended(pid)
""",
        mode,
    )


def test_grandchildren_whose_parent_ends_first(seam: Mode) -> None:
    child(
        """
out, into = os.pipe()
def work():
    array[::4096] ^= 255
    middle = os.getpid()
    def grandchild():
        os.write(into, b"s")
        while os.getppid() == middle:
            time.sleep(0.001)
        array[::4096] ^= 255
        assert right()
        array[:] = 0
        os.write(into, b"d")
    forked(grandchild)
    assert memory.statistics().poisoned == 0
pid = forked(work)
os.close(into)
assert os.read(out, 1) == b"s"
ended(pid)
array[::4096] ^= 255        # the child is gone, its child still reads our slots
array[::4096] ^= 255
assert right()
assert os.read(out, 1) == b"d" and os.read(out, 1) == b""
assert right()
""",
        seam,
    )


def test_a_parent_that_ends_first(seam: Mode) -> None:
    """The slots stay with the file, which lives as long as somebody has it open."""
    child(
        """
out, into = os.pipe()
def work():
    def grandchild():
        while os.getppid() == middle:
            time.sleep(0.001)
        assert right()
        array[::4096] ^= 255
        array[::4096] ^= 255
        assert right()
        os.write(into, b"d")
    middle = os.getpid()
    forked(grandchild)
    array[:] = 1
    memory.close(force=True)
ended(forked(work))
os.close(into)
array[:] = 3
assert os.read(out, 1) == b"d" and os.read(out, 1) == b""
""",
        seam,
    )


def test_where_the_child_cannot_have_a_file(tmp_path: Path) -> None:
    """The directory of the swap file, which has no name there, has been removed: fork says so, and that is all."""
    done = run_child(
        f"""
os.mkdir({str(tmp_path / "swap")!r})
memory = frontswap.Memory("16M", swap={str(tmp_path / "swap")!r})
data = noise(20 << 20)
array = memory.array(data)
os.rmdir({str(tmp_path / "swap")!r})
try:
    os.fork()
except OSError as error:
    print(error.errno)
same(array, data)
os.mkdir({str(tmp_path / "swap")!r})
pid = os.fork()
if pid == 0:
    os._exit(0 if np.array_equal(array, data) else 1)
assert os.waitpid(pid, 0)[1] == 0
"""
    ).check()
    assert int(done.out) == errno.ENOMEM
    assert without_notice(done.err) == (
        "frontswap: fork refused: a swap file for what the child may write: No such file or directory\n"
    )


@pytest.mark.slow
def test_more_generations_than_files() -> None:
    """A chain of forks, each the parent of the next, needs no more files than records lie in."""
    child(
        """
def descend(left):
    assert right()
    array[::8192] ^= 255
    array[::8192] ^= 255
    if left == 0:
        return right()
    ended(forked(lambda: descend(left - 1)))
    return right()
assert descend(4)
del floats
def chain(left):
    array[:] = left     # same-filled: nothing is in the ancestors' files any more
    if left:
        assert os.waitpid(forked(lambda: chain(left - 1)), 0)[1] == 0
    assert (array == left).all()
chain(18)
"""
    )


@pytest.mark.slow
def test_slots_come_back_when_children_have_ended() -> None:
    child(
        """
def writing(turns):
    for _ in range(turns):
        array[::4096] ^= 255
hold = forked(lambda: (signal.pause(), right())[1])
writing(4)
first = memory.statistics().swap_reserved_bytes
os.kill(hold, signal.SIGKILL)
os.waitpid(hold, 0)
for _ in range(40):
    pid = forked(lambda: array[::65536].sum() >= 0)
    writing(2)
    ended(pid)
assert right()
now = memory.statistics()
assert now.swap_reserved_bytes < 2 * first, (now.swap_reserved_bytes, first)
assert now.overshoots == now.poisoned == now.slot_errors == 0
"""
    )


def test_a_child_reads_slots_that_the_parent_has_given_up() -> None:
    """The parent writes everything anew, several times, and drops the old slots: the child's are kept."""
    child(
        """
out, into = os.pipe()
def work():
    os.read(out, 1)
    return right()
pid = forked(work)
for value in range(4):
    array[:] = noise(24 << 20, value + 10)
os.write(into, b"g")
ended(pid)
assert np.array_equal(array, noise(24 << 20, 13))
"""
    )


def test_the_child_has_all_of_a_memory() -> None:
    """Allocation, advice, pins, backends, statistics, threads, close; and a Memory of its own beside it."""
    child(
        """
def work():
    threads = len(os.listdir("/proc/self/task"))
    assert threads > 4, threads
    more = memory.array(data[:8 << 20])
    memory.advise(more, "cold")
    memory.advise(more, "willneed")
    with memory.pin(more[:65536]):
        assert np.array_equal(more, data[:8 << 20])
    for registered in list(memory.backends):
        memory.backends.unregister(registered)
    memory.backends.register("zcache:codec=lz4")
    assert right()
    own = frontswap.Memory("16M")
    other = own.array(data)
    assert np.array_equal(other, data)
    del other, more
    own.close()
    global array, floats
    array = floats = None
    gc.collect()
    memory.close()
    return True
for _ in range(2):
    pid = forked(work)
    assert right()
    ended(pid)
"""
    )


@pytest.mark.parametrize("method", ["fork", "forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_multiprocessing(method: str, tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        """
import multiprocessing, sys
import numpy as np
import frontswap
def total(part):
    memory = frontswap.Memory("16M")
    array = memory.full(3 << 20, part)
    return float(array.sum()) + (float(shared[part]) if shared is not None else 0)
shared = None
if __name__ == "__main__":
    memory = frontswap.Memory("16M")
    shared = memory.array(np.arange(6 << 20, dtype="f8"))
    context = multiprocessing.get_context(sys.argv[1])
    with context.Pool(3) as pool:
        found = pool.map(total, range(8), chunksize=1)
    extra = 1 if sys.argv[1] == "fork" else 0
    assert found == [part * float(3 << 20) + part * extra for part in range(8)], found
    assert np.array_equal(shared, np.arange(6 << 20))
"""
    )
    run_child(f"import subprocess; subprocess.run([sys.executable, {str(script)!r}, {method!r}], check=True)").check()


def test_subprocess_with_and_without_code_before_exec(seam: Mode) -> None:
    child(
        """
for settings in ({}, {"close_fds": False}, {"preexec_fn": lambda: os.nice(1)}, {"start_new_session": True}):
    done = subprocess.run(["/bin/echo", "hello"], capture_output=True, **settings)
    assert done.stdout == b"hello\\n"
assert os.system("true") == 0 and os.popen("echo x").read() == "x\\n"
assert right()
""",
        seam,
    )


def test_without_a_swap_file() -> None:
    run_child("""
memory = frontswap.Memory("32M", swap=None, allocate="64M")
source = walk(6 << 20)
array = memory.array(source)
pid = os.fork()
if pid == 0:
    signal.alarm(int(100 * PATIENCE))
    good = np.array_equal(array, source)
    array[::512] += 1
    os._exit(0 if good and np.array_equal(array[::512], source[::512] + 1) else 1)
array[::512] -= 1
assert os.waitpid(pid, 0)[1] == 0
assert np.array_equal(array[1::512], source[1::512])
""").check()


def test_exit_of_a_child_the_ordinary_way(seam: Mode) -> None:
    """sys.exit in a child: atexit, garbage, a Memory that ends by itself. The parent's is untouched."""
    child(
        """
pid = os.fork()
if pid == 0:
    sys.exit(0 if right() else 1)
ended(pid)
assert right()
""",
        seam,
    )


def test_what_the_child_may_write_is_reserved(small_disk: Path) -> None:
    """The disk has no room for a second copy of what is beyond the limit: the fork fails, and nobody else does."""
    free = os.statvfs(small_disk)
    size = free.f_bavail * free.f_frsize
    done = run_child(
        f"""
memory = frontswap.Memory("16M", swap={str(small_disk)!r})
data = noise({size} // 10 * 6)
array = memory.array(data)
try:
    pid = os.fork()
    if pid == 0:
        os._exit(9)
    print("forked", os.waitpid(pid, 0)[1])
except OSError as error:
    print(error.errno)
assert np.array_equal(array, data)
array[::4096] ^= 255
assert memory.statistics().overshoots == 0
del array
pid = os.fork()
if pid == 0:
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""
    ).check()
    assert done.out.splitlines()[0] == str(errno.ENOMEM)


def test_killed_children_leave_nothing(tmp_path: Path) -> None:
    run_child(f"""
memory = frontswap.Memory("16M", swap={str(tmp_path)!r})
array = memory.array(noise(32 << 20))
pid = os.fork()
if pid == 0:
    array[::4096] ^= 255
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(pid, 0)
os.kill(os.getpid(), signal.SIGKILL)
""").died_of(signal.SIGKILL)
    assert not list(tmp_path.iterdir())
