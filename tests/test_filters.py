"""What each filter decides, through the hooks; time is the hooks' own clock, so nothing here waits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from conftest import NewMemory
from helpers import MiB, cold, quiet, same, walk
from scripted import PAGE, load, page

import frontswap
from frontswap.backends import ActiveOnly, Inject, Latency, Limit, Zcache
from frontswap.testing.model import Model

N = 256


@pytest.fixture
def hooks() -> Iterator[frontswap.Frontswap]:
    with frontswap.Frontswap() as hooks:
        yield hooks


def accepted(area: frontswap.SwapArea, *offsets: int) -> list[bool]:
    return [area.store(offset, page(offset)) for offset in offsets]


def test_limit_stops_at_its_size_and_starts_again_at_accept(hooks: frontswap.Frontswap) -> None:
    hooks.register(Limit(size=100 * PAGE, accept=0.5) / Model())
    area = hooks.swapon(N)
    assert accepted(area, *range(102)) == [True] * 100 + [False] * 2
    for offset in range(49):
        area.invalidate_page(offset)
        assert accepted(area, 200) == [False]  # 51 to 99 pages are there: still full
    area.invalidate_page(49)
    assert accepted(area, *range(200, 250)) == [True] * 50
    assert accepted(area, 0) == [False]


def test_limit_counts_what_zcache_takes(hooks: frontswap.Frontswap) -> None:
    """Compressed, not the pages' size."""
    # Not staged: how soon the pages are packed then, an idle thread decides.
    hooks.register(Limit(size="256K") / Zcache(size="16M", staging="off"))
    area = hooks.swapon(N)
    assert sum(accepted(area, *range(N))) > 2 * (256 << 10) // PAGE
    assert hooks.statistics().pool_bytes <= 256 << 10


def test_limit_shrinks_under_pressure(hooks: frontswap.Frontswap) -> None:
    hooks.register(Limit(size=100 * PAGE, accept=1) / Model())
    area = hooks.swapon(N)
    for level, most in (("low", 75), ("medium", 50), ("critical", 0), ("none", 100)):
        hooks.pressure(level)
        area.invalidate_area()
        assert sum(accepted(area, *range(N))) == most


def test_limit_can_be_changed_in_use(hooks: frontswap.Frontswap) -> None:
    (registered,) = hooks.register(Limit(size=10 * PAGE) / Model())
    area = hooks.swapon(N)
    assert sum(accepted(area, *range(20))) == 10
    registered.set("limit", size=20 * PAGE, accept="100%")
    assert sum(accepted(area, *range(100, 120))) == 10
    for wrong, given, match in (
        ("limit", {"size": "x"}, "size in bytes"),
        ("limit", {"sizes": 1}, "size, accept"),
        ("checksum", {}, "limit"),
    ):
        with pytest.raises(frontswap.ParameterError, match=match):
            registered.set(wrong, **given)


def test_active_only_admits_what_came_back_soon(hooks: frontswap.Frontswap) -> None:
    hooks.register(ActiveOnly(distance=64 * PAGE) / Model())
    area = hooks.swapon(N)
    assert accepted(area, 0) == [False]  # never seen
    assert accepted(area, 0) == [False]  # stored again without having been read: it was not used
    same(load(area, 0), page(0))
    assert accepted(area, 0) == [True]
    same(load(area, 0), page(0))  # from the backend: used again
    assert accepted(area, 0) == [True]
    assert accepted(area, 0) == [False]  # it was not read in between
    # a scan: each page once, each comes back after everything else
    assert not any(accepted(area, *range(1, N)))
    for offset in range(1, N):
        load(area, offset)
    assert sum(accepted(area, *range(1, N))) <= 65
    assert hooks.statistics().refusals["inactive"] > N - 65


