"""Signals: handlers before and after ours, blocked signals, small stacks, handlers that fault, jumps out of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import c_library
from helpers import MODES, PROTECTION, Mode, forbidden, run_child, without_notice

SETUP = """
libc = ctypes.CDLL(None, use_errno=True)
PAGE = 4096

def make():
    global memory, source, array
    memory = frontswap.Memory("16M", page=PAGE)
    source = walk(5 << 19)
    array = memory.array(source)

def check():
    "Every page is taken out and faults; it is as it was."
    memory.advise(array, "cold")
    before = memory.statistics().refaults
    assert np.array_equal(array, source)
    assert memory.statistics().refaults > before

def blocked(name="self"):
    "The signals that a thread blocks, as the kernel has it."
    for line in open(f"/proc/{name}/status"):
        if line.startswith("SigBlk:"):
            return {n for n in range(1, 65) if int(line.split()[1], 16) >> (n - 1) & 1}

def beyond_the_end():
    "A mapping whose file has become shorter: touching it is the program's own SIGBUS."
    import tempfile
    with tempfile.TemporaryFile(dir="/var/tmp") as file:
        file.truncate(PAGE)
        mapped = np.memmap(file, "u1", "r+")
        file.truncate(0)
        return mapped
"""

# A small C program's habits: handlers that read evicted memory, jump out of a fault's neighbourhood, or stand on a
# stack of their own. `data` is the array.
PROGRAM = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/mman.h>

static volatile uint64_t *data;
static size_t words, at;
static sigjmp_buf back;
volatile long ticks, wrong, jumps;
static volatile int jump;
static pthread_t scanner; /* the timer's signal may go to any thread, as one of OpenBLAS */

static uint64_t expected(size_t i) { return i * 0x9E3779B97F4A7C15u; }
void fill(uint64_t *to, size_t n) {
    for (size_t i = 0; i < n; i++) to[i] = expected(i);
    words = n;
    data = to;
}

static void on_tick(int number) {
    ticks++;
    at = (at * 6364136223846793005u + 1442695040888963407u);
    size_t i = (at >> 20) % words;
    if (data[i] != expected(i)) wrong++;
    if (jump && ticks % 3 == 0 && pthread_equal(pthread_self(), scanner)) { jumps++; siglongjmp(back, 1); }
}
/* A timer at 1 kHz, whose handler blocks all signals and touches the array. */
int start(int alternate, int jumping) {
    static char stack[64 << 10];
    stack_t s = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction a = {.sa_handler = on_tick, .sa_flags = SA_RESTART};
    struct itimerval t = {{0, 1000}, {0, 1000}};
    if (alternate) { sigaltstack(&s, NULL); a.sa_flags |= SA_ONSTACK; }
    jump = jumping;
    scanner = pthread_self();
    sigfillset(&a.sa_mask);
    return sigaction(SIGALRM, &a, NULL) || setitimer(ITIMER_REAL, &t, NULL);
}
int stop(void) {
    struct itimerval t = {{0, 0}, {0, 0}};
    return setitimer(ITIMER_REAL, &t, NULL);
}
/* Touch a word of each page until `most` ticks have been; 0 if all were right. */
long scan(long most) {
    volatile size_t i = 0;
    sigsetjmp(back, 1);
    while (ticks < most) {
        i = (i + 512) % words;
        if (data[i] != expected(i)) wrong++;
    }
    jump = 0; /* `back` ends here */
    return wrong;
}
/* In a thread of `size` bytes of stack: read a word of each page. How much of the stack was touched is `used`. */
static void *small(void *result) {
    for (size_t i = 0; i < words; i += 512) if (data[i] != expected(i)) (*(long *)result)++;
    return NULL;
}
long on_a_stack_of(size_t size, size_t *used) {
    long bad = 0;
    pthread_t t;
    pthread_attr_t a;
    unsigned char *stack = mmap(NULL, size + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(stack, 4096, PROT_NONE);
    memset(stack + 4096, 0xA5, size);
    pthread_attr_init(&a);
    if (pthread_attr_setstack(&a, stack + 4096, size) || pthread_create(&t, &a, small, &bad)) return -1;
    pthread_join(t, NULL);
    size_t i = 0;
    while (i < size && stack[4096 + i] == 0xA5) i++;
    *used = size - i;
    return bad;
}
/* SIGBUS of the program's own: a handler that jumps out, as readers of mapped files have. */
static volatile unsigned char *broken;
static volatile int kind;
static void on_bus(int number, siginfo_t *info, void *context) {
    kind = info->si_addr == (void *)broken ? info->si_code : -1;
    if (data[512] != expected(512)) kind = -2; /* an evicted page, inside the program's handler */
    siglongjmp(back, 1);
}
int survive(void *address) {
    struct sigaction a = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO}, old;
    broken = address;
    kind = 0;
    if (sigaction(SIGBUS, &a, NULL)) return -10;
    if (sigaction(SIGBUS, NULL, &old) || old.sa_sigaction != on_bus) return -11;
    if (sigsetjmp(back, 1) == 0) { (void)*broken; return -12; }
    signal(SIGBUS, SIG_DFL);
    if (signal(SIGBUS, SIG_IGN) != SIG_DFL || signal(SIGBUS, SIG_DFL) != SIG_IGN) return -13;
    return kind;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return c_library(PROGRAM, tmp_path_factory.mktemp("program"))


def run(program: Path, code: str, mode: Mode | None = None) -> None:
    load = f"""
