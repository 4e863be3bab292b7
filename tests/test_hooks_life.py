"""Lives that cross: backends, areas, threads, interrupts and forks. Each was seen to lose a page or kill a process."""

from __future__ import annotations

import errno
import gc
import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from conftest import NewMemory
from helpers import MiB, run_child, same, walk
from scripted import PAGE, Scripted, load, page

import frontswap
from frontswap.testing.model import Model

RACE = 1.0  # seconds


@pytest.fixture
def hooks() -> Iterator[frontswap.Frontswap]:
    with frontswap.Frontswap() as hooks:
        yield hooks


@pytest.fixture
def often() -> Iterator[None]:
    """Threads take turns as often as Python can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


# --- backends leave ----------------------------------------------------------------------------------


def test_a_page_is_stored_over_while_its_backend_leaves(hooks: frontswap.Frontswap) -> None:
    """The page is on its way from the leaving one to a slow one: the first must not go before it has been told."""
    first, second = Scripted(), Scripted()
    leaving, _ = hooks.register([first, second])
    area = hooks.swapon(8)
    area.store(0, page(1))
    first.answer = False
    inside, go_on = threading.Event(), threading.Event()

    def wait(_: int) -> None:
        inside.set()
        assert go_on.wait(10)

    second.before_store = wait
    storing = threading.Thread(target=area.store, args=(0, page(2)))
    storing.start()
    assert inside.wait(10)
    assert hooks.curr_pages() == 0  # neither has it at this moment
    with pytest.raises(frontswap.DrainError):
        hooks.unregister(leaving, deadline="20ms")
    go_on.set()
    storing.join()
    assert first.calls[-1] == ("invalidate_page", 0, 0)
    hooks.unregister(leaving)
    same(load(area, 0), page(2))


@pytest.mark.usefixtures("often")
def test_zcache_comes_and_goes_under_stores(hooks: frontswap.Frontswap) -> None:
    area = hooks.swapon(8, swap="auto")
    end = time.monotonic() + RACE
    problems: list[Any] = []

    def store(offset: int) -> None:
        generation = 0
        while time.monotonic() < end:
            generation += 1
            area.store(offset, page(generation))
            if not np.array_equal(load(area, offset), page(generation)):
                problems.append((offset, generation))

    threads = [threading.Thread(target=store, args=(offset,)) for offset in range(2)]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        (registered,) = hooks.register("zcache:size=4M")
        hooks.unregister(registered)
    for thread in threads:
        thread.join()
    assert not problems


def test_an_interrupt_while_a_backend_drains(hooks: frontswap.Frontswap) -> None:
    """Ctrl-C arrives in the backend's own code. No page is lost, and what is done is done once."""

    class Interrupted(Model):
        armed = False

        def load(self, type: int, offset: int, into: memoryview) -> bool:
            if self.armed:
                self.armed = False
                raise KeyboardInterrupt
            return super().load(type, offset, into)

    backend = Interrupted()
    (registered,) = hooks.register(backend)
    area = hooks.swapon(8)
    for offset in range(8):
        area.store(offset, page(offset))
    backend.armed = True
    with pytest.raises(KeyboardInterrupt):
        hooks.unregister(registered)
    (other,) = hooks.register(Model())
    area.store(0, page(100))
    hooks.unregister(registered) if registered in list(hooks.backends) else None
    assert list(hooks.backends) == [other]
    assert hooks.curr_pages() == 1
    same(load(area, 0), page(100))
    for offset in range(1, 8):
        same(load(area, offset), page(offset))


