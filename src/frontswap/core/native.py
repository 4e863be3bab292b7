"""Native backends and filters as the control plane holds them: one object each, filters above their `lower`.

The contract of their functions stands at backend_t (layout.pxd).
"""

import cython
from cython.cimports.frontswap.core.arena import map_memory
from cython.cimports.frontswap.core.layout import (
    B_FAILED_LOADS,
    B_FAILED_STORES,
    B_INVALIDATES,
    B_LOADS,
    B_REJECT,
    B_SUCC_STORES,
    REFUSALS,
    REFUSED_OTHER,
    backend_p,
)
from cython.cimports.frontswap.core.record import LOAD_BACKEND
from cython.cimports.frontswap.core.uapi import MADV_DOFORK, load64, madvise, munmap, uint32_t, uint64_t
from cython.cimports.frontswap.core.zcache import (
    zcache_forget,
    zcache_held,
    zcache_load,
    zcache_pressure,
    zcache_store,
)
from cython.cimports.libc.string import memset

# In the order of REFUSED_*; each has a counter reject_NAME.
REFUSAL_NAMES = (
    "refused",
    "incompressible",
    "pool_full",
    "limit",
    "inactive",
    "slow",
    "pressure",
    "stopped",
    "injected",
    "error",
    "quota",
)


class Native:
    """A native backend or filter. It belongs to at most one set of hooks at a time."""

    def __cinit__(self, name, *_args, **_settings):
        memset(cython.address(self.b), 0, cython.sizeof(self.b))
        self.name = name

    def stand_on(self, lower: Native) -> None:
        """Make this filter one above `lower`."""
        self.lower = lower
        self.b.lower = cython.address(lower.b)

    def attach(self, pg, number):
        """It and all below it belong to stack `number` of these hooks now."""
        self.b.number = number
        if self.wants_table:
            self.table_bytes = (cython.cast(uint64_t, pg.max_pages) + 1) * 4
            self.b.table = cython.cast(cython.pointer(uint32_t), map_memory(self.table_bytes))
            if self.b.table == cython.NULL:
                raise MemoryError(f"{self.name}: cannot reserve {self.table_bytes} bytes of addresses")
            # Always inherited: a C library may fork at any moment in here, and the child must not have the stack
            # without its table.
            madvise(self.b.table, self.table_bytes, MADV_DOFORK)
        if self.lower is not None:
            self.lower.attach(pg, number)
        return 0

    def detach(self):
        """No page is in this stack any more, and no store is on its way to it."""
        if self.b.table != cython.NULL:
            munmap(self.b.table, self.table_bytes)
            self.b.table = cython.NULL
        if self.lower is not None:
            self.lower.detach()

    def counters(self) -> dict[str, int]:
        """What this layer has done; names as in mm/frontswap.c, and reject_REASON."""
        i: cython.int
        b: backend_p = cython.address(self.b)
        found = {
            "loads": load64(cython.address(b.counters[B_LOADS])),
            "failed_loads": load64(cython.address(b.counters[B_FAILED_LOADS])),
            "succ_stores": load64(cython.address(b.counters[B_SUCC_STORES])),
            "failed_stores": load64(cython.address(b.counters[B_FAILED_STORES])),
            "invalidates": load64(cython.address(b.counters[B_INVALIDATES])),
        }
        for i in range(1, REFUSALS):
            found["reject_" + REFUSAL_NAMES[i - 1]] = load64(cython.address(b.counters[B_REJECT + i]))
        return found


def null_store(b, pg, ctx, page, data, kind):
    """Refuses all: what is left is the slot."""
    return REFUSED_OTHER


def null_load(b, pg, ctx, page, state, more):
    """Never asked: it has no page."""
    return LOAD_BACKEND


def null_forget(b, pg, page, state):
    """Never asked."""


def make_zcache() -> Native:
    """Compressed RAM. Its pool belongs to the hooks: Hooks.pool_open(), or the Memory's own."""
    native: Native = Native("zcache")
    native.b.store = zcache_store
    native.b.load = zcache_load
    native.b.forget = zcache_forget
    native.b.pressure = zcache_pressure
    native.b.held = zcache_held
    native.is_zcache = True
    return native


def make_null() -> Native:
    """The backend that refuses every page."""
    native: Native = Native("null")
    native.b.store = null_store
    native.b.load = null_load
    native.b.forget = null_forget
    return native