program = ctypes.CDLL({str(program)!r})
number = lambda name: ctypes.c_long.in_dll(program, name).value
program.fill.argtypes = ctypes.c_void_p, ctypes.c_size_t
program.scan.restype = program.on_a_stack_of.restype = ctypes.c_long
program.on_a_stack_of.argtypes = ctypes.c_size_t, ctypes.c_void_p
program.survive.argtypes = [ctypes.c_void_p]

def make_program():
    global memory, data
    memory = frontswap.Memory("16M", page=PAGE)
    data = memory.zeros(3 << 20, "u8")
    program.fill(data.ctypes.data, data.size)
"""
    run_child(SETUP + load + code, mode=mode).check()


# --- who has SIGBUS ------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after", "both"])
def test_faulthandler(when: str) -> None:
    """enable() and disable(), before and after ours: our faults are served, a SIGBUS of the program is dumped."""
    code = f"""
if {when!r} in ("before", "both"):
    faulthandler.enable()
make()
check()
if {when!r} in ("after", "both"):
    for _ in range(3):
        faulthandler.disable()
        check()
        faulthandler.enable()
        check()
assert faulthandler.is_enabled()
faulthandler.register(signal.SIGUSR1)
check()
faulthandler.unregister(signal.SIGUSR1)
check()
mapped = beyond_the_end()
check()
print("served", flush=True)
mapped[0]
"""
    done = run_child(SETUP + code)
    assert done.status == -7, done
    assert done.out == "served\n"
    assert "Fatal Python error: Bus error" in done.err
    assert "<module>" in done.err


def test_the_child_of_a_vfork() -> None:
    """subprocess resets all handlers there, in our memory: the parent's stay what they are."""
    code = """
import subprocess
faulthandler.enable()
make()
for options in ({}, {"close_fds": False}, {"restore_signals": False}):
    subprocess.run(["true"], check=True, **options)
check()
print("served", flush=True)
beyond_the_end()[0]
"""
    done = run_child(SETUP + code)
    assert (done.status, done.out) == (-7, "served\n"), done
    assert "Fatal Python error: Bus error" in done.err


def test_no_handler() -> None:
    """Without one, the program's own SIGBUS ends it, and says nothing."""
    code = """
make()
faulthandler.enable()
faulthandler.disable()
check()
beyond_the_end()[0]
"""
    done = run_child(SETUP + code)
    assert (done.status, without_notice(done.err)) == (-7, "")


