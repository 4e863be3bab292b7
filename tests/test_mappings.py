"""The program's own madvise, mlock, mremap and their kin on arrays: right or refused, and never a page lost."""

from __future__ import annotations

import errno
import mmap

import pytest
from conftest import NewMemory
from helpers import MiB, cold, run_child, same, walk

# The calls by way of ctypes: dlsym() answers with the replacements once a Memory has been made.
CALLS = """
memory = frontswap.Memory("16M")
libc = ctypes.CDLL(None, use_errno=True)
libc.mremap.restype = libc.mmap.restype = ctypes.c_void_p

def call(name, at, *rest):
    "Its result and errno."
    ctypes.set_errno(0)
    found = getattr(libc, name)(ctypes.c_void_p(at), *(ctypes.c_size_t(n) for n in rest))
    return found if found != 2**64 - 1 else -1, ctypes.get_errno()

expected = walk(8 * MiB // 8)
array = memory.array(expected, page=65536)
memory.advise(array, "cold")
at, size = array.ctypes.data, array.nbytes

def still_right():
    array[::512] += 1
    expected[::512] += 1
    memory.advise(array, "cold")
    other = memory.zeros(24 * MiB, "u1")
    other[:] = 1
    same(np.array(array), expected)
"""
HINTS = {
    "normal": 0,
    "random": 1,
    "sequential": 2,
    "willneed": 3,
    "hugepage": 14,
    "nohugepage": 15,
    "cold": 20,
}


def test_hints_do_nothing_and_succeed() -> None:
    code = (
        CALLS
        + f"""
for advice in {list(HINTS.values())}:
    assert call("madvise", at, size, advice) == (0, 0), advice
for advice in range(5):
    assert call("posix_madvise", at, size, advice) == (0, 0)
still_right()
"""
    )
    run_child(code).check()


def test_below_the_limit_it_is_the_same() -> None:
    """Nothing is registered: then the crossing finds what these calls have left."""
    code = """
memory = frontswap.Memory("16M")
libc = ctypes.CDLL(None, use_errno=True)
array = memory.array(walk(8 * MiB // 8), page=65536)
at = ctypes.c_void_p(array.ctypes.data)
assert not memory.statistics().registered
assert libc.madvise(at, ctypes.c_size_t(MiB), 4) == 0
assert libc.mlock(at, ctypes.c_size_t(MiB)) == -1
expected = walk(8 * MiB // 8)
expected[: MiB // 8] = 0
same(np.array(array), expected)
other = memory.zeros(24 * MiB, "u1")
other[:] = 1
assert memory.statistics().registered
same(np.array(array), expected)
"""
    run_child(code, environment={"FRONTSWAP_REGISTER": "late"}).check()


@pytest.mark.parametrize("first", [0, 4096, 3 * 65536 + 8192])
@pytest.mark.parametrize("length", [4096, 65536, 1 * MiB + 4096])
def test_dontneed_is_zeros(first: int, length: int) -> None:
    """Whether the range is whole pages of ours or not."""
    code = (
        CALLS
        + f"""
assert call("madvise", at + {first}, {length}, 4) == (0, 0)
expected.view("u1")[{first}:{first + length}] = 0
same(np.array(array), expected)
still_right()
"""
    )
    run_child(code, timeout=60).check()


REFUSED = {
    "mlock": ("at, size", errno.ENOMEM),
    "mlock2": ("at, size, 1", errno.ENOMEM),
    "mlockall": ("1", errno.ENOMEM),
    "munmap": ("at, 4096", errno.EINVAL),
    "mprotect": ("at, 4096, 1", errno.EINVAL),
    "pkey_mprotect": ("at, 4096, 3, -1", errno.EINVAL),
    "mremap": ("at, 1 << 20, 2 << 20, 1, 0", errno.EINVAL),
    "madvise": ("at, 4096, 9", errno.EINVAL),
    "mmap": ("at, 4096, 3, 0x32, -1, 0", errno.EINVAL),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused(name: str) -> None:
    arguments, number = REFUSED[name]
    code = (
        CALLS
        + f"""
assert call("{name}", {arguments}) == (-1, {number})
assert call("munlock", at, size) == (0, 0)
assert call("mprotect", at, size, 3) == (0, 0)
still_right()
"""
    )
    run_child(code).check()


def test_mremap_onto_an_array() -> None:
    code = (
        CALLS
        + f"""
plain = mmap.mmap(-1, 8192)
where = ctypes.addressof(ctypes.c_char.from_buffer(plain))
assert call("mremap", where, 8192, 8192, 3, at) == (-1, {errno.EINVAL})
assert call("mmap", at - 4096, 1 << 20, 3, 0x32, -1, 0) == (-1, {errno.EINVAL})
still_right()
"""
    )
    run_child(code).check()


def test_other_memory_is_as_ever(new_memory: NewMemory) -> None:
    memory = new_memory()
    with mmap.mmap(-1, MiB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as plain:
        plain.write(b"x" * MiB)
        plain.madvise(mmap.MADV_DONTNEED)
        assert plain[:] == bytes(MiB)
    array = memory.array(walk(MiB // 8))
    cold(memory, array)
    same(array, walk(MiB // 8))