def test_active_only_behind_arrays(new_memory: NewMemory) -> None:
    """A scan goes to the swap file; what is used again and again gets into the pool."""
    memory = new_memory(backends="active_only:distance=64M / zcache")
    array = memory.array(walk(2 * MiB // 8), page=4096)
    memory.advise(array, "random")
    cold(memory, array)
    assert quiet(memory).frontswap_pages == 0
    for _ in range(3):
        array[::512].sum()
        cold(memory, array)
    assert quiet(memory).frontswap_pages > 400
    same(array, walk(2 * MiB // 8))


def test_latency_trips_writethrough_then_refusal_and_recovers(hooks: frontswap.Frontswap) -> None:
    (registered,) = hooks.register(Latency(deadline="10s", trips=2, rest="60s") / Inject(virtual=True) / Model())
    area = hooks.swapon(N)

    def slots() -> int:
        return area.statistics().slot_stores

    assert accepted(area, 0) == [True]
    registered.set("inject", delay="20s")
    assert accepted(area, 1, 2) == [True, True]
    assert slots() == 0
    assert accepted(area, 3) == [True]  # slow twice: it may lose pages now
    assert slots() == 1
    assert accepted(area, 4) == [True]
    assert accepted(area, 5, 6) == [False, False]  # slow four times: left alone
    assert hooks.statistics().refusals["slow"] == 2
    hooks._core.skip_time(61 * 10**9)
    assert accepted(area, 7, 8) == [True, False]  # one page is tried: slow still
    registered.set("inject", delay=0)
    assert accepted(area, 9) == [False]
    hooks._core.skip_time(61 * 10**9)
    before = slots()
    assert accepted(area, 10) == [True]  # fast: a step back
    assert accepted(area, 11, 12) == [True, True]
    assert slots() == before + 2 + 1
    assert accepted(area, 13, 14) == [True, True]
    assert slots() == before + 3
    for offset in range(15):
        same(load(area, offset), page(offset))


def test_latency_lets_a_slow_backend_lose_what_is_written_through(hooks: frontswap.Frontswap) -> None:
    (registered,) = hooks.register(
        Latency(deadline="1s", trips=1, rest="1h") / Inject(delay="2s", virtual=True) / Model()
    )
    area = hooks.swapon(N)
    assert accepted(area, 0, 1) == [True, True]
    registered.set("inject", error=1, delay=0)
    same(load(area, 1), page(1))
    with pytest.raises(frontswap.PageLostError):
        load(area, 0)


def test_inject_draws_what_it_is_told(hooks: frontswap.Frontswap) -> None:
    hooks.register(Inject(refuse=0.25, seed=7) / Model())
    area = hooks.swapon(N)
    results = [accepted(area, *range(N)) for _ in range(8)]
    assert 0.7 < np.mean(results) < 0.8
    with frontswap.Frontswap(Inject(refuse=0.25, seed=7) / Model()) as again:
        assert accepted(again.swapon(N), *range(N)) == results[0]


def test_zcache_takes_its_settings_wherever_it_is_registered(hooks: frontswap.Frontswap, new_memory: NewMemory) -> None:
    """Bits of floats in a walk: LZ4 alone cannot shrink them, a bit shuffle can."""
    pages = np.random.default_rng(0).normal(size=N * PAGE // 4).cumsum(dtype="f4").view("u1").reshape(N, PAGE)
    area = hooks.swapon(N)
    for codec, shrinks in (("lz4", False), ("auto", True), ("lz4", False), ("bitshuffle", True)):
        (registered,) = hooks.register(f"zcache:codec={codec},size=8M,staging=off")
        found = [area.store(offset, pages[offset]) for offset in range(N)]
        assert (sum(found) > 0.9 * N) == shrinks
        assert hooks.statistics().pool_limit_bytes == 8 * MiB
        hooks.unregister(registered)
    memory = new_memory(backends="zcache:codec=lz4,size=4M")
    array = memory.array(walk(40 * MiB // 8))
    assert quiet(memory).pool_bytes <= 4 * MiB + 6 * (256 << 10) + 8192
    memory.backends.unregister(*memory.backends)
    memory.backends.register("zcache")
    array += 1
    array.sum()
    assert quiet(memory).pool_bytes > 5 * MiB
    del array
