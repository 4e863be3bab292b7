"""`frontswap.install`: malloc and its family for the whole process. Each test is a process of its own: it lasts."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import c_library
from heaps import child, start
from helpers import PATIENCE, Mode, run_child
from tree import Tree

import frontswap
from frontswap.memory.pressure import SPARE, auto_limit

# --- one call ------------------------------------------------------------------------------------


def test_each_of_the_family(seam: Mode) -> None:
    child(
        """
large, small = 3 * MiB + 5, 1000
for make in (malloc, lambda n: calloc(n, 1), lambda n: realloc(None, n), lambda n: reallocarray(None, 1, n),
             lambda n: aligned(64, n), lambda n: memalign(4096, n), lambda n: memalign(2 * MiB, n), valloc, pvalloc):
    at = make(large)
    assert ours(at) and at % (2 * MiB) == 0 and usable(at) >= large, hex(at)
    view(at, large)[:] = 7
    assert view(at, large).sum() == 7 * large
    libc.free(at)
    at = make(small)
    assert at and not ours(at) and usable(at) >= small
    libc.free(at)
at = calloc(3, MiB)
assert ours(at) and not view(at, 3 * MiB).any()
view(at, 3 * MiB)[:] = 255
libc.free(at)
at = calloc(3, MiB)                     # the same memory, perhaps: zeros again
assert not view(at, 3 * MiB).any()
libc.free(at)
at = P()
libc.posix_memalign.argtypes = [P, N, N]
assert libc.posix_memalign(ctypes.byref(at), 64, large) == 0 and ours(at.value) and at.value % 64 == 0
libc.free(at)
for wrong in (48, 2, 0):
    assert libc.posix_memalign(ctypes.byref(at), wrong, large) == errno.EINVAL
assert libc.posix_memalign(ctypes.byref(at), 4 * MiB, large) == 0 and at.value % (4 * MiB) == 0 and not ours(at.value)
libc.free(at)
libc.free(None)
for refused in (lambda: malloc(1 << 50), lambda: calloc(1 << 40, 1 << 40), lambda: reallocarray(None, 1 << 40, 1 << 40),
                lambda: realloc(None, 1 << 63), lambda: aligned(64, 1 << 50)):
    ctypes.set_errno(0)
    assert refused() is None and ctypes.get_errno() == errno.ENOMEM
assert mem.statistics().allocated_bytes == 0
""",
        seam,
    )


def test_realloc(seam: Mode) -> None:
    """From small to large, larger where it is and elsewhere, smaller, and back to libc: with the bytes of before."""
    child(
        """
data = noise(40 * MiB)
base = mem.statistics().allocated_bytes
at, n = malloc(1000), 1000
view(at, n)[:] = data[:n]
places = set()
larger = (2 * MiB, 2 * MiB + 1, 3 * MiB, 5 * MiB, 9 * MiB + 17, 40 * MiB)
for new in (*larger, 39 * MiB, 12 * MiB, 700_000, 300_000, 40 * MiB, 5):
    at = realloc(at, new)
    places.add(at)
    assert ours(at) == (new >= 700_000), new
    assert np.array_equal(view(at, min(n, new)), data[: min(n, new)]), (n, new)
    if new > n:
        view(at, new)[n:] = data[n:new]
    n = new
    assert mem.statistics().allocated_bytes - base <= (n + 65536 if ours(at) else 0)
assert len(places) < 10, "nothing grows where it is"
assert mem.statistics().evicted_dirty > 100
libc.free(at)
at = malloc(2 * MiB)
assert realloc(at, 0) is None
assert mem.statistics().allocated_bytes == base
# a list grows by an eighth: it is copied each time that it doubles, not each time
numbers = []
before = mem.statistics().first_touches
for i in range(2_000_000):
    numbers.append(i)
assert numbers == list(range(2_000_000))
""",
        seam,
    )


def test_smaller_and_larger_while_pages_leave(seam: Mode) -> None:
    """A page beyond the new end is given back while reclaim has it in its hands."""
    child(
        """
