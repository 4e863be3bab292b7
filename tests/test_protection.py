"""Without userfaultfd: PROT_NONE and SIGSEGV, under the filter of a container, as root and not.

What is quick of it. The suites that know modes run in this one, too, where slow tests run; so does the soak.
"""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest
from helpers import DUMPABLE, FORBID, ORDINARY, PROTECTION, ROOT, Array, MiB, noise, run_child, same, walk

import frontswap
from frontswap.core.plane import protection_access
from frontswap.errors import KernelSupportError, OutOfMemoryError, ParameterError
from frontswap.memory.install import checked
from frontswap.memory.space import Space

pytestmark = pytest.mark.skipif(protection_access() != 0, reason="/proc/self/mem does not write to protected memory")

#: in a container, whose filter root's device does not get round either
CONTAINER = FORBID + f"{DUMPABLE}forbid({errno.EPERM}, True)\nos.environ.pop('FRONTSWAP_FAULTS', None)\n"
# How the arena is mapped: the number of mappings, and what may be done with each.
MAPPED = """
def mapped(memory):
    base, size = memory._plane.extents()["arena"]
    lines = (line.split() for line in open("/proc/self/maps"))
    return [line[1] for line in lines if base <= int(line[0].split("-")[0], 16) < base + size]
"""


@pytest.fixture
def protection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memories made from now on are of this side."""
    for name, value in PROTECTION.environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("ordinary", [False, True], ids=["root", "user"])
@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS], ids=["EPERM", "ENOSYS"])
def test_auto_in_a_container(number: int, ordinary: bool) -> None:
    """It is chosen, and said once; arrays larger than the limit, their copies and forked children are right."""
    code = """
import warnings
assert not any(kernel_features().values())
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    first, second = frontswap.Memory("16M"), frontswap.Memory("16M")
[warning] = said
assert warning.category is RuntimeWarning
assert "a seccomp filter forbids userfaultfd" in str(warning.message) and "frontswap doctor" in str(warning.message)
source, other = walk(6 << 20), noise(24 << 20)
one, two = first.array(source), second.array(other)
pid = os.fork()
one[::512] += 1
if pid == 0:
    one[::512] += 1
    source[::512] += 2
    same(np.array(one), source)
    same(np.array(two), other)
    os._exit(0)
source[::512] += 1
for _ in range(2):
    same(np.array(one), source)
    same(np.array(two), other)
assert os.waitpid(pid, 0)[1] == 0
now = first.statistics()
assert now.refaults and now.evicted_clean and now.evicted_dirty and now.write_upgrades
# Below the gaps all is closed: what is in RAM is all that may be read.
del one, two
first.close()
second.close()
"""
    run_child(CONTAINER.replace(str(errno.EPERM), str(number)) + code, ordinary=ordinary).check()


def test_doctor_in_a_container() -> None:
    """It works, and what would be better is said."""
    code = """
report = doctor.examine()
print(json.dumps([report.works, {f.name: (f.what, f.command, f.level) for f in report.findings}]))
"""
    # What it imports may lie where only root can read.
    before = "from frontswap.observe import doctor\n" + ORDINARY * ROOT
    works, found = run_child(before + CONTAINER + code).check().result
    assert works
    assert found["userfaultfd"][0] == "a seccomp filter forbids userfaultfd"
    assert found["userfaultfd"][1].startswith("docker run ")
    assert found["userfaultfd"][2] == "limit"
    assert "/proc/self/mem" in found["protection"][0]
    assert found["SIGSEGV"][2] == "ok"
    assert "SIGBUS" not in found
    assert found["trial"][2] == "ok"


def test_doctor_where_sigsegv_is_blocked() -> None:
    """A thread that blocks it would be killed: by the doctor's word if it is all there is, else as a limit."""
    code = """
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGSEGV])
found = [f.level for f in checks.blocked_signals(Machine(), "auto") if f.name == "SIGSEGV"]
thread = threading.Thread(target=time.sleep, args=(1,))
thread.start()
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGSEGV])
found += [f.level for f in checks.blocked_signals(Machine(), "auto") if f.name == "SIGSEGV"]
thread.join()
print(json.dumps(found))
"""
    before = "from frontswap.observe import checks\nfrom frontswap.machine import Machine\n" + ORDINARY * ROOT
    assert run_child(before + CONTAINER + code).check().result == ["fails", "limit"]


