"""System calls on arrays: row by row, what plain memory gives."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

import buffers
import exchange
import numpy as np
import pytest
from helpers import MODES, ROOT, run_child, same

NAMES = [f"{row} {state}" for row in exchange.ROWS for state in buffers.STATES[1:]]


@functools.cache
def on_plain_memory(row: str) -> str:
    return exchange.told(row, "plain")


@functools.cache
def as_an_ordinary_user() -> dict[str, str]:
    done = run_child("import exchange; exchange.main()", ordinary=True)
    # What went wrong is each test's: not tried again for each.
    found: dict[str, str] = dict.fromkeys(NAMES, done.err) if done.status else done.result
    return found


@pytest.mark.parametrize("state", buffers.STATES[1:])
@pytest.mark.parametrize("row", exchange.ROWS)
def test_as_on_plain_memory(row: str, state: str) -> None:
    assert exchange.told(row, state) == on_plain_memory(row)


@pytest.mark.skipif(not ROOT, reason="the test above is an ordinary user's already")
@pytest.mark.parametrize("state", buffers.STATES[1:])
@pytest.mark.parametrize("row", exchange.ROWS)
def test_as_on_plain_memory_without_privilege(row: str, state: str) -> None:
    assert not as_an_ordinary_user()[f"{row} {state}"]


# --- vectors at random -----------------------------------------------------------------------------


def vectors(b: buffers.Buffers, seed: int) -> list[Any]:
    """A hundred calls with vectors drawn at random: of both kinds of memory, empty, overlapping, of all sizes."""
    draw = np.random.default_rng(seed)
    kept = [b.data(900_001, seed), np.arange(100_000, dtype=np.uint8)]
    into = [b.room(900_001), np.zeros(100_000, np.uint8)]
    seen: list[Any] = []

    def some(of: list[Any]) -> list[Any]:
        found = []
        for _ in range(int(draw.integers(1, 9))):
            whole = of[int(draw.random() < 0.2)]
            n = int(draw.choice([0, 1, 7, 4096, 5000, 70_000, 262_144, 300_000]))
            start = int(draw.integers(0, len(whole)))
            found.append(whole[start : start + n])
        return found

    with buffers.scratch() as fd, buffers.pair(socket.AF_UNIX, socket.SOCK_DGRAM) as (one, other):
        one.setblocking(False)
        other.setblocking(False)
        for _ in range(100):
            out, back, at = some(kept), some(into), int(draw.integers(0, 500_000))
            match int(draw.integers(0, 6)):
                case 0:
                    seen.append(os.pwritev(fd, out, at))
                case 1:
                    seen.append(os.preadv(fd, back, at))
                case 2:
                    seen.append(os.lseek(fd, at, os.SEEK_SET))
                    seen.append(os.writev(fd, out))
                case 3:
                    seen.append(os.readv(fd, back))
                case 4:
                    seen.append(buffers.error(lambda out=out: one.sendmsg(out)))  # type: ignore[misc]
                case _:
                    seen.append(buffers.error(lambda back=back: other.recvmsg_into(back)[::2]))  # type: ignore[misc]
            seen.append(os.lseek(fd, 0, os.SEEK_CUR))
            seen += [buffers.digest(array) for array in into]
    return seen


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("state", ["clean", "evicted", "racing"])
def test_vectors_at_random(state: str, seed: int) -> None:
    found: list[list[Any]] = []
    for where in ("plain", state):
        b = buffers.Buffers(where)
        try:
            found.append(vectors(b, seed))
        finally:
            b.close()
    assert found[0] == found[1]


# --- where Python cannot go: handlers, small stacks, cancellation ----------------------------------

PLACES = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>
#include <fcntl.h>
#include <limits.h>

static char *of_handler;
static int handler_fd;
static volatile long handled, wrong;
static void on_signal(int n) {
    int saved = errno;
    (void)n;
    if (pwrite(handler_fd, of_handler, 5000, 0) != 5000) wrong++;
    if (pread(handler_fd, of_handler + 8192, 5000, 0) != 5000) wrong++;
    if (memcmp(of_handler, of_handler + 8192, 5000) != 0) wrong++;
    handled++;
    errno = saved;
}
/* Signals in the middle of transfers, whose handler makes transfers itself. */
long in_handlers(int fd, char *from, char *to, size_t n, int other_fd, char *other, int rounds) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART}, old;
    struct itimerval timer = {{0, 300}, {0, 300}}, off = {{0, 0}, {0, 0}};
    of_handler = other;
    handler_fd = other_fd;
    handled = wrong = 0;
    sigaction(SIGALRM, &action, &old);
    setitimer(ITIMER_REAL, &timer, NULL);
    for (int i = 0; i < rounds || handled < 20; i++) {
        from[i % n]++;
        if (pwrite(fd, from, n, 0) != (ssize_t)n || pread(fd, to, n, 0) != (ssize_t)n) wrong++;
        if (memcmp(from, to, n) != 0) wrong++;
    }
    setitimer(ITIMER_REAL, &off, NULL);
    sigaction(SIGALRM, &old, NULL);
    return wrong;
}
struct work { int fd; char *at; size_t n; long got; };
static void *reader(void *argument) {
    struct work *w = argument;
    w->got = pread(w->fd, w->at, w->n, 0);
    return NULL;
}
/* The smallest stack there is. */
long on_a_small_stack(int fd, char *to, size_t n) {
    struct work w = {fd, to, n, 0};
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, PTHREAD_STACK_MIN);
    if (pthread_create(&thread, &attributes, reader, &w) != 0) return -2;
    pthread_join(thread, NULL);
    return w.got;
}
static void *waiter(void *argument) {
    struct work *w = argument;
    w->got = read(w->fd, w->at, w->n);
    return NULL;
}
/* A thread that is cancelled while it waits in read(); 1: it was. */
long cancelled(int fd, char *to, size_t n) {
    struct work w = {fd, to, n, 0};
    pthread_t thread;
    void *result;
    if (pthread_create(&thread, NULL, waiter, &w) != 0) return -2;
    usleep(20000);
    pthread_cancel(thread);
    pthread_join(thread, &result);
    return result == PTHREAD_CANCELED;
}
"""

