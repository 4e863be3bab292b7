"""Memory that a program maps by itself: mmap, munmap, mremap, madvise and mprotect of large anonymous memory."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from conftest import c_library
from heaps import MAPS, maps, start
from helpers import Mode, run_child


def test_large_ones_are_ours(seam: Mode) -> None:
    """Anonymous, private, readable and writable, larger than CPython's own arenas. All else is the kernel's."""
    maps(
        """
for flags in (0, NORESERVE, POPULATE, NORESERVE | POPULATE):
    at = take(3 * MiB + 1, flags)
    assert ours(at) and at % (2 * MiB) == 0
    array = view(at, 3 * MiB + 4096)
    assert not array.any()
    array[:] = noise(len(array))
    assert np.array_equal(array, noise(len(array)))
    assert munmap(at, 3 * MiB + 1) == 0
at = take(3 * MiB, 0, RW, 0x10000000000)    # a hint
assert ours(at) and munmap(at, 3 * MiB) == 0
for n, flags, protection in ((MiB, 0, RW), (4096, 0, RW), (3 * MiB, STACK, RW), (3 * MiB, 0, READ)):
    at = take(n, flags, protection)
    assert at != FAILED and not ours(at) and munmap(at, n) == 0
assert refused(take(1 << 47), errno.ENOMEM) and refused(take(0), errno.EINVAL)
assert left() == 0
""",
        seam,
    )


def test_trimmed_from_both_ends(seam: Mode) -> None:
    """As allocators do that want another alignment; what is left keeps its bytes, under pressure too."""
    maps(
        """
for flags in (0, NORESERVE):
    at = take(12 * MiB, flags)
    view(at, 12 * MiB)[:] = data = noise(12 * MiB)
    assert munmap(at, 3 * MiB + 4096) == 0
    assert munmap(at + 9 * MiB - 4096, 3 * MiB + 4096) == 0
    kept = slice(3 * MiB + 4096, 9 * MiB - 4096)
    assert np.array_equal(view(at, 12 * MiB)[kept], data[kept])
    push()
    others = [take(2 * MiB) for _ in range(8)]
    for other in others:
        assert not at <= other < at + 12 * MiB, "addresses of what is half unmapped are given to others"
        view(other, 2 * MiB)[:] = 255
    assert np.array_equal(view(at, 12 * MiB)[kept], data[kept])
    assert munmap(at + 3 * MiB + 4096, 6 * MiB - 8192) == 0
    for other in others:
        assert munmap(other, 2 * MiB) == 0
    assert left(data) == 0
""",
        seam,
    )


def test_unmapped_piece_by_piece(seam: Mode) -> None:
    """In any order, some twice; the last piece ends it, and not before: a piece that was unmapped twice once counted
    twice.
    """
    maps(
        """
