"""The rules of the hooks (DESIGN.md section 4; docs/frontswap.md), a test for each, by its number.

``python tests/mutations.py`` breaks the line of code behind each of them and sees its test fail.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import NewMemory
from helpers import MiB, ballast, cold, noise, quiet, same, walk
from mutations import MUTATIONS, ROOT, Mutation
from scripted import PAGE, Scripted, load, page, rough

import frontswap
from frontswap.backends import Backend, Checksum, Inject, Limit, Pressure, Refusal, Zcache
from frontswap.testing.model import Model

N = 32


@pytest.fixture
def hooks() -> Iterator[frontswap.Frontswap]:
    with frontswap.Frontswap() as hooks:
        yield hooks


# --- 1: any store may be refused; an accepted one comes back; a refused one goes to its slot -----------------------


@pytest.mark.parametrize("answer", [False, *Refusal, OSError("down"), "nonsense", 99, None], ids=repr)
def test_rule_1_a_refused_page_goes_to_its_slot(hooks: frontswap.Frontswap, answer: object) -> None:
    backend = Scripted()
    hooks.register(backend)
    area = hooks.swapon(N)
    backend.answer = answer
    assert area.store(3, page(1)) is False
    same(load(area, 3), page(1))
    assert (hooks.curr_pages(), area.statistics().slot_stores, backend.pages) == (0, 1, {})
    expected = answer if isinstance(answer, Refusal) else Refusal.REFUSED if answer is False else Refusal.ERROR
    assert hooks.statistics().refusals[expected.name.lower()] == 1
    assert sum(hooks.statistics().refusals.values()) == 1


def test_rule_1_an_accepted_page_is_a_copy(hooks: frontswap.Frontswap) -> None:
    hooks.register("zcache:size=8M")
    area = hooks.swapon(N)
    mine = page(1)
    assert area.store(0, mine) is True
    mine[:] = 0
    same(load(area, 0), page(1))


# --- 2: every page has a real slot; space is reserved before it is needed -------------------------------------------


def test_rule_2_a_full_disk_is_found_out_at_swapon(hooks: frontswap.Frontswap, small_disk: Path) -> None:
    with pytest.raises(frontswap.OutOfMemoryError, match="No space left on device"):
        hooks.swapon(size="1G", swap=small_disk)
    assert hooks.areas == ()


def test_rule_2_what_was_reserved_can_be_written_when_the_disk_is_full(
    hooks: frontswap.Frontswap, small_disk: Path
) -> None:
    area = hooks.swapon(size="8M", swap=small_disk)
    ballast(small_disk, 0)
    pages = np.concatenate([page(offset, "noise") for offset in range(area.pages)])
    assert not area.store_many(range(area.pages), pages).any()
    found = np.empty_like(pages)
    area.load_many(range(area.pages), found)
    same(found, pages)
    area.swapoff()


def test_rule_2_without_slots_a_refused_page_is_lost_loudly(hooks: frontswap.Frontswap) -> None:
    hooks.register("zcache:size=8M,staging=off")
    area = hooks.swapon(N, swap=None)
    area.store(1, page(1))
    with pytest.raises(frontswap.SlotError, match="no slots"):
        area.store(1, page(2, "noise"))
    with pytest.raises(frontswap.PageLostError):  # neither the old bytes nor zeros
        load(area, 1)
    area.store(1, page(3))
    same(load(area, 1), page(3))


# --- 3: no load ever sees an older copy -----------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["zcache:size=8M", "model", "checksum / model", "inject / zcache:size=8M"])
@pytest.mark.parametrize("way", ["refused", "stopped", "critical", "gone"])
def test_rule_3_a_refused_store_leaves_no_older_copy(hooks: frontswap.Frontswap, spec: str, way: str) -> None:
    (registered,) = hooks.register(f"inject / {spec}")
    area = hooks.swapon(N)
    assert area.store(0, page(1))
    if way == "refused":
        registered.set("inject", refuse=1)
    elif way == "stopped":
        area.stop("a drill")
    elif way == "critical":
        registered.set("inject", refuse=1 if "model" in spec else 0)
        hooks.pressure("critical")
    else:
        hooks.unregister(registered)
    assert area.store(0, page(2)) is False
    assert hooks.curr_pages() == 0
    same(load(area, 0), page(2))
    # and what comes back to life knows nothing of it
    if way == "gone":
        hooks.register(spec)
    registered.set("inject", refuse=0)
    area.resume()
    hooks.pressure("none")
    same(load(area, 0), page(2))
    assert area.store(0, page(3))
    same(load(area, 0), page(3))


def test_rule_3_the_holder_is_told_when_another_accepts(hooks: frontswap.Frontswap) -> None:
    first, second = Scripted(), Model()
    hooks.register([first, second])
    area = hooks.swapon(N)
    area.store(0, page(1))
    first.answer = False
    assert area.store(0, page(2))
    assert first.calls[-1] == ("invalidate_page", 0, 0)
    assert not first.pages
    same(load(area, 0), page(2))
    first.answer = True
    area.store(0, page(3))
    assert not second.pages
    same(load(area, 0), page(3))


# --- 4: load keeps the copy; in exclusive mode it takes it ----------------------------------------------------------


@pytest.mark.parametrize("spec", ["zcache:size=8M", "checksum / model"])
def test_rule_4_loads_keep_the_copy_unless_they_are_exclusive(hooks: frontswap.Frontswap, spec: str) -> None:
    hooks.register(spec)
    area = hooks.swapon(N)
    area.store(0, page(1))
    for _ in range(2):
        found = page(0)
        assert area.load(0, found)
        assert hooks.curr_pages() == 1
    hooks.exclusive_loads(True)
    assert area.load(0, found)
    same(found, page(1))
    assert hooks.curr_pages() == 0
    with pytest.raises(frontswap.ExclusiveLoadError):
        area.load(0, found)
    assert area.load_many([0], found).tolist() == [-errno.ENOENT]
    area.store(0, page(2))
    hooks.exclusive_loads(False)
    same(load(area, 0), page(2))


def test_rule_4_exclusive_loads_make_pages_dirty_behind_the_memory_door(new_memory: NewMemory) -> None:
    memory = new_memory()
    array = memory.empty(N * PAGE, "u1", page=PAGE)
    memory.advise(array, "random")
    array[:] = (walk(N * 512) + 1).view("u1")
    expected = array.tobytes()
    for exclusive in (False, True, False):
        memory.backends.exclusive_loads(exclusive)
        cold(memory, array)
        before = quiet(memory)
        assert array.tobytes() == expected
        after = quiet(memory)
        assert after.refaults - before.refaults == N
        assert (after.frontswap_pages == 0) is exclusive
        cold(memory, array)
        assert (quiet(memory).succ_stores - after.succ_stores == N) is exclusive


# --- 5: a load that fails is loud, and counted ----------------------------------------------------------------------


@pytest.mark.parametrize("failure", [False, OSError("gone"), "nonsense"], ids=repr)
def test_rule_5_a_page_that_does_not_come_back_is_lost_loudly(hooks: frontswap.Frontswap, failure: object) -> None:
    backend = Scripted()
    hooks.register(backend)
    area = hooks.swapon(N)
    area.stop("so that its slot has old bytes")
    area.store(0, page(1))
    area.resume()
    area.store(0, page(2))
    backend.loads = failure
    for _ in range(2):
        with pytest.raises(frontswap.PageLostError) as caught:
            load(area, 0)
        assert caught.value.errno == errno.EIO
        assert isinstance(caught.value, OSError)
    assert area.load_many([0], page(0)).tolist() == [-errno.EIO]
    backend.loads = True
    with pytest.raises(frontswap.PageLostError):  # lost is lost: a backend that lies once is not asked again
        load(area, 0)
    assert area.statistics().poisoned == hooks.statistics().poisoned == 1
    assert (hooks.curr_pages(), backend.pages) == (0, {})
    area.store(0, page(3))
    same(load(area, 0), page(3))
    assert not area.invalidate_page(1)


@pytest.mark.parametrize("damage", ["error", "short", "corrupt"])
def test_rule_5_damage_is_never_bytes(hooks: frontswap.Frontswap, damage: str) -> None:
    (registered,) = hooks.register(Checksum() / Inject() / Zcache(size="8M"))
    area = hooks.swapon(N)
    area.store(0, page(1))
    area.store(1, page(1))
    registered.set("inject", **{damage: 1})
    with pytest.raises(frontswap.PageLostError):
        load(area, 0)
    registered.set("inject", **{damage: 0})
    same(load(area, 1), page(1))
    area.invalidate_page(0)
    assert not load(area, 0).any()


# --- 6: writethrough: both have it, and the backend may drop it -----------------------------------------------------


def test_rule_6_writethrough_writes_the_slot_and_the_backend_may_drop(hooks: frontswap.Frontswap) -> None:
    backend = Scripted()
    hooks.register(backend)
    area = hooks.swapon(N)
    hooks.writethrough(True)
    assert area.store(0, page(1))
    assert (hooks.curr_pages(), area.statistics().slot_stores) == (1, 1)
    backend.loads = False
    same(load(area, 0), page(1))
    assert area.statistics().poisoned == 0
    backend.loads = True
    hooks.writethrough(False)
    area.store(0, page(2))  # from here on the slot has old bytes
    backend.loads = False
    with pytest.raises(frontswap.PageLostError):
        load(area, 0)


def test_rule_6_a_slot_that_cannot_be_written_is_an_error(hooks: frontswap.Frontswap, small_disk: Path) -> None:
    hooks.register("model")
    area = hooks.swapon(size="512M", swap=small_disk, overcommit=True)
    hooks.writethrough(True)
    results = area.store_many(range(20_000), np.zeros(20_000 * PAGE, "u1"))
    assert results[0] == 1
    assert results[-1] == -errno.ENOSPC
    with pytest.raises(frontswap.SlotError, match="No space"):
        area.store(20_000, page(7))
    same(load(area, 20_000), page(7))  # the backend has it
    area.swapoff()


# --- 7: several backends, in order; invalidations; late ones get init -----------------------------------------------


def test_rule_7_the_first_to_accept_wins(hooks: frontswap.Frontswap) -> None:
    first, second = Model(most=3), Model()
    hooks.register([first, second])
    area = hooks.swapon(N)
    for offset in range(8):
        assert area.store(offset, page(offset))
    assert (len(first.pages), len(second.pages)) == (3, 5)
    assert [stack.curr_pages for stack in hooks.backends.statistics()] == [3, 5]
    for offset in range(8):
        same(load(area, offset), page(offset))


def test_rule_7_a_late_backend_gets_init_for_every_active_area(hooks: frontswap.Frontswap) -> None:
    areas = [hooks.swapon(N) for _ in range(3)]
    areas[1].swapoff()
    backend = Scripted()
    (registered,) = hooks.register(backend)
    assert backend.calls == [("init", 0), ("init", 2)]
    hooks.swapon(N)
    assert backend.calls[2:] == [("init", 1)]
    areas[0].store(0, page(1))
    hooks.invalidate_area(0)
    areas[0].swapoff()
    assert backend.calls[3:] == [("invalidate_page", 0, 0), ("invalidate_area", 0)]
    hooks.unregister(registered)
    assert sorted(backend.calls[5:]) == [("invalidate_area", 1), ("invalidate_area", 2)]


def test_rule_7_areas_and_backends_come_and_go_at_once(hooks: frontswap.Frontswap) -> None:
    """Every backend has heard of every area that is on, and of no other, whoever was first."""
    problems: list[object] = []

    class Watching(Model):
        def __init__(self) -> None:
            super().__init__()
            self.on: set[int] = set()

        def init(self, type: int, area: frontswap.SwapArea) -> None:
            if type in self.on:
                problems.append(("init twice", type))
            self.on.add(type)

        def store(self, type: int, offset: int, page: memoryview) -> bool:
            if type not in self.on:
                problems.append(("store before init", type))
            return super().store(type, offset, page)

        def invalidate_area(self, type: int) -> None:
            self.on.discard(type)

    def areas() -> None:
        for _ in range(40):
            area = hooks.swapon(N, swap=None)
            for offset in range(4):
                try:
                    area.store(offset, page(offset))
                except frontswap.SlotError:
                    continue  # no backend at this moment
            area.swapoff()

    def backends() -> None:
        for _ in range(40):
            (registered,) = hooks.register(Watching())
            hooks.unregister(registered, deadline=60)

    kept = Watching()
    hooks.register(kept)
    threads = [threading.Thread(target=work) for work in (areas, areas, backends)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert (kept.on, kept.pages, hooks.curr_pages()) == (set(), {}, 0)


def test_rule_7_a_backend_leaves_while_pages_are_stored(hooks: frontswap.Frontswap) -> None:
    """A store that is inside the backend when it is told to go: its page is drained too."""
    backend = Scripted()
    (registered,) = hooks.register(backend)
    area = hooks.swapon(N)
    inside, go_on = threading.Event(), threading.Event()

    def wait(offset: int) -> None:
        inside.set()
        assert go_on.wait(10)

    backend.before_store = wait
    storing = threading.Thread(target=area.store, args=(5, page(5)))
    storing.start()
    assert inside.wait(10)
    leaving = threading.Thread(target=hooks.unregister, args=(registered,))
    leaving.start()
    leaving.join(0.05)
    waits = leaving.is_alive()  # for the store
    last = area.store(6, page(6))  # which is the last
    go_on.set()
    storing.join()
    leaving.join()
    assert waits
    assert last is False
    assert (hooks.curr_pages(), backend.pages, len(hooks.backends)) == (0, {}, 0)
    same(load(area, 5), page(5))
    same(load(area, 6), page(6))


def test_rule_7_what_cannot_be_drained_is_said_and_stays(hooks: frontswap.Frontswap) -> None:
    (registered,) = hooks.register("zcache:size=8M")
    area = hooks.swapon(N, swap=None)
    for offset in range(N):
        area.store(offset, page(offset))
    with pytest.raises(frontswap.DrainError, match=r"areas without slots \(swap=None\): 0") as caught:
        hooks.unregister(registered, deadline="50ms")
    assert caught.value.left == N
    for offset in range(N):
        same(load(area, offset), page(offset))
    assert area.store(0, page(9))  # and it is as useful as before
    area.invalidate_area()
    hooks.unregister(registered)


# --- 8: shrink only if there is room; curr_pages is exact -----------------------------------------------------------


def test_rule_8_shrink_moves_only_what_has_room(hooks: frontswap.Frontswap) -> None:
    hooks.register("model")
    slots, none = hooks.swapon(N), hooks.swapon(N, swap=None)
    for offset in range(N):
        slots.store(offset, page(offset))
        none.store(offset, page(offset))
    assert hooks.curr_pages() == 2 * N
    assert hooks.shrink(N + 10) == N - 10
    assert hooks.curr_pages() == N + 10
    hooks.shrink(0)
    assert hooks.curr_pages() == none.curr_pages() == N
    for offset in range(N):
        same(load(slots, offset), page(offset))
        same(load(none, offset), page(offset))


def test_rule_8_shrink_behind_the_memory_door_evicts_nothing(new_memory: NewMemory) -> None:
    memory = new_memory()
    array = memory.array(walk(24 * MiB // 8), page=65536)
    expected = array.copy()
    full = quiet(memory)
    assert full.frontswap_pages > 0
    memory.backends.shrink(0)
    now = quiet(memory)
    assert now.used_bytes <= now.limit_bytes - now.reserve_bytes
    assert now.evicted_dirty - full.evicted_dirty < 8  # background reclaim at most, no page made room for another
    same(array, expected)


def test_rule_8_shrink_behind_the_memory_door_brings_pages_in_where_there_is_room(new_memory: NewMemory) -> None:
    memory = new_memory("64M")
    array = memory.array(walk(MiB // 8), page=4096)
    page = memory._plane.page_of(array.ctypes.data)  # larger than asked for, where pages are protected
    pages, kept = MiB // page, 56 * 4096 // page
    expected = array.copy()
    cold(memory, array)
    assert quiet(memory).frontswap_pages == pages
    assert memory.backends.shrink(kept) == pages - kept
    now = quiet(memory)
    assert (now.frontswap_pages, now.resident_bytes) == (kept, (pages - kept) * page)
    same(array, expected)


# --- 9: moving pages afterwards is background work, oldest first ----------------------------------------------------


def test_rule_9_the_coldest_pages_leave_and_nobody_waits(hooks: frontswap.Frontswap) -> None:
    """A pool that is too small: what was stored last is in it, what was stored first is in the slots."""
    hooks.register("zcache:size=4M")
    area = hooks.swapon(4096)
    content = rough(4096)
    for offset in range(4096):
        area.store(offset, content[offset])
    found = area.frontswap_map
    assert found[-256:].mean() > found[:256].mean()
    assert hooks.statistics().pool_bytes <= 4 * MiB
    for offset in range(4096):
        same(load(area, offset), content[offset])


def test_rule_9_behind_the_memory_door_records_move_as_they_are(new_memory: NewMemory) -> None:
    memory = new_memory()
    array = memory.array(walk(96 * MiB // 8), page=65536)
    now = quiet(memory)
    assert 0 < now.written_back_bytes < array.nbytes / 2  # compressed
    assert now.slot_stores == 0
    del array


# --- 10: a batch counts as stored as soon as it is handed over ------------------------------------------------------


def test_rule_10_a_lookup_finds_pages_in_flight(hooks: frontswap.Frontswap) -> None:
    backend = Scripted()
    area = hooks.swapon(N)
    old = np.concatenate([page(1) for _ in range(8)])
    area.store_many(range(8), old)
    hooks.register(backend)
    inside, go_on = threading.Event(), threading.Event()

    def wait(offset: int) -> None:
        inside.set()
        assert go_on.wait(10)

    backend.before_store = wait
    new = np.concatenate([page(2) for _ in range(8)])
    storing = threading.Thread(target=area.store_many, args=(range(8), new))
    storing.start()
    assert inside.wait(10)  # the first page is on its way, the others have not begun
    found = np.empty(512, np.uint64)
    loading = threading.Thread(target=area.load, args=(7, found))
    loading.start()
    loading.join(0.05)
    waits = loading.is_alive()
    go_on.set()
    storing.join()
    loading.join()
    assert waits
    same(found, page(2))


# --- 11: refusal is a value with a reason, one counter for each -----------------------------------------------------


def test_rule_11_each_reason_has_its_counter(hooks: frontswap.Frontswap) -> None:
    (registered,) = hooks.register("inject / limit:size=64K / zcache:size=8M")
    area = hooks.swapon(4 * N)
    area.store(0, page(0, "noise"))
    for offset in range(1, 100):
        area.store(offset, rough(1, offset))
    registered.set("inject", refuse=1)
    area.store(0, page(1))
    registered.set("inject", refuse=0)
    area.stop("a drill")
    area.store(0, page(1))
    area.resume()
    hooks.pressure(Pressure.CRITICAL)
    area.store(0, page(1))
    found = {name: n for name, n in hooks.statistics().refusals.items() if n}
    assert found.pop("limit") > 10
    assert found == {"incompressible": 1, "injected": 1, "stopped": 1, "pressure": 1}
    assert hooks.statistics().failed_stores == sum(hooks.statistics().refusals.values())


@pytest.mark.parametrize("reason", list(Refusal))
def test_rule_11_a_backend_in_python_says_why(hooks: frontswap.Frontswap, reason: Refusal) -> None:
    backend = Scripted()
    hooks.register(Limit(size="1G") / backend)
    area = hooks.swapon(N)
    backend.answer = reason
    area.store(0, page(1))
    for layer in hooks.backends.statistics()[0].layers:
        assert {name: n for name, n in layer.refusals.items() if n} == {reason.name.lower(): 1}


# --- 12: not used costs nothing -------------------------------------------------------------------------------------


def test_rule_12_without_backends_nothing_is_counted_or_asked(hooks: frontswap.Frontswap) -> None:
    area = hooks.swapon(N)
    (registered,) = hooks.register("model")
    hooks.unregister(registered)
    before = hooks.statistics()
    for offset in range(N):
        assert area.store(offset, page(offset)) is False
        same(load(area, offset), page(offset))
    now = hooks.statistics()
    assert (now.succ_stores, now.failed_stores, now.loads) == (before.succ_stores, before.failed_stores, before.loads)
    assert (now.slot_stores, now.slot_loads) == (N, N)
    assert not any(now.refusals.values())
    assert hooks._core.pool() == (0, 0, 0)


def test_rule_12_hooks_without_use_cost_no_memory() -> None:
    before = int(Path("/proc/self/statm").read_text().split()[1])
    made = [frontswap.Frontswap() for _ in range(20)]
    assert (int(Path("/proc/self/statm").read_text().split()[1]) - before) * 4096 < 4 * MiB
    for hooks in made:
        hooks.close()


def test_noise_is_noise() -> None:
    """What these tests take for incompressible is."""
    assert len(set(noise(PAGE).tolist())) == 256
    assert issubclass(Scripted, Backend)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation.rule}-{Path(mutation.file).stem}")
def test_the_line_that_a_mutation_breaks_is_there(mutation: Mutation) -> None:
    """`python tests/mutations.py` is run by hand, and what it breaks moves."""
    assert (ROOT / mutation.file).read_text(encoding="utf-8").count(mutation.old) == 1