@pytest.mark.parametrize("what", ["store", "load", "invalidate_page"])
def test_an_interrupt_inside_a_backend_is_neither_lost_nor_an_answer(hooks: frontswap.Frontswap, what: str) -> None:
    class Interrupted(Model):
        armed = False

        def __getattribute__(self, name: str) -> Any:
            if name == what and object.__getattribute__(self, "armed"):
                self.armed = False
                raise KeyboardInterrupt
            return object.__getattribute__(self, name)

    backend = Interrupted()
    hooks.register(backend)
    area = hooks.swapon(8)
    area.store(0, page(1))
    backend.armed = True
    found = page(0)
    uses: dict[str, Callable[[], bool]] = {
        "store": lambda: area.store(0, page(2)),
        "load": lambda: area.load(0, found),
        "invalidate_page": lambda: area.invalidate_page(0),
    }
    use = uses[what]
    with pytest.raises(KeyboardInterrupt):
        use()
    expected = {"store": page(2), "load": page(1), "invalidate_page": page(0) * 0}[what]
    same(load(area, 0), expected)
    assert hooks.statistics().poisoned == 0


@pytest.mark.parametrize("keep", ["slice", "array", "view"])
def test_a_backend_that_keeps_a_view_is_refused(
    hooks: frontswap.Frontswap, keep: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Keeping(Model):
        kept: Any = None

        def store(self, type: int, offset: int, page: memoryview) -> bool:
            self.kept = {"slice": page[:], "array": np.frombuffer(page, "u1"), "view": memoryview(page)}[keep]
            return super().store(type, offset, page)

    backend = Keeping()
    hooks.register(backend)
    area = hooks.swapon(8)
    with caplog.at_level(logging.ERROR):
        assert area.store(0, page(1)) is False
    backend.kept = None
    assert hooks.statistics().refusals["error"] == 1
    same(load(area, 0), page(1))


class Repr:
    def __repr__(self) -> str:
        raise OSError("no")


@pytest.mark.parametrize(
    "answer", [10**6000, Repr(), np.bool_(True), 1.0, Repr], ids=lambda answer: type(answer).__name__
)
def test_an_answer_that_is_none_is_a_refusal(
    hooks: frontswap.Frontswap, answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it raises when it is looked at or shown."""
    backend = Scripted()
    hooks.register(backend)
    area = hooks.swapon(8)
    area.store(0, page(1))
    backend.answer = answer
    with caplog.at_level(logging.ERROR):
        assert area.store(0, page(2)) is False
    same(load(area, 0), page(2))
    assert hooks.statistics().refusals["error"] == 1
    backend.loads = answer
    backend.answer = True
    area.store(0, page(3))
    with pytest.raises(frontswap.PageLostError):
        load(area, 0)


def test_a_page_that_is_kept_shows_nothing_later(hooks: frontswap.Frontswap) -> None:
    class Keeping(Model):
        kept: Any = None

        def store(self, type: int, offset: int, page: memoryview) -> bool:
            self.kept = page.obj
            return super().store(type, offset, page)

    backend = Keeping()
    hooks.register(backend)
    assert hooks.swapon(8).store(0, page(1))
    with pytest.raises(BufferError, match="is over"):
        memoryview(backend.kept)


def test_a_backend_that_keeps_its_area_does_not_keep_the_hooks() -> None:
    class Knowing(Model):
        area: Any = None

        def init(self, type: int, area: frontswap.SwapArea) -> None:
            self.area = area

        def store(self, type: int, offset: int, page: memoryview) -> bool:
            self.area.stop("enough")
            return super().store(type, offset, page)

    backend = Knowing()
    hooks = frontswap.Frontswap([backend, "zcache:size=4M"])
    area = hooks.swapon(8)
    assert area.store(0, page(1)) is True
    assert area.stopped == "enough"
    assert area.store(1, page(1)) is False
    gone = weakref.ref(hooks)
    del hooks, area, backend
    gc.collect()
    assert gone() is None


def test_a_backend_that_fails_at_the_end_of_an_area_stops_nothing(hooks: frontswap.Frontswap) -> None:
    class Failing(Scripted):
        def invalidate_area(self, type: int) -> None:
            super().invalidate_area(type)
            raise OSError("down")

    first, second = Failing(), Scripted()
    registered, _ = hooks.register([first, second])
    area = hooks.swapon(8)
    area.swapoff()
    assert first.calls[-1] == second.calls[-1] == ("invalidate_area", 0)
    assert hooks.areas == ()
    hooks.swapon(8)
    hooks.unregister(registered)


def test_a_backend_may_refuse_an_area(hooks: frontswap.Frontswap) -> None:
    class Choosy(Scripted):
        def init(self, type: int, area: frontswap.SwapArea) -> None:
            if area.page > PAGE:
                raise ValueError("small pages only")

    first = Scripted()
    hooks.register(first)
    hooks.register(Choosy())
    with pytest.raises(ValueError, match="small pages only"):
        hooks.swapon(8, page=8192)
    assert hooks.areas == ()
    assert first.calls == [("init", 0), ("invalidate_area", 0)]
    hooks.swapon(8)
    hooks.swapon(8, swap=None).swapoff()


# --- areas come and go -------------------------------------------------------------------------------


def test_an_area_that_is_off_never_reaches_its_successor(hooks: frontswap.Frontswap) -> None:
    old = hooks.swapon(8)
    old.swapoff()
    new = hooks.swapon(8)
    assert new.type == old.type
    new.store(0, page(1))
    for use in (
        lambda: old.load(0, page(0)),
        lambda: old.store(0, page(2)),
        lambda: old.invalidate_page(0),
        old.invalidate_area,
        lambda: old.store_many([0], page(2)),
        lambda: old.load_many([0], page(2)),
        lambda: old.invalidate_many([0]),
        lambda: old.stop("x"),
        old.statistics,
        lambda: old.frontswap_map,
    ):
        with pytest.raises(frontswap.ClosedError):
            use()
    old.swapoff()
    same(load(new, 0), page(1))
    new.swapoff()
    with pytest.raises(frontswap.ClosedError, match="is off"):
        new.load(0, page(0))
    with pytest.raises(frontswap.ParameterError, match="is on"):
        hooks.load(new.type, 0, page(0))


@pytest.mark.usefixtures("often")
def test_a_type_comes_back_with_larger_and_fewer_pages(hooks: frontswap.Frontswap) -> None:
    """A load in flight never writes past its buffer, and a batch never reaches pages behind the area."""
    end = time.monotonic() + 2 * RACE
    around = np.full(2 * MiB + PAGE, 0xAA, np.uint8)
    neighbour = hooks.swapon(64, swap=None)
    neighbour.swapoff()

    def load_one() -> None:
        while time.monotonic() < end:
            try:
                hooks.load(0, 0, around[:PAGE])
            except (frontswap.ParameterError, frontswap.PageLostError):  # it is off, or the batch had no slot
                continue

    def store_batch() -> None:
        pages = np.full((40, PAGE), 7, np.uint8)
        while time.monotonic() < end:
            try:
                hooks.store_many(0, np.arange(40), pages)
            except (frontswap.ParameterError, frontswap.SlotError):
                continue

    threads = [threading.Thread(target=load_one), threading.Thread(target=store_batch)]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        hooks.swapon(40, swap=None).swapoff()
        small = hooks.swapon(1, page=2 << 20, swap=None)
        behind = hooks.swapon(64, swap=None)
        found = np.zeros(PAGE, np.uint8)
        for offset in range(64):
            behind.load(offset, found)
            assert not found.any()
        behind.swapoff()
        small.swapoff()
    for thread in threads:
        thread.join()
    assert (around[PAGE:] == 0xAA).all()


@pytest.mark.usefixtures("often")
def test_hooks_are_closed_under_a_load() -> None:
    end = time.monotonic() + RACE
    current: list[frontswap.Frontswap] = []

    def load_on() -> None:
        found = bytearray(PAGE)
        while time.monotonic() < end:
            try:
                current[-1].load(0, 0, found)
            except (IndexError, ValueError):
                continue

    thread = threading.Thread(target=load_on)
    thread.start()
    while time.monotonic() < end:
        hooks = frontswap.Frontswap()
        hooks.swapon(1, swap=None)
        current.append(hooks)
        hooks.shrink(0)
        hooks.close(force=True)
    thread.join()


def test_offsets_may_lie_in_the_buffer_that_is_filled(hooks: frontswap.Frontswap) -> None:
    area = hooks.swapon(4)
    for offset in range(4):
        area.store(offset, np.full(PAGE, 0xFF, "u1"))
    into = np.zeros(4 * PAGE // 4, np.uint32)
    into[-4:] = range(4)
    assert area.load_many(into[-4:], into).tolist() == [0] * 4
    assert (into == 0xFFFFFFFF).all()


def test_an_area_without_slots_does_not_stop_writeback_for_others(hooks: frontswap.Frontswap) -> None:
    hooks.register("zcache:size=4M")
    none, slots = hooks.swapon(8, swap=None), hooks.swapon(8192)
    rng = np.random.default_rng(0)
    nibbles = rng.integers(0, 16, (64, PAGE), np.uint8)  # shrink by half
    assert none.store(0, nibbles[0])
    taken = [slots.store(offset, nibbles[offset % 64]) for offset in range(8000)]
    assert sum(taken[-2000:]) > 200
    assert np.array_equal(load(none, 0).view("u1"), nibbles[0])


# --- fork, memory ------------------------------------------------------------------------------------


def test_a_forked_child_has_no_hooks_and_does_not_hang() -> None:
    code = """
hooks = frontswap.Frontswap("zcache:size=4M")
area = hooks.swapon(8)
area.store(0, bytes(4096))
taken = threading.Event()
def hold():
    with hooks.backends.lock:
        taken.set()
        threading.Event().wait(2)
thread = threading.Thread(target=hold, daemon=True)
thread.start()
taken.wait()
child = os.fork()
if child == 0:
    signal.alarm(int(20 * PATIENCE))
    load = lambda: area.load(0, bytearray(4096))
    for use in (load, hooks.statistics, lambda: hooks.register("null"), hooks.curr_pages):
        try:
            use()
            os._exit(1)
        except ValueError:
            pass
    hooks.close(force=True)
    with frontswap.Frontswap("zcache:size=4M") as mine:
        mine.swapon(8).store(0, bytes(4096))
    os._exit(0)
_, status = os.waitpid(child, 0)
thread.join()
area.load(0, bytearray(4096))
print(status)
"""
    assert run_child(code, options=("-W", "ignore::DeprecationWarning")).check().result == 0


def test_hooks_that_cannot_have_addresses_leave_nothing() -> None:
    code = """
hooks = frontswap.Frontswap()
area = hooks.swapon(8)
size = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 30), size + (1 << 30)))
for _ in range(50):
    for spec in ("zcache:size=64G", "active_only / zcache:size=4M"):
        try:
            hooks.register(spec)
            sys.exit("registered")
        except MemoryError:
            pass
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""
    code = code.replace("(size + (1 << 30), size + (1 << 30))", "(size + (1 << 29), resource.RLIM_INFINITY)")
    code += """
(registered,) = hooks.register("active_only / zcache:size=64M")
print(len(hooks.backends))
"""
    assert run_child(code).check().result == 1