# --- pages ---------------------------------------------------------------------------------------


def test_protection_of_each_state() -> None:
    """What is absent is closed to all, what has a copy is closed to writers, and the kernel says the same."""
    code = (
        MAPPED
        + """
memory = frontswap.Memory("16M", page=4096)
array = memory.empty((64, 512))
assert mapped(memory) == ["---p"]
array[8:16] = 1
array[32:40].sum()
assert mapped(memory) == ["---p", "rw-p", "---p", "r--p", "---p"]
quiet(memory)  # no readahead is left that would bring pages back
memory.advise(array, "cold")
assert mapped(memory) == ["---p"]
assert (array[8:16] == 1).all() and not array[32:40].any()
assert mapped(memory) == ["---p", "r--p", "---p", "r--p", "---p"]
array[9:11] = 2
assert mapped(memory)[:5] == ["---p", "r--p", "rw-p", "r--p", "---p"]
memory.advise(array[8:12], "dontneed")
assert not array[8:12].any() and (array[12:16] == 1).all()
with memory.pin(array[12:14]):
    memory.advise(array, "cold")
    assert mapped(memory) == ["---p", "rw-p", "---p"]
    array[12, 5] = 7
assert array[12, 5] == 7 and array[13, 5] == 1
del array
assert mapped(memory) == ["---p"]
again = memory.empty((64, 512))
assert not again.any()
del again
memory.close()
"""
    )
    run_child(
        code.replace("array[32:40].sum()", 'memory.advise(array, "random"); array[32:40].sum()'), mode=PROTECTION
    ).check()


def test_readers_see_whole_pages_only() -> None:
    """Threads read pages that are taken out and brought back all the time: each is what it was, in all its bytes."""
    code = """
memory = frontswap.Memory("16M", page=65536)
granules = 1024
array = memory.empty(granules * 512, "u8")
hammer.fill(array.ctypes.data, granules, 7)
ended = threading.Event()
bad = []
def read():
    while not ended.is_set():
        bad.append(hammer.check(array.ctypes.data, granules, 7))
def take_out(part):
    while memory.statistics().refaults < 3000:
        memory.advise(part, "cold")
readers = [threading.Thread(target=read) for _ in range(3)]
takers = [threading.Thread(target=take_out, args=(part,)) for part in (array, array[: len(array) // 2])]
for thread in readers + takers:
    thread.start()
for thread in takers:
    thread.join()
ended.set()
for thread in readers:
    thread.join()
assert set(bad) == {-1}, bad
"""
    run_child(code, mode=PROTECTION).check()


NO_FORK = """
def no_fork():
    try:
        os.fork()
    except OSError as error:
        assert error.errno == errno.ENOMEM
    else:
        os._exit(3)
"""


# --- mappings ------------------------------------------------------------------------------------

TAKE = """
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

def take_all_mappings():
    "All that this process can have: (where they are, how many bytes)."
    size = int(open("/proc/sys/vm/max_map_count").read()) * 4096
    at = taken = libc.mmap(None, size, 0, 0x4022, -1, 0)
    while libc.mprotect(at, 4096, 1) == 0:
        at += 8192
    return taken, size
"""


def most_mappings() -> int:
    return int(Path("/proc/sys/vm/max_map_count").read_text(encoding="ascii"))


