"""Swap areas: pages without addresses, each with a slot of its own; the hooks for who brings pages himself.

What is done with a page is in areapages.py.
"""

import os

import cython
from cython.cimports.cpython.buffer import (
    PyBUF_SIMPLE,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cython.cimports.cpython.bytes import PyBytes_FromStringAndSize
from cython.cimports.cpython.ref import Py_CLEAR, Py_INCREF, PyObject
from cython.cimports.frontswap.core.areapages import (
    IN_BACKEND_STILL,
    LOAD_GONE,
    LOAD_POISONED,
    area_empty,
    area_invalidate,
    area_leave,
    area_load,
    area_store,
    area_store_many,
    area_used,
)
from cython.cimports.frontswap.core.choice import codec_choice_init
from cython.cimports.frontswap.core.contexts import (
    buffers_bytes,
    context_give,
    context_take,
    contexts_for,
    contexts_make,
    contexts_open,
)
from cython.cimports.frontswap.core.extents import NOWHERE, extent_give, extent_take
from cython.cimports.frontswap.core.layout import (
    A_POOL_BYTES,
    MAX_AREAS,
    MAX_STACKS,
    NONE,
    OUT,
    PAGE_TABLE,
    RECOMPRESS_OFF,
    SLOT,
    STREAM_POOL,
    area_p,
    area_t,
    backend_p,
    block_p,
    bytes_p,
    page_t,
    pager_p,
)
from cython.cimports.frontswap.core.record import load_cause
from cython.cimports.frontswap.core.shed import area_reclaim, page_own
from cython.cimports.frontswap.core.uapi import (
    EIO,
    ENOENT,
    ENOSPC,
    addi,
    backoff,
    clock_ns,
    int32_t,
    int64_t,
    load64,
    loadi,
    lock,
    store32,
    store64,
    storei,
    uint8_t,
    uint32_t,
    uint64_t,
    unlock,
)
from cython.cimports.libc.string import memset

from frontswap.errors import ClosedError, ExclusiveLoadError, PageLostError, ParameterError, SlotError

AREA_COUNTERS = (
    "loads",
    "succ_stores",
    "failed_stores",
    "invalidates",
    "slot_stores",
    "slot_loads",
    "poisoned",
    "written_back_pages",
    "curr_pages",
    "pool_bytes",
)
CLOSED_TURNS = cython.declare(cython.int, 2000)  # of backoff(): 0.1 s at least
CLOSED_MOST = cython.declare(int64_t, 10_000_000_000)  # nanoseconds
RECLAIM_STEP = cython.declare(int64_t, 50_000_000)  # nanoseconds


class Areas(Hooks):
    """Swap areas behind one set of hooks. Types are numbers from 0, offsets are pages."""

    def __cinit__(self, *, contexts: int, pages: int):
        """`contexts`: operations that run at a time, others wait; `pages`: of all areas together, at most."""
        pg: pager_p = self.pg
        pg.max_page = 2 << 20
        pg.fault_contexts = contexts
        pg.max_blocks = MAX_AREAS + 1
        pg.max_pages = pages + 1
        pg.areas = cython.cast(area_p, self.map((MAX_AREAS + 1) * cython.sizeof(area_t)))
        self.map_pages()
        pg.map = cython.cast(cython.pointer(uint32_t), self.map((pages // 32 + 2) * 4))
        pg.buffers = cython.cast(bytes_p, self.map(buffers_bytes(pg) + PAGE_TABLE))
        contexts_make(pg)
        self.open = True

    def swapon(
        self,
        pages: int,
        room: int,
        page: int,
        slots: object,
        fd: int,
        direct: bool,
        zeroing: int,
        typesize: int,
        quota: int = -1,
        weight: int = -1,
    ) -> int:
        """A new area, empty; its type | serial << 8, or -1: no type, -2: no room for so many pages.

        `room`: pages that it may be resized to; they cost nothing until they are used. `slots` owns `fd`, and lives
        until nothing can be written to it any more. `zeroing`, `quota` and `weight`: see area_t; no weight (-1) counts
        as 1, and weights are asked for as soon as some area has been given one.
        """
        pg: pager_p = self.pager()
        number: uint32_t = 1
        first: uint64_t
        shift: cython.int = 12
        block: block_p
        area: area_p
        layer: backend_p
        i: cython.int
        while number < MAX_AREAS and pg.blocks[number].pages:
            number += 1
        if number == MAX_AREAS:
            return -1
        while (1 << shift) < page:
            shift += 1
        contexts_for(pg, page)
        lock(cython.address(pg.arena_lock))
        first = extent_take(cython.address(pg.ids), room, 32)
        unlock(cython.address(pg.arena_lock))
        if first == NOWHERE:
            return -2
        block = cython.address(pg.blocks[number])
        area = cython.address(pg.areas[number])
        memset(block, 0, cython.sizeof(block[0]))
        memset(cython.address(area.counters[0]), 0, cython.sizeof(area.counters))
        area.stopped = area.closed = 0
        area.most = pages
        area.fd = fd
        area.direct = direct
        area.zeroing = zeroing
        area.quota = -1
        area.weighted = False
        area.hand = area.misses = 0
        self.share(number, quota, weight)
        Py_INCREF(slots)
        self.kept[number] = cython.cast(cython.pointer(PyObject), slots)
        block.first = cython.cast(uint32_t, first)
        block.pages = pages
        block.room = room
        block.bytes = cython.cast(uint64_t, pages) << shift
        block.shift = cython.cast(uint8_t, shift)
        codec_choice_init(cython.address(block.choice), typesize, pg.codec_kind)
        if number > pg.used_blocks:
            pg.used_blocks = number
        pg.serial += 1
        store32(cython.address(block.serial), pg.serial)
        for i in range(MAX_STACKS):
            layer = pg.stacks[i]
            while layer != cython.NULL:
                if layer.init != cython.NULL:
                    layer.init(layer, pg, number)
                layer = layer.lower
        store32(cython.address(block.live), 1)
        return (number - 1) | cython.cast(cython.longlong, pg.serial) << 8

    def room(self) -> int:
        """Pages that one more area may have at most, now."""
        pg: pager_p = self.pager()
        most: uint64_t = 0
        start: uint64_t
        skipped: uint64_t
        i: uint32_t
        lock(cython.address(pg.arena_lock))
        for i in range(pg.ids.n):
            start = pg.ids.start[i]
            skipped = (32 - start % 32) % 32  # swapon() takes them so
            if pg.ids.count[i] > skipped + most:
                most = pg.ids.count[i] - skipped
        unlock(cython.address(pg.arena_lock))
        return most

    def share(self, number, quota, weight):
        """What an area may have of zcache from now on, see swapon()."""
        area: area_p = cython.address(self.pg.areas[number])
        self.pg.quotas += (quota >= 0) - (area.quota >= 0)
        self.pg.weights += (weight >= 0) - (area.weighted != 0)
        store64(cython.address(area.quota), quota)
        storei(cython.address(area.weight), 1 if weight < 0 else weight)
        area.weighted = weight >= 0
        return 0

    def set_shares(self, type: object, serial: object, quota: int, weight: int) -> None:
        """share() of an area that is on. What it has above a lower quota stays until more is stored, or reclaim()."""
        number: uint32_t = self.enter(type, serial, 0)
        self.share(number, quota, weight)
        area_leave(self.pg, number)

    def swapoff(self, type: int) -> None:
        """Take an area away with all its pages. Waits for operations on their way."""
        pg: pager_p = self.pager()
        number: uint32_t = type + 1
        block: block_p = cython.address(pg.blocks[number])
        area: area_p = cython.address(pg.areas[number])
        layer: backend_p
        turn: cython.int = 0
        i: cython.int
        store32(cython.address(block.live), 0)
        with cython.nogil:
            while loadi(cython.address(area.users)) != 0:
                backoff(turn)
                turn += 1
            area_empty(pg, number)
        for i in range(MAX_STACKS):
            layer = pg.stacks[i]
            while layer != cython.NULL:
                if layer.forget_area != cython.NULL:
                    layer.forget_area(layer, pg, number)
                layer = layer.lower
        lock(cython.address(pg.arena_lock))
        extent_give(cython.address(pg.ids), block.first, block.room)
        unlock(cython.address(pg.arena_lock))
        block.pages = 0
        self.share(number, -1, -1)
        area.fd = -1
        Py_CLEAR(self.kept[number])

    def resize(self, type: object, serial: object, pages: int) -> int:
        """Give an area another number of pages, `room` at most; 0, or how many that it would lose are in use: it stays.

        Losing pages needs a moment in which no operation is on its way, so that none finds a page of the area where
        there is none any more: who enters waits, and so do we, for those that are in; -1: they do not end. enter()
        needs the GIL, which we have from the last look at `users` on.
        """
        number: uint32_t = self.enter(type, serial, 0)
        pg: pager_p = self.pg
        block: block_p = cython.address(pg.blocks[number])
        area: area_p = cython.address(pg.areas[number])
        wanted: uint32_t = pages
        turn: cython.int = 0
        used: int64_t = 0
        until: int64_t
        alone: cython.bint = False
        if wanted < block.pages:
            until = clock_ns() + CLOSED_MOST
            storei(cython.address(area.closed), 1)
            while not alone and clock_ns() < until:
                with cython.nogil:
                    while loadi(cython.address(area.users)) != 1 and clock_ns() < until:  # our own
                        backoff(turn)
                        turn += 1
                alone = loadi(cython.address(area.users)) == 1
            used = area_used(pg, number, wanted) if alone else -1
        if used == 0:
            block.bytes = cython.cast(uint64_t, wanted) << block.shift
            store32(cython.address(block.pages), wanted)
            if wanted > area.most:
                area.most = wanted
        storei(cython.address(area.closed), 0)
        area_leave(pg, number)
        return used

    # --- the hooks -----------------------------------------------------------------------------------------------

    def enter(self, type, serial, offset):
        """Begin an operation on an area that is on; its block. area_leave() ends it, and swapoff waits for that.

        All that is looked at here, with the GIL held, stays as it is until then: another area of this type, with fewer
        or larger pages, cannot come meanwhile. `serial`: of the area that is meant, 0: whatever has this type now.
        """
        pg: pager_p = self.pager()
        turn: cython.int = 0
        # Or resize() would wait for ever, as some thread is always in. Not for ever either: a backend in Python may ask
        # from inside of an operation that it waits for. (With the GIL each time: all of it may have been closed.)
        while turn < CLOSED_TURNS and 0 <= type < MAX_AREAS - 1 and loadi(cython.address(pg.areas[type + 1].closed)):
            with cython.nogil:
                backoff(turn)
            turn += 1
            pg = self.pager()
        if serial != 0 and not (pg.blocks[type + 1].live and pg.blocks[type + 1].serial == serial):
            raise ClosedError("this swap area is off")
        if not 0 <= type < MAX_AREAS - 1 or not pg.blocks[type + 1].live:
            raise ParameterError("type", type, "the type of a swap area that is on")
        if not 0 <= offset < pg.blocks[type + 1].pages:
            raise ParameterError("offset", offset, f"0 to {pg.blocks[type + 1].pages - 1} in area {type}")
        addi(cython.address(pg.areas[type + 1].users), 1)
        return type + 1

    def enter_many(self, type, serial, offsets):
        """enter() for a batch, all of whose offsets must be pages of the area."""
        number: uint32_t = self.enter(type, serial, 0)
        i: int64_t
        for i in range(offsets.shape[0]):
            if offsets[i] >= self.pg.blocks[number].pages:
                area_leave(self.pg, number)
                raise ParameterError("offsets", offsets[i], f"0 to {self.pg.blocks[number].pages - 1} in area {type}")
        return number

    def view(self, number, parameter, buffer, pages, writable, view):
        """Get at the bytes of `pages` pages; ParameterError if they are not what the area takes."""
        size: int64_t = cython.cast(int64_t, pages) << self.pg.blocks[number].shift
        try:
            PyObject_GetBuffer(buffer, view, PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
        except (BufferError, ValueError, TypeError) as error:
            kind = "a writable" if writable else "a"
            raise ParameterError(parameter, buffer.__class__.__name__, f"{kind} contiguous buffer ({error})") from None
        if view.len != size:
            given = view.len
            PyBuffer_Release(view)
            raise ParameterError(parameter, f"{given} bytes", f"{size} bytes: {pages} pages of the area")
        return 0

    def store(self, type: object, serial: object, offset: object, page: object) -> bool:
        """True: a backend has the page; False: all refused it (or there is none), and it is in its slot."""
        number: uint32_t = self.enter(type, serial, offset)
        at: uint32_t
        view: Py_buffer
        pg: pager_p = self.pg
        result: cython.int
        try:
            at = offset
            self.view(number, "page", page, 1, False, cython.address(view))
            with cython.nogil:
                result = area_store(pg, number, at, cython.cast(bytes_p, view.buf))
            PyBuffer_Release(cython.address(view))
            if result < 0:
                self.store_failed(number, type, offset, -result)
            return result == 1
        finally:
            area_leave(pg, number)

    def load(self, type: object, serial: object, offset: object, into: object) -> bool:
        """True: a backend has given the page; False: it is from its slot, or zeros when it was never stored."""
        number: uint32_t = self.enter(type, serial, offset)
        at: uint32_t
        view: Py_buffer
        pg: pager_p = self.pg
        result: cython.int
        error: cython.int = 0
        try:
            at = offset
            self.view(number, "into", into, 1, True, cython.address(view))
            with cython.nogil:
                ctx = context_take(pg)
                result = area_load(pg, ctx, number, at, 0, cython.cast(bytes_p, view.buf), cython.address(error))
                context_give(ctx)
            PyBuffer_Release(cython.address(view))
            if result < 0:
                self.load_failed(type, offset, error)
            return result == 1
        finally:
            area_leave(pg, number)

    def invalidate_page(self, type: object, serial: object, offset: object) -> bool:
        """Drop a page: it reads as zeros. True if a backend had it."""
        number: uint32_t = self.enter(type, serial, offset)
        at: uint32_t
        pg: pager_p = self.pg
        held: cython.bint
        try:
            at = offset
            with cython.nogil:
                held = area_invalidate(pg, number, at)
            return held
        finally:
            area_leave(pg, number)

    def invalidate_area(self, type: object, serial: object) -> None:
        """Drop all pages of an area; it stays on."""
        number: uint32_t = self.enter(type, serial, 0)
        pg: pager_p = self.pg
        with cython.nogil:
            area_empty(pg, number)
        area_leave(pg, number)

    def store_many(
        self,
        type: object,
        serial: object,
        offsets: cython.const[uint32_t][::1],
        order: cython.const[int64_t][::1],
        pages: object,
        results: int32_t[::1],
    ) -> None:
        """Store pages that lie one after the other; `order` sorts the offsets, which are all different.

        `results` gets 1 (in a backend), 0 (in its slot) or -errno for each. Nobody else may know the arrays.
        """
        number: uint32_t = self.enter_many(type, serial, offsets)
        n: int64_t = offsets.shape[0]
        view: Py_buffer
        pg: pager_p = self.pg
        try:
            self.view(number, "pages", pages, n, False, cython.address(view))
            if n:
                with cython.nogil:
                    area_store_many(
                        pg,
                        number,
                        cython.address(offsets[0]),
                        cython.address(order[0]),
                        n,
                        cython.cast(bytes_p, view.buf),
                        cython.address(results[0]),
                    )
            PyBuffer_Release(cython.address(view))
        finally:
            area_leave(pg, number)

    def load_many(
        self,
        type: object,
        serial: object,
        offsets: cython.const[uint32_t][::1],
        into: object,
        results: int32_t[::1],
    ) -> None:
        """Load pages one after the other into a buffer; results as of store_many."""
        number: uint32_t = self.enter_many(type, serial, offsets)
        n: int64_t = offsets.shape[0]
        i: int64_t
        size: uint64_t = cython.cast(uint64_t, 1) << self.pg.blocks[number].shift
        view: Py_buffer
        pg: pager_p = self.pg
        error: cython.int = 0
        try:
            self.view(number, "into", into, n, True, cython.address(view))
            with cython.nogil:
                ctx = context_take(pg)
                for i in range(n):
                    results[i] = area_load(
                        pg, ctx, number, offsets[i], 0, cython.cast(bytes_p, view.buf) + i * size, cython.address(error)
                    )
                    if error:
                        results[i] = -error if error > 0 else -ENOENT if error == LOAD_GONE else -EIO
                context_give(ctx)
            PyBuffer_Release(cython.address(view))
        finally:
            area_leave(pg, number)

    def invalidate_many(
        self, type: object, serial: object, offsets: cython.const[uint32_t][::1], results: int32_t[::1]
    ) -> None:
        """Drop pages; results: 1 if a backend had it, else 0."""
        number: uint32_t = self.enter_many(type, serial, offsets)
        n: int64_t = offsets.shape[0]
        i: int64_t
        pg: pager_p = self.pg
        with cython.nogil:
            for i in range(n):
                results[i] = area_invalidate(pg, number, offsets[i])
        area_leave(pg, number)

    def store_failed(self, number, type, offset, error):
        """Say why a page could not be kept."""
        where = f"type {type}, offset {offset}"
        if error > IN_BACKEND_STILL:
            error -= IN_BACKEND_STILL
            raise SlotError(
                error,
                f"{where}: writethrough: the slot cannot be written: {os.strerror(error)}; the backend has the page",
            )
        lost = "the page is lost: loading it is an error until it is stored again"
        if error == ENOSPC and self.pg.areas[number].fd < 0:
            raise SlotError(
                error, f"{where}: every backend refused the page, and the area has no slots (swap=None); {lost}"
            )
        raise SlotError(error, f"{where}: the slot cannot be written: {os.strerror(error)}; {lost}")

    def load_failed(self, type, offset, error):
        """Say why a page cannot be had."""
        where = f"type {type}, offset {offset}"
        if error == LOAD_GONE:
            raise ExclusiveLoadError(f"{where}: an exclusive load took the page; who loaded it has the only copy")
        if error > 0:
            raise SlotError(error, f"{where}: the slot cannot be read: {os.strerror(error)}")
        why = "it was lost before" if error == LOAD_POISONED else load_cause(error).decode()
        raise PageLostError(EIO, f"{where}: page lost: {why}")

    # --- state ---------------------------------------------------------------------------------------------------

    def slots_have(self, type: object, serial: object, first: int, pages: int) -> None:
        """The slots of these pages have bytes that count: those of a base that was written through before."""
        number: uint32_t = self.enter(type, serial, first)
        self.enter(type, serial, first + pages - 1)
        pg: pager_p = self.pg
        page: uint32_t
        state: uint32_t
        for page in range(pg.blocks[number].first + first, pg.blocks[number].first + first + pages):
            state = page_own(pg, page)
            if state == NONE:
                pg.pages[page].block = number
                state = OUT | SLOT
            store32(cython.address(pg.pages[page].state), state)
        area_leave(pg, number)
        area_leave(pg, number)

    def used_pages(self, type: object, serial: object) -> int:
        """Pages of an area that do not read as zeros because nothing was ever stored: in a backend, a slot, or lost."""
        number: uint32_t = self.enter(type, serial, 0)
        pg: pager_p = self.pg
        found: int64_t
        with cython.nogil:
            found = area_used(pg, number, 0)
        area_leave(pg, number)
        return found

    def set_stopped(self, type: object, serial: object, stopped: bool) -> None:
        """Send nothing to the backends any more, or again."""
        number: uint32_t = self.enter(type, serial, 0)
        storei(cython.address(self.pg.areas[number].stopped), 1 if stopped else 0)
        area_leave(self.pg, number)

    def area_counters(self, type: object, serial: object) -> dict[str, int]:
        """What has happened to one area, and curr_pages."""
        number: uint32_t = self.enter(type, serial, 0)
        found = {
            name: load64(cython.address(self.pg.areas[number].counters[i])) for i, name in enumerate(AREA_COUNTERS)
        }
        area_leave(self.pg, number)
        return found

    def map_bits(self, type: object, serial: object) -> bytes:
        """The frontswap map of this moment: bit `offset % 8` of byte `offset // 8`."""
        number: uint32_t = self.enter(type, serial, 0)
        block: block_p = cython.address(self.pg.blocks[number])
        found = PyBytes_FromStringAndSize(
            cython.cast(cython.p_char, self.pg.map + block.first // 32), (block.pages + 7) // 8
        )
        area_leave(self.pg, number)
        return found

    def pool(self) -> tuple[int, int, int]:
        """(bytes that zcache takes, bytes that it may take, bytes of pages as they are); zeros without one."""
        pg: pager_p = self.pager()
        if pg.zcache_number < 0:
            return 0, 0, 0
        return load64(cython.address(pg.pool_bytes)), pg.limit, load64(cython.address(pg.staged))

    def reclaim(self, type: object, serial: object, target: int, seconds: float) -> int:
        """Have an area's coldest pages leave zcache until it has `target` bytes there; what it has then."""
        number: uint32_t
        pg: pager_p = self.pager()
        most: int64_t = target
        held: int64_t = 0
        until: int64_t = clock_ns() + cython.cast(int64_t, seconds * 1e9)
        more: cython.bint = True
        while more:
            # In and out again: swapoff waits for who is in.
            number = self.enter(type, serial, 0)
            with cython.nogil:
                more = area_reclaim(pg, number, most, min(until, clock_ns() + RECLAIM_STEP))
            held = load64(cython.address(pg.areas[number].counters[A_POOL_BYTES]))
            area_leave(pg, number)
            more = more and clock_ns() < until
        return held

    def pool_live(self) -> int:
        """Bytes of the pool's records that a page points at, by its segments: exact when nothing is on its way."""
        pg: pager_p = self.pager()
        live: int64_t = 0
        i: uint32_t
        if pg.zcache_number >= 0:
            for i in range(1, pg.next_segment):
                if pg.segments[i].stream == STREAM_POOL:
                    live += loadi(cython.address(pg.segments[i].live))
        return live

    def places(self) -> list[tuple[int, int]]:
        """Addresses and bytes of what stands behind all areas: the pool, and tables. (Contexts have their RAM, and from
        now on also for packs.)
        """
        pg: pager_p = self.pager()
        if pg.recompress != RECOMPRESS_OFF:
            contexts_open(pg)
        beside = (
            cython.cast(uint64_t, pg.pages),
            cython.cast(uint64_t, pg.map),
            cython.cast(uint64_t, pg.buffers),
        )
        return [(pg.mapped[i], pg.lengths[i]) for i in range(pg.mappings) if pg.mapped[i] not in beside]

    def places_of(self, type: object, serial: object, pages: int) -> list[tuple[int, int]]:
        """Addresses and bytes of what an area has for `pages` pages: a word each, and a bit of the map."""
        number: uint32_t = self.enter(type, serial, 0)
        pg: pager_p = self.pg
        first: uint64_t = pg.blocks[number].first
        area_leave(pg, number)
        return [
            (cython.cast(uint64_t, pg.pages + first), pages * cython.sizeof(page_t)),
            (cython.cast(uint64_t, pg.map + first // 32), (pages + 31) // 32 * 4),
        ]

    def close(self) -> None:
        """Give everything back; areas and pages are gone."""
        if self.open:
            self.open = False
            self.tear_down()

    def abandon(self) -> None:
        """In a forked child: neither threads nor tables are here; forget them."""
        self.open = False
        self.pg = cython.NULL

    def tear_down(self):
        """End the thread and unmap; the slots' descriptors last."""
        i: cython.int
        if self.pg != cython.NULL:
            self.stop()
            self.give_back(0)
        for i in range(MAX_AREAS + 1):
            Py_CLEAR(self.kept[i])

    def __dealloc__(self):
        self.tear_down()
