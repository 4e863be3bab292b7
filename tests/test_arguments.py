"""What the kernel and libc use where it lies, in the heap: descriptors, arguments of programs, stacks, locks."""

from __future__ import annotations

from pathlib import Path

from conftest import c_library
from heaps import child
from helpers import Mode, run_child

# Everything of a page and more is ours, and nothing of it stays in RAM for long.
SMALL = """
import faulthandler
mem = frontswap.install("16M", threshold="4K")
def push_out():
    np.arange(5 * MiB).sum()
"""


def test_lists_of_descriptors_that_somebody_waits_for() -> None:
    child(
        """
import select
reader, writer = os.pipe()
os.write(writer, b"x")
epoll = select.epoll()
epoll.register(reader, select.EPOLLIN)
np.arange(5 * MiB)
assert epoll.poll(1, 200_000) == [(reader, select.EPOLLIN)]      # 2.4 MB, never touched before
class pollfd(ctypes.Structure):
    _fields_ = [("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short)]
at = calloc(MiB, 8)
fds = (pollfd * MiB).from_address(at)
libc.poll.argtypes, libc.ppoll.argtypes = [P, ctypes.c_ulong, ctypes.c_int], [P, ctypes.c_ulong, P, P]
for call in (lambda n: libc.poll(at, n, 1000), lambda n: libc.ppoll(at, n, None, None)):
    fds[0] = pollfd(reader, select.POLLIN, 0)
    fds[1] = pollfd(writer, select.POLLIN, 7)
    np.arange(5 * MiB)
    assert call(2) == 1, ctypes.get_errno()
    assert (fds[0].revents, fds[1].revents) == (select.POLLIN, 0)
assert libc.poll(at, 2 << 20, 0) == -1 and ctypes.get_errno() == errno.EINVAL
"""
    )


def test_arguments_of_programs_that_are_started(tmp_path: Path) -> None:
    """In the child of subprocess, which is one of vfork(), SIGBUS has its default action when execve() is called."""
    library = c_library(
        """
        #define _GNU_SOURCE
        #include <signal.h>
        #include <spawn.h>
        #include <stdlib.h>
        #include <sys/wait.h>
        #include <unistd.h>
        int start(char **argv, int how) {
            int status = -1, pid;
            struct sigaction none = {.sa_handler = SIG_DFL};
            if (how == 0 && posix_spawn(&pid, "/bin/sh", NULL, NULL, argv, argv + 6) != 0) return -2;
            if (how != 0) pid = how == 1 ? vfork() : fork();
            if (pid == 0) {
                sigaction(SIGBUS, how == 1 ? &none : NULL, NULL);
                execve("/bin/sh", argv, argv + 6);
                _exit(99);
            }
            return waitpid(pid, &status, 0) == pid ? status : -3;
        }
        """,
        tmp_path,
    )
    child(
        f"""
library = ctypes.CDLL({str(library)!r})
at = malloc(2 * MiB)                # argv and environment, and their strings beyond
where = (P * 8).from_address(at)
text = b"test ${{#1}} = 100000 -a ${{#BIG}} = 100000"
strings = [b"sh", b"-c", text, b"sh", b"a" * 100_000, b"BIG=" + b"b" * 100_000]
for i, text in enumerate(strings):
    place = at + 65536 + 131072 * i
    ctypes.memmove(place, text + bytes(1), len(text) + 1)
    where[i if i < 5 else 6] = place
# the environment begins behind the NULL of argv
library.start.argtypes = [P, ctypes.c_int]
for how in (0, 1, 2):
    np.arange(5 * MiB), np.arange(5 * MiB)
    status = library.start(at, how)
    assert status == 0, (how, status)
"""
    )


def test_signals_on_a_stack_of_malloc() -> None:
    """faulthandler has one, and Python's own handlers ask for it: each Ctrl-C would be SIGSEGV."""
    run_child(
        SMALL
        + """
seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
for turn in range(3):
    faulthandler.enable()
    push_out()
    signal.raise_signal(signal.SIGUSR1)
    faulthandler.disable()
assert seen == [1, 1, 1]
""",
        fresh=True,
    ).check()


def test_a_thread_on_a_stack_of_malloc(tmp_path: Path) -> None:
    library = c_library(
        """
        #define _GNU_SOURCE
        #include <pthread.h>
        #include <stdlib.h>
        #include <string.h>
        static void *work(void *deep) {
            volatile char room[200000];
            memset((void *)room, 1, sizeof room);
            size_t n = 48 << 20, i;
            volatile char *more = malloc(n);
            for (i = 0; i < n; i += 512) more[i] = i >> 9;
            free((void *)more);
            return (void *)(size_t)room[sizeof room - 1];
        }
        int on_stack_of_malloc(void) {
            void *stack = NULL, *answer = NULL;
            pthread_attr_t attributes;
            pthread_t thread;
            pthread_attr_init(&attributes);
            if (posix_memalign(&stack, 4096, 4 << 20) || pthread_attr_setstack(&attributes, stack, 4 << 20)) return 2;
            if (pthread_create(&thread, &attributes, work, NULL)) return 3;
            pthread_join(thread, &answer);
            free(stack);
            return answer != (void *)1;
        }
        """,
        tmp_path,
    )
    child(f"assert ctypes.CDLL({str(library)!r}).on_stack_of_malloc() == 0")