def test_the_number_of_mappings_is_bounded() -> None:
    """The worst order: no page has a neighbour. What has left leaves no mapping behind, of eight times the limit."""
    code = (
        MAPPED
        + """
memory = frontswap.Memory("16M", page=4096)
array = memory.empty((128 << 8, 512))
memory.advise(array, "random")
most = 0
for turn in range(2):
    for start in range(0, len(array), 512):
        array[start + turn : start + 512 : 2] += 1
        most = max(most, len(mapped(memory)))
budget = memory.statistics().limit_bytes
assert 1000 < most <= 2 * (budget >> 12) + 64, most
expected = np.zeros((len(array), 1))
for turn in range(2):
    expected.reshape(-1, 512)[:, turn::2] += 1
assert (array == expected).all()
wait_until(lambda: memory.advise(array, "cold") or mapped(memory) == ["---p"], "all of it is one mapping")
"""
    )
    run_child(code, mode=PROTECTION).check()


def test_mappings_are_joined_again() -> None:
    """Also where nothing beside the arena was ever touched: the kernel joins what has an anon_vma in common."""
    code = (
        MAPPED
        + """
import mmap
# The tables find room in holes like these, and the arena does not.
holes = [mmap.mmap(-1, MiB << i, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS) for _ in range(6) for i in range(9)]
for hole in holes[1::2]:
    hole.close()
memory = frontswap.Memory("16M", page=4096)
array = memory.empty((1 << 13, 512))
memory.advise(array, "random")
array[:4000:2] = 1
assert len(mapped(memory)) > 2000
memory.advise(array, "cold")
assert mapped(memory) == ["---p"]
"""
    )
    run_child(code, mode=PROTECTION).check()