def test_what_the_program_sees() -> None:
    """Python's signal(): the handler is the program's own, before and after, and is called for its own signals."""
    code = """
def first(number, frame): calls.append("first")
def second(number, frame): calls.append("second")
calls = []
signal.signal(signal.SIGBUS, first)
make()
check()
assert signal.getsignal(signal.SIGBUS) is first
os.kill(os.getpid(), signal.SIGBUS)
assert calls == ["first"]
assert signal.signal(signal.SIGBUS, second) is first
signal.raise_signal(signal.SIGBUS)
assert calls == ["first", "second"]
check()
assert signal.signal(signal.SIGBUS, signal.SIG_IGN) is second
signal.raise_signal(signal.SIGBUS)
check()
assert signal.signal(signal.SIGBUS, signal.SIG_DFL) == signal.SIG_IGN
assert calls == ["first", "second"]
check()
signal.raise_signal(signal.SIGBUS)
"""
    done = run_child(SETUP + code)
    assert (done.status, without_notice(done.err)) == (-7, "")


def test_a_handler_of_the_program_that_jumps_out(program: Path) -> None:
    """It gets its own SIGBUS with its address, may touch evicted pages, and may leave by siglongjmp()."""
    code = """
make_program()
BUS_ADRERR = 2
for _ in range(3):
    memory.advise(data, "cold")
    mapped = beyond_the_end()
    assert program.survive(mapped.ctypes.data) == BUS_ADRERR
    assert blocked() == set()
    assert program.scan(0) == 0
"""
    run(program, code)


def test_lost_pages_still_end_the_program() -> None:
    """A handler that only notes the signal and returns does not make a lost page an endless loop."""
    code = """
make()
signal.signal(signal.SIGBUS, lambda number, frame: None)
rare = memory.array(noise(24 << 20))
memory.advise(rare, "cold")
quiet(memory)
os.ftruncate(memory._plane.swap_fd, 0)
rare.sum()
"""
    done = run_child(SETUP + code)
    assert done.status == -7, done
    assert "frontswap: SIGBUS: page lost" in done.err


# --- masks ---------------------------------------------------------------------------------------


def test_a_thread_that_blocks_everything_before() -> None:
    """SIGBUS would kill it: the Memory takes handler threads."""
    if MODES[2].why_not():
        pytest.skip(MODES[2].why_not())
    code = """
ready, go, sums = threading.Event(), threading.Event(), []

def work():
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    assert signal.SIGBUS in blocked("thread-self")
    ready.set()
    go.wait()
    sums.append(array.sum())

thread = threading.Thread(target=work)
thread.start()
ready.wait()
make()
assert memory._space.settings.faults == "thread"
memory.advise(array, "cold")
go.set()
thread.join()
assert sums == [source.sum()]
check()
"""
    run_child(SETUP + code).check()


def test_a_thread_that_blocks_everything_after(seam: Mode) -> None:
    """The signal of faults is left out of what it blocks, in whichever way it does."""
    code = f"""
ours = {{signal.SIGBUS, signal.SIGSEGV}} if {seam == PROTECTION} else {{signal.SIGBUS}}"""
    code += """
make()
sums = []

def work():
    old = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    assert old == set()
    now = blocked("thread-self")
    assert not ours & now and {signal.SIGTERM, signal.SIGINT, signal.SIGSEGV} - ours <= now
    sums.append(array.sum())
    everything = (ctypes.c_ubyte * 128)(*[255] * 128)
    for call in (libc.pthread_sigmask, libc.sigprocmask):
        assert call(signal.SIG_SETMASK, everything, None) == 0
        assert not ours & blocked("thread-self")
    assert libc.sigprocmask(99, everything, None) == -1 and ctypes.get_errno() == errno.EINVAL
    assert signal.pthread_sigmask(signal.SIG_SETMASK, ours) == now
    assert blocked("thread-self") == set()

memory.advise(array, "cold")
thread = threading.Thread(target=work)
thread.start()
thread.join()
assert sums == [source.sum()]
"""
    run_child(SETUP + code, mode=seam).check()


def test_what_auto_is() -> None:
    best = "sigsegv" if forbidden() else "sigbus"
    run_child(SETUP + f"make()\nassert memory._space.settings.faults == {best!r}\ncheck()").check()


# --- stacks, handlers of other signals -----------------------------------------------------------


