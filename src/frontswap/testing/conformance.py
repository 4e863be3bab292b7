"""The conformance suites: what every backend, every filter and every stack must do.

``StackSuite`` looks from the hooks, as a page does; it runs over whatever a spec can name. ``BackendSuite`` also calls
a backend written in Python directly, by the letter of its contract. Subclass, and say how one is made.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ..area import Frontswap, SwapArea
from ..backends.contract import Backend, Pressure
from ..backends.stack import Spec
from .content import Content

PAGES = 64
SIZES = (4096, 2 << 20)


class StackSuite:
    """Any stack behind the hooks. Subclasses say ``make()``: a spec, or a new backend."""

    #: False for a stack that may refuse pages of this suite (64 at most, 12 of 2 MiB): that is no fault, but some tests
    #: want to see pages accepted
    accepts = True

    def make(self) -> Spec:
        """What is tested: a spec string, objects, or a new backend; called once for each test."""
        raise NotImplementedError("say how the stack is made")

    @pytest.fixture
    def hooks(self) -> Iterator[Frontswap]:
        """The stack behind hooks of its own."""
        with Frontswap(self.make()) as hooks:
            yield hooks

    @pytest.fixture(params=SIZES, ids=lambda size: f"{size >> 10}K")
    def area(self, hooks: Frontswap, request: pytest.FixtureRequest) -> SwapArea:
        """An area of each page size."""
        return hooks.swapon(PAGES if request.param < 1 << 20 else 12, page=request.param)

    def fill(self, area: SwapArea, generation: int = 1) -> Content:
        """Store every page of an area."""
        content = Content(area.page)
        for offset in range(area.pages):
            area.store(offset, content.page(offset, generation))
        return content

    def check(self, area: SwapArea, content: Content, generation: int = 1) -> int:
        """Load every page and compare; how many came from backends."""
        found = np.empty(content.words, np.uint64)
        held = 0
        for offset in range(area.pages):
            held += area.load(offset, found)
            assert content.generation(offset, found) == generation, f"page {offset}"
        return held

    def test_what_is_stored_comes_back(self, area: SwapArea) -> None:
        """As it was, as often as it is asked for."""
        content = self.fill(area)
        held = self.check(area, content)
        assert self.check(area, content) == held == area.curr_pages()
        if self.accepts:
            assert held > 0

    def test_the_newest_bytes_come_back(self, area: SwapArea) -> None:
        """Stored over, whether the second store is accepted or refused."""
        for generation in range(1, 6):
            content = self.fill(area, generation)
            self.check(area, content, generation)

    def test_store_makes_a_copy(self, area: SwapArea) -> None:
        """What happens to the bytes afterwards is of no effect."""
        content = Content(area.page)
        page = content.page(0, 1)
        area.store(0, page)
        page[:] = 0
        area.load(0, page)
        assert content.generation(0, page) == 1

    def test_map_and_counters_agree(self, hooks: Frontswap, area: SwapArea) -> None:
        """A bit for each page that a backend has, and curr_pages their number."""
        content = Content(area.page)
        accepted = [area.store(offset, content.page(offset, 1)) for offset in range(area.pages)]
        assert area.frontswap_map.tolist() == accepted
        assert hooks.curr_pages() == area.curr_pages() == sum(accepted)
        found = area.statistics()
        offered = area.pages if len(hooks.backends) else 0
        assert (found.succ_stores, found.failed_stores) == (sum(accepted), offered - sum(accepted))
        assert sum(stack.curr_pages for stack in hooks.backends.statistics()) == sum(accepted)

    def test_an_invalidated_page_is_gone(self, hooks: Frontswap, area: SwapArea) -> None:
        """It reads as zeros, its neighbours as themselves."""
        content = self.fill(area)
        before = hooks.curr_pages()
        had = area.invalidate_page(1)
        assert hooks.curr_pages() == before - had
        assert not area.invalidate_page(1)
        found = np.ones(content.words, np.uint64)
        assert not area.load(1, found)
        assert not found.any()
        area.store(1, content.page(1, 1))
        self.check(area, content)

    def test_an_invalidated_area_is_empty(self, hooks: Frontswap, area: SwapArea) -> None:
        """Every page reads as zeros, and can be stored again; another area does not notice."""
        other = hooks.swapon(PAGES, page=4096)
        kept = self.fill(other)
        content = self.fill(area)
        area.invalidate_area()
        assert area.curr_pages() == 0
        found = np.ones(content.words, np.uint64)
        for offset in range(area.pages):
            assert not area.load(offset, found)
            assert not found.any()
        self.check(other, kept)
        self.check(area, self.fill(area, 2), 2)

    def test_areas_do_not_mix(self, hooks: Frontswap) -> None:
        """Same offsets, other types and page sizes; one goes, the other stays; its type comes again, empty."""
        first, second = hooks.swapon(PAGES, page=4096), hooks.swapon(PAGES, page=8192)
        one, two = self.fill(first, 1), self.fill(second, 2)
        self.check(first, one, 1)
        self.check(second, two, 2)
        first.swapoff()
        self.check(second, two, 2)
        third = hooks.swapon(PAGES, page=4096)
        found = np.ones(512, np.uint64)
        for offset in range(PAGES):
            assert not third.load(offset, found)
            assert not found.any()

    def test_batches_do_what_single_calls_do(self, area: SwapArea) -> None:
        """For each page the same answer, in any order of offsets."""
        content = Content(area.page)
        offsets = np.random.default_rng(1).permutation(area.pages)[: area.pages // 2]
        pages = np.concatenate([content.page(int(offset), 3) for offset in offsets])
        stored = area.store_many(offsets, pages)
        assert stored.tolist() == area.frontswap_map[offsets].tolist()
        found = np.empty_like(pages)
        assert area.load_many(offsets, found).tolist() == stored.tolist()
        assert np.array_equal(found, pages)
        assert area.invalidate_many(offsets[:4]).tolist() == stored[:4].tolist()
        area.load_many(offsets[:4], found[: 4 * content.words])
        assert not found[: 4 * content.words].any()

    def test_draining_leaves_nothing_behind(self, hooks: Frontswap, area: SwapArea) -> None:
        """The backend goes, the pages stay."""
        content = self.fill(area)
        for registered in list(hooks.backends):
            hooks.unregister(registered)
        assert hooks.curr_pages() == 0
        assert self.check(area, content) == 0

    def test_a_late_backend_serves_areas_that_are_on(self) -> None:
        """It gets init for every active area."""
        with Frontswap() as hooks:
            area = hooks.swapon(PAGES, page=4096)
            content = self.fill(area, 1)
            hooks.register(self.make())
            self.check(area, content, 1)
            held = self.check(area, self.fill(area, 2), 2)
            if self.accepts:
                assert held > 0

    def test_shrink_moves_pages_to_their_slots(self, hooks: Frontswap, area: SwapArea) -> None:
        """To the number asked for, and not one is lost."""
        content = self.fill(area)
        before = hooks.curr_pages()
        assert hooks.shrink(before // 2) == before - before // 2
        assert hooks.curr_pages() == before // 2
        assert self.check(area, content) == before // 2
        hooks.shrink(0)
        assert self.check(area, content) == 0

    def test_writethrough_keeps_the_slot(self, hooks: Frontswap, area: SwapArea) -> None:
        """Both have the page; the backend may go without moving anything."""
        hooks.writethrough(True)
        content = self.fill(area)
        held = self.check(area, content)
        assert area.statistics().slot_stores == area.pages
        hooks.shrink(0)
        assert area.statistics().slot_stores == area.pages
        assert self.check(area, content) == 0
        assert held >= 0

    def test_exclusive_loads_take_the_page(self, hooks: Frontswap, area: SwapArea) -> None:
        """The backend has it no more; stored again it is back."""
        hooks.exclusive_loads(True)
        content = self.fill(area)
        before = hooks.curr_pages()
        assert self.check(area, content) == before
        assert hooks.curr_pages() == 0
        hooks.exclusive_loads(False)
        self.check(area, self.fill(area, 2), 2)

    @pytest.mark.parametrize("level", list(Pressure), ids=lambda level: level.name.lower())
    def test_pressure_loses_nothing_and_ends(self, hooks: Frontswap, area: SwapArea, level: Pressure) -> None:
        """At every level: pages may move, stores may be refused, bytes stay."""
        content = self.fill(area, 1)
        assert hooks.pressure(level).failed == ()
        self.check(area, content, 1)
        self.check(area, self.fill(area, 2), 2)
        hooks.pressure(Pressure.NONE)
        self.check(area, self.fill(area, 3), 3)

    def test_four_threads(self, hooks: Frontswap) -> None:
        """Each writes its own pages and reads everybody's: never bytes older than what was stored before."""
        area = hooks.swapon(4 * PAGES, page=4096)
        content = Content(4096)
        begun, done = [0] * area.pages, [0] * area.pages
        problems: list[str] = []

        def work(thread: int) -> None:
            rng = np.random.default_rng(thread)
            found = np.empty(content.words, np.uint64)
            for _ in range(400):
                own = int(rng.integers(PAGES)) * 4 + thread
                begun[own] += 1
                area.store(own, content.page(own, begun[own]))
                done[own] = begun[own]
                any_page = int(rng.integers(area.pages))
                least = done[any_page]
                area.load(any_page, found)
                generation = content.generation(any_page, found) if begun[any_page] and found.any() else 0
                if not least <= generation <= begun[any_page]:
                    problems.append(f"page {any_page}: generation {generation}, not {least} to {begun[any_page]}")

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not problems
        assert hooks.curr_pages() == area.frontswap_map.sum()


