"""What tests of the heap share: a process in which it is installed, with malloc and its family at hand."""

from __future__ import annotations

from helpers import Mode, run_child

# malloc() of ctypes is what dlsym() says: ours. 1 MiB and more is large.
START = """
mem = frontswap.install({limit!r}, swap={swap!r}, page={page!r})
libc = ctypes.CDLL(None, use_errno=True)
P, N = ctypes.c_void_p, ctypes.c_size_t
def declare(name, *arguments):
    function = getattr(libc, name)
    function.restype, function.argtypes = P, arguments
    return function
malloc, calloc, realloc = declare("malloc", N), declare("calloc", N, N), declare("realloc", P, N)
reallocarray = declare("reallocarray", P, N, N)
aligned, memalign = declare("aligned_alloc", N, N), declare("memalign", N, N)
valloc, pvalloc = declare("valloc", N), declare("pvalloc", N)
usable = libc.malloc_usable_size
usable.restype, usable.argtypes = N, [P]
libc.free.restype, libc.free.argtypes = None, [P]
low, length = mem._plane.extents()["arena"]
def ours(at):
    return low <= at < low + length
def view(at, n):
    return np.frombuffer((ctypes.c_ubyte * n).from_address(at), "u1")
def in_threads(work, n):
    \"\"\"work(0) to work(n - 1) at once, to their ends; then nothing may be left in the arena.\"\"\"
    done = []
    threads = [threading.Thread(target=lambda seed=seed: done.append((work(seed), seed))) for seed in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seed for _, seed in done) == list(range(n))
    now = quiet(mem)
    assert (now.allocated_bytes, now.resident_bytes, now.pool_live_bytes, now.swapped_bytes) == (0, 0, 0, 0), now
    assert now.poisoned == 0
    return now
"""


def start(*, limit: str = "16M", swap: str = "auto", page: str | int = "auto") -> str:
    """The beginning of a snippet, with a heap of these settings."""
    return START.format(limit=limit, swap=swap, page=page)


def child(
    code: str,
    mode: Mode | None = None,
    *,
    limit: str = "16M",
    swap: str = "auto",
    ordinary: bool = False,
    environment: dict[str, str] | None = None,
) -> None:
    """Run a snippet after START."""
    run_child(start(limit=limit, swap=swap) + code, mode=mode, ordinary=ordinary, environment=environment).check()


# mmap() and the others of ctypes are what dlsym() says: ours.
MAPS = """
I = ctypes.c_int
NONE, READ, RW, EXEC = 0, 1, 3, 5
PRIVATE_ANONYMOUS, FIXED, STACK, NORESERVE, POPULATE = 0x22, 0x10, 0x20000, 0x4000, 0x8000
DONTNEED, FREE, MAYMOVE = 4, 8, 1
FAILED = (1 << 64) - 1
def declare(name, result, *arguments):
    function = getattr(libc, name)
    function.restype, function.argtypes = result, arguments
    return function
mmap_ = declare("mmap", P, P, N, I, I, I, ctypes.c_long)
munmap, mprotect = declare("munmap", I, P, N), declare("mprotect", I, P, N, I)
madvise, mremap = declare("madvise", I, P, N, I), declare("mremap", P, P, N, N, I)
def take(n, flags=0, protection=RW, at=None):
    return mmap_(at, n, protection, PRIVATE_ANONYMOUS | flags, -1, 0)
def refused(result, why):
    return result in (-1, FAILED) and ctypes.get_errno() == why
def allocated():
    return mem.statistics().allocated_bytes
def evict(array):
    mem.advise(array, "cold")
    return array
def push():
    \"\"\"Have the arena registered, and all that was there before evicted.\"\"\"
    for _ in range(2):
        at = malloc(24 * MiB)
        view(at, 24 * MiB)[:] = noise(24 * MiB)
        libc.free(at)
BEFORE = allocated()
def left(*arrays):
    \"\"\"Bytes allocated since then, without those of NumPy's arrays, which are the heap's too.\"\"\"
    return allocated() - BEFORE - sum(array.nbytes for array in arrays if array.base is None)
"""


def maps(
    code: str, mode: Mode | None = None, environment: dict[str, str] | None = None, *, page: str | int = "auto"
) -> None:
    """Run a snippet after START and MAPS."""
    run_child(start(page=page) + MAPS + code, mode=mode, environment=environment).check()
