"""The data plane as the control plane sees it: one Plane a Memory. Sizes in bytes, addresses as integers.

Arguments are checked by frontswap.memory; this module checks only what would break the plane itself.
"""

import os

import cython
from cython.cimports.cpython.ref import Py_INCREF, PyObject
from cython.cimports.frontswap.core.arena import (
    NO_ADDRESSES,
    NO_ALLOCATION,
    NO_REGISTRATION,
    arena_allocate,
    arena_find,
    arena_free,
    arena_trim,
    array_advise,
)
from cython.cimports.frontswap.core.budget import budget_left
from cython.cimports.frontswap.core.contexts import buffers_bytes, contexts_for, contexts_make, work_enter, work_leave
from cython.cimports.frontswap.core.drain import pages_in_backends
from cython.cimports.frontswap.core.evict import evict_page
from cython.cimports.frontswap.core.gate import gate_enter, gate_leave
from cython.cimports.frontswap.core.keeper import keeper_stop, unguard
from cython.cimports.frontswap.core.layout import (
    ADVICE_NORMAL,
    ADVICE_RANDOM,
    ADVICE_SEQUENTIAL,
    CHUNK_SHIFT,
    HUGE_TOUCHES,
    MAX_FILES,
    PAGE_TABLE,
    SEG_FREE,
    SIDE_PROTECTION,
    SIDE_SIGBUS,
    SIDE_THREAD,
    STREAM_POOL,
    block_p,
    bytes_p,
    pager_p,
    pressure_of,
    segment_p,
)
from cython.cimports.frontswap.core.loose import loose_resume
from cython.cimports.frontswap.core.maps import dontneed
from cython.cimports.frontswap.core.pager import NO_MEMORY
from cython.cimports.frontswap.core.pins import pager_pin, pager_unpin
from cython.cimports.frontswap.core.protection import memory_try
from cython.cimports.frontswap.core.region import region_prepare, region_supported
from cython.cimports.frontswap.core.registration import arena_present, arena_register, threads_resume
from cython.cimports.frontswap.core.resize import (
    LIMIT_ALLOCATED,
    LIMIT_PINNED,
    limit_change,
    limit_charged,
    limit_keep,
    limit_least,
)
from cython.cimports.frontswap.core.seam import seam_attach, seam_claim, seam_detach, seam_limit_most
from cython.cimports.frontswap.core.streams import readahead_request, readahead_wake
from cython.cimports.frontswap.core.uapi import (
    ENOMEM,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    PROT_NONE,
    UFFD_FEATURE_MOVE,
    UFFD_FEATURE_POISON,
    UFFD_FEATURE_SIGBUS,
    UFFD_FEATURE_WP,
    block_signals,
    int64_t,
    load32,
    load64,
    loadi,
    lock,
    mmap,
    restore_signals,
    sigset_t,
    uint32_t,
    uint64_t,
    unlock,
)
from cython.cimports.frontswap.core.uffd import uffd_features, uffd_new
from cython.cimports.frontswap.core.watch import brake_due, watch_begin
from cython.cimports.frontswap.core.zap import pager_zap
from cython.cimports.libc.string import strdup

import frontswap.core.fork  # noqa: F401  its handlers are there before the first array

# Being imported they take the place of libc's functions.
from frontswap.core import arguments, calls, mappings, queues, sockets  # noqa: F401

SIDES = {"sigbus": SIDE_SIGBUS, "thread": SIDE_THREAD, "sigsegv": SIDE_PROTECTION}
WHAT_CATCHES = {"sigbus": "userfaultfd", "thread": "userfaultfd", "sigsegv": "/proc/self/mem"}
ADVICE = {"normal": ADVICE_NORMAL, "random": ADVICE_RANDOM, "sequential": ADVICE_SEQUENTIAL}
# Errors of allocate(), pin() and resize(): a negative number that is no errno.
REFUSED_ADDRESSES: int = NO_ADDRESSES
REFUSED_ALLOCATION: int = NO_ALLOCATION
REFUSED_MEMORY: int = NO_MEMORY
REFUSED_REGISTRATION: int = NO_REGISTRATION  # and an errno
REFUSED_LESS: int = LIMIT_ALLOCATED
REFUSED_PINNED: int = LIMIT_PINNED