rng = np.random.default_rng(3)
n = 4 * MiB
for flags in (0, NORESERVE):
    at = take(n, flags)
    data = noise(n)
    view(at, n)[:] = data
    if flags:
        push()
    pieces = rng.permutation(n // 4096)
    last = int(pieces[-1])
    for i in pieces[:-1]:
        assert munmap(at + int(i) * 4096, 4096) == 0
        if i % 3 == 0:
            assert munmap(at + int(i) * 4096, 4096) == 0
    other = take(n)
    view(other, n)[:] = 9
    assert np.array_equal(view(at, n)[last * 4096:][:4096], data[last * 4096:][:4096])
    assert munmap(other, n) == 0 and 0 < left(data) <= 65536
    assert munmap(at + last * 4096, 4096) == 0 and left(data) == 0
    at = take(n, flags)             # the same place, as new
    assert not view(at, n).any() and munmap(at, n) == 0
assert refused(munmap(at, n), errno.EINVAL)
at = malloc(n)
assert refused(munmap(at, n), errno.EINVAL), "malloc's own"
libc.free(at)
assert left(data) == 0
""",
        seam,
    )


def test_what_was_unmapped_is_free(seam: Mode) -> None:
    """RAM, swap file and counters: 64 MiB of the 16, one MiB of which is left each time."""
    maps(
        """
kept = []
for _ in range(64):
    at = take(8 * MiB)
    view(at, 8 * MiB)[:] = noise(8 * MiB)
    assert munmap(at, 7 * MiB) == 0
    kept.append(at + 7 * MiB)
now = quiet(mem)
assert left() == 64 * MiB and now.resident_bytes + now.pool_bytes + now.swapped_bytes < 90 * MiB
for at in kept:
    assert np.array_equal(view(at, MiB), noise(8 * MiB)[7 * MiB:]) and munmap(at, MiB) == 0
assert left() == 0
""",
        seam,
    )


def test_without_a_reservation_it_counts_when_touched(seam: Mode) -> None:
    """1 TiB would be refused by any disk, and 64 GiB fits in no test machine's swap file."""
    maps(
        """
import shutil
n = 64 << 30
at = take(n, NORESERVE)
assert ours(at) and left() == 0
assert mem.statistics().swap_reserved_bytes < 1 << 30
data = noise(40 * MiB)
for offset in (0, 10 << 30, 63 << 30):
    view(at + offset, len(data))[:] = data      # crosses the limit: registered in the middle of it
assert mem.statistics().registered
assert 120 * MiB <= left(data) <= 121 * MiB
for offset in (0, 10 << 30, 63 << 30):
    assert np.array_equal(view(at + offset, len(data)), data)
assert mem.statistics().swap_reserved_bytes >= 100 * MiB
assert madvise(at + (10 << 30), len(data), DONTNEED) == 0
assert 80 * MiB <= left(data) <= 81 * MiB
assert not view(at + (10 << 30), len(data)).any()
assert np.array_equal(view(at, len(data)), data)
assert munmap(at, n) == 0 and left(data) == 0
""",
        seam,
    )


def test_touched_before_the_registration_it_counts_at_it(seam: Mode) -> None:
    maps(
        """
at = take(5 * MiB, NORESERVE)
view(at, 2 * MiB)[:] = data = noise(2 * MiB)
assert not mem.statistics().registered and left(data) == 0
other = malloc(8 * MiB)
view(other, 8 * MiB)[:] = 1
assert mem.statistics().registered and left(data) == 10 * MiB
assert np.array_equal(view(at, 2 * MiB), data) and not view(at, 5 * MiB)[2 * MiB:].any()
libc.free(other)
assert munmap(at, 5 * MiB) == 0 and left(data) == 0
""",
        seam,
        {"FRONTSWAP_REGISTER": "late"},
    )


def test_a_touch_that_the_disk_cannot_back_is_sigbus(tmp_path: Path) -> None:
    """Loud, with a message: nothing that others have been promised is given away for it."""
    done = run_child(
        start(swap=str(tmp_path))
        + MAPS
        + """
at = take(1 << 30, NORESERVE)
promised = malloc(24 * MiB)
view(promised, 24 * MiB)[:] = noise(24 * MiB)
print("promised", flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (mem.statistics().swap_reserved_bytes + 10 * MiB, resource.RLIM_INFINITY))
view(at, 1 << 30)[:] = 1
""",
        mode=None,
    )
    assert done.status == -signal.SIGBUS
    assert "promised" in done.out
    assert "no room for what was mapped without a reservation" in done.err


def test_advice(seam: Mode) -> None:
    """MADV_DONTNEED: zeros, in pages and in parts of them, evicted, pinned or not. MADV_FREE: the bytes or zeros."""
    maps(
        """
n = 6 * MiB
at = take(n)
for registered in (False, True):
    if registered:
        push()
    assert mem.statistics().registered == registered
    data = noise(n)
    array = view(at, n)
    array[:] = data
    for first, count in ((0, 4096), (65536 - 4096, 8192), (200 * 1024, 2 * MiB), (3 * MiB, MiB), (n - 4096, 4096)):
        if registered:
            evict(array)
        assert madvise(at + first, count, DONTNEED) == 0
        data[first : first + count] = 0
        assert np.array_equal(array, data), (first, count)
    if registered:
        array[:] = data = noise(n)
        with mem.pin(array[MiB : MiB + 5000]):
            assert madvise(at, 2 * MiB, DONTNEED) == 0
            data[: 2 * MiB] = 0
            assert np.array_equal(array, data)
    array[:] = data = noise(n)
    assert madvise(at, n, FREE) == 0
    array[::4096] = data[::4096]
    assert all(np.array_equal(a, d) or not a[1:].any() for a, d in zip(array.reshape(-1, 4096), data.reshape(-1, 4096)))
for advice in (14, 15, 16, 17, 20, 21):     # huge pages or none, in a core dump or not, cold, pageout
    assert madvise(at, n, advice) == 0
assert refused(madvise(at + 1, 4096, DONTNEED), errno.EINVAL) and refused(madvise(at, n, 99), errno.EINVAL)
# Of what malloc has given as well.
other = malloc(n)
view(other, n)[:] = data
assert madvise(other + 65536, n - 65536, DONTNEED) == 0
assert np.array_equal(view(other, 65536), data[:65536]) and not view(other, n)[65536:].any()
libc.free(other)
assert munmap(at, n) == 0 and left(data) == 0
""",
        seam,
        environment={"FRONTSWAP_REGISTER": "late"},
    )


def test_free_is_a_hint(seam: Mode) -> None:
    """Unregistered, MADV_FREE is not followed while half of the limit is free: what is written again costs no fault."""
    maps(
        """
def there(at, n):
    found = np.zeros(n // 4096, "u1")
    assert libc.mincore(ctypes.c_void_p(at), N(n), ctypes.c_void_p(found.ctypes.data)) == 0
    return int((found & 1).sum())
at = take(3 * MiB)
view(at, 3 * MiB)[:] = 7
assert madvise(at + 4096, 2 * MiB, FREE) == 0
assert (view(at, 3 * MiB) == 7).all() and there(at, 3 * MiB) == 768
other = take(8 * MiB, NORESERVE)
assert madvise(at + 4096, 2 * MiB, FREE) == 0
assert there(at, 3 * MiB) == 256
assert madvise(at + 3 * MiB - 8192, 4096, FREE) == 0    # to the kernel's pages, not to ours
assert there(at, 3 * MiB) == 255
assert munmap(other, 8 * MiB) == 0 and munmap(at, 3 * MiB) == 0
""",
        seam,
        environment={"FRONTSWAP_REGISTER": "late"},
    )


@pytest.mark.parametrize("turn", range(3))
def test_advice_while_it_is_registered(seam: Mode, turn: int) -> None:
    """Threads empty parts of their mappings when the arena is registered: zeros where they were promised, and nothing
    but what each wrote elsewhere, before and after."""
    maps(
        """
n, turn = 2 * MiB, int(os.environ["TURN"])
stop, ready = threading.Event(), threading.Barrier(5)
def work(seed):
    rng = np.random.default_rng((turn, seed))
    at = take(n, NORESERVE * (seed % 2))
    words = view(at, n).view("u8").reshape(-1, 512)
    words[:] = serial = seed << 32
    ready.wait()
    left = 50
    while left:
        left -= stop.is_set()
        serial += 1
        first = int(rng.integers(0, n // 4096))
        count = int(rng.integers(1, n // 4096 - first + 1))
        words[first : first + count] = serial
        assert madvise(at + 4096 * first, 4096 * count, DONTNEED if serial % 3 else FREE) == 0
        part = words[first : first + count]
        if serial % 3:
            assert not part.any(), (seed, serial)
        else:
            assert ((part == serial) | (part == 0)).all(), (seed, serial)
        part[:] = serial
        words[: first] += 0
        assert (part == serial).all() and (words >= seed << 32).all() and (words <= serial).all(), (seed, serial)
    assert munmap(at, n) == 0
threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 5)]
failed = []
threading.excepthook = failed.append
for thread in threads:
    thread.start()
ready.wait()
time.sleep(0.02 * turn)
assert not mem.statistics().registered
push()
assert mem.statistics().registered
stop.set()
for thread in threads:
    thread.join()
assert not failed, failed
""",
        seam,
        environment={"FRONTSWAP_REGISTER": "late", "TURN": str(turn)},
    )


def test_mapped_anew(seam: Mode) -> None:
    """mmap() with MAP_FIXED onto a mapping empties it, as jemalloc does where memory is not overcommitted."""
    maps(
        """
n = 4 * MiB
at = take(n)
data = noise(n)
view(at, n)[:] = data
assert take(MiB, FIXED, RW, at + MiB) == at + MiB
data[MiB : 2 * MiB] = 0
assert np.array_equal(view(at, n), data)
push()
assert take(MiB, FIXED | NORESERVE, RW, at) == at
data[:MiB] = 0
assert np.array_equal(view(at, n), data)
assert refused(take(MiB, FIXED, NONE, at), errno.EINVAL) and refused(take(MiB, FIXED, RW, at + 1), errno.EINVAL)
other = malloc(n)
assert refused(take(MiB, FIXED, RW, other), errno.EINVAL)
libc.free(other)
assert np.array_equal(view(at, n), data) and munmap(at, n) == 0
""",
        seam,
    )


def test_moved(seam: Mode) -> None:
    """mremap(): smaller, larger where there is room, larger elsewhere, and what cannot be said of such memory."""
    maps(
        """
for flags in (0, NORESERVE):
    n = 2 * MiB
    at = take(n, flags)
    data = noise(40 * MiB)
    view(at, n)[:] = data[:n]
    places = set()
    for new in (3 * MiB, 5 * MiB + 1, 9 * MiB, 30 * MiB, 39 * MiB, 12 * MiB, 4 * MiB, 20 * MiB):
        at = mremap(at, n, new, MAYMOVE)
        assert ours(at), new
        places.add(at)
        assert np.array_equal(view(at, min(n, new)), data[: min(n, new)]), (n, new)
        if new > n:
            assert not view(at, new)[(n + 4095) // 4096 * 4096 :].any()
            view(at, new)[n:] = data[n:new]
        n = new
    assert len(places) < 8
    part = mremap(at + MiB, MiB, 3 * MiB, MAYMOVE)      # a part of it goes elsewhere
    assert ours(part) and np.array_equal(view(part, MiB), data[MiB : 2 * MiB])
    assert np.array_equal(view(at, MiB), data[:MiB])
    assert np.array_equal(view(at, n)[2 * MiB :], data[2 * MiB : n])
    assert munmap(part, 3 * MiB) == 0
    assert refused(mremap(at, 0, n, MAYMOVE), errno.EINVAL) and refused(mremap(at, n, 0, MAYMOVE), errno.EINVAL)
    assert refused(mremap(at, n, n, 4 | MAYMOVE), errno.EINVAL)             # MREMAP_DONTUNMAP
    assert refused(mremap(at, n, n << 20, 0), errno.ENOMEM)
    assert munmap(at, n) == 0 and left(data) == 0
import mmap
file = mmap.mmap(-1, 2 * MiB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # Python's own
file[:] = data[: 2 * MiB].tobytes()
file.resize(20 * MiB)
push()
assert file[: 2 * MiB] == data[: 2 * MiB].tobytes()
file.close()
assert left(data) == 0
""",
        seam,
    )


def test_protected(seam: Mode, tmp_path: Path) -> None:
    """Compiled code, guard pages and read-only tables keep their bytes and protections, whatever is evicted; what may
    be written again is evicted as before.
    """
    library = c_library(
        """
#include <setjmp.h>
#include <signal.h>
static sigjmp_buf back;
static void caught(int number) { siglongjmp(back, number); }
int poke(volatile unsigned char *at, int write)
{
    struct sigaction new = {.sa_handler = caught}, old;
    int result = 0;
    sigaction(SIGSEGV, &new, &old);
    if ((result = sigsetjmp(back, 1)) == 0) {
        if (write)
            *at = 1;
        else
            (void)*at;
    }
    sigaction(SIGSEGV, &old, 0);
    return result;
}
""",
        tmp_path,
    )
    maps(
        f"""
library = ctypes.CDLL({str(library)!r})
poke = lambda at, write: library.poke(P(at), write) == signal.SIGSEGV
n = 6 * MiB
for registered in (False, True):
    at = take(n)
    data = noise(n)
    view(at, n)[:] = data
    view(at, n)[:6] = data[:6] = list(bytes.fromhex("b82a000000c3"))        # mov eax, 42; ret
    if registered:
        evict(view(at, n))
    assert mprotect(at, 2 * 65536, EXEC) == 0
    assert mprotect(at + MiB, 4096, NONE) == 0
    assert mprotect(at + 2 * MiB, MiB, READ) == 0
    for _ in range(2):
        push()
        if os.uname().machine == "x86_64":
            assert ctypes.CFUNCTYPE(I)(at)() == 42
        assert poke(at, True) and not poke(at, False)
        assert poke(at + MiB, False) and poke(at + MiB + 4095, True) and not poke(at + MiB + 4096, True)
        data[MiB + 4096] = 1
        assert poke(at + 2 * MiB, True) and poke(at + 3 * MiB - 1, True) and not poke(at + 3 * MiB, False)
        assert np.array_equal(view(at, n)[2 * MiB :], data[2 * MiB :])
    pinned = mem.statistics().pinned_bytes
    assert pinned >= MiB + 2 * 65536 + 4096
    assert refused(mprotect(at, n, READ), errno.ENOMEM), "more than half of the limit"
    assert mprotect(at, n, RW) == 0 and mem.statistics().pinned_bytes == 0
    assert np.array_equal(view(at, n), data)
    evict(view(at, n))
    view(at, n)[:] ^= 255
    assert np.array_equal(view(at, n), data ^ 255)
    # Protected when it is unmapped or emptied: the next one there may be written.
    assert mprotect(at, 3 * MiB, NONE) == 0 and madvise(at, 2 * MiB, DONTNEED) == 0
    assert poke(at, False) and mprotect(at, MiB, RW) == 0
    assert not view(at, MiB).any()
    assert munmap(at + MiB, MiB) == 0 and munmap(at, n) == 0
    assert mem.statistics().pinned_bytes == 0 and left(data) == 0
    at = take(n)
    assert not view(at, n).any()
    view(at, n)[:] = 3
    assert munmap(at, n) == 0
other = malloc(n)
assert refused(mprotect(other, n, READ), errno.EINVAL) and mprotect(other, n, RW) == 0
libc.free(other)
""",
        seam,
    )


def test_a_part_of_a_page_is_protected_and_all_of_it_emptied(seam: Mode) -> None:
    """The page lies in several mappings then, and comes back all the same."""
    maps(
        """
n = 4 * MiB
at = take(n)
view(at, n)[:] = 7
push()
assert mprotect(at + 4096, 4096, READ) == 0 and madvise(at, MiB, DONTNEED) == 0
for _ in range(3):
    assert not view(at, MiB)[4096:].any() and (view(at, n)[MiB:] == 7).all()
    view(at, 4096)[:] = 5
    evict(view(at, n))
    push()
    assert (view(at, 4096) == 5).all()
assert mprotect(at, MiB, RW) == 0
view(at, MiB)[:] = 3
evict(view(at, n))
assert (view(at, MiB) == 3).all()
assert munmap(at, n) == 0 and left() == 0
""",
        seam,
    )


def test_in_forked_children(seam: Mode) -> None:
    """A child has the mappings, half unmapped and protected as they were, and its own from then on."""
    maps(
        """
n = 8 * MiB
at, loose = take(n), take(1 << 30, NORESERVE)
data = noise(n)
view(at, n)[:] = view(loose, n)[:] = data
push()
assert munmap(at, MiB) == 0 and mprotect(at + 2 * MiB, MiB, READ) == 0
def check(mark):
    assert np.array_equal(view(at, n)[MiB:], data[MiB:]) and np.array_equal(view(loose, n), data)
    assert mprotect(at + 2 * MiB, MiB, RW) == 0
    assert mem.statistics().pinned_bytes == 0
    view(at, n)[MiB:] = mark
    view(loose + (1 << 29), 40 * MiB)[:] = mark
    assert (view(at, n)[MiB:] == mark).all() and (view(loose + (1 << 29), 40 * MiB) == mark).all()
    assert munmap(at + MiB, n - MiB) == 0 and munmap(loose, 1 << 30) == 0
    assert left(data) == 0
    other = take(n)
    view(other, n)[:] = 1
pids = []
for mark in (1, 2):
    pid = os.fork()
    if pid == 0:
        signal.alarm(int(60 * PATIENCE))
        try:
            check(mark)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    pids.append(pid)
assert np.array_equal(view(at, n)[MiB:], data[MiB:])
for pid in pids:
    assert os.waitpid(pid, 0)[1] == 0
check(5)
""",
        seam,
    )


STORM = """
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

// Each thread maps, fills, trims, empties, moves and unmaps as an allocator does, and knows each word of its own.
static int wrong;
static uint64_t word(uint64_t seed, uint64_t i) { return (seed + i) * 0x9E3779B97F4A7C15u; }
static void fill(uint64_t *at, size_t from, size_t to, uint64_t seed)
{
    for (size_t i = from / 8; i < to / 8; i += 64)
        at[i] = word(seed, i);
}
static void check(const uint64_t *at, size_t from, size_t to, uint64_t seed)
{
    for (size_t i = from / 8; i < to / 8; i += 64)
        if (at[i] != word(seed, i))
            __atomic_fetch_add(&wrong, 1, __ATOMIC_RELAXED);
}
static void *work(void *argument)
{
    unsigned seed = (unsigned)(uintptr_t)argument;
    for (int turn = 0; turn < TURNS; turn++) {
        uint64_t mark = ((uint64_t)seed << 32) + turn;
        size_t n = (2 + rand_r(&seed) % 6) << 20, cut = (rand_r(&seed) % (n >> 13)) << 12;
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | (rand_r(&seed) % 2 ? MAP_NORESERVE : 0);
        char *at = mmap(0, n, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (at == MAP_FAILED)
            abort();
        fill((void *)at, 0, n, mark);
        if (cut && munmap(at, cut) != 0)
            abort();
        check((void *)at, cut, n, mark);
        size_t hole = cut + ((rand_r(&seed) % ((n - cut) >> 12)) << 12), end = hole + 4096 * (1 + rand_r(&seed) % 64);
        if (end > n)
            end = n;
        int kept = rand_r(&seed) % 2;
        if (madvise(at + hole, end - hole, kept ? MADV_FREE : MADV_DONTNEED) != 0)
            abort();
        for (size_t i = hole / 8; i < end / 8; i += 64) {
            uint64_t found = ((uint64_t *)at)[i];
            if (found && !(kept && found == word(mark, i)))
                __atomic_fetch_add(&wrong, 1, __ATOMIC_RELAXED);
        }
        check((void *)at, cut, hole, mark);
        check((void *)at, end, n, mark);
        fill((void *)at, hole, end, mark);
        if (rand_r(&seed) % 3 == 0 && cut == 0) {
            at = mremap(at, n, 2 * n, MREMAP_MAYMOVE);
            if (at == MAP_FAILED)
                abort();
            check((void *)at, 0, n, mark);
            n *= 2;
            fill((void *)at, 0, n, mark);
        }
        if (rand_r(&seed) % 4 == 0) {
            size_t page = cut + ((rand_r(&seed) % ((n - cut) >> 12)) << 12);
            if (mprotect(at + page, 4096, PROT_READ) == 0) {
                check((void *)at, page, page + 4096, mark);
                if (mprotect(at + page, 4096, PROT_READ | PROT_WRITE) != 0)
                    abort();
            }
        }
        check((void *)at, cut, n, mark);
        if (munmap(at + cut, n - cut) != 0)
            abort();
    }
    return 0;
}
int storm(int threads)
{
    pthread_t all[16];
    for (int i = 0; i < threads; i++)
        pthread_create(&all[i], 0, work, (void *)(uintptr_t)(i + 1));
    for (int i = 0; i < threads; i++)
        pthread_join(all[i], 0);
    return wrong;
}
"""


@pytest.mark.parametrize("register", ["early", "late"])
def test_many_threads(seam: Mode, tmp_path: Path, register: str) -> None:
    """What allocators do, in four threads at the limit: no word of one is another's, and nothing is left.

    Late: the arena is registered in the middle of it.
    """
    library = c_library(STORM.replace("TURNS", "40"), tmp_path)
    maps(
        f"""
library = ctypes.CDLL({str(library)!r})
assert library.storm(4) == 0
assert mem.statistics().registered and left() == 0
now = quiet(mem)
assert now.poisoned == now.pinned_bytes == 0
""",
        seam,
        environment={"FRONTSWAP_REGISTER": register},
    )


@pytest.mark.slow
def test_many_threads_for_long(mode: Mode, tmp_path: Path) -> None:
    library = c_library(STORM.replace("TURNS", "400"), tmp_path)
    maps(
        f"""
library = ctypes.CDLL({str(library)!r})
forks = threading.Event()
def fork():
    while not forks.wait(0.05):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
thread = threading.Thread(target=fork)
thread.start()
assert library.storm(6) == 0
forks.set()
thread.join()
assert left() == 0
""",
        mode,
    )