rng = np.random.default_rng(1)
stop = time.monotonic() + PATIENCE
def work(seed):
    rng = np.random.default_rng(seed)
    data = noise(8 * MiB, seed)
    at, n = malloc(8 * MiB), 8 * MiB
    view(at, n)[:] = data
    while time.monotonic() < stop:
        new = int(rng.integers(MiB // 2, 8 * MiB))
        at = realloc(at, new)
        assert np.array_equal(view(at, min(n, new)), data[: min(n, new)])
        view(at, new)[n:] = data[n:new]
        n = new
        if rng.random() < 0.1:
            libc.free(at)
            at, n = calloc(1, 8 * MiB), 8 * MiB
            assert not view(at, n)[:: 4096].any()
            view(at, n)[:] = data
    libc.free(at)
assert in_threads(work, 4).evicted_dirty > 100
""",
        seam,
    )


@pytest.mark.slow
def test_the_next_one_gets_the_memory_of_the_last(seam: Mode) -> None:
    """Below the limit and while it is crossed: cleared for calloc(), with its bytes for who grows, never shared."""
    child(
        """
def work(seed):
    rng = np.random.default_rng(seed)
    data = noise(8 * MiB, seed)
    held, turns = [], 0
    while turns < 60 or not crossed.is_set() or turns < after[0]:
        turns += 1
        n = int(rng.choice((1, 2, 3, 5))) * MiB + 4096 * seed
        at = calloc(1, n)
        found = view(at, n)
        assert not found.any(), (seed, n, turns)
        found[:] = seed + 1
        held.append((at, n, seed + 1))
        at = malloc(MiB)
        view(at, MiB)[:] = data[:MiB]
        size = MiB
        while size < 8 * MiB:
            at = realloc(at, 2 * size)
            assert np.array_equal(view(at, size), data[:size]), (seed, size, turns)
            view(at, 2 * size)[size:] = data[size : 2 * size]
            size *= 2
        at = realloc(at, 6 * MiB)
        assert np.array_equal(view(at, 6 * MiB), data[: 6 * MiB])
        libc.free(at)
        if len(held) > 2:
            at, n, fill = held.pop(0)
            assert (view(at, n) == fill).all()
            libc.free(at)
        if seed == 0 and turns == 40:
            early = mem.statistics().registered
            push = malloc(400 * MiB)
            after[0] = turns + 20
            crossed.set()
            libc.free(push)
            assert not early and mem.statistics().registered
    for at, n, fill in held:
        assert (view(at, n) == fill).all()
        libc.free(at)
crossed, after = threading.Event(), [0]
in_threads(work, 4)
""",
        seam,
        limit="384M",
        environment={"FRONTSWAP_REGISTER": "late"},
    )


@pytest.mark.parametrize("what", ["libc.free(at + 64)", "libc.free(at); libc.free(at)"], ids=["middle", "twice"])
def test_what_was_not_allocated_is_not_freed(what: str) -> None:
    done = run_child(start() + f"at = malloc(3 * MiB)\nother = malloc(3 * MiB)\n{what}")
    done.died_of(signal.SIGABRT)
    assert "free(): not the address of an allocation, or freed already" in done.err


@pytest.mark.parametrize("first", [True, False], ids=["first", "behind another"])
def test_mallocs_own_free_is_loud(first: bool, tmp_path: Path) -> None:
    """Who has its address from before finds no size in front of what is ours, whatever the array before it holds."""
    library = c_library(
        """
        #include <dlfcn.h>
        static void (*own_free)(void *);
        /* Not &free: of a program that is not PIE, as Debian's python3, that is its own entry for it, which is ours. */
        void before(void) { own_free = (void (*)(void *))dlsym(dlopen("libc.so.6", RTLD_LAZY), "free"); }
        void give(void *at) { own_free(at); }
        """,
        tmp_path,
    )
    code = f"library = ctypes.CDLL({str(library)!r})\nlibrary.before()\nlibrary.give.argtypes = [ctypes.c_void_p]\n"
    code += start()
    if not first:
        code += "view(malloc(2 * MiB), 2 * MiB).view('u8')[:] = 1008\n"
    done = run_child(code + "library.give(malloc(2 * MiB))", environment={"FRONTSWAP_REGISTER": "late"})
    assert done.status < 0
    assert "free(): invalid pointer" in done.err


def test_stdio_that_keeps_or_grows_a_buffer(tmp_path: Path) -> None:
    """getline() calls realloc() inside of libc, and a FILE has the kernel read into its buffer."""
    child(
        f"""
path = {str(tmp_path)!r} + "/lines"
lines = [b"a" * 3_000_000, b"b" * 10, b"c" * 5_000_000]
with open(path, "wb") as file:
    file.write(b"\\n".join(lines) + b"\\n")
libc.fopen.restype = P
libc.getline.argtypes, libc.getline.restype = [P, P, P], ctypes.c_ssize_t
libc.getdelim.argtypes, libc.getdelim.restype = [P, P, ctypes.c_int, P], ctypes.c_ssize_t
libc.setvbuf.argtypes, libc.fclose.argtypes = [P, P, ctypes.c_int, N], [P]
for read in (lambda *a: libc.getline(*a), lambda line, n, file: libc.getdelim(line, n, 10, file)):
    line, n = P(malloc(2 * MiB)), N(2 * MiB)
    assert ours(line.value)
    file = P(libc.fopen(path.encode(), b"r"))
    buffer = malloc(4 * MiB)
    mem.advise(np.zeros(0), "cold") if False else None
    assert libc.setvbuf(file, buffer, 0, 4 * MiB) == 0
    for expected in lines:
        assert read(ctypes.byref(line), ctypes.byref(n), file) == len(expected) + 1
        assert ctypes.string_at(line.value, len(expected) + 1) == expected + b"\\n"
    libc.fclose(file)
    libc.free(line)
    libc.free(buffer)
""".replace('    mem.advise(np.zeros(0), "cold") if False else None\n', "")
    )


# --- whoever allocates -----------------------------------------------------------------------------


def test_pythons_own_objects_and_numpy_in_every_thread(seam: Mode) -> None:
    child(
        """
def work(seed):
    text = os.urandom(3 * MiB)
    copy = bytearray(text) * 2
    numbers = list(range(seed, 400_000 + seed))
    table = {i: i for i in range(100_000)}
    array = np.arange(MiB) + seed           # in a thread that NEP 49 does not reach
    assert ours(id(text)) and ours(array.ctypes.data)
    for turn in range(3):
        array += 1
        assert bytes(copy) == text + text
        numbers.reverse()
    assert array.sum() == (MiB - 1) * MiB // 2 + (seed + 3) * MiB
    assert sum(numbers) == 400_000 * 399_999 // 2 + seed * 400_000
    assert sum(table.values()) == 100_000 * 99_999 // 2
    return text, copy, array
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as pool:
    kept = list(pool.map(work, range(4)))
for seed, (text, copy, array) in enumerate(kept):
    assert copy == text * 2 and array[0] == seed + 3
    with open("/dev/null", "wb") as null:
        null.write(text)
assert mem.statistics().evicted_dirty > 100
""",
        seam,
    )


def test_forked_children_have_it_too(seam: Mode) -> None:
    child(
        """
data = np.round(walk(4 * MiB), 2)
kept = data.copy()
text = os.urandom(8 * MiB)
def work(part):
    more = np.repeat(kept[part::4], 2)
    return ours(more.ctypes.data), float(more.sum()), text[part]
with multiprocessing.get_context("fork").Pool(3) as pool:
    found = pool.map(work, range(4), chunksize=1)
assert found == [(True, float(np.repeat(data[part::4], 2).sum()), text[part]) for part in range(4)]
pid = os.fork()
if pid == 0:
    signal.alarm(int(100 * PATIENCE))
    kept += 1
    os._exit(not np.array_equal(kept, data + 1))
kept -= 1
assert os.waitpid(pid, 0)[1] == 0
assert np.array_equal(kept, data - 1)
""",
        seam,
    )


def test_as_an_ordinary_user(seam: Mode) -> None:
    child(
        """
a = np.arange(6 * MiB)
b = a[::-1].copy()
assert os.geteuid() != 0 and ours(b.ctypes.data)
a.sort(), b.sort()
assert np.array_equal(a, b) and mem.statistics().refaults > 10
""",
        seam,
        ordinary=True,
    )


def test_what_lives_at_the_end(tmp_path: Path) -> None:
    """Destructors run after Python has ended, read what was evicted, and free it."""
    library = c_library(
        """
        #include <stdlib.h>
        #include <string.h>
        #include <unistd.h>
        static unsigned char *kept;
        void keep(void) { kept = malloc(48 << 20); memset(kept, 0x5a, 48 << 20); }
        __attribute__((destructor)) static void end(void) {
            size_t i, good = 0;
            for (i = 0; i < 48 << 20; i += 4096) good += kept[i] == 0x5a;
            free(kept);
            if (good == 48 << 20 >> 12 && write(1, "all there\\n", 10) < 0) _exit(3);
        }
        """,
        tmp_path,
    )
    code = start() + f"ctypes.CDLL({str(library)!r}).keep()\narray = np.ones(8 * MiB)\n"
    done = run_child(code, fresh=True)
    assert (done.status, done.out) == (0, "all there\n"), done


def test_what_the_disk_cannot_back_is_refused(small_disk: Path) -> None:
    """An error at the allocation: no OOM killer, no SIGBUS later. What there is goes on."""
    child(
        """
kept = noise(12 * MiB)
try:
    np.ones(200 * MiB, "u1")
    raise SystemExit("more than there is")
except MemoryError:
    pass
try:
    bytes(200 * MiB)
    raise SystemExit("more than there is")
except MemoryError:
    pass
ctypes.set_errno(0)
at = malloc(20 * MiB)
assert realloc(at, 300 * MiB) is None and ctypes.get_errno() == errno.ENOMEM
libc.free(at)
assert np.array_equal(kept, noise(12 * MiB))
""",
        swap=str(small_disk),
    )


def test_nothing_used_nothing_paid() -> None:
    run_child(
        """
threads = len(os.listdir("/proc/self/task"))
mem = frontswap.install("64M")
arrays = [np.ones(MiB) for _ in range(3)]
arrays = [array * 2 for array in arrays]
assert not mem.statistics().registered and len(os.listdir("/proc/self/task")) == threads
assert mem.statistics().allocated_bytes >= 24 * MiB
del arrays
assert mem.statistics().allocated_bytes < 2 * MiB
""",
        environment={"FRONTSWAP_REGISTER": "late"},
    ).check()


# --- install() itself --------------------------------------------------------------------------------


def test_once_and_for_good() -> None:
    run_child(
        """
assert frontswap.installed() is None
mem = frontswap.install(limit=32 << 20, threshold="64K", backends="zcache:codec=lz4")
assert frontswap.installed() is mem
owns = lambda array: mem._plane.owns(array.ctypes.data)
assert owns(np.ones(10_000)) and not owns(np.ones(1000))
for call, error, text in ((lambda: frontswap.install("16M"), frontswap.InUseError, "32 MiB is installed already"),
                          (mem.close, frontswap.InUseError, "until it ends"),
                          (lambda: mem.close(force=True), frontswap.InUseError, "until it ends")):
    try:
        call()
        raise SystemExit(text)
    except error as found:
        assert text in str(found), found
array = mem.empty(5000)         # of a Memory as all others
del array
"""
    ).check()


@pytest.mark.parametrize(
    ("page", "large", "mapped"), [("auto", 64, 64), ("4K", 4, 4), ("256K", 256, 128)], ids=["auto", "4K", "256K"]
)
def test_the_page_of_what_does_not_say(page: str, large: int, mapped: int) -> None:
    """Of mappings, which may go in pieces of 4 KiB: 128 KiB at most."""
    run_child(
        f"""
mem = frontswap.install("64M", page={page!r})
page_at = mem._plane.page_of
page_of = lambda array: page_at(array.ctypes.data)
array = np.ones(4 * MiB, "u1")
region = mmap.mmap(-1, 4 * MiB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
least = page_of(mem.empty(1, page=4096))      # larger where pages are protected
assert page_of(array) == max({large} << 10, least)
assert page_at(ctypes.addressof(ctypes.c_char.from_buffer(region))) == max({mapped} << 10, least)
assert page_of(mem.empty(4 * MiB, "u1", page=16384)) == max(16384, least)
with mem:
    assert page_of(np.ones(4 * MiB, "u1")) == max({large} << 10, least)
array.sort()
assert array.sum() == 4 * MiB
"""
    ).check()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limit": "1M"}, "limit='1M': must be at least 16 MiB"),
        ({"limit": "16M", "threshold": "1K"}, "threshold='1K': must be at least 4 KiB"),
        ({"limit": "16M", "threshold": "x"}, "threshold='x'"),
        ({"limit": "16M", "page": "5K"}, "page='5K'"),
        ({"limit": "1G", "page": "2M"}, "page='2M': must be at most 256 KiB"),
        ({"limit": "16M", "swap": "/no/such"}, "/no/such"),
        ({"limit": "16M", "backends": "zcache:codec=x"}, "codec"),
    ],
)
def test_bad_input_installs_nothing(settings: dict[str, str], message: str) -> None:
    with pytest.raises(frontswap.FrontswapError, match=message.replace("(", r"\(")):
        frontswap.install(**settings)  # type: ignore[arg-type]
    assert frontswap.installed() is None


# --- limit="auto" --------------------------------------------------------------------------------------

GiB = 1 << 30


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """8 GiB of 16 available, and a process that uses 1 GiB."""
    tree = Tree(tmp_path / "root")
    tree.write("/proc/self/status", f"Name:\tpython\nRssAnon:\t{GiB >> 10} kB\n")
    return tree


def test_auto_is_what_the_machine_has_available(tree: Tree) -> None:
    assert auto_limit(tree.machine) == 8 * GiB - 8 * GiB // 10
    tree.write("/proc/meminfo", f"MemAvailable:   {GiB >> 10} kB\n")
    assert auto_limit(tree.machine) == GiB - SPARE


def test_auto_is_the_lowest_limit_of_all_groups_above(tree: Tree) -> None:
    tree.cgroup2("/pod/job")
    tree.group("/pod/job", current=GiB, max="max", high="max")
    tree.group("/pod", current=2 * GiB, max=4 * GiB, high="max")
    assert auto_limit(tree.machine) == 4 * GiB - GiB - 4 * GiB // 10
    tree.group("/pod/job", high=2 * GiB)
    assert auto_limit(tree.machine) == 2 * GiB - GiB - 2 * GiB // 10


def test_auto_on_a_machine_without_room(tree: Tree) -> None:
    tree.cgroup2("/job")
    tree.group("/job", current=GiB, max=GiB + (64 << 20))
    with pytest.raises(frontswap.ParameterError, match="limit='auto': must be a size: beside what is in use already"):
        auto_limit(tree.machine)
    tree.write("/proc/meminfo", "")
    tree.write("/proc/self/cgroup", "")
    with pytest.raises(frontswap.ParameterError, match="does not say how much memory there is"):
        auto_limit(tree.machine)


# --- what is libc's own ------------------------------------------------------------------------------

INTERNAL = """
import ctypes, sys, threading
sys.path[:0] = {path!r}
import numpy as np
import frontswap

frontswap.install("96M", threshold="4K")
library = ctypes.CDLL({library!r})
together = threading.Barrier(8)

def use():
    together.wait()
    library.use()

threads = [threading.Thread(target=use) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
random = [np.random.default_rng(1).random(1 << 20) for _ in range(16)]
assert frontswap.installed().statistics().registered
numbers = np.arange(16000)
numbers.tofile({file!r})
with open({file!r}, "rb") as file:
    found = np.fromfile(file, dtype=numbers.dtype)
    assert (found == numbers).all() and len(found) == len(numbers) and file.tell() == numbers.nbytes
"""


def pythons() -> list[str]:
    """This one, and the system's if it is of the same version and not position independent, as Debian's."""
    system = Path(f"/usr/bin/python3.{sys.version_info.minor}")
    if Path(sys.executable).resolve() == system or not system.exists():
        return [sys.executable]
    return [sys.executable, str(system)]


@pytest.mark.parametrize("python", pythons())
def test_libc_has_memory_of_its_own_for_streams_and_threads(python: str, tmp_path: Path) -> None:
    """A program that takes the address of malloc() and is not position independent lends libc its stub: buffers of
    stdio, into which the kernel writes, and variables of threads, which are freed as a registration starts some, would
    be ours.
    """
    source = "static __thread char mine[1 << 21]; int use(void) { __builtin_memset(mine, 1, 1 << 21); return mine[9]; }"
    library = c_library(source, tmp_path)
    path = [str(Path(frontswap.__file__).parents[1]), str(Path(np.__file__).parents[1])]
    program = INTERNAL.format(path=path, library=str(library), file=str(tmp_path / "numbers"))
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, timeout=60 * PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
