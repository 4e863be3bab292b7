"""The write budget: what it has the pool do, and what it never does."""

from __future__ import annotations

import os

import numpy as np
import pytest
from conftest import NewMemory
from helpers import MiB, Mode, cold, noise, quiet, run_child, same

import frontswap
from frontswap.backends import Zcache

HOUR = 3600 * 10**9
LIMIT = 32 * MiB


def filled(memory: frontswap.Memory, seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """An array that has been evicted, and what is in it: pages that shrink to a half."""
    source = noise(size, seed)
    source.reshape(-1, 2, 2048)[:, 1] = 0
    array = memory.array(source)
    cold(memory, array)
    return array, source


def test_what_is_spent_stays_in_ram_as_long_as_it_fits(seam: Mode, new_memory: NewMemory) -> None:
    """Until it is, three quarters of the limit; then as without a swap file, and in the next period as before."""
    memory = new_memory(LIMIT, page=4096, backends="zcache:codec=lz4,recompress=off,write_budget=2MiB,write_period=1h")
    assert memory.statistics().write_budget_left == 2 * MiB
    kept = filled(memory, 1, 44 * MiB)
    full = quiet(memory)
    assert full.write_budget_left < 2 * MiB
    budget = full.limit_bytes - full.reserve_bytes
    more = filled(memory, 2, 12 * MiB)
    spent = quiet(memory)
    assert spent.write_budget_left == 0
    assert spent.written_back_bytes - spent.cleaned_bytes > 2 * MiB, "what does not fit is written all the same"
    assert spent.pool_bytes > budget * 13 // 16
    assert spent.used_bytes <= budget
    memory._plane.skip_time(HOUR)
    assert memory.statistics().write_budget_left == 2 * MiB
    other = filled(memory, 3, 4 * MiB)
    after = quiet(memory)
    assert after.written_back_bytes > spent.written_back_bytes
    for array, source in (kept, more, other):
        same(array, source)
    assert memory.statistics().poisoned == memory.statistics().overshoots == 0


def test_periods_follow_each_other(new_memory: NewMemory) -> None:
    """A budget is for each period since it began; what was written beyond one is not taken off the next."""
    memory = new_memory(LIMIT, page=4096, backends="zcache:codec=lz4,write_budget=1MiB,write_period=1h")
    arrays = [filled(memory, 1, 60 * MiB)]
    assert quiet(memory).write_budget_left == 0
    memory._plane.skip_time(5 * HOUR // 2)
    assert memory.statistics().write_budget_left == MiB
    arrays.append(filled(memory, 2, 8 * MiB))
    assert quiet(memory).write_budget_left == 0
    memory._plane.skip_time(HOUR // 2)
    assert memory.statistics().write_budget_left == MiB
    for array, source in arrays:
        same(array, source)


def test_without_one(new_memory: NewMemory) -> None:
    memory = new_memory(LIMIT)
    assert memory.statistics().write_budget_left == -1


def test_a_zcache_that_leaves_takes_it_along(new_memory: NewMemory) -> None:
    memory = new_memory(LIMIT, page=4096, backends="zcache:write_budget=1MiB")
    array, source = filled(memory, 1, 60 * MiB)
    assert quiet(memory).write_budget_left == 0
    [zcache] = memory.backends
    memory.backends.unregister(zcache)
    assert memory.statistics().write_budget_left == -1
    memory.backends.register("zcache")
    assert memory.statistics().write_budget_left == -1
    same(array, source)


def test_in_a_forked_child(seam: Mode) -> None:
    """It has what its parent had left, and goes on counting for itself, with threads and without."""
    run_child(
        """
from helpers import cold
memory = frontswap.Memory("32M", page=4096, backends="zcache:codec=lz4,write_budget=1MiB,write_period=1h")
source = noise(60 * MiB, 1)
source.reshape(-1, 2, 2048)[:, 1] = 0
array = memory.array(source)
cold(memory, array)
assert quiet(memory).write_budget_left == 0
pid = os.fork()
assert memory.statistics().write_budget_left == 0
if pid == 0:
    memory._plane.skip_time(3600 * 10**9)
    array ^= 1
    source ^= 1
cold(memory, array)
assert np.array_equal(array, source)
now = memory.statistics()
assert now.poisoned == now.overshoots == 0
if pid == 0:
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
""",
        mode=seam,
    ).check()


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("zcache:write_budget=many", "zcache:write_budget"),
        ("zcache:write_budget=-1", "zcache:write_budget"),
        ("zcache:write_budget=1MiB,write_period=0.5s", "zcache:write_period"),
        ("zcache:write_budget=1MiB,write_period=soon", "zcache:write_period"),
    ],
)
def test_bad_input(spec: str, named: str) -> None:
    with pytest.raises(frontswap.ParameterError, match=named):
        frontswap.Memory(LIMIT, backends=spec)


def test_swap_areas_have_none(tmp_path: os.PathLike[str]) -> None:
    with pytest.raises(frontswap.ParameterError, match="zcache:write_budget"):
        frontswap.Frontswap(Zcache(write_budget="1MiB"))


def test_settings_are_shown_as_they_are() -> None:
    assert Zcache(write_budget="1GiB", write_period="1h").write_period == HOUR
    assert Zcache().write_budget == 0