def test_a_stack_of_16_kib(program: Path, seam: Mode) -> None:
    """The smallest stack that pthreads give (PTHREAD_STACK_MIN), with direct reclaim in the thread's own fault."""
    code = """
make_program()
used = ctypes.c_size_t()
for _ in range(3):
    memory.advise(data, "cold")
    assert program.on_a_stack_of(16384, ctypes.byref(used)) == 0
    print(used.value)
"""
    run(program, code, seam)


@pytest.mark.parametrize("alternate", [0, 1])
@pytest.mark.parametrize("jump", [0, 1])
def test_handlers_that_fault(program: Path, seam: Mode, alternate: int, jump: int) -> None:
    """A timer's handler with a full sa_mask touches evicted pages in the middle of a fault storm, and jumps out."""
    code = f"""
make_program()
assert program.start({alternate}, {jump}) == 0
assert program.scan(300) == 0
assert program.stop() == 0
assert (number("jumps") > 0) == ({jump} == 1)
assert program.scan(0) == number("wrong") == 0
assert memory.statistics().poisoned == 0
memory.advise(data, "cold")
assert data[::512].sum() == (np.arange(0, data.size, 512, "u8") * np.uint64(0x9E3779B97F4A7C15)).sum()
"""
    run(program, code, seam)


def test_a_handler_that_was_there_before(program: Path) -> None:
    """Its sa_mask has SIGBUS still: it is taken out when ours is installed."""
    code = """
data = plain = np.zeros(3 << 20, "u8")
program.fill(data.ctypes.data, data.size)
assert program.start(0, 0) == 0
make_program()
assert program.scan(number("ticks") + 300) == 0
assert program.stop() == 0
"""
    run(program, code)


# --- Python's own --------------------------------------------------------------------------------


def test_ctrl_c_in_a_fault_storm(seam: Mode) -> None:
    """SIGINT ends a long storm of faults with KeyboardInterrupt while there is work left."""
    code = """
make()
rounds = 0
for send in (
    lambda: os.kill(os.getpid(), signal.SIGINT),
    lambda: ctypes.pythonapi.PyErr_SetInterrupt(),
    lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT),
    __import__("_thread").interrupt_main,
):
    faults = memory.statistics().faults
    sent = []
    def interrupt():
        wait_until(lambda: memory.statistics().faults > faults + 1000, "the storm")
        sent.append(True)
        send()
    thread = threading.Thread(target=interrupt)
    thread.start()
    rounds = 0
    try:
        while rounds < 1000000:
            memory.advise(array[:4096], "cold")
            assert np.array_equal(array[:4096], source[:4096])
            rounds += 1
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("the storm was over first")
    assert sent == [True] and rounds < 1000000
    thread.join()
check()
"""
    run_child(SETUP + code, mode=seam).check()


def test_everything_at_once(program: Path) -> None:
    """Threads fault, a handler faults at 1 kHz, faulthandler comes and goes, closerange() goes round ours."""
    code = """
make_program()
assert program.start(0, 0) == 0
other = np.array(data)
wrong = []
done = threading.Event()

def scan(i):
    rng = np.random.default_rng(i)
    while not done.is_set():
        at = int(rng.integers(0, data.size - 8192))
        if not np.array_equal(data[at : at + 8192], other[at : at + 8192]):
            wrong.append(at)

def toggle():
    while not done.is_set():
        faulthandler.enable()
        os.closerange(3, 4096)
        faulthandler.disable()

threads = [threading.Thread(target=scan, args=(i,)) for i in range(2)] + [threading.Thread(target=toggle)]
for thread in threads:
    thread.start()
wait_until(lambda: number("ticks") > 1000, "a second of it")
done.set()
for thread in threads:
    thread.join()
assert program.stop() == 0
assert wrong == [] and number("wrong") == 0
assert memory.statistics().poisoned == 0
"""
    run(program, code)


TEMPORARIES = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile uint64_t *data;
static volatile size_t words, at, wrong;
static volatile int done;

