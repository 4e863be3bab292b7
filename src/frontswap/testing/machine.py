"""Any sequence of what may happen to hooks leaves the bytes that a dict has: a stateful hypothesis machine.

Areas come and go, and change their size; backends come and go while pages are in them; pages are stored, loaded and
invalidated, alone and in batches, while writethrough, exclusive loads, pressure, shrink and stop() change what happens
to them. Needs hypothesis.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ..area import Frontswap, SwapArea
from ..backends.stack import Spec
from ..errors import DrainError, ExclusiveLoadError, InUseError, PageLostError, SlotError
from ..hooks import Registered
from .content import Content, Page
from .model import Model

PAGES = 24
#: what comes and goes; each can be drained, as every area has slots or is emptied first
SPECS = (
    "zcache:size=4M",
    "limit:size=48K / zcache:size=4M",
    "zcache:size=4M,policy=duel",
    "zcache:size=4M,dedup=on",
    "active_only / checksum / zcache:size=16M",
    "latency / model",
    "checksum / inject:refuse=30% / model",
    "limit:size=64K / model:most=10",
    "null",
)
#: also loses pages
DAMAGING = "checksum / inject:error=10%,corrupt=10%,short=10% / model"

offsets = st.integers(0, PAGES - 1)
picks = st.integers(0, 100)
batches = st.lists(offsets, min_size=1, max_size=12, unique=True)


@dataclass
class Twin:
    """An area and what its pages must be: bytes, or what is known to be wrong with them."""

    area: SwapArea
    content: Content
    slots: bool
    pages: dict[int, Page] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)  #: refused without a slot, or damaged: an error until stored again
    taken: set[int] = field(default_factory=set)  #: by an exclusive load: an error, or the slot's bytes

    def empty(self) -> None:
        """Invalidate all."""
        self.area.invalidate_area()
        for known in (self.pages, self.lost, self.taken):
            known.clear()


class HooksMachine(RuleBasedStateMachine):
    """Subclass to test other specs; run with ``run_state_machine_as_test``."""

    specs: tuple[Spec, ...] = SPECS
    damaging: Spec = DAMAGING

    def __init__(self) -> None:
        super().__init__()
        self.hooks = Frontswap()
        self.twins: list[Twin] = []
        self.generation = 0
        self.damage = False
        self.exclusive = False
        self.gone_wrong: Exception | None = None

    def teardown(self) -> None:
        """Everything goes."""
        self.hooks.close(force=True)

    # --- areas and backends --------------------------------------------------------------------------

    @precondition(lambda self: len(self.twins) < 3)
    @rule(
        page=st.sampled_from([4096, 4096, 8192, 65536]),
        slots=st.sampled_from([True, True, False]),
        quota=st.sampled_from([None, None, 0, 9000, 100_000]),
        weight=st.sampled_from([None, None, 0, 1, 7]),
    )
    def swapon(self, page: int, slots: bool, quota: int | None, weight: int | None) -> None:
        """An area, empty."""
        area = self.hooks.swapon(PAGES, page=page, swap="auto" if slots else None, quota=quota, weight=weight)
        self.twins.append(Twin(area, Content(page), slots))

    @precondition(lambda self: self.twins)
    @rule(pick=picks)
    def swapoff(self, pick: int) -> None:
        """It goes with all its pages."""
        self.twins.pop(pick % len(self.twins)).area.swapoff()

    @rule(data=st.data())
    def register(self, data: st.DataObject) -> None:
        """A backend comes."""
        specs = self.specs + ((self.damaging,) if self.damaging else ())
        spec = data.draw(st.sampled_from(specs))
        try:
            self.hooks.register(spec)
        except InUseError:
            assert len(self.hooks.backends) == 8 or "zcache" in str(spec)
            return
        self.damage = self.damage or spec == self.damaging

    @precondition(lambda self: len(self.hooks.backends) > 0)
    @rule(pick=picks)
    def unregister(self, pick: int) -> None:
        """A backend goes; pages without slots keep it here."""
        registered: Registered = list(self.hooks.backends)[pick % len(self.hooks.backends)]
        without = [twin for twin in self.twins if not twin.slots and twin.area.curr_pages()]
        try:
            self.hooks.unregister(registered, deadline="20ms" if without else 30)
            gone = True
        except DrainError as error:
            # Others may be left, too: who gets no processor for so long has drained less.
            assert error.left > 0  # noqa: PT017  # no raises(): it may succeed
            gone = False
        # Either way: what comes next must not depend on how fast that was.
        for twin in without:
            twin.empty()
        if not gone:
            self.hooks.unregister(registered)

    @rule(on=st.booleans())
    def writethrough(self, on: bool) -> None:
        """From here on."""
        self.hooks.writethrough(on)

    @rule(on=st.booleans())
    def exclusive_loads(self, on: bool) -> None:
        """From here on."""
        self.hooks.exclusive_loads(on)
        self.exclusive = on

    @rule(level=st.integers(0, 3))
    def pressure(self, level: int) -> None:
        """Backends shed and refuse."""
        self.hooks.pressure(level)

    @rule(pages=st.integers(0, 2 * PAGES))
    def shrink(self, pages: int) -> None:
        """Pages go to their slots, if they have any."""
        before = self.hooks.curr_pages()
        moved = self.hooks.shrink(pages)
        assert self.hooks.curr_pages() <= before - moved  # writeback may go on beside it
        assert before - moved >= min(before, pages)

    @precondition(lambda self: self.twins)
    @rule(pick=picks, stop=st.booleans())
    def stop(self, pick: int, stop: bool) -> None:
        """Nothing is sent, or again."""
        area = self.twins[pick % len(self.twins)].area
        area.stop("a rule") if stop else area.resume()

    @precondition(lambda self: self.twins)
    @rule(pick=picks, pages=st.integers(1, PAGES))
    def resize(self, pick: int, pages: int) -> None:
        """It loses its last pages if none of them is in use, and gets them again, empty."""
        twin = self.twins[pick % len(self.twins)]
        used = any(offset >= pages for known in (twin.pages, twin.lost, twin.taken) for offset in known)
        try:
            twin.area.resize(pages)
            refused = False
        except InUseError:
            refused = True
        assert refused == used
        twin.area.resize(PAGES)

    # --- pages ---------------------------------------------------------------------------------------

    def new(self, twin: Twin, offset: int) -> Page:
        """Bytes that were never there before."""
        self.generation += 1
        return twin.content.page(offset, self.generation)

    def stored(self, twin: Twin, offset: int, page: Page, result: int) -> None:
        """What a store has come to."""
        twin.taken.discard(offset)
        twin.lost.discard(offset)
        if result >= 0:
            twin.pages[offset] = page
        else:
            assert result == -errno.ENOSPC
            assert not twin.slots
            twin.lost.add(offset)

    def loaded(self, twin: Twin, offset: int, found: Any, result: int) -> None:
        """What a load has come to, against the dict."""
        if result == -errno.ENOENT:
            assert offset in twin.taken
            return
        if result < 0:
            assert result == -errno.EIO
            assert offset in twin.lost or self.damage
            twin.lost.add(offset)
            return
        assert offset not in twin.lost
        expected = twin.pages.get(offset)
        assert np.array_equal(found, np.zeros(twin.content.words, np.uint64) if expected is None else expected)
        if result == 1 and self.exclusive:
            twin.taken.add(offset)

    @precondition(lambda self: self.twins)
    @rule(pick=picks, offset=offsets)
    def store(self, pick: int, offset: int) -> None:
        """One page."""
        twin = self.twins[pick % len(self.twins)]
        page = self.new(twin, offset)
        try:
            result = int(twin.area.store(offset, page))
        except SlotError as error:
            result = -(error.errno or 0)
        self.stored(twin, offset, page, result)

    @precondition(lambda self: self.twins)
    @rule(pick=picks, offset=offsets)
    def load(self, pick: int, offset: int) -> None:
        """One page."""
        twin = self.twins[pick % len(self.twins)]
        found = np.full(twin.content.words, 0xDEAD, np.uint64)
        try:
            result = int(twin.area.load(offset, found))
        except PageLostError:
            result = -errno.EIO
        except ExclusiveLoadError:
            result = -errno.ENOENT
        self.loaded(twin, offset, found, result)

    @precondition(lambda self: self.twins)
    @rule(pick=picks, batch=batches)
    def store_many(self, pick: int, batch: list[int]) -> None:
        """Several pages; for each the answer."""
        twin = self.twins[pick % len(self.twins)]
        pages = [self.new(twin, offset) for offset in batch]
        results = twin.area.store_many(batch, np.concatenate(pages))
        for offset, page, result in zip(batch, pages, results.tolist(), strict=True):
            self.stored(twin, offset, page, result)

    @precondition(lambda self: self.twins)
    @rule(pick=picks, batch=batches)
    def load_many(self, pick: int, batch: list[int]) -> None:
        """Several pages; for each the answer."""
        twin = self.twins[pick % len(self.twins)]
        found = np.full((len(batch), twin.content.words), 0xDEAD, np.uint64)
        results = twin.area.load_many(batch, found)
        for offset, page, result in zip(batch, found, results.tolist(), strict=True):
            self.loaded(twin, offset, page, result)

    @precondition(lambda self: self.twins)
    @rule(pick=picks, batch=batches, alone=st.booleans())
    def invalidate(self, pick: int, batch: list[int], alone: bool) -> None:
        """Some pages, or one."""
        twin = self.twins[pick % len(self.twins)]
        held = twin.area.frontswap_map
        if alone:
            batch = batch[:1]
            assert twin.area.invalidate_page(batch[0]) == held[batch[0]]
        else:
            assert twin.area.invalidate_many(batch).tolist() == held[batch].tolist()
        for offset in batch:
            twin.pages.pop(offset, None)
            twin.lost.discard(offset)
            twin.taken.discard(offset)

    @precondition(lambda self: self.twins)
    @rule(pick=picks)
    def invalidate_area(self, pick: int) -> None:
        """All pages."""
        twin = self.twins[pick % len(self.twins)]
        twin.empty()

    @invariant()
    def quotas_hold(self) -> None:
        """No area has more of the pool than it may, and all together have what lives in it."""
        for _ in range(10_000):
            found = self.hooks.statistics()
            assert all(0 <= area.pool_bytes <= area.quota_bytes for area in found.areas if area.quota_bytes >= 0)
            if sum(area.pool_bytes for area in found.areas) == found.pool_live_bytes:
                return
            os.sched_yield()
        raise AssertionError(f"bytes in the pool: {found.pool_live_bytes}, by area: {found.areas}")

    @invariant()
    def counts_agree(self) -> None:
        """Map, areas, backends and curr_pages say the same, once no writeback is on its way."""
        for _ in range(10_000):
            found = self.counts()
            if len(set(found.values())) == 1:
                return
            os.sched_yield()
        raise AssertionError(f"pages in backends: {found}")

    def counts(self) -> dict[str, int]:
        """Pages in backends, by whom one asks."""
        stacks = self.hooks.backends.statistics()
        models = [
            (len(registered.stack.backend.pages), stack.curr_pages)
            for registered, stack in zip(self.hooks.backends, stacks, strict=True)
            if isinstance(registered.stack.backend, Model)
        ]
        total = sum(stack.curr_pages for stack in stacks)
        return {
            "maps": sum(int(twin.area.frontswap_map.sum()) for twin in self.twins),
            "areas": sum(twin.area.curr_pages() for twin in self.twins),
            "backends": total,
            "models themselves": total + sum(really - counted for really, counted in models),
            "curr_pages": self.hooks.curr_pages(),
        }
