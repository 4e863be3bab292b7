"""What tests of the heap share: a process in which it is installed, with malloc and its family at hand."""

from __future__ import annotations

from helpers import Mode, run_child

# malloc() of ctypes is what dlsym() says: ours. 1 MiB and more is large.
START = """
mem = frontswap.install("16M", swap={swap!r})
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
"""


def child(code: str, mode: Mode | None = None, *, swap: str = "auto", ordinary: bool = False) -> None:
    """Run a snippet after START."""
    run_child(START.format(swap=swap) + code, mode=mode, ordinary=ordinary).check()