def test_locks_that_are_waited_for(seam: Mode, tmp_path: Path) -> None:
    """futex(2) does not bring a page in, and glibc ends the process when it is told so."""
    library = c_library(
        """
        #define _GNU_SOURCE
        #include <pthread.h>
        #include <sched.h>
        #include <semaphore.h>
        #include <stdlib.h>
        #include <time.h>
        #include <unistd.h>
        static struct box {
            pthread_mutex_t mutex;
            pthread_cond_t condition;
            pthread_rwlock_t rwlock;
            sem_t semaphore;
            long count;
            char room[1 << 18];
        } *boxes;
        static volatile int stop;
        static void *work(void *number) {
            unsigned seed = (size_t)number;
            long done = 0;
            while (!stop) {
                struct box *box = &boxes[rand_r(&seed) % 32];
                struct timespec soon;
                switch (rand_r(&seed) % 8) {
                case 0:
                    clock_gettime(CLOCK_REALTIME, &soon);
                    soon.tv_nsec += soon.tv_nsec < 990000000 ? 1000000 : 0;
                    pthread_mutex_lock(&box->mutex);
                    pthread_cond_timedwait(&box->condition, &box->mutex, &soon);
                    break;
                case 1:
                    sem_wait(&box->semaphore);
                    sched_yield();
                    sem_post(&box->semaphore);
                    continue;
                case 2:
                    pthread_rwlock_rdlock(&box->rwlock);
                    sched_yield();
                    pthread_rwlock_unlock(&box->rwlock);
                    continue;
                case 3:
                    pthread_rwlock_wrlock(&box->rwlock);
                    usleep(100);
                    pthread_rwlock_unlock(&box->rwlock);
                    continue;
                default:
                    pthread_mutex_lock(&box->mutex);
                    pthread_cond_signal(&box->condition);
                }
                box->count++;
                done++;
                if (rand_r(&seed) % 4 == 0) usleep(100);
                pthread_mutex_unlock(&box->mutex);
            }
            return (void *)done;
        }
        static void *press(void *unused) {
            while (!stop) {
                volatile char *more = malloc(24 << 20);
                for (size_t i = 0; i < 24 << 20; i += 4096) more[i] = i;
                free((void *)more);
            }
            return unused;
        }
        int contend(int seconds) {
            pthread_t threads[43];
            long done = 0, counted = 0, i;
            boxes = calloc(32, sizeof *boxes);
            for (i = 0; i < 32; i++) sem_init(&boxes[i].semaphore, 0, 1);
            for (i = 0; i < 43; i++) pthread_create(&threads[i], NULL, i < 40 ? work : press, (void *)(i + 1));
            sleep(seconds);
            stop = 1;
            for (i = 0; i < 43; i++) {
                void *answer;
                pthread_join(threads[i], &answer);
                if (i < 40) done += (long)answer;
            }
            for (i = 0; i < 32; i++) counted += boxes[i].count;
            free(boxes);
            return done == 0 || done != counted;
        }
        """,
        tmp_path,
    )
    child(
        f"""
at = calloc(2, MiB)
np.arange(5 * MiB)
libc.pthread_mutex_lock.argtypes = libc.pthread_mutex_unlock.argtypes = [P]
assert libc.pthread_mutex_lock(at) == 0 and mem.statistics().pinned_bytes == 0
thread = threading.Thread(target=libc.pthread_mutex_lock, args=(at,), daemon=True)
thread.start()
wait_until(lambda: mem.statistics().pinned_bytes, "the page of the lock is pinned")
assert libc.pthread_mutex_unlock(at) == 0
thread.join()
libc.free(at)
assert ctypes.CDLL({str(library)!r}).contend(3) == 0
assert mem.statistics().pinned_bytes == 0           # of what has been freed
""",
        seam,
    )


def test_a_text_that_stdio_writes_from_where_it_lies(tmp_path: Path) -> None:
    child(
        f"""
path = {str(tmp_path / "text")!r}
n = 30 * MiB                            # more than the limit: it is never there as a whole
at = malloc(n + 1)
text = view(at, n + 1)
text[:] = np.resize(np.arange(65, 91, dtype="u1"), n + 1)
text[n] = 0
libc.fopen.restype = P
libc.fputs.argtypes, libc.fclose.argtypes = [P, P], [P]
file = libc.fopen(path.encode(), b"w")
assert libc.fputs(at, file) >= 0
assert libc.fclose(file) == 0
assert np.array_equal(np.fromfile(path, "u1"), text[:n])
"""
    )
