"""The heap: large requests to malloc and its family, of the whole process, come from the arena of one Memory.

Each our_NAME() takes the place of NAME (core/got.py). Requests below the threshold are libc's, some nanoseconds later;
pointers are told apart by address. Whoever calls libc's own functions all the same, because he had their addresses
before or is libc himself, gets libc's memory, and may give it to anybody to free; what he cannot do is free ours.

A request that the arena refuses because the disk cannot back it is refused (ENOMEM): RAM that is not there would be the
OOM killer's affair.
"""

import cython
from cython.cimports.cpython.ref import Py_INCREF
from cython.cimports.frontswap.core.arena import (
    GROWING,
    NO_ADDRESSES,
    SPARE,
    ZEROS,
    arena_allocate,
    arena_find,
    arena_free,
    arena_resize,
)
from cython.cimports.frontswap.core.extents import extent_take
from cython.cimports.frontswap.core.got import got_add, got_patch_all, image_of
from cython.cimports.frontswap.core.large import (
    MOST_SHIFT,
    heap,
    heap_begin,
    heap_from,
    heap_threshold,
    is_large,
    is_ours,
)
from cython.cimports.frontswap.core.locks import locks_begin
from cython.cimports.frontswap.core.plane import Plane
from cython.cimports.frontswap.core.uapi import (
    EINVAL,
    ENOMEM,
    int64_t,
    load64,
    set_errno,
    uint64_t,
)
from cython.cimports.frontswap.core.uffd import die
from cython.cimports.libc.string import memcpy

AUTO = cython.declare(cython.int, -1)


def is_internal(caller):
    """True if libc or the dynamic linker asks for itself: buffers of stdio, which the kernel writes into, threads'
    variables, which are freed while the arena is registered.

    Their own calls are theirs, as they use no slot. But a program that is not position independent and takes the
    address of malloc(), as Debian's Python does, lends them its stub, and what that jumps to is ours. (And their
    realloc() is not.)
    """
    at: uint64_t = cython.cast(uint64_t, caller)
    return its_libc.low <= at < its_libc.high or its_linker.low <= at < its_linker.high


def heap_take(n, zeroed, growing, elsewhere):
    """Memory from the arena; NULL when it is refused. `*elsewhere`: it has no addresses left, libc may have."""
    error: cython.int = 0
    how: cython.int = SPARE | ZEROS if zeroed else SPARE
    more: cython.int = GROWING if growing else 0
    address: uint64_t = arena_allocate(heap, n, heap.page, 0, AUTO, how | more, cython.address(error))
    if address == 0 and growing and error == NO_ADDRESSES:
        address = arena_allocate(heap, n, heap.page, 0, AUTO, how, cython.address(error))
    elsewhere[0] = address == 0 and error == NO_ADDRESSES
    if address == 0:
        set_errno(ENOMEM)
    return cython.cast(cython.p_void, address)


def heap_give(at):
    """free() of what is ours."""
    if not arena_free(heap, cython.cast(uint64_t, at)):
        die("free(): not the address of an allocation, or freed already", EINVAL)


def heap_usable(at):
    """Bytes from here to the end of the allocation's last page."""
    number: cython.uint = arena_find(heap, cython.cast(uint64_t, at))
    if number == 0:
        return 0
    return cython.cast(uint64_t, heap.blocks[number].pages) << heap.blocks[number].shift


# --- malloc and its family -------------------------------------------------------------------------


def our_malloc(n):
    """malloc(3)."""
    elsewhere: cython.bint = False
    at: cython.p_void
    if not is_large(n) or is_internal(caller()):
        return real_malloc(n)
    at = heap_take(n, False, False, cython.address(elsewhere))
    return real_malloc(n) if elsewhere else at


def our_calloc(count, n):
    """calloc(3)."""
    elsewhere: cython.bint = False
    at: cython.p_void
    if n == 0 or count >= (cython.cast(uint64_t, 1) << MOST_SHIFT) // n or not is_large(count * n):
        return real_calloc(count, n)
    if is_internal(caller()):
        return real_calloc(count, n)
    at = heap_take(count * n, True, False, cython.address(elsewhere))
    return real_calloc(count, n) if elsewhere else at


