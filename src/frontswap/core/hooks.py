"""The hooks as the control plane sees them: backends that come and go, and what all doors have in common.

Plane (the memory door) and Areas (swap areas) are hooks. Arguments are checked by the control plane, which also makes
sure that one thread at a time changes the backends.
"""

import os

import cython
from cython.cimports.cpython.ref import Py_CLEAR, Py_INCREF, Py_XDECREF, PyObject
from cython.cimports.frontswap.core.arena import map_memory
from cython.cimports.frontswap.core.brake import brake_stop
from cython.cimports.frontswap.core.budget import budget_set
from cython.cimports.frontswap.core.choice import codec_choice_init
from cython.cimports.frontswap.core.contexts import contexts_forget, pool_share
from cython.cimports.frontswap.core.dedup import alike_bytes, alike_layout
from cython.cimports.frontswap.core.drain import drain_pass, pages_in_backends, shrink_to
from cython.cimports.frontswap.core.gate import gate_enter, gate_leave
from cython.cimports.frontswap.core.layout import (
    COUNTERS,
    DENSE_EMPTY,
    MAX_AREAS,
    MAX_FILES,
    MAX_MAPPINGS,
    MAX_STACKS,
    RECOMPRESS_OFF,
    STACK_ACTIVE,
    STACK_FREE,
    STACK_LEAVING,
    STREAM_DENSE,
    STREAM_POOL,
    backend_p,
    block_t,
    bytes_p,
    page_t,
    pager_p,
    pager_t,
    segment_t,
)
from cython.cimports.frontswap.core.loose import loose_stop
from cython.cimports.frontswap.core.recompress import dense_bytes, dense_layout, recompress_thread
from cython.cimports.frontswap.core.registration import thread_start, threads_stop
from cython.cimports.frontswap.core.seam import seam_closing
from cython.cimports.frontswap.core.segments import segment_close
from cython.cimports.frontswap.core.uapi import (
    backoff,
    block_signals,
    clock_ns,
    int64_t,
    load64,
    loadi,
    lock_time,
    munmap,
    pause_ns,
    pthread_join,
    restore_signals,
    sigset_t,
    store64,
    storei,
    uint32_t,
    uint64_t,
    wake,
)
from cython.cimports.frontswap.core.writeback import pool_relieve, writeback_thread
from cython.cimports.frontswap.core.zcache import pool_has_slots, pressure_share
from cython.cimports.libc.stdlib import calloc, free

from frontswap.core.native import REFUSAL_NAMES
from frontswap.errors import ClosedError

COUNTER_NAMES = (
    "faults",
    "refaults",
    "loads",
    "succ_stores",
    "failed_stores",
    "invalidates",
    "poisoned",
    "first_touches",
    "write_upgrades",
    "evicted_clean",
    "evicted_dirty",
    "evicted_huge",
    "direct_reclaims",
    "same_filled_pages",
    "accepted",  # the place of ACCEPTED among the reasons: always 0
    *("reject_" + name for name in REFUSAL_NAMES),
    "slot_stores",
    "slot_loads",
    "slot_errors",
    "written_back_bytes",
    "cleaned_bytes",
    "recompressed_pages",
    "recompressed_saved_bytes",
    "packed_later_pages",
    "pages_sharing",
    "readaheads",
    "loaded_huge",
    "overshoots",
    "busy_pages",
    "brakes",
    "splits",
    "collapses",
)

if len(COUNTER_NAMES) != COUNTERS:
    raise AssertionError("COUNTER_NAMES does not name every counter")


