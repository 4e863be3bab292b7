"""Memory that is mapped with PROT_NONE and committed later, as runtimes do it."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import c_library
from heaps import MAPS, maps, start
from helpers import FRONTSWAP, MODES, PATIENCE, PROTECTION, Mode, forbidden, run_child
from reservations import STORM

LATE = {"FRONTSWAP_REGISTER": "late"}
uffd = pytest.mark.parametrize("mode", MODES, ids=str, indirect=True)
POKE = """
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
static sigjmp_buf back;
static uintptr_t where;
static int code;
static void caught(int number, siginfo_t *info, void *context)
{
    where = (uintptr_t)info->si_addr;
    code = info->si_code;
    siglongjmp(back, number);
}
/* 0: it may be; 1: SIGSEGV as it should be; else something else. */
int poke(volatile unsigned char *at, int write)
{
    struct sigaction new = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO}, old;
    int result = 0;
    sigaction(SIGSEGV, &new, &old);
    if ((result = sigsetjmp(back, 1)) == 0) {
        if (write)
            *at = *at;
        else
            (void)*at;
    }
    sigaction(SIGSEGV, &old, 0);
    return result == 0 ? 0 : result == SIGSEGV && code == SEGV_ACCERR && where == (uintptr_t)at ? 1 : 100 + code;
}
"""
USE = """
import tempfile
library = ctypes.CDLL({library!r})
def let_in(at, write=False):
    found = library.poke(P(at), write)
    assert found in (0, 1), found
    return found == 0
def reserve(n, flags=NORESERVE):
    at = take(n, flags, NONE)
    assert ours(at), hex(at)
    return at
def commit(at, n):
    assert mprotect(at, n, RW) == 0
    return view(at, n)
def decommit(at, n):
    assert take(n, FIXED | NORESERVE, NONE, at) == at
"""


@pytest.fixture(scope="module")
def poke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return c_library(POKE, tmp_path_factory.mktemp("poke"))


def needs_userfaultfd() -> None:
    """Skip where it is forbidden."""
    if forbidden():
        pytest.skip("without userfaultfd what is reserved is the kernel's")


def reserved(code: str, poke: Path, mode: Mode | None = None, environment: dict[str, str] | None = None) -> None:
    """Run a snippet with these helpers, in a process with a heap of 16 MiB."""
    if mode is None:
        needs_userfaultfd()
    maps(USE.format(library=str(poke)) + code, mode, environment)


@uffd
def test_what_is_committed_counts(mode: Mode, poke: Path) -> None:
    """Not what is reserved; it is evicted, comes back, and is zeros when it is committed again."""
    reserved(
        """