@pytest.mark.parametrize("limit", [16 * MiB, 256 * MiB, 2048 * MiB])
def test_the_smallest_page_follows_from_the_limit(
    limit: int, protection: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = most_mappings() // 2
    size = 4096
    while 2 * (limit // size) + 64 > (share if size >= 65536 else share // 2):
        size *= 2
    memory = frontswap.Memory(limit, page=4096)
    array = memory.empty(8 * MiB, "u1")
    array[5] = 1
    assert memory.statistics().resident_bytes == size
    del array
    memory.close()


def test_too_large_for_the_mappings(protection: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """All Memories of a process share them; what is closed gives its part back."""
    limit = most_mappings() // 3 * MiB  # with the largest pages, two thirds of the share
    first = frontswap.Memory(limit, swap=None, arena="16T")
    with pytest.raises((KernelSupportError, OutOfMemoryError), match="max_map_count"):
        frontswap.Memory(limit, swap=None, arena="16T")
    first.close()
    frontswap.Memory(limit, swap=None, arena="16T").close()


def test_when_the_program_has_taken_all_mappings() -> None:
    """A few are left: what cannot have one waits for the pages before it to leave. Nothing is lost."""
    code = (
        MAPPED
        + TAKE
        + """
memory = frontswap.Memory("16M", page=4096)
source = walk(2 << 20)
array = memory.array(source)
pages, wanted = array.reshape(-1, 512), source.reshape(-1, 512)
order = np.random.default_rng(3).permutation(len(pages))
found = np.zeros(512)
memory.advise(array, "cold")
memory.advise(array, "random")
taken, size = take_all_mappings()
libc.munmap(taken, 30 * 4096)
for page in order[:1500]:
    found[:] = pages[page]
    assert (found == wanted[page]).all()
    pages[page, 3] += 1
    source[page * 512 + 3] += 1
assert len(mapped(memory)) < 64, "hundreds fit in the limit, and each has two"
libc.munmap(taken, size)
same(np.array(array), source)
"""
    )
    run_child(code, mode=PROTECTION).check()


def test_a_generation_without_mappings_is_refused() -> None:
    """A child of a child has the pieces of both. One that could have no more of them could bring nothing in."""
    code = (
        NO_FORK
        + TAKE
        + """
memory = frontswap.Memory("16M", page=4096)
source = walk(3 << 20)
array = memory.array(source)
def fork(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
def check():
    same(np.array(array), source)
    array[::100] += 1
    memory.advise(array, "cold")
    assert (array[::100] == source[::100] + 1).all()
def child():
    taken, size = take_all_mappings()
    libc.munmap(taken, 100 * 4096)
    no_fork()
    libc.munmap(taken, size)
    fork(check)
    check()
fork(child)
check()
"""
    )
    done = run_child(code, mode=PROTECTION).check()
    assert "frontswap: fork refused: mappings (vm.max_map_count)" in done.err


# --- signals -------------------------------------------------------------------------------------

MAKE = """
memory = frontswap.Memory("16M", page=4096)
source = walk(3 << 20)
array = memory.array(source)
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_fault_of_the_program_is_its_own(when: str) -> None:
    """faulthandler says where, and the process ends as it would have."""
    enable = "faulthandler.enable()\n"
    code = enable * (when == "before") + MAKE + enable * (when == "after")
    code += "same(np.array(array), source)\nprint('right', flush=True)\nctypes.string_at(8)\n"
    done = run_child(code, mode=PROTECTION).died_of(signal.SIGSEGV)
    assert done.out == "right\n"
    assert "Segmentation fault" in done.err
    assert "string_at" in done.err


def test_a_freed_array_is_not_readable() -> None:
    code = MAKE + "at = array.ctypes.data\ndel array\nctypes.string_at(at + 4096)\n"
    run_child(code, mode=PROTECTION).died_of(signal.SIGSEGV)


def test_handlers_of_the_program_for_sigsegv() -> None:
    """They are recorded and asked for what is not ours; they are what sigaction() reports."""
    code = (
        MAKE
        + """
seen = []
HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)
libc = ctypes.CDLL(None, use_errno=True)
libc.signal.restype = ctypes.c_void_p
libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
handler = HANDLER(seen.append)
address = ctypes.cast(handler, ctypes.c_void_p).value
libc.signal(signal.SIGSEGV, address)
same(np.array(array), source)
assert seen == []
os.kill(os.getpid(), signal.SIGSEGV)
assert seen == [signal.SIGSEGV]
assert libc.signal(signal.SIGSEGV, None) == address
same(np.array(array), source)
"""
    )
    run_child(code, mode=PROTECTION).check()


# --- the descriptor ------------------------------------------------------------------------------


def test_a_process_that_may_not_open_its_memory() -> None:
    """Who has changed its user: no Memory; and who has one already does without children, not without bytes."""
    code = """
try:
    frontswap.Memory("16M")
except frontswap.KernelSupportError as error:
    assert error.errno == errno.EACCES
    assert "/proc/self/mem" in str(error) and "setuid" in str(error)
else:
    raise AssertionError("no error")
"""
    run_child(
        "assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0\n"
        + "soak.become_ordinary_user()\n" * (os.geteuid() == 0)
        + code,
        environment=PROTECTION.environment,
    ).check()
    code = (
        NO_FORK
        + MAKE
        + "soak.become_ordinary_user()\n" * (os.geteuid() == 0)
        + """
assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0
same(np.array(array), source)
no_fork()
array[::100] += 1
source[::100] += 1
same(np.array(array), source)
"""
    )
    done = run_child(code, environment=PROTECTION.environment).check()
    assert "fork refused: /proc/self/mem" in done.err


def test_auto_names_both_that_are_refused() -> None:
    """Under a filter, and with another user than it began with: neither will do, and the error says why."""
    code = """
assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0
try:
    frontswap.Memory("16M")
except frontswap.KernelSupportError as error:
    assert error.errno == errno.EPERM
    for word in ("seccomp", "/proc/self/mem", "setuid", "PR_SET_DUMPABLE"):
        assert word in str(error), error
else:
    raise AssertionError("no error")
"""
    run_child(CONTAINER + ORDINARY * ROOT + code).check()


@pytest.mark.slow
def test_the_child_fills_its_own_memory() -> None:
    """Its parent's descriptor is of its parent's memory: nothing that a child brings in or writes is seen there."""
    code = (
        MAKE
        + """
memory.advise(array, "cold")
children = []
for turn in range(4):
    pid = os.fork()
    if pid == 0:
        array[::64] = turn
        source[::64] = turn
        for _ in range(2):
            memory.advise(array, "cold")
            same(np.array(array), source)
        if turn == 3 and os.fork() == 0:
            array[1::64] = -1
            source[1::64] = -1
            memory.advise(array, "cold")
            same(np.array(array), source)
        os._exit(0)
    children.append(pid)
for _ in range(4):
    same(np.array(array), source)
assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
same(np.array(array), source)
"""
    )
    run_child(code, mode=PROTECTION).check()


def test_the_descriptor_is_closed_behind_our_back(protection: None) -> None:
    """By a system call past libc: the keeper has another, in a forked child, too. A file that gets the number stays."""
    code = (
        MAKE
        + """
import tempfile
libc = ctypes.CDLL(None, use_errno=True)
def close_it():
    [fd] = [int(n) for n in os.listdir("/proc/self/fd") if os.readlink(f"/proc/self/fd/{n}").endswith("/mem")]
    assert libc.syscall(3 if os.uname().machine == "x86_64" else 57, fd) == 0
    other = tempfile.TemporaryFile(dir="/var/tmp")
    assert os.dup2(other.fileno(), fd) == fd
    return other
def check():
    memory.advise(array, "cold")
    same(np.array(array), source)
    array[::100] += 1
    source[::100] += 1
    same(np.array(array), source)
listing = os.listdir
os.listdir = lambda path: [n for n in listing(path) if os.path.lexists(f"{path}/{n}")]
file = close_it()
check()
assert os.fstat(file.fileno()).st_size == 0
pid = os.fork()
if pid == 0:
    memory.empty(5)  # starts its keeper
    own = close_it()
    check()
    os._exit(os.fstat(own.fileno()).st_size)
assert os.waitpid(pid, 0)[1] == 0
check()
assert os.fstat(file.fileno()).st_size == 0
"""
    )
    run_child(code, mode=PROTECTION).check()


# --- the crossing --------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [4096, 65536])
def test_late(page: int, protection: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there when the arrays did not fit any more is there still; what was not is zeros."""
    monkeypatch.setenv("FRONTSWAP_REGISTER", "late")
    memory = frontswap.Memory("32M", page=page)
    sources: list[Array] = [walk(1 << 19), noise(4 << 20), walk(3 << 20, 1)]
    first = memory.zeros(4 << 20, "u1")
    first[:: 3 * 4096] = 1
    arrays = [memory.array(source) for source in sources]
    assert memory.statistics().registered
    for _ in range(2):
        for array, source in zip(arrays, sources, strict=True):
            same(array, source)
        memory.advise(first, "cold")
        assert first.sum() == -(-len(first) // (3 * 4096))
    del array, arrays, first
    memory.close()


# --- the limit -----------------------------------------------------------------------------------


def test_a_limit_is_raised_as_far_as_there_are_mappings(protection: None) -> None:
    """It claims more of them when it is raised, and keeps that; what another Memory has claimed it cannot have."""
    first = frontswap.Memory("16M", page=4096)
    array = first.array(walk(6 << 20))
    most = first._space.limit_most()
    assert most > 32 * MiB
    other = frontswap.Memory("16M", page=4096)
    between = first._space.limit_most()
    assert 16 * MiB < between < most
    with pytest.raises(ParameterError, match="what this Memory has tables and mappings for"):
        first.resize(most)
    first.resize(between)
    other.close()
    first.resize(most)
    with pytest.raises(KernelSupportError, match="max_map_count"):
        frontswap.Memory("16M")
    first.resize("16M")
    with pytest.raises(KernelSupportError, match="max_map_count"):  # it may be raised again
        frontswap.Memory("16M")
    same(array, walk(6 << 20))
    assert first.statistics().overshoots == 0
    del array
    first.close()
    frontswap.Memory("16M").close()


def test_pages_go_with_the_budget_of_a_run(protection: None) -> None:
    """One of many processes begins with a share, and may come to have nearly all that the others do not need."""
    settings = checked("64M", swap="auto", backends="zcache", threshold="1M", page="auto", later=2048 * MiB)
    space = Space(settings, "auto")
    assert space.limit_most() >= 2048 * MiB
    space.close()