def our_free(at):
    """free(3)."""
    if is_ours(at):
        heap_give(at)
    else:
        real_free(at)


def our_realloc(at, n):
    """realloc(3). What is ours stays ours until it is less than half of what is large."""
    elsewhere: cython.bint = False
    new: cython.p_void
    old: uint64_t
    if at == cython.NULL:
        return our_malloc(n)
    if not is_ours(at):
        if not is_large(n) or is_internal(caller()):
            return real_realloc(at, n)
        old = real_usable(at)
        new = heap_take(n, False, True, cython.address(elsewhere))
        if elsewhere:
            return real_realloc(at, n)
        if new != cython.NULL:
            memcpy(new, at, old if old < n else n)
            real_free(at)
        return new
    if n == 0:
        heap_give(at)
        return cython.NULL
    if cython.cast(int64_t, 2 * n) >= load64(cython.address(heap_from)) and arena_resize(
        heap, cython.cast(uint64_t, at), n
    ):
        return at
    if is_large(n):
        new = heap_take(n, False, True, cython.address(elsewhere))
        if elsewhere:
            new = real_malloc(n)
    else:
        new = real_malloc(n)
    if new != cython.NULL:
        old = heap_usable(at)
        memcpy(new, at, old if old < n else n)
        heap_give(at)
    return new


def our_reallocarray(at, count, n):
    """reallocarray(3)."""
    if n != 0 and count > cython.cast(uint64_t, -1) // n:
        set_errno(ENOMEM)
        return cython.NULL
    return our_realloc(at, count * n)


def take_aligned(align, n, elsewhere):
    """At a multiple of `align`; every allocation of ours starts at one of 2 MiB."""
    elsewhere[0] = align > MOST_ALIGN or not is_large(n)
    return cython.NULL if elsewhere[0] else heap_take(n, False, False, elsewhere)


def our_posix_memalign(at, align, n):
    """posix_memalign(3), which returns its error."""
    elsewhere: cython.bint = False
    found: cython.p_void
    if align % cython.sizeof(cython.p_void) != 0 or align == 0 or (align & (align - 1)) != 0:
        return EINVAL
    found = take_aligned(align, n, cython.address(elsewhere))
    if elsewhere:
        return real_posix_memalign(at, align, n)
    if found == cython.NULL:
        return ENOMEM
    at[0] = found
    return 0


def our_aligned_alloc(align, n):
    """aligned_alloc(3)."""
    elsewhere: cython.bint = False
    found: cython.p_void = take_aligned(align, n, cython.address(elsewhere))
    return real_aligned_alloc(align, n) if elsewhere else found


def our_memalign(align, n):
    """memalign(3)."""
    elsewhere: cython.bint = False
    found: cython.p_void = take_aligned(align, n, cython.address(elsewhere))
    return real_memalign(align, n) if elsewhere else found


def our_valloc(n):
    """valloc(3)."""
    elsewhere: cython.bint = False
    found: cython.p_void = take_aligned(PAGE, n, cython.address(elsewhere))
    return real_valloc(n) if elsewhere else found


def our_pvalloc(n):
    """pvalloc(3): whole pages."""
    elsewhere: cython.bint = False
    found: cython.p_void = take_aligned(PAGE, n, cython.address(elsewhere))
    return real_pvalloc(n) if elsewhere else found


def our_usable(at):
    """malloc_usable_size(3)."""
    return heap_usable(at) if is_ours(at) else real_usable(at)


# --- what reallocates or keeps a buffer inside of libc ---------------------------------------------


def leave(line, n):
    """Have a buffer that libc is about to realloc() be libc's; False: there is no memory for it."""
    new: cython.p_void
    old: uint64_t
    if line == cython.NULL or n == cython.NULL or not is_ours(line[0]):
        return True
    old = heap_usable(line[0])
    n[0] = min(cython.cast(uint64_t, n[0]), old)
    new = real_malloc(n[0] if n[0] else 1)
    if new == cython.NULL:
        return False
    memcpy(new, line[0], n[0])
    heap_give(line[0])
    line[0] = cython.cast(cython.p_char, new)
    return True