IN_C = """
import resource, socket, tempfile
memory = frontswap.Memory(limit="16M")
lib = ctypes.CDLL({library!r})
where = lambda a: ctypes.c_void_p(a.ctypes.data)
size = ctypes.c_size_t
evicting = threading.Event()
arrays = [memory.asarray(noise(400_000, i)) for i in range(3)]
def evict():
    while not evicting.wait(0.0005):
        for a in arrays: memory.advise(a, "cold")
thread = threading.Thread(target=evict)
thread.start()
one, other = (tempfile.TemporaryFile(dir="/var/tmp") for _ in range(2))
found = {{}}
found["handlers"] = lib.in_handlers(
    one.fileno(), where(arrays[0]), where(arrays[1]), size(300_007), other.fileno(), where(arrays[2]), 200)
arrays[2][:] = 0
found["small"] = lib.on_a_small_stack(one.fileno(), where(arrays[2]), size(300_007))
found["same"] = bool((arrays[2][:300_007] == arrays[0][:300_007]).all())
r, w = os.pipe()
for _ in range(20):
    found["cancelled"] = lib.cancelled(r, where(arrays[2]), size(300_000))
os.write(w, b"after")
found["after"] = os.readv(r, [arrays[2]])
near, far = socket.socketpair(type=socket.SOCK_DGRAM)
mapped = lambda: int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
before = mapped()
for _ in range(20):  # each has a buffer of 64 MiB mapped: a datagram is received by one call
    lib.cancelled(near.fileno(), where(arrays[2]), size(64 << 20))
found["left"] = mapped() - before > 20 * (64 << 20) // 2
evicting.set()
thread.join()
print(json.dumps(found))
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("ordinary", [False, True])
def test_in_handlers_on_small_stacks_and_cancelled(tmp_path: Path, ordinary: bool) -> None:
    (tmp_path / "places.c").write_text(PLACES)
    command = ["cc", "-O1", "-shared", "-fPIC", "-pthread", "-o", "places.so", "places.c"]
    subprocess.run(command, cwd=tmp_path, check=True)
    library = tmp_path / "places.so"
    folder = tmp_path
    while not folder.stat().st_mode & stat.S_IXOTH:
        folder.chmod(0o755)
        folder = folder.parent
    found = run_child(IN_C.format(library=str(library)), ordinary=ordinary).check().result
    assert found == {"handlers": 0, "small": 300_007, "same": True, "cancelled": 1, "after": 5, "left": False}


def test_a_pipe_keeps_what_it_was_given() -> None:
    """vmsplice: what is written to the array before the pipe is read, and its eviction, change nothing there."""
    b = buffers.Buffers("evicted")
    try:
        data, room = b.data(60_000), b.room(60_000)
        before = data.copy()
        with buffers.pipe() as (r, w):
            assert b.call("vmsplice", w, b.iovecs(data), 1, 0) == (60_000, 0)
            data[:] = 5
            assert b.memory is not None
            b.memory.advise(data, "cold")
            assert buffers.read_all(r, room) == 60_000
        same(room.copy(), before)
        del data, room
    finally:
        b.close()


# --- memory that is no array's ---------------------------------------------------------------------


def test_memory_that_has_been_freed_ends_the_process() -> None:
    """The kernel would say EFAULT; a write into memory that is another's by now is not to go on."""
    if MODES[0].why_not():
        pytest.skip(MODES[0].why_not())
    code = """
memory = frontswap.Memory(limit="16M")
a = memory.zeros(1 << 20, "u1")
memory.advise(a, "cold")  # the arena is registered by now
address = a.ctypes.data
del a
ctypes.CDLL(None).pread(os.open("/dev/zero", os.O_RDONLY), ctypes.c_void_p(address), ctypes.c_size_t(4096), 0)
"""
    run_child(code, mode=MODES[0]).died_of(signal.SIGBUS)


def test_in_a_forked_child() -> None:
    """Its arrays are its own by then; the parent's calls go on as before."""
    run_child("""
import tempfile
memory = frontswap.Memory(limit="16M")
a = memory.asarray(walk(1 << 20))
memory.advise(a, "cold")
with tempfile.TemporaryFile(dir="/var/tmp", buffering=0) as file:
    child = os.fork()
    if child == 0:
        a[:1000] = 5
        file.write(memoryview(a))
        memory.advise(a, "cold")
        os._exit(0 if os.preadv(file.fileno(), [a[::-1][::-1]], 0) == a.nbytes and a[999] == 5 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    expected = walk(1 << 20)
    same(a, expected)
    expected[:1000] = 5
    memory.advise(a, "cold")
    assert os.preadv(file.fileno(), [a], 0) == a.nbytes
    same(a, expected)
""").check()
