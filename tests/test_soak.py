"""The soak itself: it sees what it is there to see, and its forks are run under pytest, faulthandler and all."""

from __future__ import annotations

import ctypes
import os
import signal

import numpy as np
import pytest
from helpers import PATIENCE, ROOT

import frontswap
from frontswap.testing import forks, hammer, soak

GRANULES = 256
HAMMERS = 2


def copy_in(memory: frontswap.Memory) -> forks.Copy:
    """What the hammers share, before they begin."""
    array = memory.empty(GRANULES * forks.WORDS, "u8")
    hammer.fill(array.ctypes.data, GRANULES, 7)
    return forks.Copy(memory, array, 7, HAMMERS)


def ends(copy: forks.Copy, least: forks.Counters, most: forks.Counters, seeds: range = range(6)) -> list[str]:
    """What the children found that were to have counters between these."""
    found = []
    for seed in seeds:
        child = forks.Child(copy, least, seed, PATIENCE)
        child.tell(most)
        processes, trouble = child.end()
        assert processes in (0, 1, 2)
        found.append(trouble)
    return found


def test_forked_processes_that_are_right(memory: frontswap.Memory) -> None:
    copy = copy_in(memory)
    copy.array[0 : 8 * HAMMERS : 8] = 3
    counters = copy.counters(GRANULES)
    assert counters.shape == (HAMMERS, GRANULES)
    assert counters[:, 0].tolist() == [3] * HAMMERS
    assert ends(copy, counters, counters) == [""] * 6
    assert np.array_equal(copy.counters(GRANULES), counters), "what a child writes is its own"


@pytest.mark.parametrize("off", [-2, 1])
def test_a_wrong_counter_is_found(memory: frontswap.Memory, off: int) -> None:
    copy = copy_in(memory)
    counters = copy.counters(GRANULES) + np.uint64(10)
    for row in range(HAMMERS):
        copy.array.reshape(GRANULES, -1)[:, row * 8] = counters[row]
    copy.array[0] = 10 + off
    assert any("counters are wrong" in trouble for trouble in ends(copy, counters, counters))


def test_one_step_may_be_late_and_no_more(memory: frontswap.Memory) -> None:
    copy = copy_in(memory)
    least = copy.counters(GRANULES)
    least[:, 5] = 1
    copy.check_between(least, least)
    least[1, 6] = 1
    with pytest.raises(AssertionError, match=r"2 counters are wrong.* hammer 1 in granule 5 is 0, not 1 to 1"):
        copy.check_between(least, least)


def test_a_wrong_pattern_is_found(memory: frontswap.Memory) -> None:
    copy = copy_in(memory)
    copy.array[3 * forks.WORDS + 200] ^= np.uint64(1)
    with pytest.raises(AssertionError, match="pattern of granule 3"):
        copy.check_patterns(GRANULES)


def test_a_process_that_dies_is_missed(memory: frontswap.Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = copy_in(memory)
    monkeypatch.setattr(forks.Copy, "write", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    counters = copy.counters(GRANULES)
    assert any("not ended" in trouble for trouble in ends(copy, counters, counters))


def test_a_storm_ends_with_its_children(memory: frontswap.Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = copy_in(memory)
    shadow = copy.counters(GRANULES)
    stop = ctypes.c_int32(0)
    told: list[forks.Child] = []
    tell = forks.Child.tell

    def last(child: forks.Child, most: forks.Counters) -> None:
        tell(child, most)
        told.append(child)
        stop.value = len(told) == forks.ALIVE + 1

    monkeypatch.setattr(forks.Child, "tell", last)
    processes, trouble = forks.storm(copy, shadow, stop, 5, PATIENCE)
    assert len(told) == forks.ALIVE + 1
    assert processes >= len(told) - sum(child.killed for child in told)
    assert trouble == ""


def test_a_thread_that_ends_is_a_problem(memory: frontswap.Memory) -> None:
    def fails() -> None:
        raise ValueError("for the test")

    shared = soak.Shared(memory, 1 << 20, 4096, 7)
    shared.watch(fails)
    assert shared.stop.value == 1
    [problem] = shared.problems
    assert "ValueError" in problem


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell", [cell for cell in soak.all_cells() if cell.user == ("root" if ROOT else "user")], ids=str
)
def test_a_cell(cell: soak.Cell) -> None:
    """Every cell of this user's, for a short while; `make soak` has more time."""
    if reason := cell.why_not():
        pytest.skip(reason)
    passed, line = soak.start_cell(cell, 6, 20261124, PATIENCE)
    print(line)
    assert passed, line