def kernel_features() -> dict[str, bool]:
    """What userfaultfd offers to this process; all False where it is forbidden or missing."""
    have: uint64_t = uffd_features()
    return {
        "userfaultfd": have != 0,
        "sigbus": (have & UFFD_FEATURE_SIGBUS) != 0,
        "write_protect": (have & UFFD_FEATURE_WP) != 0,
        "move": (have & UFFD_FEATURE_MOVE) != 0,
        "poison": (have & UFFD_FEATURE_POISON) != 0,
    }


def kernel_access() -> tuple[int, bool]:
    """(0 or the errno with which userfaultfd is refused, True if only faults of user mode may be had)."""
    user_mode: cython.bint = False
    fd: cython.int = uffd_new(cython.address(user_mode))
    if fd < 0:
        return -fd, True
    os.close(fd)
    return 0, user_mode


def protection_access() -> int:
    """0, or the errno with which /proc/self/mem is refused: pages could not be filled while they are PROT_NONE."""
    return memory_try()


class Plane(Hooks):
    """Pager, hooks, zcache and swap file of one Memory, with their threads.

    `keep` is what must live as long as the plane does: the owner of `file`.
    """

    def __cinit__(
        self,
        *,
        limit: int,
        limit_most: int,
        arena: int,
        segment: int,
        max_page: int,
        page: int,
        contexts: int,
        file: int,
        direct: bool,
        directory: bytes,
        allocate: int,
        overcommit: bool,
        faults: str,
        limit_later: int,
        mappings_most: int,
        move: bool,
        huge: int,
        splits_any: bool,
        early: bool,
        keep: object,
    ):
        pg: pager_p = self.pg
        later: int64_t = limit_later
        error: cython.int
        Py_INCREF(keep)
        self.keep = cython.cast(cython.pointer(PyObject), keep)
        pg.limit = limit
        pg.budget = limit
        pg.size = arena
        pg.segment_bytes = segment
        pg.max_page = pg.page_most = max_page
        pg.page = page
        pg.fault_contexts = contexts
        # What a processor clears is less, but for huge pages, and many of them are kept up by the memory.
        pg.touch_rate = 4 * min(len(os.sched_getaffinity(0)), 4)
        pg.direct = direct
        pg.allocate_most = allocate
        pg.overcommit = overcommit
        pg.side = SIDES[faults]
        pg.mappings_share = mappings_most // 2  # the other half is the program's
        pg.use_move = move
        pg.splits_any = splits_any
        pg.use_poison = pg.side != SIDE_PROTECTION and (uffd_features() & UFFD_FEATURE_POISON) != 0
        self.map_tables(limit_most)
        pg.file = pg.files[0] = file
        pg.directory = strdup(directory)
        pg.huge_from = huge
        pg.huge_touches = HUGE_TOUCHES
        pg.buffers = cython.cast(bytes_p, self.map(buffers_bytes(pg) + PAGE_TABLE))
        contexts_make(pg)
        contexts_for(pg, 4096)
        error = region_supported(pg)
        if error:
            raise OSError(error, f"{WHAT_CATCHES[faults]}: {os.strerror(error)}")
        with cython.nogil:
            error = seam_attach(pg, later)
        if error == ENOMEM:
            raise OSError(error, "frontswap: too many mappings")
        if error:
            raise OSError(error, "frontswap: more than 64 Memory objects, or the signal of faults cannot be handled")
        self.open = True
        if early:
            self.register_arena()

    def map_tables(self, limit_most):
        """Reserve the arena and the tables beside it, for limits up to a most; only what is used of them costs RAM."""
        pg: pager_p = self.pg
        arena_pages: uint64_t = pg.size // 4096
        largest: uint64_t = max(pg.max_page, PAGE_TABLE)
        # Pages, and their parts: see parts_place().
        pg.max_pages = cython.cast(uint32_t, min(arena_pages + arena_pages // 2 + 1, 0xFFFFFFF0))
        pg.max_blocks = 2 * cython.cast(uint32_t, min(pg.size >> CHUNK_SHIFT, 1 << 22)) + 2
        pg.max_slots = cython.cast(uint32_t, pg.size // pg.segment_bytes * 5 // 4 + 64)
        pg.ram_slots = cython.cast(uint32_t, limit_most // pg.segment_bytes) * 2 + 16
        # One largest page more than the arena: it starts at a multiple of it, and of a huge page.
        pg.base = cython.cast(uint64_t, self.map(pg.size + largest))
        pg.chunks = cython.cast(cython.pointer(uint32_t), self.map((pg.size >> CHUNK_SHIFT) * 4))
        pg.huge = cython.cast(cython.pointer(uint32_t), self.map((pg.size >> CHUNK_SHIFT) // 8 + 4))
        pg.sums = cython.cast(cython.pointer(uint64_t), self.map(cython.cast(uint64_t, pg.max_pages) * 16))
        pg.gone = cython.cast(cython.pointer(uint32_t), self.map(arena_pages // 8 + 4))
        pg.fixed = cython.cast(cython.pointer(uint32_t), self.map(arena_pages // 8 + 4))
        pg.opened = cython.cast(cython.pointer(uint32_t), self.map(arena_pages // 8 + 4))
        self.map_pages()
        self.map_log()
        pg.zeros = cython.cast(bytes_p, self.map(pg.max_page))
        pg.space.capacity = pg.max_blocks
        pg.space.start = cython.cast(cython.pointer(uint64_t), self.map(pg.max_blocks * 8 + 8))
        pg.space.count = cython.cast(cython.pointer(uint64_t), self.map(pg.max_blocks * 8 + 8))
        pg.base = (pg.base + largest - 1) // largest * largest
        region_prepare(pg)
        pg.space.start[0] = 0
        pg.space.count[0] = pg.size >> CHUNK_SHIFT
        pg.space.n = 1
        return 0

    def register_arena(self) -> None:
        """From now on faults come to us; nothing to do when they do. OSError: it cannot be, and all is as before."""
        pg: pager_p = self.pager()
        error: cython.int
        signals: sigset_t
        with cython.nogil:
            block_signals(cython.address(signals))
            error = arena_register(pg)
            if error == 0:
                arena_trim(pg)
            restore_signals(cython.address(signals))
        if error:
            raise OSError(error, f"registration of the arena: {os.strerror(error)}")

    def least_limit(self) -> int:
        """The least that resize() can do with, by the largest page in use."""
        return limit_least(self.pager())

    def limit_most(self) -> int:
        """The most that resize() can do with at this moment, by the mappings that there are for protected pages."""
        most: int64_t
        pg: pager_p = self.pager()
        with cython.nogil:
            most = seam_limit_most(pg)
        return most

    def resize(self, limit: int, page: int, allocate: int) -> int:
        """Change the limit, the largest page that arrays may have from now on, and `allocate` without a swap file.

        0; or an errno of the swap file or REFUSED_*, and all is as before. It returns when what is used fits, or does
        not leave now.
        """
        pg: pager_p = self.pager()
        c_limit: int64_t = limit
        c_page: uint32_t = page
        c_allocate: int64_t = allocate
        error: cython.int
        signals: sigset_t
        with cython.nogil:
            block_signals(cython.address(signals))
            error = seam_claim(pg, c_limit)
            if error:
                error |= NO_REGISTRATION
            else:
                error = limit_change(pg, c_limit, c_page, c_allocate)
            if error == 0:
                limit_keep(pg)
            restore_signals(cython.address(signals))
        return error

    def watch(self, allocated: int, call: object) -> None:
        """Have `call` called once, by Python's main thread, when so many bytes are allocated; 0: not any more.

        One plane of a process can be watched.
        """
        watch_begin(self.pager(), allocated, call)

    def limit(self) -> int:
        """The limit of this moment, which the brake may have lowered. Not one that is tried, and taken back."""
        pg: pager_p = self.pager()
        signals: sigset_t
        found: int64_t
        with cython.nogil:
            block_signals(cython.address(signals))
            lock(cython.address(pg.arena_lock))
            found = pg.limit
            unlock(cython.address(pg.arena_lock))
            restore_signals(cython.address(signals))
        return found

    def charged(self) -> int:
        """Bytes of RAM that are ours, see limit_charged()."""
        return limit_charged(self.pager())

    def wanted(self) -> int:
        """Bytes of RAM that would be of use: for all that is allocated, and the reserve."""
        pg: pager_p = self.pager()
        return load64(cython.address(pg.allocated)) + pg.loose + pg.spare_bytes + pg.limit - pg.budget

    def present(self) -> int:
        """Bytes of arrays in RAM, as the kernel tells; -1 when the arena is registered, and we know."""
        pg: pager_p = self.pager()
        found: int64_t
        signals: sigset_t
        with cython.nogil:
            block_signals(cython.address(signals))
            found = arena_present(pg)
            restore_signals(cython.address(signals))
        return found

    def allocate(self, size: int, page: int, typesize: int, kind: int) -> tuple[int, int]:
        """(address, 0), or (0, error): an errno of the swap file or REFUSED_*."""
        error: cython.int = 0
        address: uint64_t = 0
        pg: pager_p = self.pager()
        c_size: uint64_t = size
        c_page: uint32_t = page
        c_typesize: cython.int = typesize
        c_kind: cython.int = kind
        with cython.nogil:
            address = arena_allocate(pg, c_size, c_page, c_typesize, c_kind, 0, cython.address(error))
        return address, error

    def free(self, address: int) -> bool:
        """Free an array by its address; False if there is none."""
        pg: pager_p = self.pager()
        at: uint64_t = address
        done: cython.bint
        with cython.nogil:
            done = arena_free(pg, at)
        return done

    def range_of(self, address, length, whole, first, count):
        """The pages of a byte range: those it touches, or those it covers `whole`."""
        pg: pager_p = self.pager()
        number: uint32_t = arena_find(pg, address)
        block: block_p = cython.address(pg.blocks[number])
        start: uint64_t
        end: uint64_t
        page: uint64_t
        if number == 0:
            raise LookupError("the address belongs to no array of this Memory")
        page = cython.cast(uint64_t, 1) << block.shift
        start = address - block.base
        end = start + length
        if end > cython.cast(uint64_t, block.pages) << block.shift:
            raise LookupError("the range leaves its array")
        if whole:
            # The array's last page ends where the array does.
            if end == block.bytes:
                end = cython.cast(uint64_t, block.pages) << block.shift
            start = (start + page - 1) >> block.shift
            end = end >> block.shift
        else:
            start = start >> block.shift
            end = (end + page - 1) >> block.shift
        first[0] = block.first + cython.cast(uint32_t, start)
        count[0] = cython.cast(uint32_t, end - start) if end > start else 0
        return 0

    def owns(self, address: int) -> bool:
        """True if the address lies in an array of this plane."""
        return self.open and arena_find(self.pg, address) != 0

    def page_of(self, address: int) -> int:
        """The page size of the array at an address."""
        return 1 << self.pager().blocks[arena_find(self.pg, address)].shift

    def set_advice(self, address: int, advice: str) -> None:
        """ "normal", "random" or "sequential" for the whole array."""
        pg: pager_p = self.pager()
        array_advise(pg, arena_find(pg, address), ADVICE[advice])

    def zap(self, address: int, length: int) -> int:
        """Drop the pages that the range covers whole: they read as zeros. Pinned ones stay: their number."""
        first: uint32_t = 0
        count: uint32_t = 0
        pinned: uint32_t = 0
        signals: sigset_t
        pg: pager_p
        block: block_p
        start: uint64_t
        self.range_of(address, length, True, cython.address(first), cython.address(count))
        pg = self.pg
        block = cython.address(pg.blocks[arena_find(pg, address)])
        if block.reserved and count:  # what of it is ours, the pieces say
            start = block.base + (cython.cast(uint64_t, first - block.first) << block.shift)
            with cython.nogil:
                dontneed(pg, start, cython.cast(uint64_t, count) << block.shift, True)
            return 0
        with cython.nogil:
            block_signals(cython.address(signals))
            gate_enter(pg)
            pinned = pager_zap(pg, block, first, count, False)
            gate_leave(pg)
            restore_signals(cython.address(signals))
        return pinned

    def evict(self, address: int, length: int) -> int:
        """Evict the pages of the range that are resident and not in use; the number evicted. Registers the arena."""
        first: uint32_t = 0
        count: uint32_t = 0
        i: uint32_t
        done: cython.long = 0
        signals: sigset_t
        self.register_arena()
        self.range_of(address, length, False, cython.address(first), cython.address(count))
        pg: pager_p = self.pg
        with cython.nogil:
            block_signals(cython.address(signals))
            for i in range(count):
                ctx = work_enter(pg)
                done += evict_page(pg, ctx, first + i, first, first + count)
                work_leave(pg, ctx)
            restore_signals(cython.address(signals))
        return done

    def prefetch(self, address: int, length: int) -> int:
        """Queue readahead of the range, at most half of the limit; the number of pages queued.

        None before the arena is registered: nothing is out.
        """
        first: uint32_t = 0
        count: uint32_t = 0
        most: uint64_t
        signals: sigset_t
        self.range_of(address, length, False, cython.address(first), cython.address(count))
        pg: pager_p = self.pg
        if loadi(cython.address(pg.registered)) == 0:
            return 0
        most = (pg.budget // 2) >> pg.blocks[arena_find(pg, address)].shift
        if count > most:
            count = cython.cast(uint32_t, most)
        block_signals(cython.address(signals))
        gate_enter(pg)
        readahead_request(pg, first, count, 0, False)
        readahead_wake(pg)
        gate_leave(pg)
        restore_signals(cython.address(signals))
        return count

    def pin(self, address: int, length: int) -> int:
        """Make the range resident, writable and unevictable: 0, or why not (nothing is pinned then).

        Registers the arena: a page has a state only then.
        """
        first: uint32_t = 0
        count: uint32_t = 0
        i: uint32_t = 0
        result: cython.int = 0
        pg: pager_p
        block: block_p
        signals: sigset_t
        self.register_arena()
        self.range_of(address, length, False, cython.address(first), cython.address(count))
        pg = self.pg
        block = cython.address(pg.blocks[arena_find(pg, address)])
        with cython.nogil:
            block_signals(cython.address(signals))
            while i < count:
                result = pager_pin(pg, block, first + i)
                if result < 0:
                    break
                i += 1
            if result < 0:
                while i > 0:
                    i -= 1
                    pager_unpin(pg, first + i)
            restore_signals(cython.address(signals))
        return result

    def unpin(self, address: int, length: int) -> None:
        """End of pin() on the same range."""
        first: uint32_t = 0
        count: uint32_t = 0
        i: uint32_t
        signals: sigset_t
        self.range_of(address, length, False, cython.address(first), cython.address(count))
        pg: pager_p = self.pg
        with cython.nogil:
            block_signals(cython.address(signals))
            for i in range(count):
                pager_unpin(pg, first + i)
            restore_signals(cython.address(signals))

    def counters(self) -> dict[str, object]:
        """All counters and gauges; names as in Statistics."""
        pg: pager_p = self.pager()
        i: uint32_t
        s: segment_p
        stored: int64_t = 0
        live: int64_t = 0
        swapped: int64_t = 0
        refused: int64_t = 0
        state: uint32_t
        present: int64_t = self.present()
        beside: int64_t = load64(cython.address(pg.beside))
        found = self.hook_counters()
        del found["packed_later_pages"], found["pages_sharing"]  # of areas
        for i in range(1, pg.next_segment):
            s = cython.address(pg.segments[i])
            state = load32(cython.address(s.state))
            if state == SEG_FREE:
                continue
            if s.ram == cython.NULL:
                swapped += loadi(cython.address(s.live))
            elif s.stream != STREAM_POOL:
                refused += s.fill
            else:
                stored += load64(cython.address(s.raw))
                live += loadi(cython.address(s.live))
        found.update(
            limit_bytes=pg.limit,
            reserve_bytes=pg.limit - pg.budget + beside,
            allocated_bytes=pg.allocated,
            registered=present < 0,
            resident_bytes=load64(cython.address(pg.resident)) if present < 0 else present,
            pinned_bytes=load64(cython.address(pg.pinned)),
            pool_bytes=load64(cython.address(pg.pool_bytes)),
            pool_live_bytes=live,
            stored_bytes=stored,
            swapped_bytes=swapped,
            swap_buffer_bytes=refused,
            swap_reserved_bytes=cython.cast(int64_t, pg.slots) * pg.segment_bytes,
            used_bytes=load64(cython.address(pg.used)) - beside if present < 0 else present,
            pressure_level=pressure_of(pg),
            write_budget_left=budget_left(pg),
            frontswap_pages=pages_in_backends(pg),
        )
        return found

    def extents(self) -> dict[str, tuple[int, int]]:
        """(address, length) of arena and pool: what tests look at from outside."""
        pg: pager_p = self.pager()
        return {
            "arena": (pg.base, pg.size),
            "pool": (cython.cast(uint64_t, pg.pool), cython.cast(uint64_t, pg.ram_slots) * pg.segment_bytes),
        }

    @property
    def swap_fd(self) -> int:
        """Descriptor of the swap file, -1 without one."""
        return self.pager().file

    def revive(self) -> bool:
        """In a forked child: start the threads. False: it was being closed at the fork, and is not here."""
        if not self.open or self.pg.forked:
            self.open = False
            self.pg = cython.NULL
            return False
        threads_resume(self.pg)
        loose_resume(self.pg)
        if loadi(cython.address(self.pg.registered)):
            brake_due(self.pg)
        return True

    def close(self) -> None:
        """Stop, and give everything back. Arrays that live on are unmapped: touching them is a SIGSEGV."""
        if self.open:
            self.open = False
            self.tear_down()

    def tear_down(self):
        """Undo __cinit__, as far as it came. The swap file's descriptor is the caller's."""
        pg: pager_p = self.pg
        i: cython.int
        kept: uint64_t = 0
        if pg == cython.NULL:
            return
        # The threads first: an eviction on its way must not find the arena gone.
        self.stop()
        if pg.side == SIDE_PROTECTION:
            # Of what is closed, nothing is lost by being closed for good, and who touches it must not come here.
            with cython.nogil:
                seam_detach(pg)
        if pg.allocated > 0:
            # Then the arena of arrays that live on: an access from now on ends loudly, not in zeros. These
            # addresses are never used again, or the old arrays would see the bytes of new ones.
            kept = pg.base
            mmap(
                cython.cast(cython.p_void, pg.base),
                pg.size,
                PROT_NONE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
                -1,
                0,
            )
        with cython.nogil:
            seam_detach(pg)
        keeper_stop(pg)
        for i in range(MAX_FILES):
            if i > 0 and pg.files[i] >= 0:
                unguard(pg.files[i])
            if pg.held[i] >= 0:
                unguard(pg.held[i])
        for i in range(pg.lease_count):
            unguard(pg.leases[i].fd)
        unguard(pg.fd)
        unguard(pg.stop_fd)
        self.give_back(kept)

    def __dealloc__(self):
        # No array and no thread of the program can reach it any more, or they would hold it. In a forked
        # child there is nothing to stop.
        if self.pg != cython.NULL and not self.pg.forked:
            self.tear_down()