def test_backends_come_and_go_behind_arrays(new_memory: NewMemory) -> None:
    memory = new_memory(backends=None)
    array = memory.array(walk(40 * MiB // 8))
    expected = array.copy()
    for spec in ("zcache", "limit:size=4M / zcache", "active_only / checksum / zcache:codec=lz4", "null + zcache"):
        registered = memory.backends.register(spec)
        array += 1
        expected += 1
        same(array, expected)
        assert memory.backends.statistics()[-1].curr_pages == memory.statistics().frontswap_pages
        for one in registered:
            memory.backends.unregister(one)
        assert memory.statistics().frontswap_pages == memory.statistics().pool_bytes == 0
        same(array, expected)


def test_what_cannot_work_behind_arrays_is_refused(new_memory: NewMemory) -> None:
    memory = new_memory()
    with pytest.raises(frontswap.ParameterError, match="GIL"):
        memory.backends.register("model")
    with pytest.raises(frontswap.ParameterError, match="GIL"):
        new_memory(backends=["zcache", Model()])
    with pytest.raises(frontswap.ParameterError, match="writethrough"):
        memory.backends.writethrough(True)
    with pytest.raises(frontswap.InUseError, match="zcache"):
        memory.backends.register("zcache")
    assert [registered.name for registered in memory.backends] == ["zcache"]


def test_a_memory_without_a_swap_file_keeps_its_zcache(new_memory: NewMemory) -> None:
    """Told to go, it says what is left, and all goes on as before."""
    memory = new_memory("32M", swap=None, allocate="64M")
    array = memory.array(walk(48 * MiB // 8))
    expected = array.copy()
    (registered,) = memory.backends
    with pytest.raises(frontswap.DrainError, match="without a swap file") as caught:
        memory.backends.unregister(registered, deadline="200ms")
    assert caught.value.left > 0
    array += 1
    same(array, expected + 1)


def test_a_memory_without_a_swap_file_gives_nothing_up() -> None:
    """Writers need the pool at every moment: if unregister or pressure had it refuse, the process would end."""
    code = """
memory = frontswap.Memory("32M", swap=None, allocate="128M", page=4096)
array = memory.array(walk(48 * MiB // 8))
(registered,) = memory.backends
stop = threading.Event()
def write():
    while not stop.is_set():
        array[::512] += 1
threads = [threading.Thread(target=write) for _ in range(2)]
for thread in threads:
    thread.start()
for turn in range(5):
    try:
        memory.backends.unregister(registered, deadline="50ms")
        sys.exit("unregistered")
    except frontswap.DrainError as error:
        assert error.left > 0
    relief = memory.backends.pressure("critical")
    assert relief.left_bytes > 0 and "without a swap file" in relief.why, relief
    assert memory.backends.pressure("none").left_bytes == 0
stop.set()
for thread in threads:
    thread.join()
print(memory.statistics().poisoned)
"""
    assert run_child(code).check().result == 0


def test_pressure_that_cannot_be_met_says_so(hooks: frontswap.Frontswap) -> None:
    hooks.register("zcache:size=8M")
    area = hooks.swapon(256, swap=None)
    for offset in range(256):
        area.store(offset, page(offset))
    relief = hooks.pressure("critical")
    assert relief.left_bytes > 0
    assert "areas without slots (swap=None): 0" in relief.why
    with pytest.raises(frontswap.SlotError) as caught:
        area.store(0, page(1))
    assert caught.value.errno == errno.ENOSPC
    assert hooks.statistics().refusals["pressure"] == 1
    same(load(area, 1), page(1))
    relief = hooks.pressure("none")
    assert (relief.left_bytes, relief.why) == (0, "")
    for wrong in ("high", 7, None):
        with pytest.raises(frontswap.ParameterError, match="critical"):
            hooks.pressure(wrong)  # type: ignore[arg-type]


def test_pressure_reaches_every_layer_and_sheds(hooks: frontswap.Frontswap) -> None:
    heard: list[int] = []

    class Hearing(Scripted):
        def pressure(self, level: Any) -> None:
            heard.append(int(level))
            if level == 2:
                raise OSError("down")

    hooks.register(["limit:size=1G / zcache:size=8M", Hearing()])
    area = hooks.swapon(4096)
    content = np.random.default_rng(0).integers(0, 16, (256, PAGE), np.uint8)
    for offset in range(4096):
        area.store(offset, content[offset % 256])
    full = hooks.statistics().pool_bytes
    assert full > 6 * MiB
    assert hooks.pressure("low").left_bytes == 0
    assert hooks.statistics().pool_bytes <= 6 * MiB
    assert hooks.pressure("medium").failed == ("scripted: OSError('down')",)
    assert hooks.statistics().pool_bytes <= 4 * MiB
    assert hooks.pressure("critical").left_bytes == 0
    assert hooks.statistics().pool_bytes == 0
    assert heard == [1, 2, 3]
    for offset in range(4096):
        assert np.array_equal(load(area, offset).view("u1"), content[offset % 256])
