"""Calls of libc by which a program arranges memory, on addresses of an arena: done rightly, or refused.

How an arena is mapped is the pager's own affair. A page that somebody else drops is missing for the pager, which waits
for it for ever; from a mapping that is locked, moved or protected nothing can be evicted. So hints do nothing and
succeed, as any hint may; what has a meaning that can be kept is done by storing to the memory; all else is refused,
with an errno that the call is documented to give, before the kernel has seen it. A range that lies in an arena in part
is treated as if all of it did. What the program has mapped itself, and lies in the arena for it is large, may be
unmapped, protected and moved: core/maps.py.
"""

import cython
from cython.cimports.frontswap.core.arena import arena_find, array_advise
from cython.cimports.frontswap.core.got import got_add
from cython.cimports.frontswap.core.layout import pager_p
from cython.cimports.frontswap.core.maps import (
    dontneed,
    is_mapped,
    map_anew,
    map_drop,
    map_protect,
    map_take,
    map_wanted,
)
from cython.cimports.frontswap.core.remap import map_move
from cython.cimports.frontswap.core.reserved import reserve_take, reserve_wanted
from cython.cimports.frontswap.core.seam import MAX_PAGERS, in_arena, pager_of, taken
from cython.cimports.frontswap.core.uapi import EINVAL, ENOMEM, loadi, set_errno, uint8_t, uint32_t, uint64_t


def refuse(error):
    """-1 and errno."""
    set_errno(error)
    return -1


def advise(address, n, advice):
    """madvise(2) on an arena: 0 or an errno.

    MADV_DONTNEED is a promise of zeros; MADV_FREE allows them. An arena is in no core dump, whatever is said of it.
    """
    pg: pager_p
    if cython.cast(uint64_t, address) % 4096 != 0:
        return EINVAL
    if advice == MADV_DONTNEED or advice == MADV_DONTNEED_LOCKED or advice == MADV_FREE:
        pg = pager_of(cython.cast(uint64_t, address))
        if pg == cython.NULL:
            return ENOMEM
        return dontneed(pg, cython.cast(uint64_t, address), n, advice != MADV_FREE)
    if MADV_NORMAL <= advice <= MADV_SEQUENTIAL:
        advise_array(cython.cast(uint64_t, address), n, advice)
    if (
        MADV_NORMAL <= advice <= MADV_WILLNEED
        or MADV_MERGEABLE <= advice <= MADV_NOHUGEPAGE
        or advice == MADV_COLD
        or advice == MADV_PAGEOUT
        or advice == MADV_COLLAPSE
        or advice == MADV_DONTDUMP
        or advice == MADV_DODUMP
    ):
        return 0
    return EINVAL


def advise_array(address, n, advice):
    """MADV_NORMAL, MADV_RANDOM or MADV_SEQUENTIAL of a whole array; of a part of one it is not followed."""
    pg: pager_p = pager_of(address)
    number: uint32_t
    if pg != cython.NULL:
        number = arena_find(pg, address)
        if number and pg.blocks[number].base == address and n >= pg.blocks[number].bytes:
            array_advise(pg, number, cython.cast(uint8_t, advice))


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
    if MADV_NORMAL <= advice <= MADV_SEQUENTIAL:
        advise_array(cython.cast(uint64_t, address), n, advice)
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
    error: cython.int
    if not in_arena(address, n):
        return real_munmap(address, n)
    error = map_drop(cython.cast(uint64_t, address), n)
    return refuse(error) if error else 0


def our_mprotect(address, n, protection):
    """mprotect(2): of what is not mapped by the program, what it is already, or nothing."""
    error: cython.int = 0
    if not in_arena(address, n):
        return real_mprotect(address, n, protection)
    if is_mapped(cython.cast(uint64_t, address), n):
        error = map_protect(cython.cast(uint64_t, address), n, protection)
    elif protection != READ_WRITE:
        error = EINVAL
    return refuse(error) if error else 0


def our_pkey_mprotect(address, n, protection, key):
    """pkey_mprotect(2)."""
    return refuse(EINVAL) if in_arena(address, n) else real_pkey_mprotect(address, n, protection, key)


def our_mremap(address, old, new, flags, to):
    """mremap(2), from or (MREMAP_FIXED) to an arena. Variadic in C; the fifth argument is where it would be."""
    error: cython.int = EINVAL
    moved: cython.p_void = cython.NULL
    # Old size 0: a second mapping of shared pages, of which an arena has none.
    if not in_arena(address, old if old else 1) and ((flags & 2) == 0 or not in_arena(to, new)):
        return real_mremap(address, old, new, flags, to)
    if is_mapped(cython.cast(uint64_t, address), old):
        moved = map_move(cython.cast(uint64_t, address), old, new, flags, cython.address(error))
    return moved if moved != cython.NULL else failed(error)


def failed(error):
    """MAP_FAILED and errno."""
    return cython.cast(cython.p_void, cython.cast(uint64_t, refuse(error)))


def map_ours(address, n, protection, flags, fd, offset):
    """mmap(2), where it is our affair: the address or MAP_FAILED; NULL: the kernel's."""
    elsewhere: cython.bint = False
    error: cython.int
    at: cython.p_void
    if (flags & FIXED) != 0 and in_arena(address, n):
        error = map_anew(cython.cast(uint64_t, address), n, protection, flags, fd, offset)
        return failed(error) if error else address
    # Who asks for an address may give up without it (OpenJDK's ZGC).
    if address == cython.NULL and reserve_wanted(n, protection, flags):
        return reserve_take(n)
    if not map_wanted(n, protection, flags):
        return cython.NULL
    at = map_take(n, flags, cython.address(elsewhere))
    return failed(ENOMEM) if at == cython.NULL and not elsewhere else at


def our_mmap(address, n, protection, flags, fd, offset):
    """mmap(2)."""
    at: cython.p_void = map_ours(address, n, protection, flags, fd, offset)
    return at if at != cython.NULL else real_mmap(address, n, protection, flags, fd, offset)


def our_mmap64(address, n, protection, flags, fd, offset):
    """mmap64(2)."""
    at: cython.p_void = map_ours(address, n, protection, flags, fd, offset)
    return at if at != cython.NULL else real_mmap64(address, n, protection, flags, fd, offset)


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