static uint64_t expected(size_t i) { return i * 0x9E3779B97F4A7C15u; }
static void on_signal(int number) {
    at = at * 6364136223846793005u + 1442695040888963407u;
    size_t i = (at >> 20) % words;
    if (data[i] != expected(i)) wrong = 1;
}
static void *temporaries(void *unused) {
    while (!done) {
        void *volatile p = malloc(1 << 20);
        free(p);
    }
    return NULL;
}
static void *signals(void *threads) {
    while (!done) {
        for (int i = 0; i < 2; i++) pthread_kill(((pthread_t *)threads)[i], SIGUSR1);
        usleep(50);
    }
    return NULL;
}
/* Signals come to threads that allocate and free, and this one forks: 0 if all was right. */
int fork_beside(uint64_t *from, size_t n, int forks) {
    pthread_t threads[3];
    int status = 0;
    for (size_t i = 0; i < n; i++) from[i] = expected(i);
    data = from;
    words = n;
    if (signal(SIGUSR1, on_signal) == SIG_ERR) return -1;
    for (int i = 0; i < 2; i++) if (pthread_create(&threads[i], NULL, temporaries, NULL)) return -2;
    if (pthread_create(&threads[2], NULL, signals, threads)) return -3;
    for (int i = 0; i < forks && status == 0; i++) {
        pid_t child = fork();
        if (child == 0) _exit(0);
        if (child < 0 || waitpid(child, &status, 0) != child) status = -4;
    }
    done = 1;
    pthread_join(threads[2], NULL);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    return status ? status : (int)wrong;
}
"""


def test_handlers_that_fault_while_their_thread_frees_and_others_fork(seam: Mode, tmp_path: Path) -> None:
    """Who frees is not counted at the gate while a handler of his may wait at it."""
    code = f"""
memory = frontswap.install("16M", page=PAGE)
program = ctypes.CDLL({str(c_library(TEMPORARIES, tmp_path))!r})
program.fork_beside.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
data = memory.zeros(3 << 20, "u8")
assert memory.statistics().registered
assert program.fork_beside(data.ctypes.data, data.size, 400) == 0
assert memory.statistics().poisoned == 0
"""
    run_child(SETUP + code, mode=seam).check()


CANCELLED = r"""
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

struct work { volatile uint8_t *at; uint64_t n; unsigned seed; };

/* Reads and writes at random; nothing in it is a cancellation point but the end. */
static void *touch(void *argument) {
    struct work *w = argument;
    for (int i = 0; i < 400; i++) {
        uint64_t at = (uint64_t)rand_r(&w->seed) * 4096 % w->n;
        w->at[at] = w->at[at];
    }
    pthread_testcancel();
    return NULL;
}

/* How many of 8 threads that are cancelled at once have ended so. */
int cancel_while_they_fault(uint8_t *at, uint64_t n, unsigned seed) {
    pthread_t threads[8];
    struct work works[8];
    void *result;
    int cancelled = 0;
    for (int i = 0; i < 8; i++) {
        works[i] = (struct work){at, n, seed * 8 + i};
        if (pthread_create(&threads[i], NULL, touch, &works[i]) != 0) return -1;
    }
    for (int i = 0; i < 8; i++) pthread_cancel(threads[i]);
    for (int i = 0; i < 8; i++) {
        pthread_join(threads[i], &result);
        cancelled += result == PTHREAD_CANCELED;
    }
    return cancelled;
}
"""


def test_threads_that_are_cancelled_while_they_fault(seam: Mode, tmp_path: Path) -> None:
    """A fault waits (nanosleep, poll), which are cancellation points: who ended there was inside the gate for ever."""
    code = f"""
signal.alarm(int(60 * PATIENCE))
lib = ctypes.CDLL({str(c_library(CANCELLED, tmp_path))!r})
memory = frontswap.Memory("16M", page=4096)
source = noise(32 << 20)
array = memory.array(source)
for turn in range(10):
    at, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_uint64(array.nbytes)
    assert lib.cancel_while_they_fault(at, size, turn) == 8
    pid = os.fork()         # the gate closes: nobody is inside
    if pid == 0:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
assert np.array_equal(array, source)
"""
    run_child(code, mode=seam).check()