n = 8 << 30
for turn in range(2):
    at = reserve(n)
    assert left() == 0 and not let_in(at) and not let_in(at + n - 1, True)
    data = noise(24 * MiB)
    array = commit(at + (1 << 30), 24 * MiB)
    assert left(data) == 24 * MiB and not array.any()
    array[:] = data
    push()
    assert np.array_equal(array, data)
    assert not let_in(at + (1 << 30) - 1) and not let_in(at + (1 << 30) + 24 * MiB)
    decommit(at + (1 << 30), 12 * MiB)
    assert left(data) == 12 * MiB and not let_in(at + (1 << 30)) and not let_in(at + (1 << 30) + 12 * MiB - 1)
    assert np.array_equal(array[12 * MiB :], data[12 * MiB :])
    assert not commit(at + (1 << 30), 12 * MiB).any() and left(data) == 24 * MiB
    assert take(24 * MiB, FIXED, RW, at + (1 << 30)) == at + (1 << 30) and left(data) == 24 * MiB
    assert not array.any()
    assert munmap(at, n // 2) == 0 and left(data) == 0 and not let_in(at + (1 << 30))
    assert refused(mprotect(at, 4096, RW), errno.ENOMEM)
    assert munmap(at + n // 2, n // 2) == 0
    other = take(n // 512)
    assert not view(other, 16 * MiB).any()
    view(other, 16 * MiB)[:] = 1
    assert munmap(other, n // 512) == 0 and left(data) == 0
    del data
assert mem.statistics().pinned_bytes == 0
""",
        poke,
        mode,
    )


def test_an_ordinary_user() -> None:
    """Whose userfaultfd sees faults of user mode only."""
    needs_userfaultfd()
    code = """
at = take(1 << 30, NORESERVE, NONE)
data = noise(24 * MiB)
assert ours(at) and mprotect(at, 24 * MiB, RW) == 0
array = view(at, 24 * MiB)
array[:] = data
push()
assert mprotect(at, MiB, NONE) == 0 and np.array_equal(array[MiB:], data[MiB:])
with open("/dev/zero", "rb") as file:
    assert file.readinto(memoryview(array)[MiB : 2 * MiB]) == MiB
data[MiB : 2 * MiB] = 0
assert mprotect(at, MiB, RW) == 0
assert np.array_equal(array, data) and munmap(at, 1 << 30) == 0 and left(data) == 0
"""
    run_child(start() + MAPS + code, ordinary=True).check()


def test_nothing_is_registered_for_it(poke: Path) -> None:
    """As long as what is committed fits. What does not fit has the arena registered, with all that is there."""
    reserved(
        """
at = reserve(1 << 30)
array = commit(at + MiB, 4 * MiB)
array[:] = 7
decommit(at + 2 * MiB, MiB)
assert madvise(at + 3 * MiB, MiB, DONTNEED) == 0 and mprotect(at, MiB, NONE) == 0
assert not mem.statistics().registered and left() == 3 * MiB and not let_in(at + 2 * MiB)
more = commit(at + (1 << 29), 40 * MiB)
assert mem.statistics().registered
more[:] = 9
assert (view(at + MiB, MiB) == 7).all() and not view(at + 3 * MiB, MiB).any() and (view(at + 4 * MiB, MiB) == 7).all()
assert not let_in(at + 2 * MiB) and not let_in(at)
assert (more == 9).all() and munmap(at, 1 << 30) == 0 and left() == 0
""",
        poke,
        environment=LATE,
    )


def test_a_commit_is_refused_as_an_allocation_is(poke: Path, small_disk: Path) -> None:
    """ENOMEM when the disk has no room for it, and all is as before."""
    needs_userfaultfd()
    run_child(
        start(swap=str(small_disk))
        + MAPS
        + USE.format(library=str(poke))
        + """
at = reserve(1 << 30)
commit(at, 32 * MiB)[:] = 5
assert refused(mprotect(at + 64 * MiB, 256 * MiB, RW), errno.ENOMEM)
assert refused(take(256 * MiB, FIXED, RW, at), errno.ENOMEM)
assert left() == 32 * MiB and not let_in(at + 64 * MiB)
commit(at + 64 * MiB, 8 * MiB)
assert view(at, 32 * MiB).min() == 5
"""
    ).check()


@uffd
def test_hidden_bytes_are_kept(mode: Mode, poke: Path) -> None:
    """Whether they are in RAM or not, and more of them than may be pinned; emptied, they count no more."""
    reserved(
        """
n = 24 * MiB
at = reserve(1 << 30)
array, data = commit(at, n), noise(n)
array[:] = data
for turn in range(3):
    assert mprotect(at, n, NONE) == 0 and left(data) == n
    for i in (0, 4096 * 777, n - 1):
        assert not let_in(at + i) and not let_in(at + i, True)
    push()
    commit(at, n)
    assert mem.statistics().pinned_bytes == 0 and np.array_equal(array, data)
    array[turn::4096] ^= 255
    data[turn::4096] ^= 255
assert mprotect(at, MiB, READ) == 0 and np.array_equal(array, data) and not let_in(at, True)
assert mprotect(at, MiB, NONE) == 0 and not let_in(at)
assert mprotect(at, 4096, READ) == 0 and np.array_equal(array[:4096], data[:4096])
commit(at, MiB)
push()
assert np.array_equal(array, data) and mem.statistics().pinned_bytes == 0
assert mprotect(at, 2 * MiB, NONE) == 0 and madvise(at, MiB, DONTNEED) == 0 and left(data) == n - MiB
assert mprotect(at, 2 * MiB, RW) == 0 and not array[:MiB].any() and np.array_equal(array[MiB:], data[MiB:])
# untouched: nothing is kept of it
commit(at + n, 4 * MiB)
assert left(data) == n + 4 * MiB and mprotect(at + n, 4 * MiB, NONE) == 0 and left(data) == n
assert munmap(at, 1 << 30) == 0 and left(data) == 0 and mem.statistics().pinned_bytes == 0
""",
        poke,
        mode,
    )


@uffd
def test_what_is_hidden_stays_away_when_backends_give_back(mode: Mode, poke: Path) -> None:
    """Shrunk or drained: dirty it could not leave again, and where it is copied from its place, could not be read."""
    reserved(
        """
n = 8 * MiB
at = reserve(1 << 30)
array, data = commit(at, n), np.tile(noise(1024), n // 1024)
array[:] = data
push()
assert np.array_equal(array[: 2 * MiB], data[: 2 * MiB])  # clean, and in RAM
assert mprotect(at, n, NONE) == 0
mem.backends.shrink(0)
mem.backends.unregister(next(iter(mem.backends)))
push()
assert mem.statistics().resident_bytes < MiB and mem.statistics().pinned_bytes == 0
assert mprotect(at, MiB, READ) == 0 and np.array_equal(array[:MiB], data[:MiB])
commit(at, n)
assert np.array_equal(array, data) and mem.statistics().pinned_bytes == 0
""",
        poke,
        mode,
    )


@uffd
def test_what_is_mapped_over_it_is_not_ours(mode: Mode, poke: Path) -> None:
    """A file, shared memory and code; ours again when it is mapped over, or unmapped. A refused one changes nothing."""
    reserved(
        """
n = 16 * MiB
at = reserve(1 << 30)
array, data = commit(at, n), noise(n)
array[:] = data
file = tempfile.TemporaryFile()
file.write(bytes([5]) * MiB)
file.flush()
assert refused(mmap_(at + MiB, MiB, RW, 0x12, 999, 0), errno.EBADF)
for flags in (0x12, 0x11):
    assert mmap_(at + MiB, MiB, RW, flags, file.fileno(), 0) == at + MiB
    data[MiB : 2 * MiB] = 5
    assert left(data) == n - MiB
    push()
    assert np.array_equal(array, data)
    array[MiB : 2 * MiB] = data[MiB : 2 * MiB] = 6
    push()
    assert np.array_equal(array, data)
    pid = os.fork()
    if pid == 0:
        assert np.array_equal(array, data)
        commit(at, n)
        array[:MiB] = 1
        assert take(MiB, FIXED, RW, at + MiB) == at + MiB
        assert not array[MiB : 2 * MiB].any() and np.array_equal(array[2 * MiB :], data[2 * MiB :])
        array[:] = 2
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert mprotect(at + MiB, 4096, READ) == 0 and not let_in(at + MiB, True) and mprotect(at + MiB, 4096, RW) == 0
    file.seek(0)
    file.write(bytes([5]) * MiB)
    file.flush()
    assert take(MiB, FIXED, RW, at + MiB) == at + MiB and left(data) == n
    assert not array[MiB : 2 * MiB].any()
    array[MiB : 2 * MiB] = data[MiB : 2 * MiB] = 8
    push()
    assert np.array_equal(array, data)
    if flags == 0x12:
        assert mmap_(at + 4096, 4096, RW, 0x12, file.fileno(), 0) == at + 4096
        decommit(at + 4096, 4096)
        assert not let_in(at + 4096)
        commit(at + 4096, 4096)[:] = data[4096:8192] = 3
mem.advise(array, "dontneed")
data[:] = 0
assert left(data) == n and not array.any()
assert mmap_(at + MiB, MiB, RW, 0x12, file.fileno(), 0) == at + MiB
data[MiB : 2 * MiB] = 5
array[:MiB] = data[:MiB] = 1
array[MiB] = data[MiB] = 77
array[2 * MiB :] = data[2 * MiB :] = 1
mem.advise(array[MiB + 4096 :], "dontneed")
data[2 * MiB :] = 0
assert np.array_equal(array, data)
assert take(MiB, FIXED, RW, at + MiB) == at + MiB
data[MiB : 2 * MiB] = 0
code = at + 32 * MiB
assert take(MiB, FIXED, RW | 4, code) == code and left(data) == n
view(code, 6)[:] = list(bytes.fromhex("b82a000000c3"))        # mov eax, 42; ret
if os.uname().machine == "x86_64":
    assert ctypes.CFUNCTYPE(I)(code)() == 42
assert mprotect(code, MiB, EXEC) == 0 and mprotect(at + 40 * MiB, MiB, RW | 4) == 0
view(at + 40 * MiB, MiB)[:] = 1
assert left(data) == n and np.array_equal(array, data)
assert munmap(at, 1 << 30) == 0 and left(data) == 0
for _ in range(2):  # the same addresses, and no hole in what is registered
    other = take(64 * MiB)
    view(other, 64 * MiB)[:] = 1
    push()
    assert (view(other, 64 * MiB) == 1).all() and munmap(other, 64 * MiB) == 0
""",
        poke,
        mode,
    )


def test_foreign_before_the_registration(poke: Path) -> None:
    reserved(
        """
at = reserve(1 << 30)
file = tempfile.TemporaryFile()
file.write(bytes([5]) * MiB)
file.flush()
commit(at, 8 * MiB)[:] = 1
for i in (1, 3):
    assert mmap_(at + i * MiB, MiB, RW, 0x12, file.fileno(), 0) == at + i * MiB
assert not mem.statistics().registered
array = commit(at + 64 * MiB, 40 * MiB)
assert mem.statistics().registered
array[:] = 2
for i in range(8):
    assert (view(at + i * MiB, MiB) == (5 if i in (1, 3) else 1)).all(), i
assert munmap(at, 1 << 30) == 0 and left() == 0
""",
        poke,
        environment=LATE,
    )


@uffd
def test_forked_children(mode: Mode, poke: Path) -> None:
    """They have the pieces as they are, and their own from then on."""
    reserved(
        """
n = 8 * MiB
at = reserve(32 << 30)
array, data = commit(at + n, n), noise(n)
array[:] = data
push()
assert mprotect(at + n, MiB, NONE) == 0
def check(mark):
    assert not let_in(at) and not let_in(at + n) and left(data) == n
    assert np.array_equal(array[MiB:], data[MiB:])
    commit(at, 2 * n)
    assert np.array_equal(array, data) and left(data) == 2 * n
    array[:] = mark
    view(at, n)[:] = mark
    assert (view(at, 2 * n) == mark).all()
    decommit(at, n)
    assert not let_in(at) and left(data) == n
    assert munmap(at, 32 << 30) == 0 and left(data) == 0 and mem.statistics().pinned_bytes == 0
pids = []
for mark in (1, 2):
    pid = os.fork()
    if pid == 0:
        check(mark)
        os._exit(0)
    pids.append(pid)
check(3)
for pid in pids:
    assert os.waitpid(pid, 0)[1] == 0
""",
        poke,
        mode,
    )


def test_more_than_half_of_the_arena_is_the_kernels(poke: Path) -> None:
    """And what is unmapped may be reserved again."""
    reserved(
        """
half = length // 2
for _ in range(3):
    at = reserve(half - (64 << 20))
    other = take(128 << 20, NORESERVE, NONE)
    assert other != FAILED and not ours(other)
    assert mprotect(other, MiB, RW) == 0 and left() == 0
    assert munmap(other, 128 << 20) == 0 and munmap(at, half - (64 << 20)) == 0
""",
        poke,
    )


def test_without_userfaultfd_it_is_the_kernels(poke: Path) -> None:
    if PROTECTION.why_not():
        pytest.skip(PROTECTION.why_not())
    maps(
        """
at = take(1 << 30, NORESERVE, NONE)
assert at != FAILED and not ours(at) and mprotect(at, MiB, RW) == 0 and left() == 0
""",
        PROTECTION,
    )


def storm(library: Path, mode: Mode, *, turns: int, threads: int, forks: bool) -> None:
    maps(
        f"""
import tempfile
library = ctypes.CDLL({str(library)!r})
library.storm_signals()
n = 24 * MiB
at = take(1 << 30, NORESERVE, NONE)
assert ours(at)
file = tempfile.TemporaryFile()
file.write(b"Z" * MiB)
file.flush()
done = threading.Event()
def fork():
    while not done.wait(0.05):
        pid = os.fork()
        if pid == 0:
            library.storm_sweep(P(at), N(n))
            os._exit(library.storm_wrong() != 0)
        assert os.waitpid(pid, 0)[1] == 0
thread = threading.Thread(target=fork)
if {forks}:
    thread.start()
found = library.storm(P(at), N(n), {threads}, 2, {turns}, 1, file.fileno())
done.set()
if {forks}:
    thread.join()
assert found == 0, found
assert munmap(at, 1 << 30) == 0 and left() == 0
now = quiet(mem)
assert now.poisoned == now.pinned_bytes == 0
""",
        mode,
    )


@uffd
def test_many_threads(mode: Mode, tmp_path: Path) -> None:
    """All that can be done with pieces, in three threads at the limit: no byte is another's, no access let in."""
    storm(c_library(STORM, tmp_path), mode, turns=5000, threads=3, forks=False)


@pytest.mark.slow
@uffd
def test_many_threads_for_long(mode: Mode, tmp_path: Path) -> None:
    storm(c_library(STORM, tmp_path), mode, turns=20000, threads=5, forks=True)


@uffd
def test_system_calls_end_where_nobody_may_look(mode: Mode, poke: Path) -> None:
    """EFAULT, or as much as there is before: as from the kernel. A message is whole or nothing."""
    reserved(
        """
import socket, tempfile
at = reserve(1 << 30)
array = commit(at, 4 * MiB)
array[:] = 7
push()
assert mprotect(at + MiB, MiB, NONE) == 0 and mprotect(at + 3 * MiB, MiB, READ) == 0
file = tempfile.TemporaryFile()
fd = file.fileno()
libc.read.restype = libc.write.restype = libc.pread.restype = libc.send.restype = ctypes.c_ssize_t
def call(name, *arguments):
    return getattr(libc, name)(*(N(a) if a > 1000 else I(a) for a in arguments))
assert call("write", fd, at, 2 * MiB) == MiB
for name in ("read", "write"):
    for where in (at + MiB, at + 4 * MiB, at + (1 << 29)):
        os.lseek(fd, 0, 0)
        assert refused(call(name, fd, where, 8192), errno.EFAULT), (name, hex(where))
assert call("pread", fd, at + MiB - 8192, 65536, 0) == 8192
assert refused(call("pread", fd, at + 3 * MiB, 8192, 0), errno.EFAULT)
assert call("write", fd, at + 3 * MiB, 8192) == 8192
ours_, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
assert refused(call("send", ours_.fileno(), at + MiB - 4096, 8192, 0), errno.EFAULT)
other.setblocking(False)
try:
    other.recv(10)
except BlockingIOError:
    pass
else:
    assert False
assert call("send", ours_.fileno(), at + MiB - 4096, 4096, 0) == 4096 and other.recv(9000) == bytes([7]) * 4096
assert mprotect(at + MiB, 3 * MiB, RW) == 0 and array.min() == 7
""",
        poke,
        mode,
    )


@pytest.mark.slow
@uffd
def test_a_commit_past_us_ends_with_a_message(mode: Mode) -> None:
    """By a system call that is not libc's mprotect(): neither zeros nor a thread that waits for ever."""
    number = {"x86_64": 10, "aarch64": 226}.get(os.uname().machine)
    if number is None:
        pytest.skip("the number of mprotect(2) here is not known")
    code = f"""
at = take(1 << 30, NORESERVE, NONE)
assert ours(at) and mprotect(at, MiB, RW) == 0
push()
assert libc.syscall(N({number}), P(at + MiB), N(MiB), N(RW)) == 0
view(at + MiB, MiB)[0] = 1
"""
    done = run_child(start() + MAPS + code, mode=mode).died_of(signal.SIGABRT)
    assert "a page is not where its state says" in done.err


def jvms() -> list[str]:
    """OpenJDKs of this machine."""
    homes = [Path(os.environ["JAVA_HOME"])] if os.environ.get("JAVA_HOME") else sorted(Path("/usr/lib/jvm").glob("*"))
    return [str(home / "lib/server/libjvm.so") for home in homes if (home / "lib/server/libjvm.so").exists()]


@pytest.mark.slow
@pytest.mark.skipif(not jvms(), reason="needs an OpenJDK (libjvm.so)")
@pytest.mark.parametrize("collector", ["Serial", "G1"])
def test_openjdk(collector: str) -> None:
    """180 MiB of arrays in 64 MiB, in its heap. (With compressed pointers it wants addresses of its own choice.)"""
    needs_userfaultfd()
    for library in jvms():
        options = ["-Xmx512m", "-Xss2m", f"-XX:+Use{collector}GC", "-XX:-UseCompressedOops"]
        command = [FRONTSWAP, "run", "--memory", "64M", "--quiet", str(Path(__file__).with_name("jvm.py")), library]
        done = subprocess.run([*command, *options], check=False, capture_output=True, text=True, timeout=PATIENCE * 120)
        assert (done.returncode, done.stdout) == (0, "right\n"), f"{library}: {done.stdout}{done.stderr}"


@uffd
def test_a_reservation_costs_no_memory(mode: Mode, poke: Path) -> None:
    """A quarter of the arena; neither when it is made, nor when a child is forked, nor when it is unmapped."""
    reserved(
        """
def own():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
push()
before = own()
at = reserve(256 << 30)
commit(at + (100 << 30), MiB)[:] = 1
assert own() - before < 8 * MiB
pid = os.fork()
if pid == 0:
    assert own() - before < 8 * MiB and (view(at + (100 << 30), MiB) == 1).all()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert munmap(at, 256 << 30) == 0 and own() - before < 8 * MiB
""",
        poke,
        mode,
    )
