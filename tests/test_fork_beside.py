"""What goes on beside a fork: threads that fault, C libraries that fork, Memories and backends that come and go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import c_library
from forks import child
from helpers import PATIENCE, Mode, run_child


@pytest.mark.slow
def test_while_threads_fault(mode: Mode) -> None:
    """Faults and evictions are on their way in other threads; none of their pages may be lost in between."""
    child(
        """
stop = threading.Event()
wrong = []
def scan():
    while not stop.is_set():
        if not right():
            wrong.append(1)
            return
threads = [threading.Thread(target=scan) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(12):
    ended(forked(right))
stop.set()
for thread in threads:
    thread.join()
assert not wrong
""",
        mode,
    )


@pytest.mark.parametrize(
    "work",
    [
        'memory.advise(array, "cold")',
        'memory.backends.pressure("critical"); memory.backends.pressure("none")',
        "memory.backends.shrink(0, deadline=1)",
        "memory.backends.unregister(next(iter(memory.backends))); memory.backends.register('zcache')",
    ],
    ids=["evict", "pressure", "shrink", "unregister"],
)
@pytest.mark.slow
def test_beside_work_on_many_pages(seam: Mode, work: str) -> None:
    """Pages of 128 KiB in 16 MiB share one context: who waits at a closed gate keeps it from none of those inside."""
    run_child(
        f"""
signal.alarm(int(60 * PATIENCE))
memory = frontswap.Memory("16M", page=131072)
array = memory.zeros(24 << 17, "u8")
array[::512] = np.arange(len(array[::512]))
stop = threading.Event()
def fault(part):
    while not stop.is_set():
        np.add(part, 1 << 32, out=part)     # long enough for NumPy to let go of the GIL
def repeat():
    while not stop.is_set():
        {work}
threads = [threading.Thread(target=fault, args=(array[i::1024],)) for i in (0, 512)]
threads += [threading.Thread(target=repeat) for _ in range(2)]
for thread in threads:
    thread.start()
for turn in range(40):
    pid = os.fork()
    if pid == 0:
        os._exit(turn % 20 == 0 and not np.array_equal(array[::512] & 0xFFFFFFFF, np.arange(len(array[::512]))))
    assert os.waitpid(pid, 0)[1] == 0
    with memory.pin(array[:1]):
        pass
stop.set()
for thread in threads:
    thread.join()
assert np.array_equal(array[::512] & 0xFFFFFFFF, np.arange(len(array[::512])))
""",
        mode=seam,
    ).check()


def test_a_c_library_that_forks(seam: Mode) -> None:
    """Nobody tells Python: the handlers of pthread_atfork are all there is."""
    child(
        f"HANDLERS = {seam.faults == 'thread'}"
        """
pid = ctypes.PyDLL(None).fork()
if pid == 0:
    signal.alarm(int(100 * PATIENCE))
    good = right()
    for turn in range(6):
        array[::4096] ^= 255
    # Each page that was written wants a slot of the swap file, and the thread that frees them is not here yet.
    now = memory.statistics()
    threads = len(os.listdir("/proc/self/task"))
    good = good and now.cleaned_bytes > 0 and now.overshoots == 0 and (threads > 1) == HANDLERS
    os._exit(0 if good and right() and memory.array(data).sum() > 0 else 1)
array[::4096] ^= 15
ended(pid)
""",
        seam,
    )


def test_threads_that_a_child_cannot_have_yet(seam: Mode) -> None:
    """It starts some of them, and the others when it can: a Memory without its writeback thread frees no slot."""
    if os.geteuid() != 0:
        pytest.skip("needs a user without other processes")
    run_child(
        """
os.setgroups([])
os.setresgid(64123, 64123, 64123)
os.setresuid(64123, 64123, 64123)       # whose threads RLIMIT_NPROC counts
container.become_dumpable()
def threads():
    return len(os.listdir("/proc/self/task"))
before = threads()
memory = frontswap.Memory("16M")
array = memory.array(noise(24 << 20))
ours = threads() - before
hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
resource.setrlimit(resource.RLIMIT_NPROC, (threads() + 1 + 2, hard))
pid = os.fork()
if pid == 0:
    some = threads()
    memory.zeros(1 << 20)
    assert 1 < some == threads() < 1 + ours, (some, threads(), ours)
    resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
    memory.zeros(1 << 20)
    assert threads() == 1 + ours, (threads(), ours)
    os._exit(0 if np.array_equal(array, noise(24 << 20)) else 1)
assert os.waitpid(pid, 0)[1] == 0
""",
        mode=seam,
    ).check()


# Registered before frontswap's, a handler of pthread_atfork runs after it: between its prepare and the fork itself.
BETWEEN = """
import ctypes, os, sys, threading, time
sys.path.insert(0, {tests!r})
libc = ctypes.CDLL(None)
entered, done = threading.Event(), threading.Event()
@ctypes.CFUNCTYPE(None)
def prepare():
    if armed:
        entered.set()
        done.wait(1)
libc.__register_atfork(prepare, None, None, None)
armed = True
import frontswap
import numpy as np
statuses = []
def forking(function):
    # Another thread forks, without the GIL; this returns in the middle of it.
    thread = threading.Thread(target=lambda: statuses.append(function()))
    thread.start()
    entered.wait()
    return thread
def end(thread):
    done.set()
    thread.join()
"""

# Forks, and checks and rewrites an array in the child; returns its status.
C_FORK = """
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
int fork_and_check(unsigned char *array, const unsigned char *data, long n)
{
    int status = -1, pid = fork();
    if (pid == 0) {
        alarm(100);
        for (int turn = 0; turn < 2; turn++) {
            if (memcmp(array, data, n) != 0)
                _exit(1);
            for (long i = 0; i < n; i += 4096)
                array[i] ^= 1;
            for (long i = 0; i < n; i += 4096)
                array[i] ^= 1;
        }
        _exit(0);
    }
    waitpid(pid, &status, 0);
    return status;
}
"""


def between(code: str) -> None:
    """Run a snippet after BETWEEN, in a Python of its own: what it does happens in the middle of a fork."""
    done = subprocess.run(
        [sys.executable, "-c", BETWEEN.format(tests=str(Path(__file__).parent)) + code],
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)


def test_a_memory_made_while_a_c_library_forks(tmp_path: Path) -> None:
    """It is in no fork that has not prepared it: the parent once ended for it what it had not begun, and closed
    descriptor 0.
    """
    between(
        f"""
library = ctypes.CDLL({str(c_library(C_FORK, tmp_path))!r})
first = frontswap.Memory("16M")
# All of the child is C: the GIL may be another thread's in it, for ever.
thread = forking(lambda: library.fork_and_check(None, None, ctypes.c_long(0)))
second = frontswap.Memory("16M")
end(thread)
os.fstat(0)
array = second.zeros(20 << 20, "u1")
array[:] = 1
pid = os.fork()
if pid == 0:
    os._exit(int(array.sum()) != 20 << 20)
statuses.append(os.waitpid(pid, 0)[1])
assert statuses == [0, 0], statuses
"""
    )


def test_a_memory_closed_while_a_c_library_forks(seam: Mode, tmp_path: Path) -> None:
    """The child has its arrays, or none. It once had them unregistered, and what was evicted read as zeros."""
    between(
        f"""
library = ctypes.CDLL({str(c_library(C_FORK, tmp_path))!r})
memory = frontswap.Memory("16M")
data = np.full(24 << 20, 7, "u1")
data[::64] = np.arange(len(data) // 64) % 199
array = memory.array(data)
memory.advise(array, "cold")
addresses = [ctypes.c_void_p(a.ctypes.data) for a in (array, data)]
memory.advise(array, "willneed")        # readahead is at the gate then, and close() waits for its end
thread = forking(lambda: library.fork_and_check(*addresses, ctypes.c_long(len(data))))
# Not memory.close(force=True), which looks at counters first, and waits at the gate before it begins.
closing = threading.Thread(target=memory._plane.close)
closing.start()
time.sleep(0.2)
end(thread)
closing.join()
assert statuses in ([0], [{int(signal.SIGSEGV)}]), statuses
os._exit(0)                             # the array is force-closed
"""
    )


@pytest.mark.parametrize("spec", ["checksum / zcache", "active_only / zcache"])
def test_backends_that_come_while_a_c_library_forks(seam: Mode, spec: str, tmp_path: Path) -> None:
    """The child has the table of a backend that it has."""
    between(
        f"""
from helpers import walk
library = ctypes.CDLL({str(c_library(C_FORK, tmp_path))!r})
memory = frontswap.Memory("16M", backends=None)
data = walk(5 << 20)
array = memory.array(data)
addresses = [ctypes.c_void_p(a.ctypes.data) for a in (array, data)]
thread = forking(lambda: library.fork_and_check(*addresses, ctypes.c_long(data.nbytes)))
memory.backends.register({spec!r})
end(thread)
assert statuses == [0] and np.array_equal(array, data), statuses
"""
    )


def test_beside_streams(seam: Mode, tmp_path: Path) -> None:
    """One reads into an array with stdio, one flushes all streams and waits for that one's, one forks and waits for the
    list of streams: the reader must not wait for the fork.
    """
    library = c_library(
        """
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
long read_all(int fd, void *to, long n) { return fread(to, 1, n, fdopen(fd, "rb")); }
void flush_all(void) { fflush(NULL); }
int fork_and_wait(void)
{
    int status = -1, pid = fork();
    if (pid == 0)
        _exit(0);
    waitpid(pid, &status, 0);
    return status;
}
""",
        tmp_path,
    )
    run_child(
        f"""
memory = frontswap.Memory("16M")
data = noise(24 << 20)
array = memory.zeros(len(data), "u1")
library = ctypes.CDLL({str(library)!r})
library.read_all.restype = ctypes.c_long
out, into = os.pipe()
arguments = (out, ctypes.c_void_p(array.ctypes.data), ctypes.c_long(len(data)))
results = []
calls = [lambda: library.read_all(*arguments), lambda: library.flush_all() and 0, lambda: library.fork_and_wait()]
threads = [threading.Thread(target=lambda call=call: results.append(call())) for call in calls]
signal.alarm(int(60 * PATIENCE))
for thread in threads:
    thread.start()
    time.sleep(0.1)
with open(into, "wb") as file:
    file.write(data.data)
for thread in threads:
    thread.join()
assert sorted(results, key=str) == sorted([len(data), 0, 0], key=str), results
same(array, data)
""",
        mode=seam,
    ).check()


def test_the_gate_is_closed_after_others_have_prepared() -> None:
    """OpenBLAS's handler waits for its threads, which may be at work on an array: ours is registered before."""
    code = (
        "import sys, frontswap; frontswap.Memory; "
        "print(*map(list(sys.modules).index, ('frontswap.core.atfork', 'numpy')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True)
    ours, numpys = map(int, done.stdout.split())
    assert ours < numpys


def test_beside_lookups_of_functions(seam: Mode, tmp_path: Path) -> None:
    """Another thread calls dlsym(), which looks for new objects; the child once waited for a lock it had had."""
    library = c_library(
        """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>
static volatile int stop;
static void *look(void *unused)
{
    while (!stop)
        dlsym(RTLD_DEFAULT, "getppid");
    return unused;
}
int forks(int times)
{
    pthread_t thread;
    int status = 0;
    pthread_create(&thread, 0, look, 0);
    while (status == 0 && times-- > 0) {
        int pid = fork();
        if (pid == 0) {
            alarm(20);
            _exit(dlsym(RTLD_DEFAULT, "getpid") == 0);
        }
        waitpid(pid, &status, 0);
    }
    stop = 1;
    pthread_join(thread, 0);
    return status;
}
""",
        tmp_path,
    )
    run_child(
        f"""
memory = frontswap.Memory("16M")
assert ctypes.CDLL({str(library)!r}).forks(200) == 0
""",
        mode=seam,
    ).check()


def test_a_c_library_that_forks_without_a_swap_file(seam: Mode) -> None:
    """Nobody but who evicts makes the pool dense in that child: it once was full of dead space, and ended in SIGBUS."""
    run_child(
        """
memory = frontswap.Memory("32M", swap=None, allocate="64M", page=4096)
data = walk(6 << 20)
array = memory.array(data)
pid = ctypes.PyDLL(None).fork()
if pid == 0:
    signal.alarm(int(100 * PATIENCE))
    for page in np.random.default_rng(5).integers(0, len(array) // 512, 60000):
        array[page * 512] += 1
        data[page * 512] += 1
    now = memory.statistics()
    os._exit(0 if now.overshoots == now.poisoned == 0 and np.array_equal(array, data) else 1)
assert os.waitpid(pid, 0)[1] == 0
same(array, data)
""",
        mode=seam,
    ).check()


@pytest.mark.parametrize("how", ["clone", "_Fork"])
def test_a_child_that_no_handler_has_seen_ends_loudly(how: str) -> None:
    """_Fork and raw clone: no registration, no arrays. A touch is SIGSEGV, for resident and evicted pages alike."""
    call = "libc.syscall(56, 17, 0, 0, 0, 0)" if how == "clone" else "libc._Fork()"
    child(
        f"""
if not hasattr(libc, "_Fork") or os.uname().machine != "x86_64":
    os._exit(0)
libc = ctypes.PyDLL(None)
for at in (0, 1 << 20, len(array) - 1):
    pid = {call}
    if pid == 0:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        array[at]
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGSEGV
assert right()
"""
    )


@pytest.mark.slow
def test_a_thousand_forks(mode: Mode) -> None:
    """With threads that write and fault all the while; children and grandchildren check and write."""
    child(
        """
stop = threading.Event()
scratch = memory.zeros(8 << 20, "u1")
def write():
    value = 0
    while not stop.is_set():
        value = (value + 1) % 200
        scratch[::4096] = value
        assert (scratch[::4096] == value).all()
threads = [threading.Thread(target=write) for _ in range(2)]
for thread in threads:
    thread.start()
places = np.random.default_rng(3).integers(0, len(data), 400)
def work():
    assert np.array_equal(array[places], data[places])
    array[places] ^= 255
    if os.getpid() % 3 == 0:
        ended(forked(lambda: np.array_equal(array[places], data[places] ^ 255)))
    assert np.array_equal(array[places], data[places] ^ 255)
waiting = []
for number in range(260):
    waiting.append(forked(work))
    if len(waiting) == 3:
        ended(waiting.pop(0))
    at = places[number]
    array[at] ^= 255
    array[at] ^= 255
for pid in waiting:
    ended(pid)
stop.set()
for thread in threads:
    thread.join()
assert right()
now = memory.statistics()
assert now.poisoned == now.overshoots == now.slot_errors == 0
""",
        mode,
    )


@pytest.mark.slow
def test_who_waits_at_the_gate_is_not_inside_in_the_child(seam: Mode) -> None:
    """Each that waits counts itself for a moment, and the fork may see that: the child's own fork waited for ever."""
    run_child(
        """
memory = frontswap.Memory("16M", page=4096)
array = memory.array(walk(4 << 20))
end = threading.Event()
def look(seed):
    draw = np.random.default_rng(seed)
    while not end.is_set():
        array[draw.integers(0, len(array), 1000)].sum()
threads = [threading.Thread(target=look, args=(seed,)) for seed in range(6)]
for thread in threads:
    thread.start()
for _ in range(100):
    pid = os.fork()
    if pid == 0:
        pid = os.fork()
        if pid:
            assert os.waitpid(pid, 0)[1] == 0
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
end.set()
for thread in threads:
    thread.join()
""",
        environment=seam.environment,
    ).check()
