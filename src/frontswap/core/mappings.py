"""Calls of libc by which a program arranges memory, on addresses of an arena: done rightly, or refused.

How an arena is mapped is the pager's own affair. A page that somebody else drops is missing for the pager, which waits
for it for ever; from a mapping that is locked, moved or protected nothing can be evicted. So hints do nothing and
succeed, as any hint may; what has a meaning that can be kept is done by storing to the memory; all else is refused,
with an errno that the call is documented to give, before the kernel has seen it. A range that lies in an arena in part
is treated as if all of it did.
"""

import cython
from cython.cimports.frontswap.core.got import got_add
from cython.cimports.frontswap.core.seam import MAX_PAGERS, in_arena, taken
from cython.cimports.frontswap.core.uapi import EINVAL, ENOMEM, loadi, set_errno, uint64_t
from cython.cimports.libc.string import memset


def refuse(error):
    """-1 and errno."""
    set_errno(error)
    return -1


def advise(address, n, advice):
    """madvise(2) on an arena: 0 or an errno.

    MADV_DONTNEED is a promise of zeros, which are stored. MADV_FREE may keep the bytes.
    """
    if cython.cast(uint64_t, address) % 4096 != 0:
        return EINVAL
    if advice == MADV_DONTNEED or advice == MADV_DONTNEED_LOCKED:
        memset(address, 0, (n + 4095) & ~cython.cast(uint64_t, 4095))
        return 0
    if (
        MADV_NORMAL <= advice <= MADV_WILLNEED
        or advice == MADV_FREE
        or MADV_MERGEABLE <= advice <= MADV_NOHUGEPAGE
        or advice == MADV_COLD
        or advice == MADV_PAGEOUT
        or advice == MADV_COLLAPSE
    ):
        return 0
    return EINVAL


def our_madvise(address, n, advice):
    """madvise(2)."""
    error: cython.int
    if not in_arena(address, n):
        return real_madvise(address, n, advice)
    error = advise(address, n, advice)
    return refuse(error) if error else 0


def our_posix_madvise(address, n, advice):
    """posix_madvise(3), which returns its errno; its POSIX_MADV_DONTNEED is a hint, and glibc ignores it."""
    if not in_arena(address, n):
        return real_posix_madvise(address, n, advice)
    return 0 if MADV_NORMAL <= advice <= MADV_DONTNEED else EINVAL


def our_mlock(address, n):
    """mlock(2): more than may be locked. There is mem.pin()."""
    return refuse(ENOMEM) if in_arena(address, n) else real_mlock(address, n)


def our_mlock2(address, n, flags):
    """mlock2(2)."""
    return refuse(ENOMEM) if in_arena(address, n) else real_mlock2(address, n, flags)


def our_munlock(address, n):
    """munlock(2): nothing is locked."""
    return 0 if in_arena(address, n) else real_munlock(address, n)


def our_mlockall(flags):
    """mlockall(2): it would lock the arenas too, with all their addresses."""
    i: cython.int
    for i in range(MAX_PAGERS):
        if loadi(cython.address(taken[i])) == 2:
            return refuse(ENOMEM)
    return real_mlockall(flags)


def our_munmap(address, n):
    """munmap(2)."""
    return refuse(EINVAL) if in_arena(address, n) else real_munmap(address, n)


def our_mprotect(address, n, protection):
    """mprotect(2): what it is already, or nothing."""
    if not in_arena(address, n):
        return real_mprotect(address, n, protection)
    return 0 if protection == READ_WRITE else refuse(EINVAL)


def our_pkey_mprotect(address, n, protection, key):
    """pkey_mprotect(2)."""
    return refuse(EINVAL) if in_arena(address, n) else real_pkey_mprotect(address, n, protection, key)


def our_mremap(address, old, new, flags, to):
    """mremap(2), from or (MREMAP_FIXED) to an arena. Variadic in C; the fifth argument is where it would be."""
    # Old size 0: a second mapping of shared pages, of which an arena has none.
    if in_arena(address, old if old else 1) or ((flags & 2) != 0 and in_arena(to, new)):
        return cython.cast(cython.p_void, cython.cast(uint64_t, refuse(EINVAL)))
    return real_mremap(address, old, new, flags, to)


def our_mmap(address, n, protection, flags, fd, offset):
    """mmap(2) onto an arena."""
    if (flags & FIXED) != 0 and in_arena(address, n):
        return cython.cast(cython.p_void, cython.cast(uint64_t, refuse(EINVAL)))
    return real_mmap(address, n, protection, flags, fd, offset)


def our_mmap64(address, n, protection, flags, fd, offset):
    """mmap64(2)."""
    if (flags & FIXED) != 0 and in_arena(address, n):
        return cython.cast(cython.p_void, cython.cast(uint64_t, refuse(EINVAL)))
    return real_mmap64(address, n, protection, flags, fd, offset)


got_add(b"madvise", cython.cast(cython.p_void, our_madvise), cython.cast(pp_void, cython.address(real_madvise)))
got_add(
    b"posix_madvise",
    cython.cast(cython.p_void, our_posix_madvise),
    cython.cast(pp_void, cython.address(real_posix_madvise)),
)
got_add(b"mlock", cython.cast(cython.p_void, our_mlock), cython.cast(pp_void, cython.address(real_mlock)))
got_add(b"mlock2", cython.cast(cython.p_void, our_mlock2), cython.cast(pp_void, cython.address(real_mlock2)))
got_add(b"munlock", cython.cast(cython.p_void, our_munlock), cython.cast(pp_void, cython.address(real_munlock)))
got_add(b"mlockall", cython.cast(cython.p_void, our_mlockall), cython.cast(pp_void, cython.address(real_mlockall)))
got_add(b"munmap", cython.cast(cython.p_void, our_munmap), cython.cast(pp_void, cython.address(real_munmap)))
got_add(b"mprotect", cython.cast(cython.p_void, our_mprotect), cython.cast(pp_void, cython.address(real_mprotect)))
got_add(
    b"pkey_mprotect",
    cython.cast(cython.p_void, our_pkey_mprotect),
    cython.cast(pp_void, cython.address(real_pkey_mprotect)),
)
got_add(b"mremap", cython.cast(cython.p_void, our_mremap), cython.cast(pp_void, cython.address(real_mremap)))
got_add(b"mmap", cython.cast(cython.p_void, our_mmap), cython.cast(pp_void, cython.address(real_mmap)))
got_add(b"mmap64", cython.cast(cython.p_void, our_mmap64), cython.cast(pp_void, cython.address(real_mmap64)))
