"""Filters: they stand on a backend and decide or watch; each keeps the contract at backend_t (layout.pxd).

``limit`` ``checksum`` ``active_only`` ``latency`` ``inject``: their settings, with defaults, are in
``frontswap.backends``, one file each. A filter that refuses has not asked its backend; what it keeps for each page is
one word in a table of its own. Time is the clock of the hooks, which a drill may push forward.
"""

import cython
from cython.cimports.frontswap.core.codec import codec_checksum
from cython.cimports.frontswap.core.frontswap import fetch, forget, offer
from cython.cimports.frontswap.core.layout import (
    ACCEPTED,
    PRESSURE_CRITICAL,
    PRESSURE_NONE,
    REFUSED_INACTIVE,
    REFUSED_INJECTED,
    REFUSED_LIMIT,
    REFUSED_PRESSURE,
    REFUSED_SLOW,
    hooks_clock,
    page_bytes,
    pressure_of,
)
from cython.cimports.frontswap.core.record import LOAD_CHECKSUM, LOAD_SHORT
from cython.cimports.frontswap.core.uapi import (
    EIO,
    add64,
    int64_t,
    load32,
    load64,
    loadi,
    pause_ns,
    store32,
    store64,
    storei,
    uint32_t,
    uint64_t,
)
from cython.cimports.frontswap.core.zcache import pool_has_slots, pressure_share
from cython.cimports.libc.string import memset

PARAMETER_NAMES = {
    "limit": ("size", "accept"),
    "checksum": (),
    "active_only": ("distance",),
    "latency": ("deadline", "trips", "rest"),
    "inject": ("refuse", "error", "short", "corrupt", "delay", "virtual", "seed"),
}
SIZE = cython.declare(cython.int, 0)
ACCEPT = cython.declare(cython.int, 1)
DISTANCE = cython.declare(cython.int, 0)
DEADLINE = cython.declare(cython.int, 0)
TRIPS = cython.declare(cython.int, 1)
REST = cython.declare(cython.int, 2)
REFUSE = cython.declare(cython.int, 0)
ERROR = cython.declare(cython.int, 1)
SHORT = cython.declare(cython.int, 2)
CORRUPT = cython.declare(cython.int, 3)
DELAY = cython.declare(cython.int, 4)
VIRTUAL = cython.declare(cython.int, 5)
SEED = cython.declare(cython.int, 6)
MILLION = cython.declare(uint64_t, 1000000)
ACTIVE = cython.declare(uint32_t, 0x80000000)
STEPS = cython.declare(uint32_t, 1024)  # that active_only divides its distance into


def known(b):
    """What this filter knows."""
    return cython.cast(filter_p, b.own)


def pass_load(b, pg, ctx, page, state, more):
    """Load from below."""
    return fetch(b.lower, pg, ctx, page, state, more)


def pass_forget(b, pg, page, state):
    """Forget below."""
    forget(b.lower, pg, page, state)


# --- limit: a cap with hysteresis (mm/zswap.c: max_pool_percent and accept_threshold_percent) ---------------------


def taken_below(b, pg):
    """Bytes that what is below takes: of RAM where it knows, else of pages uncompressed."""
    if b.lower.held != cython.NULL:
        return b.lower.held(b.lower, pg)
    if b.lower.lower != cython.NULL:
        return taken_below(b.lower, pg)
    return load64(cython.address(pg.stack_bytes[b.number]))


def limit_store(b, pg, ctx, page, data, kind):
    """Stops accepting at `size`, starts again at `accept` (bytes); less of both under pressure."""
    f: filter_p = known(b)
    taken: int64_t = taken_below(b, pg)
    size: int64_t = load64(cython.address(f.set[SIZE]))
    accept: int64_t = load64(cython.address(f.set[ACCEPT]))
    level: cython.int = PRESSURE_NONE
    if pool_has_slots(pg):
        level = max(loadi(cython.address(f.level)), pressure_of(pg))
    if level == PRESSURE_CRITICAL:
        return REFUSED_PRESSURE
    size = pressure_share(size, level)
    accept = pressure_share(accept, level)
    if loadi(cython.address(f.full)) and taken <= accept:
        storei(cython.address(f.full), 0)
    if loadi(cython.address(f.full)) or taken + page_bytes(pg, page) > size:
        storei(cython.address(f.full), 1)
        return REFUSED_LIMIT
    return offer(b.lower, pg, ctx, page, data, kind)