def our_getdelim(line, n, delimiter, stream):
    """getdelim(3)."""
    return real_getdelim(line, n, delimiter, stream) if leave(line, n) else -1


def our_getdelim_(line, n, delimiter, stream):
    """__getdelim, which getline() of stdio.h is."""
    return real_getdelim_(line, n, delimiter, stream) if leave(line, n) else -1


def our_getline(line, n, stream):
    """getline(3)."""
    return real_getline(line, n, stream) if leave(line, n) else -1


def our_setvbuf(stream, buffer, mode, n):
    """setvbuf(3): stdio would have the kernel write into it, from inside. It keeps a buffer of its own then."""
    return 0 if is_ours(buffer) else real_setvbuf(stream, buffer, mode, n)


# --- the beginning -----------------------------------------------------------------------------------


def has_begun() -> bool:
    """Do this process's requests come from a plane?"""
    return heap != cython.NULL


def begin(plane: Plane, threshold: int) -> None:
    """From now on requests of `threshold` bytes and more come from this plane, which stays for good.

    The caller has seen to it that it is the first.
    """
    Py_INCREF(plane)  # never given back: destructors run after the interpreter has ended, and free what is here
    heap_begin(plane.pg)
    image_of("mmap", cython.address(its_libc))
    image_of("__tls_get_addr", cython.address(its_linker))
    extent_take(cython.address(heap.space), 1, 1)  # nor is somebody else's memory before the first: see place()
    got_add(b"malloc", cython.cast(cython.p_void, our_malloc), cython.cast(pp_void, cython.address(real_malloc)))
    got_add(b"calloc", cython.cast(cython.p_void, our_calloc), cython.cast(pp_void, cython.address(real_calloc)))
    got_add(b"realloc", cython.cast(cython.p_void, our_realloc), cython.cast(pp_void, cython.address(real_realloc)))
    got_add(
        b"reallocarray",
        cython.cast(cython.p_void, our_reallocarray),
        cython.cast(pp_void, cython.address(real_reallocarray)),
    )
    got_add(b"free", cython.cast(cython.p_void, our_free), cython.cast(pp_void, cython.address(real_free)))
    got_add(
        b"posix_memalign",
        cython.cast(cython.p_void, our_posix_memalign),
        cython.cast(pp_void, cython.address(real_posix_memalign)),
    )
    got_add(
        b"aligned_alloc",
        cython.cast(cython.p_void, our_aligned_alloc),
        cython.cast(pp_void, cython.address(real_aligned_alloc)),
    )
    got_add(b"memalign", cython.cast(cython.p_void, our_memalign), cython.cast(pp_void, cython.address(real_memalign)))
    got_add(b"valloc", cython.cast(cython.p_void, our_valloc), cython.cast(pp_void, cython.address(real_valloc)))
    got_add(b"pvalloc", cython.cast(cython.p_void, our_pvalloc), cython.cast(pp_void, cython.address(real_pvalloc)))
    got_add(
        b"malloc_usable_size",
        cython.cast(cython.p_void, our_usable),
        cython.cast(pp_void, cython.address(real_usable)),
    )
    got_add(b"getdelim", cython.cast(cython.p_void, our_getdelim), cython.cast(pp_void, cython.address(real_getdelim)))
    got_add(
        b"__getdelim", cython.cast(cython.p_void, our_getdelim_), cython.cast(pp_void, cython.address(real_getdelim_))
    )
    got_add(b"getline", cython.cast(cython.p_void, our_getline), cython.cast(pp_void, cython.address(real_getline)))
    got_add(b"setvbuf", cython.cast(cython.p_void, our_setvbuf), cython.cast(pp_void, cython.address(real_setvbuf)))
    locks_begin()
    with cython.nogil:
        got_patch_all()
    set_threshold(threshold)


def set_threshold(threshold: int) -> None:
    """Requests from so many bytes on; 0: no more of them. What there is stays."""
    heap_threshold(threshold)