class _Area:
    """What init() is given when a backend is called directly."""

    def __init__(self, number: int, page: int, pages: int) -> None:
        self.type, self.page, self.pages = number, page, pages

    def stop(self, reason: str) -> None:
        """Allowed at any time."""

    def resume(self) -> None:
        """Allowed at any time."""


class BackendSuite(StackSuite):
    """A backend in Python: the letter of the contract, and everything that a stack must do."""

    def make(self) -> Backend:
        """A new backend."""
        raise NotImplementedError("say how the backend is made")

    @pytest.fixture
    def backend(self) -> Backend:
        """One with areas 0 (4 KiB) and 1 (64 KiB)."""
        backend = self.make()
        backend.init(0, _Area(0, 4096, PAGES))  # type: ignore[arg-type]  # all that a backend may use of an area
        backend.init(1, _Area(1, 65536, PAGES))  # type: ignore[arg-type]
        return backend

    def test_it_has_a_name(self) -> None:
        """Of lower-case letters, digits and _: it is a part of specs and of file names."""
        name = self.make().name
        assert name.isidentifier()
        assert name == name.lower()

    def test_answers_are_of_the_right_kind(self, backend: Backend) -> None:
        """store: True, False or a Refusal; load: True or False."""
        page = bytearray(4096)
        answer: Any = backend.store(0, 0, memoryview(page))
        assert answer is True or not answer
        if answer:
            assert backend.load(0, 0, memoryview(page)) is True
        assert backend.load(0, 1, memoryview(page)) is False

    def test_a_view_is_used_during_the_call_only(self, backend: Backend) -> None:
        """A view that is kept would show other bytes later: releasing it must be possible."""
        view = memoryview(bytearray(4096))
        backend.store(0, 0, view)
        view.release()
        into = memoryview(bytearray(4096))
        backend.load(0, 0, into)
        into.release()

    def test_load_keeps_the_copy(self, backend: Backend) -> None:
        """Asked twice, answered twice."""
        page = np.arange(512, dtype=np.uint64)
        if backend.store(0, 5, memoryview(page.tobytes())):
            for _ in range(2):
                into = bytearray(4096)
                assert backend.load(0, 5, memoryview(into))
                assert into == page.tobytes()

    def test_what_it_does_not_have_can_be_invalidated(self, backend: Backend) -> None:
        """No error: invalidations reach every backend."""
        backend.invalidate_page(0, 3)
        backend.invalidate_area(1)
        backend.invalidate_page(1, 3)

    def test_a_refusal_leaves_a_state_that_can_be_invalidated(self, backend: Backend) -> None:
        """Stored, then stored again as noise: replaced, or refused and invalidated; never the old bytes."""
        noise = np.random.default_rng(0).bytes(4096)
        backend.store(0, 0, memoryview(bytes(4096)))
        into = bytearray(4096)
        if backend.store(0, 0, memoryview(noise)):
            assert backend.load(0, 0, memoryview(into))
            assert into == noise
        else:
            backend.invalidate_page(0, 0)
            assert backend.load(0, 0, memoryview(into)) is False

    def test_statistics_are_numbers(self, backend: Backend) -> None:
        """By name."""
        assert all(isinstance(n, int) and name.isidentifier() for name, n in backend.statistics().items())
