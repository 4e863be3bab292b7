"""Parts of mappings, and what mappings share with all else: protected piece by piece, copied, counted, forked."""

from __future__ import annotations

from pathlib import Path

from conftest import c_library
from heaps import maps
from helpers import Mode


def test_what_was_unmapped_does_not_come_back(seam: Mode) -> None:
    """mmap() with MAP_FIXED onto it is refused. It was granted: then the memory went with the last other piece of its
    array, while the program used it.
    """
    maps(
        """
n = 4 * MiB
at = take(n)
view(at, n)[:] = data = noise(n)
assert munmap(at + MiB, MiB) == 0
for first, length in ((MiB, MiB), (MiB, 4096), (2 * MiB - 4096, 8192), (MiB - 4096, 4097)):
    assert refused(take(length, FIXED, RW, at + first), errno.ENOMEM), (first, length)
assert np.array_equal(view(at, n)[:MiB], data[:MiB]) and np.array_equal(view(at, n)[2 * MiB :], data[2 * MiB :])
assert take(MiB, FIXED, RW, at) == at and not view(at, MiB).any()
assert munmap(at, n) == 0 and left(data) == 0
""",
        seam,
    )


def test_moving_leaves_untouched_what_is(seam: Mode) -> None:
    """A mapping without a reservation is mostly holes: a copy of those would be more than any disk has."""
    maps(
        """
n = 8 << 30
at = take(n, NORESERVE)
data = noise(MiB)
view(at + (3 << 30), MiB)[:] = data
at = mremap(at, n, n + MiB, MAYMOVE)
assert ours(at) and np.array_equal(view(at + (3 << 30), MiB), data) and left(data) <= 2 * MiB
assert munmap(at, n + MiB) == 0 and left(data) == 0
""",
        seam,
    )


def test_protected_in_pieces(seam: Mode) -> None:
    """Parts of pages: a page is pinned for as long as one of them is protected. It was so until all of it was made
    writable in one call, and a guard here and there took half of the limit. A call that is refused leaves nothing.
    """
    maps(
        """
n = 12 * MiB
at = take(n)
view(at, n)[:] = data = noise(n)
assert refused(mprotect(at, n, READ), errno.ENOMEM) and mem.statistics().pinned_bytes == 0
for i in range(0, n, 16384):
    assert mprotect(at + i, 4096, NONE) == 0 and mprotect(at + i, 4096, RW) == 0, i
assert mem.statistics().pinned_bytes == 0 and np.array_equal(view(at, n), data)
assert mprotect(at, 12288, READ) == 0 and mprotect(at + 4096, 4096, RW) == 0
assert madvise(at + 4096, 4096, DONTNEED) == 0
data[4096:8192] = 0
if os.environ["FRONTSWAP_FAULTS"] == "sigsegv":
    assert madvise(at, 8192, DONTNEED) == 0
    data[:4096] = 0
else:
    assert refused(madvise(at, 8192, DONTNEED), errno.EINVAL)
push()
assert mem.statistics().pinned_bytes > 0 and np.array_equal(view(at, n), data)
assert mprotect(at, 4096, RW) == 0 and mem.statistics().pinned_bytes > 0
assert mprotect(at + 4096, MiB, RW) == 0 and mem.statistics().pinned_bytes == 0
# Emptied while it is protected, then a part of it again: there is nothing to store.
assert mprotect(at, MiB, READ) == 0 and madvise(at, MiB, DONTNEED) == 0
assert madvise(at, 4096, DONTNEED) == 0 and not view(at, MiB).any() and madvise(at + 4096, 4096, DONTNEED) == 0
assert mprotect(at, MiB, RW) == 0
data[:MiB] = 0
assert np.array_equal(view(at, n), data)
assert munmap(at, n) == 0 and left(data) == 0
""",
        seam,
    )


