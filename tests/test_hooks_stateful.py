"""Any sequence of what may happen to hooks leaves the bytes that a dict has (frontswap.testing.machine)."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from frontswap.testing.machine import HooksMachine

CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


def run(machine: type[HooksMachine], examples: int, steps: int) -> None:
    chosen = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=CHECKS, database=None
    )
    run_state_machine_as_test(machine, settings=chosen)


class Careful(HooksMachine):
    """Nothing that loses pages: none may be lost."""

    damaging = None


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRONTSWAP_RECOMPRESS", "eager")


@pytest.mark.parametrize("machine", [HooksMachine, Careful])
def test_any_sequence(machine: type[HooksMachine]) -> None:
    run(machine, examples=40, steps=50)


@pytest.mark.slow
@pytest.mark.parametrize("machine", [HooksMachine, Careful])
def test_any_long_sequence(machine: type[HooksMachine]) -> None:
    run(machine, examples=60 if os.environ.get("CI") else 400, steps=200)