class Hooks:
    """Pages, backends and counters; put together by its subclasses."""

    def __cinit__(self, *_args, **_settings):
        i: cython.int
        self.pg = cython.cast(pager_p, calloc(1, cython.sizeof(pager_t)))
        if self.pg == cython.NULL:
            raise MemoryError("frontswap: no memory for a pager")
        self.pg.fd = self.pg.file = self.pg.stop_fd = -1
        self.pg.zcache_number = self.pg.codec_kind = -1
        for i in range(MAX_FILES):
            self.pg.files[i] = self.pg.held[i] = -1

    def map(self, length):
        """Private memory that is unmapped with the hooks; an error when the addresses cannot be had."""
        at: cython.p_void
        if self.pg.mappings == MAX_MAPPINGS:
            raise MemoryError("frontswap: too many mappings")
        at = map_memory(length)
        if at == cython.NULL:
            raise MemoryError(f"frontswap: cannot reserve {length} bytes of addresses")
        self.pg.mapped[self.pg.mappings] = cython.cast(uint64_t, at)
        self.pg.lengths[self.pg.mappings] = length
        self.pg.mappings += 1
        return at

    def map_pages(self):
        """Reserve the tables of `max_pages` pages in `max_blocks` blocks; only what is used of them costs RAM."""
        pg: pager_p = self.pg
        pg.pages = cython.cast(
            cython.pointer(page_t), self.map(cython.cast(uint64_t, pg.max_pages) * cython.sizeof(page_t))
        )
        pg.blocks = cython.cast(
            cython.pointer(block_t), self.map(cython.cast(uint64_t, pg.max_blocks) * cython.sizeof(block_t))
        )
        pg.ids.capacity = pg.max_blocks
        pg.ids.start = cython.cast(cython.pointer(uint64_t), self.map(pg.max_blocks * 8 + 8))
        pg.ids.count = cython.cast(cython.pointer(uint64_t), self.map(pg.max_blocks * 8 + 8))
        pg.ids.start[0] = 1  # 0 is "no page" in the queue
        pg.ids.count[0] = pg.max_pages - 1
        pg.ids.n = 1
        return 0

    def map_log(self):
        """Reserve the record log: `ram_slots` segments in RAM, `max_slots` in the swap file."""
        pg: pager_p = self.pg
        pg.max_segments = pg.max_slots + pg.ram_slots + 16
        pg.segments = cython.cast(
            cython.pointer(segment_t),
            self.map(cython.cast(uint64_t, pg.max_segments) * cython.sizeof(segment_t)),
        )
        pg.free_slots = cython.cast(cython.pointer(uint32_t), self.map(cython.cast(uint64_t, pg.max_slots) * 4 + 4))
        pg.slot_taken = cython.cast(cython.pointer(uint32_t), self.map(cython.cast(uint64_t, pg.max_slots) * 12 + 12))
        pg.slot_freed = pg.slot_taken + pg.max_slots
        pg.deferred = pg.slot_freed + pg.max_slots
        pg.free_ram = cython.cast(cython.pointer(uint32_t), self.map(pg.ram_slots * 4))
        pg.pool = cython.cast(bytes_p, self.map(cython.cast(uint64_t, pg.ram_slots) * pg.segment_bytes))
        pg.clean_buffer = cython.cast(bytes_p, self.map(pg.segment_bytes))
        dense_layout(pg, cython.cast(bytes_p, self.map(dense_bytes(pg, pg.max_page))))
        if pg.dedup:
            alike_layout(pg, cython.cast(bytes_p, self.map(alike_bytes(pg))))
        pg.next_segment = 1
        pg.free_ram_n = pg.fresh_ram = 0
        return 0

    def start(self, function):
        """Start a background thread."""
        error: cython.int = thread_start(self.pg, function)
        if error:
            raise OSError(error, "pthread_create: " + os.strerror(error))
        return 0

    def pager(self):
        """The pager; an error when it is closed, since its tables are gone then."""
        if not self.open:
            raise ClosedError("closed, or of the parent process of a fork")
        return self.pg

    def stop(self):
        """End the threads; no fault may be on its way."""
        pg: pager_p = self.pg
        turn: cython.int = 0
        with cython.nogil:
            seam_closing(pg)
            brake_stop(pg)
            loose_stop(pg)
            threads_stop(pg)
            while loadi(cython.address(pg.inflight)) != 0:
                backoff(turn)
                turn += 1

    def unmap(self, first, kept):
        """Give back the mappings from number `first` on, but for the one that contains `kept` (0: none)."""
        i: cython.int
        for i in range(first, self.pg.mappings):
            if not kept or not self.pg.mapped[i] <= kept < self.pg.mapped[i] + self.pg.lengths[i]:
                munmap(cython.cast(cython.p_void, self.pg.mapped[i]), self.pg.lengths[i])
        self.pg.mappings = first

    def give_back(self, kept):
        """The end of hooks whose threads have ended: stacks, mappings but that of `kept`, the pager."""
        pg: pager_p = self.pg
        number: cython.int
        for number in range(MAX_STACKS):
            if self.natives[number] != cython.NULL:
                cython.cast(Native, self.natives[number]).detach()
                Py_CLEAR(self.natives[number])
        self.policy_clear()
        self.unmap(0, kept)
        self.pg = cython.NULL
        free(pg.directory)
        free(pg)

    def __dealloc__(self):
        # Subclasses come first. What is here still: __cinit__ has failed early, or this is a forked child.
        if self.pg != cython.NULL and not self.pg.forked:
            self.give_back(0)
        Py_XDECREF(self.keep)

    # --- backends ----------------------------------------------------------------------------------------------------

    def pool_open(self, size, segment):
        """Make the pool of a zcache in front of swap areas: `size` bytes of RAM at most."""
        pg: pager_p = self.pg
        pg.limit = pg.budget = size
        pg.pool_soft = pg.pool_target = size - size // 16
        pg.pool_hard = size
        pg.segment_bytes = cython.cast(uint32_t, segment)
        pg.ram_slots = cython.cast(uint32_t, size // segment) + 3
        pg.next_segment = pg.free_segment = pg.oldest = pg.newest = pg.warm_n = 0
        pg.open_segment[0] = pg.open_segment[1] = pg.open_segment[2] = pg.open_segment[3] = 0
        pg.pool_bytes = pg.used = 0
        pg.dense_end = pg.dense_segment = pg.dense_page = 0
        pg.dense_charged = 0
        pg.dense_turn = DENSE_EMPTY
        pg.dense_staged = pg.dense_runs = 0
        pg.dense_length = 0
        pg.dense_alike = 0
        pg.due_n = 0
        pg.dense_again = pg.dense_faded = 0
        contexts_forget(pg)
        pg.staged = 0
        pg.pool_closing = 0
        self.pool_mappings = self.pg.mappings
        try:
            self.map_log()
            self.start(writeback_thread)
            self.start(recompress_thread)
        except BaseException:
            self.pool_stop()
            self.unmap(self.pool_mappings, 0)
            raise
        return 0

    def pool_stop(self):
        """End the threads of a pool in front of swap areas, those that have been started."""
        pg: pager_p = self.pg
        with cython.nogil:
            pg.pool_closing = 1
            wake(cython.address(pg.writeback_event))
            wake(cython.address(pg.dense_event))
            while pg.thread_count:
                pg.thread_count -= 1
                pthread_join(pg.threads[pg.thread_count], cython.NULL)
        return 0

    def pool_close(self):
        """Take it apart; no page has a record any more."""
        pg: pager_p = self.pg
        self.pool_stop()
        self.unmap(self.pool_mappings, 0)
        pg.segments = cython.NULL
        pg.pool = cython.NULL
        pg.max_segments = pg.next_segment = pg.ram_slots = 0

    def policy_set(self, make):
        """Make the policy of a pool; `make(pages)`, None: none."""
        if make is None:
            return 0
        from frontswap.core.plug import plug
        from frontswap.policies.arrays import apart

        with apart(inherited=self.pg.areas == cython.NULL):
            policy = make(self.pg.max_pages)
        plug(self, policy)
        Py_INCREF(policy)
        self.policy = cython.cast(cython.pointer(PyObject), policy)
        return 0

    def policy_clear(self):
        """Its pool has no pages, and no thread."""
        self.pg.policy.of = cython.NULL
        Py_CLEAR(self.policy)

    def register(
        self,
        native: Native,
        size: int = 0,
        segment: int = 0,
        codec: int = -1,
        recompress: int = 0,
        staging: int = 0,
        dedup: bool = False,
        make_policy: object = None,
    ) -> int:
        """Put a stack behind the others; its number, or -1: no place is free, -2: there is a zcache already.

        For a zcache: `size` of its pool (0: the Memory's share), `segment` of the pool in front of swap areas, `codec`
        for all pages (-1: chosen by sampling), `recompress` is RECOMPRESS_*; `make_policy(pages)`, a Policy that knows
        so many, None: the oldest segment leaves, or the coldest. In front of swap areas: `staging` bytes of pages as
        they are, at most; `dedup`: identical pages share their bytes.
        """
        pg: pager_p = self.pager()
        number: cython.int = 0
        bottom: Native = native
        layer: backend_p
        type: uint32_t
        order: uint64_t
        shift: cython.int = 0
        while number < MAX_STACKS and loadi(cython.address(pg.stack_state[number])) != STACK_FREE:
            number += 1
        if number == MAX_STACKS:
            return -1
        while bottom.lower is not None:
            bottom = bottom.lower
        if bottom.is_zcache and pg.zcache_number >= 0:
            return -2
        try:
            native.attach(pg, number)
            if bottom.is_zcache:
                pg.recompress = recompress  # its thread goes by it
                pg.staging = staging if pg.areas != cython.NULL else 0
                pg.dedup = dedup and pg.areas != cython.NULL
            if bottom.is_zcache:
                self.policy_set(make_policy)
                if pg.areas != cython.NULL:
                    self.pool_open(size, segment)
        except BaseException:
            native.detach()
            if bottom.is_zcache:
                self.policy_clear()
            pg.recompress = pg.recompress if pg.zcache_number >= 0 else RECOMPRESS_OFF
            raise
        if bottom.is_zcache:
            pg.zcache_number = number
            pg.codec_kind = codec
            # What areas and arrays have learnt is of another codec; it is a hint, which may change at any time.
            for type in range(1, pg.used_blocks + 1):
                if (pg.blocks[type].live or pg.blocks[type].whole) and (codec >= 0 or pg.areas != cython.NULL):
                    codec_choice_init(cython.address(pg.blocks[type].choice), 0, codec)
            if pg.areas == cython.NULL:
                pg.pool_most = size
                pool_share(pg)
        Py_INCREF(native)
        self.natives[number] = cython.cast(cython.pointer(PyObject), native)
        pg.stacks[number] = cython.address(native.b)
        pg.stack_pages[number] = pg.stack_bytes[number] = 0
        layer = cython.address(native.b)
        while layer != cython.NULL:
            if layer.refault != cython.NULL:
                storei(cython.address(pg.refaults_wanted), loadi(cython.address(pg.refaults_wanted)) + 1)
            if layer.init != cython.NULL and pg.areas != cython.NULL:
                for type in range(1, MAX_AREAS):
                    if pg.blocks[type].live:
                        layer.init(layer, pg, type)
            layer = layer.lower
        storei(cython.address(pg.stack_state[number]), STACK_ACTIVE)
        order = cython.cast(uint64_t, load64(cython.address(pg.order)))
        while (order >> shift) & 255:
            shift += 8
        store64(cython.address(pg.order), cython.cast(int64_t, order | (cython.cast(uint64_t, number + 1) << shift)))
        return number

    def number_of(self, native):
        """The number of a stack, -1 if it is not behind these hooks."""
        n: cython.int
        for n in range(MAX_STACKS):
            if self.natives[n] == cython.cast(cython.pointer(PyObject), native):
                return n
        return -1

    def has(self, native: Native) -> bool:
        """Is this stack behind the hooks?"""
        return self.number_of(native) >= 0

    def unregister(self, native: Native, seconds: float) -> int:
        """Take a stack out: it gets no more stores, and its pages leave. 0: it is gone, or was.

        Else how many pages are left after `seconds`, or when none of them can leave: it is offered pages again.
        """
        pg: pager_p = self.pager()
        n: cython.int = self.number_of(native)
        left: int64_t = 0
        done: int64_t
        until: int64_t = clock_ns() + cython.cast(int64_t, seconds * 1e9)
        turn: cython.int = 0
        idle: cython.int = 0
        signals: sigset_t
        if n < 0:
            return 0
        if pg.areas == cython.NULL and pg.file < 0 and load64(cython.address(pg.stack_pages[n])) != 0:
            # Nothing could leave, and while it refuses stores a fault that needs room would find none: SIGBUS.
            return load64(cython.address(pg.stack_pages[n]))
        storei(cython.address(pg.stack_state[n]), STACK_LEAVING)
        with cython.nogil:
            # State first, users then: see BACKENDS COME AND GO in layout.pxd.
            while loadi(cython.address(pg.stack_users[n])) != 0 and clock_ns() < until:
                backoff(turn)
                turn += 1
            while load64(cython.address(pg.stack_pages[n])) != 0 and clock_ns() < until and idle < 20:
                if pg.areas == cython.NULL:
                    block_signals(cython.address(signals))
                done = drain_pass(pg, n, until)
                if pg.areas == cython.NULL:
                    restore_signals(cython.address(signals))
                # What has not left may be in the hands of somebody who lets go in a moment.
                idle = 0 if done else idle + 1
                if idle:
                    pause_ns(1000000)
            # Pages first, users then: a store that has taken the last page away is a user still.
            left = load64(cython.address(pg.stack_pages[n]))
            turn = 0
            while loadi(cython.address(pg.stack_users[n])) != 0 and clock_ns() < until:
                backoff(turn)
                turn += 1
            left += loadi(cython.address(pg.stack_users[n]))
            if left:
                # Before the GIL is taken: a thread that waits for room may hold it.
                storei(cython.address(pg.stack_state[n]), STACK_ACTIVE)
        if left:
            return left
        self.release(n)
        return 0

    def release(self, number):
        """Forget a stack that has no pages."""
        pg: pager_p = self.pg
        native: Native = cython.cast(Native, self.natives[number])
        layer: backend_p = pg.stacks[number]
        order: uint64_t = cython.cast(uint64_t, load64(cython.address(pg.order)))
        kept: uint64_t = 0
        shift: cython.int = 0
        turn: cython.int = 0
        while order:
            if cython.cast(cython.int, order & 255) != number + 1:
                kept |= (order & 255) << shift
                shift += 8
            order >>= 8
        store64(cython.address(pg.order), cython.cast(int64_t, kept))
        # Who has read the old order may count himself, see LEAVING and go: not after the stack is free for another.
        while loadi(cython.address(pg.stack_users[number])) != 0:
            backoff(turn)
            turn += 1
        while layer != cython.NULL:
            if layer.refault != cython.NULL:
                storei(cython.address(pg.refaults_wanted), loadi(cython.address(pg.refaults_wanted)) - 1)
            layer = layer.lower
        if pg.zcache_number == number:
            pg.zcache_number = -1
            pg.recompress = RECOMPRESS_OFF
            pg.staging = 0
            pg.dedup = 0
            if pg.areas != cython.NULL:
                self.pool_close()
            else:
                gate_enter(pg)
                segment_close(pg, STREAM_POOL)  # dead, and charged still
                segment_close(pg, STREAM_DENSE)
                gate_leave(pg)
                self.set_write_budget(0, 1)
            self.policy_clear()
        pg.stacks[number] = cython.NULL
        storei(cython.address(pg.stack_state[number]), STACK_FREE)
        native.detach()
        Py_CLEAR(self.natives[number])

    def writethrough(self, on: bool) -> None:
        """From now on stores go to the backend and to the slot (swap areas only)."""
        storei(cython.address(self.pager().writethrough), 1 if on else 0)

    def exclusive_loads(self, on: bool) -> None:
        """From now on a load takes the page out of its backend."""
        storei(cython.address(self.pager().exclusive), 1 if on else 0)

    def pressure(self, level: int) -> int:
        """Tell every native layer, and shed what zcache may not keep; bytes of its pool that could not go."""
        pg: pager_p = self.pager()
        number: cython.int
        c_level: cython.int = level
        layer: backend_p
        signals: sigset_t
        over: int64_t = 0
        for number in range(MAX_STACKS):
            layer = pg.stacks[number]
            while layer != cython.NULL:
                if layer.pressure != cython.NULL:
                    layer.pressure(layer, pg, c_level)
                layer = layer.lower
        if pg.zcache_number >= 0:
            with cython.nogil:
                if pg.areas == cython.NULL:
                    block_signals(cython.address(signals))
                over = pool_relieve(pg)
                if pg.areas == cython.NULL:
                    restore_signals(cython.address(signals))
        if pg.zcache_number >= 0 and not pool_has_slots(pg):
            over = load64(cython.address(pg.pool_bytes)) - pressure_share(pg.pool_soft, c_level)
            return over if over > 0 else 0
        return over

    def shrink(self, pages: int, seconds: float) -> int:
        """Reduce the pages in backends to `pages`, if there is room elsewhere (frontswap_shrink); how many left."""
        pg: pager_p = self.pager()
        target: int64_t = pages
        until: int64_t = clock_ns() + cython.cast(int64_t, seconds * 1e9)
        done: int64_t
        signals: sigset_t
        with cython.nogil:
            if pg.areas == cython.NULL:
                block_signals(cython.address(signals))
            done = shrink_to(pg, target, until)
            if pg.areas == cython.NULL:
                restore_signals(cython.address(signals))
        return done

    def curr_pages(self) -> int:
        """Pages that backends have (frontswap_curr_pages)."""
        return pages_in_backends(self.pager())

    def stack_pages(self, native: Native) -> tuple[int, int]:
        """(pages, bytes uncompressed) that one stack has."""
        pg: pager_p = self.pager()
        n: cython.int = self.number_of(native)
        if n < 0:
            return 0, 0
        return load64(cython.address(pg.stack_pages[n])), load64(cython.address(pg.stack_bytes[n]))

    def has_file(self) -> bool:
        """Is there a swap file?"""
        return self.pager().file >= 0

    def set_write_budget(self, size: int, period: int) -> None:
        """Bytes that may be written to the swap file in each period of so many nanoseconds; 0: as many as it takes."""
        pg: pager_p = self.pager()
        c_size: int64_t = size
        c_period: int64_t = period
        signals: sigset_t
        with cython.nogil:
            block_signals(cython.address(signals))
            budget_set(pg, c_size, c_period)
            restore_signals(cython.address(signals))

    def skip_time(self, nanoseconds: int) -> None:
        """Push the clock that filters and the write budget see forward."""
        pg: pager_p = self.pager()
        store64(cython.address(pg.clock_skew), load64(cython.address(pg.clock_skew)) + nanoseconds)

    def hook_counters(self) -> dict[str, int]:
        """All counters by name."""
        pg: pager_p = self.pager()
        found = {name: load64(cython.address(pg.counters[i])) for i, name in enumerate(COUNTER_NAMES)}
        del found["accepted"]
        return found

    def lock_times(self) -> dict[str, list[int]]:
        """How long each lock was held: counts by the bits of the nanoseconds, the longest last.

        Empty unless the core was compiled with -DFS_LOCK_TIMES (bench/locks.py does).
        """
        pg: pager_p = self.pager()
        if lock_time(cython.address(pg.log_lock), 0) < 0:
            return {}
        return {
            "queue_lock": times_of(cython.address(pg.queue_lock)),
            "request_lock": times_of(cython.address(pg.request_lock)),
            "log_lock": times_of(cython.address(pg.log_lock)),
            "arena_lock": times_of(cython.address(pg.arena_lock)),
        }


def times_of(of):
    """What one lock has measured."""
    return [lock_time(of, i) for i in range(64)] + [lock_time(of, -1)]
