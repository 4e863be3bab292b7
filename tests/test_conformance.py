"""The conformance suites over every backend and filter that we have, and over stacks of them."""

from __future__ import annotations

import pytest

from frontswap.backends import ActiveOnly, Checksum, Inject, Latency, Limit, Zcache
from frontswap.backends.stack import Spec
from frontswap.testing.conformance import BackendSuite, StackSuite
from frontswap.testing.model import Model


class TestModel(BackendSuite):
    def make(self) -> Model:
        return Model()


@pytest.mark.slow
class TestModelThatIsFull(BackendSuite):
    def make(self) -> Model:
        return Model(most=5)


class TestZcache(StackSuite):
    def make(self) -> Spec:
        return "zcache:size=32M"


class TestZcacheThatSheds(StackSuite):
    def make(self) -> Spec:
        return "zcache:size=4M"


class TestZcacheWithAPolicy(StackSuite):
    def make(self) -> Spec:
        return "zcache:size=4M,policy=lirs"


class TestZcacheThatSharesPages(StackSuite):
    def make(self) -> Spec:
        return "zcache:size=4M,dedup=on"


class TestNull(StackSuite):
    accepts = False

    def make(self) -> Spec:
        return "null"


class TestNothing(StackSuite):
    accepts = False

    def make(self) -> Spec:
        return None


class TestLimit(StackSuite):
    def make(self) -> Spec:
        return Limit(size="5M") / Model()


class TestLimitOverZcache(StackSuite):
    accepts = False  # a page of 2 MiB does not fit

    def make(self) -> Spec:
        return "limit:size=256K / zcache:size=32M"


class TestChecksum(StackSuite):
    def make(self) -> Spec:
        return Checksum() / Model()


class TestActiveOnly(StackSuite):
    accepts = False  # nothing has come back yet

    def make(self) -> Spec:
        return ActiveOnly(distance="64M") / Model()


@pytest.mark.slow
class TestLatency(StackSuite):
    def make(self) -> Spec:
        return Latency(deadline="1h") / Model()


class TestLatencyThatTrips(StackSuite):
    accepts = False

    def make(self) -> Spec:
        return Latency(deadline="1ms", trips=2, rest="10ms") / Inject(delay="4ms", virtual=True) / Zcache(size="32M")

    # pages go to their slots by themselves
    test_writethrough_keeps_the_slot = None  # type: ignore[assignment]


@pytest.mark.slow
class TestInject(StackSuite):
    def make(self) -> Spec:
        return Inject(refuse=0.3) / Model()


class TestAllFilters(StackSuite):
    accepts = False

    def make(self) -> Spec:
        return "latency / active_only / limit:size=64M / checksum / inject:refuse=10% / zcache:size=32M"


@pytest.mark.slow
class TestTwoBackends(StackSuite):
    def make(self) -> Spec:
        return "inject:refuse=50% / zcache:size=32M + checksum / model:most=10 + null"