def test_whole_pages_of_the_largest_size(seam: Mode) -> None:
    """128 KiB are 32 pieces: all bits of a word, and once none. Protected, such a page was pinned for ever, and nobody
    let its writers in again; unmapped, it stayed.
    """
    maps(
        """
n, page = 4 * MiB, 128 << 10
at = take(n)
view(at, n)[:] = data = noise(n)
assert mprotect(at, MiB, READ) == 0 and mem._plane.page_of(at) == page
push()
assert mem.statistics().pinned_bytes == MiB
assert mprotect(at, MiB, RW) == 0 and mem.statistics().pinned_bytes == 0
view(at, MiB)[:] = data[:MiB] = noise(MiB, 1)
push()
assert np.array_equal(view(at, n), data)
for i in range(n // page - 1):
    assert munmap(at + i * page, page) == 0
assert left(data) == page and refused(take(page, FIXED, RW, at), errno.ENOMEM)
assert munmap(at + n - page, page) == 0 and left(data) == 0
""",
        seam,
        page=128 << 10,
    )


def test_advice_to_the_end_of_what_malloc_gave() -> None:
    """malloc_usable_size() is more than what was asked for: the rest of the last page is not dropped with it."""
    maps(
        """
n = 3 * MiB + 100
at = malloc(n)
view(at, usable(at))[:] = 5
end = 3 * MiB + 4096
assert usable(at) > end and madvise(at, end, DONTNEED) == 0
assert not view(at, end).any() and (view(at, usable(at))[end:] == 5).all()
assert madvise(at, usable(at), DONTNEED) == 0 and not view(at, usable(at)).any()
libc.free(at)
"""
    )


def test_a_fork_reserves_for_what_is_there() -> None:
    """Not for what was freed before, nor ahead of touches: each child would take the room of the largest moment."""
    maps(
        """
at = take(1 << 30, NORESERVE)
view(at, MiB)[:] = 1
push()
libc.free(malloc(400 * MiB))
assert mem.statistics().swap_reserved_bytes > 300 * MiB
pid = os.fork()
if pid == 0:
    view(at, 30 * MiB)[:] = 2
    os._exit(mem.statistics().swap_reserved_bytes > 200 * MiB or not (view(at, 30 * MiB) == 2).all())
assert os.waitpid(pid, 0)[1] == 0
view(at, 30 * MiB)[:] = 3
assert (view(at, 30 * MiB) == 3).all() and munmap(at, 1 << 30) == 0
"""
    )


def test_a_refused_allocation_takes_no_touch_with_it() -> None:
    """It counts before it is refused: a touch of loose memory meanwhile was refused, too, by SIGBUS."""
    maps(
        """
at = take(1 << 30, NORESERVE)
push()
resource.setrlimit(resource.RLIMIT_FSIZE, (mem.statistics().swap_reserved_bytes + 400 * MiB, resource.RLIM_INFINITY))
end = threading.Event()
def refuse():
    while not end.is_set():
        assert malloc(900 << 30) is None
thread = threading.Thread(target=refuse)
thread.start()
for _ in range(4):
    view(at, 1 << 30)[: 200 * MiB : 4096] = 1
    assert munmap(at, 1 << 30) == 0
    at = take(1 << 30, NORESERVE)
end.set()
thread.join()
"""
    )


def test_a_handler_touches_memory_while_another_mapping_is_looked_at(tmp_path: Path, seam: Mode) -> None:
    """mmap() with MAP_FIXED holds a lock that the first touch of loose memory takes: no handler may come in between."""
    library = c_library(
        """
#include <signal.h>
#include <stddef.h>
#include <sys/time.h>
static volatile unsigned char *next, *end;
static void tick(int number)
{
    for (int i = 0; i < 64 && next < end; i++) {
        (void)*next;
        next += 65536;
    }
}
void begin(unsigned char *at, size_t n)
{
    struct sigaction action = {.sa_handler = tick};
    struct itimerval often = {{0, 300}, {0, 300}};
    next = at;
    end = at + n;
    sigaction(SIGALRM, &action, 0);
    setitimer(ITIMER_REAL, &often, 0);
}
int finish(void)
{
    struct itimerval never = {{0, 0}, {0, 0}};
    if (next < end)
        return 0;
    setitimer(ITIMER_REAL, &never, 0);
    return 1;
}
""",
        tmp_path,
    )
    maps(
        f"""
library = ctypes.CDLL({str(library)!r})
large, loose = take(2 << 30, NORESERVE), take(512 * MiB, NORESERVE)
assert ours(large) and munmap(large + (2 << 30) - MiB, MiB) == 0
library.begin(P(loose), N(512 * MiB))
while not library.finish():
    assert refused(take(2 << 30, FIXED, RW, large), errno.ENOMEM)
""",
        seam,
        page=65536,
    )
