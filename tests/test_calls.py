"""System calls on arrays: row by row, what plain memory gives."""

from __future__ import annotations

import functools

import exchange
import pytest
from helpers import ROOT, run_child


NAMES = [f"{row} {state}" for row in exchange.ROWS for state in exchange.STATES[1:]]


@functools.cache
def on_plain_memory(row: str) -> str:
    return exchange.told(row, "plain")


@functools.cache
def as_an_ordinary_user() -> dict[str, str]:
    done = run_child("import exchange; exchange.main()", ordinary=True)
    # What went wrong is each test's: not tried again for each.
    found: dict[str, str] = dict.fromkeys(NAMES, done.err) if done.status else done.result
    return found


@pytest.mark.parametrize("state", exchange.STATES[1:])
@pytest.mark.parametrize("row", exchange.ROWS)
def test_as_on_plain_memory(row: str, state: str) -> None:
    assert exchange.told(row, state) == on_plain_memory(row)


@pytest.mark.skipif(not ROOT, reason="the test above is an ordinary user's already")
@pytest.mark.parametrize("state", exchange.STATES[1:])
@pytest.mark.parametrize("row", exchange.ROWS)
def test_as_on_plain_memory_without_privilege(row: str, state: str) -> None:
    assert not as_an_ordinary_user()[f"{row} {state}"]