def limit_pressure(b, pg, level):
    """Three quarters, half, nothing."""
    storei(cython.address(known(b).level), level)


# --- checksum: what comes back is what was stored ----------------------------------------------------------------


def checksum_of(pg, page, data):
    """Of the page's bytes and its number: another page's bytes are wrong bytes too."""
    return codec_checksum(data, page_bytes(pg, page), page)


def checksum_store(b, pg, ctx, page, data, kind):
    """Notes the checksum of what was accepted."""
    code: cython.int = offer(b.lower, pg, ctx, page, data, kind)
    if code == ACCEPTED:
        store32(cython.address(b.table[page]), checksum_of(pg, page, data))
    return code


def checksum_load(b, pg, ctx, page, state, more):
    """Compares it."""
    error: cython.int = fetch(b.lower, pg, ctx, page, state, more)
    if error == 0 and checksum_of(pg, page, ctx.into) != load32(cython.address(b.table[page])):
        return LOAD_CHECKSUM
    return error


# --- active_only: pages that came back soon after they left (mm/workingset.c: refault distance) ------------------
#
# A page that is used once never comes back, and a cache for it is lost. The word of a page is the moment of its last
# store, in steps of a 1024th of `distance`, and ACTIVE if it has come back within `distance` since.


def active_store(b, pg, ctx, page, data, kind):
    """Admits what was active; what it refuses gets its chance when it comes back."""
    f: filter_p = known(b)
    size: int64_t = page_bytes(pg, page)
    step: int64_t = load64(cython.address(f.set[DISTANCE])) // STEPS + 1
    word: uint32_t = load32(cython.address(b.table[page]))
    at: int64_t = add64(cython.address(f.clock), size) + size
    store32(cython.address(b.table[page]), cython.cast(uint32_t, at // step % (ACTIVE - 1)) + 1)
    if (word & ACTIVE) == 0:
        return REFUSED_INACTIVE
    return offer(b.lower, pg, ctx, page, data, kind)


def active_refault(b, pg, page, state):
    """It came back: from its slot here, from below in active_load."""
    f: filter_p = known(b)
    word: uint32_t = load32(cython.address(b.table[page])) & ~ACTIVE
    step: int64_t = load64(cython.address(f.set[DISTANCE])) // STEPS + 1
    at: uint32_t = cython.cast(uint32_t, load64(cython.address(f.clock)) // step % (ACTIVE - 1)) + 1
    if word == 0:
        return
    if at >= word and at - word <= STEPS:
        word |= ACTIVE
    store32(cython.address(b.table[page]), word)


def active_forget_area(b, pg, type):
    """Its pages may be another area's next: what they have lived through is not that area's."""
    memset(cython.address(b.table[pg.blocks[type].first]), 0, cython.cast(cython.size_t, pg.areas[type].most) * 4)


def active_load(b, pg, ctx, page, state, more):
    """Load from below."""
    active_refault(b, pg, page, state)
    return fetch(b.lower, pg, ctx, page, state, more)


# --- latency: a backend that is too slow is not waited for (the v15 mail: "shut down if it is taking too much time
# compressing") -----------------------------------------------------------------------------------------------------


def latency_store(b, pg, ctx, page, data, kind):
    """Counts stores slower than `deadline`: after `trips` of them pages go to their slots too, so that the backend may
    lose them; after as many more it is refused for `rest`, and then tried with one page at a time until it is fast.
    """
    f: filter_p = known(b)
    trips: cython.int = cython.cast(cython.int, load64(cython.address(f.set[TRIPS])))
    slow: cython.int = loadi(cython.address(f.slow))
    start: int64_t = hooks_clock(pg)
    code: cython.int
    if slow >= 2 * trips:
        if start < load64(cython.address(f.until)):
            return REFUSED_SLOW
        store64(cython.address(f.until), start + load64(cython.address(f.set[REST])))  # one page, the others wait
    if slow >= trips:
        ctx.through = True
    code = offer(b.lower, pg, ctx, page, data, kind)
    if hooks_clock(pg) - start > load64(cython.address(f.set[DEADLINE])):
        if slow < 2 * trips:
            slow += 1
        if slow >= 2 * trips:
            store64(cython.address(f.until), hooks_clock(pg) + load64(cython.address(f.set[REST])))
    elif slow > 0:
        slow -= 1
    storei(cython.address(f.slow), slow)
    return code


# --- inject: for tests and drills --------------------------------------------------------------------------------


def drawn(f, which):
    """True with the probability of a parameter, in millionths. Source of the mixing: splitmix64."""
    x: uint64_t
    chance: int64_t = load64(cython.address(f.set[which]))
    if chance == 0:
        return False
    x = cython.cast(uint64_t, add64(cython.address(f.random), 1))
    x += cython.cast(uint64_t, load64(cython.address(f.set[SEED]))) * 1000003
    x = (x + 1) * cython.cast(uint64_t, 0x9E3779B97F4A7C15)
    x = (x ^ (x >> 30)) * cython.cast(uint64_t, 0xBF58476D1CE4E5B9)
    x = (x ^ (x >> 27)) * cython.cast(uint64_t, 0x94D049BB133111EB)
    return (x ^ (x >> 31)) % MILLION < cython.cast(uint64_t, chance)


def take_time(f, pg):
    """Be slow: really, or only by the clock of these hooks."""
    delay: int64_t = load64(cython.address(f.set[DELAY]))
    if delay and load64(cython.address(f.set[VIRTUAL])):
        add64(cython.address(pg.clock_skew), delay)
    elif delay:
        pause_ns(delay)


def inject_store(b, pg, ctx, page, data, kind):
    """Delays, and refuses some."""
    take_time(known(b), pg)
    if drawn(known(b), REFUSE):
        return REFUSED_INJECTED
    return offer(b.lower, pg, ctx, page, data, kind)


def inject_load(b, pg, ctx, page, state, more):
    """Delays, and damages some: an I/O error, half of the page, one wrong bit that only `checksum` will see."""
    error: cython.int
    half: uint32_t = page_bytes(pg, page) // 2
    take_time(known(b), pg)
    if drawn(known(b), ERROR):
        return EIO
    error = fetch(b.lower, pg, ctx, page, state, more)
    if error == 0 and drawn(known(b), SHORT):
        memset(ctx.into + half, 0, half)
        return LOAD_SHORT
    if error == 0 and drawn(known(b), CORRUPT):
        ctx.into[half] = ctx.into[half] ^ 1
    return error


class Filter(Native):
    """A filter above a native backend, by the name it is registered under."""

    def __cinit__(self, name, *_args, **_settings):
        memset(cython.address(self.state), 0, cython.sizeof(self.state))
        self.names = PARAMETER_NAMES[name]
        self.b.own = cython.address(self.state)
        self.b.load = pass_load
        self.b.forget = pass_forget
        if name == "limit":
            self.b.store = limit_store
            self.b.pressure = limit_pressure
        elif name == "checksum":
            self.b.store = checksum_store
            self.b.load = checksum_load
            self.wants_table = True
        elif name == "active_only":
            self.b.store = active_store
            self.b.load = active_load
            self.b.refault = active_refault
            self.b.forget_area = active_forget_area
            self.wants_table = True
        elif name == "latency":
            self.b.store = latency_store
        else:
            self.b.store = inject_store
            self.b.load = inject_load

    def set(self, **parameters: int) -> None:
        """Set parameters; they count from the next page on, also while the filter is in use."""
        for name, value in parameters.items():
            store64(cython.address(self.state.set[self.names.index(name)]), value)
