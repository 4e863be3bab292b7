"""Any sequence of what a program may do with its arrays leaves the bytes that NumPy leaves.

Hypothesis makes the sequences; each array of a Memory has a twin in ordinary memory that everything happens
to as well. Together the arrays are up to three times the limit.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
from helpers import MODES, PROTECTION, Array, MiB, Mode, protected
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import frontswap

LIMIT = 16 * MiB
MOST = 3 * LIMIT
DTYPES = ["u1", "i2", "i4", "f4", "f8", "c16", "M8[s]", ">u4", "S3", [("a", "u1"), ("b", "<f8")]]
PAGES = [None, 4096, 8192, 65536]

sizes = st.sampled_from([1, 4095, 4096, 4097, 65536, 300_000, MiB, 3 * MiB + 5, 7 * MiB, 15 * MiB])
seeds = st.integers(0, 2**32 - 1)
picks = st.integers(0, 1000)
parts = st.tuples(st.floats(0, 1), st.floats(0, 1))


def content(kind: str, nbytes: int, seed: int) -> Array:
    """Bytes as programs have them."""
    rng = np.random.default_rng(seed)
    if kind == "noise":
        return rng.integers(0, 256, nbytes, np.uint8)
    if kind == "word":  # same-filled pages
        return np.resize(rng.integers(0, 256, 8, np.uint8), nbytes)
    if kind == "ramp":
        return (np.arange(nbytes // 4 + 1, dtype="u4") + seed).view("u1")[:nbytes]
    if kind == "bits":  # which zstd makes smaller than LZ4
        bits: Array = rng.integers(0, 64, nbytes, np.uint8) & rng.integers(0, 64, nbytes, np.uint8)
        return bits
    return rng.normal(size=nbytes // 8 + 1).cumsum().round(1).view("u1")[:nbytes]


kinds = st.sampled_from(["noise", "word", "ramp", "walk", "bits"])


@dataclass(eq=False, repr=False)
class Pair:
    """An array of the Memory and its twin."""

    ours: Array
    twin: Array
    page: int
    pinned: int = 0
    pins: list[ExitStack] = field(default_factory=list)

    def bytes_of(self, which: Array) -> Array:
        return which.reshape(-1, order="A").view("u1")


def part_of(n: int, part: tuple[float, float]) -> slice:
    low, high = sorted(part)
    return slice(int(n * low), max(int(n * high), int(n * low)))


def differences(ours: Array, twin: Array) -> str:
    """What is wrong, or "" (in a function of its own: a failure's traceback must not hold arrays)."""
    if np.array_equal(ours, twin):
        return ""
    wrong = np.flatnonzero(ours != twin)
    return f"{len(wrong)} wrong bytes, from {wrong[0]} ({ours[wrong[:4]]} for {twin[wrong[:4]]})"


class MemoryMachine(RuleBasedStateMachine):
    modes: ClassVar[list[Mode]] = MODES

    @initialize(data=st.data(), overcommit=st.booleans(), split=st.sampled_from(["any", "follow"]))
    def make(self, data: st.DataObject, overcommit: bool, split: str) -> None:
        mode = data.draw(st.sampled_from([mode for mode in self.modes if not mode.why_not()]))
        os.environ.update(mode.environment, FRONTSWAP_SPLIT=split)
        self.memory = frontswap.Memory(LIMIT, overcommit=overcommit)
        self.limit = LIMIT
        self.pairs: list[Pair] = []
        # From the start more than the limit, so that every step moves pages.
        for seed, kind in enumerate(["noise", "walk", "ramp"]):
            twin = content(kind, 8 * MiB, seed)
            self.add(self.memory.array(twin), twin)

    def total(self) -> int:
        return sum(pair.ours.nbytes for pair in self.pairs)

    def pick(self, number: int) -> Pair:
        return self.pairs[number % len(self.pairs)]

    def add(self, ours: Array, twin: Array) -> None:
        assert type(ours) is np.ndarray
        assert (ours.dtype, ours.shape, ours.strides) == (twin.dtype, twin.shape, twin.strides)
        # What the model needs to know for "dontneed": which pages an array has.
        page = self.memory._plane.page_of(ours.ctypes.data)
        self.pairs.append(Pair(ours, twin if twin.flags.owndata else twin.copy("K"), page))

    # --- arrays come and go ----------------------------------------------------------------------

    @rule(
        form=st.sampled_from(["empty", "zeros", "ones", "array", "asarray", "empty_like", "with"]),
        dtype=st.sampled_from(DTYPES),
        nbytes=sizes,
        order=st.sampled_from("CF"),
        page=st.sampled_from(PAGES),
        kind=kinds,
        seed=seeds,
    )
    def allocate(self, form: str, dtype: Any, nbytes: int, order: Any, page: Any, kind: str, seed: int) -> None:
        if self.total() + nbytes > MOST:
            return
        item = np.dtype(dtype).itemsize
        n = max(nbytes // item, 1)
        shape = (3, n // 3) if n % 3 == 0 else (n,)
        memory = self.memory
        if form == "ones" and np.dtype(dtype).kind in "SV":
            form = "zeros"
        if form in ("empty", "zeros"):
            self.add(getattr(memory, form)(shape, dtype, order, page=page), np.zeros(shape, dtype, order))
        elif form == "ones":
            self.add(memory.ones(shape, dtype, order, page=page), np.ones(shape, dtype, order))
        elif form == "empty_like":
            twin = np.zeros(shape, dtype, order)
            self.add(memory.empty_like(twin), twin)
        elif form == "with" and n * item >= MiB:  # below that it would go to malloc
            with memory:
                ours = np.zeros(shape, dtype, order)
            self.add(ours, np.zeros(shape, dtype, order))
        else:
            twin = content(kind, n * item, seed).view(dtype).reshape(shape).copy(order)
            self.add(memory.array(twin, page=page) if form == "array" else memory.asarray(twin), twin)

    @precondition(lambda self: self.pairs)
    @rule(number=picks)
    def free(self, number: int) -> None:
        pair = self.pick(number)
        while pair.pins:
            pair.pins.pop().close()
        self.compare(pair, slice(0, None))
        self.pairs.remove(pair)

    @precondition(lambda self: self.pairs)
    @rule(number=picks, nbytes=sizes)
    def resize(self, number: int, nbytes: int) -> None:
        pair = self.pick(number)
        n = max(nbytes // pair.ours.itemsize, 1)
        # Below a MiB it would go to malloc; pins are of addresses.
        if n * pair.ours.itemsize < MiB or pair.pins or self.total() + nbytes > MOST:
            return
        pair.ours.resize(n, refcheck=False)
        pair.twin.resize(n, refcheck=False)
        pair.page = self.memory._plane.page_of(pair.ours.ctypes.data)

    # --- writes ----------------------------------------------------------------------------------

    @precondition(lambda self: self.pairs)
    @rule(number=picks, part=parts, kind=kinds, seed=seeds)
    def assign(self, number: int, part: tuple[float, float], kind: str, seed: int) -> None:
        pair = self.pick(number)
        where = part_of(pair.ours.nbytes, part)
        data = content(kind, where.stop - where.start, seed)
        pair.bytes_of(pair.ours)[where] = data
        pair.bytes_of(pair.twin)[where] = data

    @precondition(lambda self: self.pairs)
    @rule(number=picks, step=st.sampled_from([2, 7, 512, 4096, 8191, -3, -4096]), value=st.integers(0, 255))
    def assign_strided(self, number: int, step: int, value: int) -> None:
        pair = self.pick(number)
        pair.bytes_of(pair.ours)[::step] = value
        pair.bytes_of(pair.twin)[::step] = value

    @precondition(lambda self: self.pairs)
    @rule(number=picks, n=st.integers(1, 3000), seed=seeds)
    def assign_fancy(self, number: int, n: int, seed: int) -> None:
        pair = self.pick(number)
        rng = np.random.default_rng(seed)
        where, values = np.unique(rng.integers(0, pair.ours.nbytes, n)), rng.integers(0, 256, n, np.uint8)
        for which in (pair.ours, pair.twin):
            pair.bytes_of(which)[where] = values[: len(where)]

    @precondition(lambda self: self.pairs)
    @rule(number=picks, name=st.sampled_from(["add", "bitwise_xor", "right_shift", "maximum"]), part=parts)
    def ufunc_in_place(self, number: int, name: str, part: tuple[float, float]) -> None:
        pair = self.pick(number)
        for which in (pair.ours, pair.twin):
            there = pair.bytes_of(which)[part_of(which.nbytes, part)]
            getattr(np, name)(there, np.uint8(3), out=there)

    @precondition(lambda self: self.pairs)
    @rule(number=picks, part=parts, kind=st.sampled_from(["quicksort", "stable"]))
    def sort(self, number: int, part: tuple[float, float], kind: Any) -> None:
        pair = self.pick(number)
        for which in (pair.ours, pair.twin):
            there = pair.bytes_of(which)
            words = there[: len(there) // 2 * 2].view("u2")
            words[part_of(len(words), part)].sort(kind=kind)

    @precondition(lambda self: self.pairs)
    @rule(giver=picks, taker=picks, start=parts, length=st.floats(0, 1))
    def copy_between(self, giver: int, taker: int, start: tuple[float, float], length: float) -> None:
        a, b = self.pick(giver), self.pick(taker)
        n = int(min(a.ours.nbytes, b.ours.nbytes) * length)
        i, j = int((a.ours.nbytes - n) * start[0]), int((b.ours.nbytes - n) * start[1])
        b.bytes_of(b.ours)[j : j + n] = a.bytes_of(a.ours)[i : i + n]
        b.bytes_of(b.twin)[j : j + n] = a.bytes_of(a.twin)[i : i + n]

    # --- advice and pins -------------------------------------------------------------------------

    @precondition(lambda self: self.pairs)
    @rule(
        number=picks,
        part=parts,
        advice=st.sampled_from(["willneed", "cold", "cold", "sequential", "random", "normal"]),
    )
    def advise(self, number: int, part: tuple[float, float], advice: Any) -> None:
        pair = self.pick(number)
        there = pair.bytes_of(pair.ours)[part_of(pair.ours.nbytes, part)]
        if there.size:
            self.memory.advise(there, advice)

    @precondition(lambda self: self.pairs)
    @rule(number=picks, part=parts)
    def dontneed(self, number: int, part: tuple[float, float]) -> None:
        pair = self.pick(number)
        where = part_of(pair.ours.nbytes, part)
        if where.stop == where.start or pair.pins:
            return
        self.memory.advise(pair.bytes_of(pair.ours)[where], "dontneed")
        # Zeros in pages that are covered whole; the last page ends where the array does.
        first = -(-where.start // pair.page) * pair.page
        last = where.stop if where.stop == pair.ours.nbytes else where.stop // pair.page * pair.page
        if last > first:
            pair.bytes_of(pair.twin)[first:last] = 0

    @precondition(lambda self: self.pairs)
    @rule(number=picks, part=parts)
    def pin(self, number: int, part: tuple[float, float]) -> None:
        pair = self.pick(number)
        there = pair.bytes_of(pair.ours)[part_of(pair.ours.nbytes, part)]
        if there.size == 0 or there.size > LIMIT // 8 or self.memory.statistics().pinned_bytes > LIMIT // 8:
            return
        stack = ExitStack()
        stack.enter_context(self.memory.pin(there))
        pair.pins.append(stack)

    @precondition(lambda self: any(pair.pins for pair in self.pairs))
    @rule(number=picks)
    def unpin(self, number: int) -> None:
        pinned = [pair for pair in self.pairs if pair.pins]
        pinned[number % len(pinned)].pins.pop().close()

    @rule(limit=st.integers(LIMIT, 2 * LIMIT))
    def change_limit(self, limit: int) -> None:
        self.memory.resize(limit)
        self.limit = limit

    # --- reads -----------------------------------------------------------------------------------

    def compare(self, pair: Pair, where: slice) -> None:
        problem = differences(pair.bytes_of(pair.ours)[where], pair.bytes_of(pair.twin)[where])
        assert not problem, f"{problem} of {where} of {pair.ours.nbytes}"

    @precondition(lambda self: self.pairs)
    @rule(number=picks, part=parts)
    def read(self, number: int, part: tuple[float, float]) -> None:
        pair = self.pick(number)
        self.compare(pair, part_of(pair.ours.nbytes, part))

    @precondition(lambda self: self.pairs)
    @rule(number=picks, step=st.sampled_from([1, -1, 4096, -4096, 70_001]))
    def read_whole(self, number: int, step: int) -> None:
        pair = self.pick(number)
        self.compare(pair, slice(None if step < 0 else 0, None, step) if step > 0 else slice(None, None, step))

    @rule()
    def counts(self) -> None:
        now = self.memory.statistics()
        # A page on its way out is charged twice, as page and as record: the reserve is there for that.
        assert max(now.used_bytes, now.resident_bytes + now.pool_bytes) <= self.limit - now.reserve_bytes // 2
        assert now.limit_bytes == self.memory.limit == self.limit
        assert now.overshoots == now.poisoned == now.slot_errors == 0
        assert now.allocated_bytes == sum(-(-pair.ours.nbytes // pair.page) * pair.page for pair in self.pairs)

    def teardown(self) -> None:
        if not hasattr(self, "memory"):
            return
        try:
            while self.pairs:
                self.free(0)
            now = self.memory.statistics()
            assert (now.allocated_bytes, now.resident_bytes, now.pinned_bytes, now.pool_live_bytes) == (0, 0, 0, 0)
            assert now.swapped_bytes == 0
        finally:
            # After a failure hypothesis goes on to find a shorter sequence, and keeps tracebacks. Not closed
            # by force: whoever prints one would touch its arrays.
            for pair in self.pairs:
                pair.ours = pair.twin = np.zeros(0)
            with suppress(frontswap.InUseError):
                self.memory.close()


class ProtectedMachine(MemoryMachine):
    """Without userfaultfd."""

    modes: ClassVar[list[Mode]] = [PROTECTION]


def run(machine: type[MemoryMachine], examples: int, steps: int) -> None:
    if all(mode.why_not() for mode in machine.modes):
        pytest.skip(machine.modes[0].why_not())
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture(autouse=True)
def environment_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRONTSWAP_FAULTS", "sigbus")
    monkeypatch.setenv("FRONTSWAP_EVICT", "move")
    monkeypatch.setenv("FRONTSWAP_RECOMPRESS", "eager")
    monkeypatch.setenv("FRONTSWAP_SPLIT", "follow")


MACHINES = [pytest.param(MemoryMachine, id="userfaultfd"), protected(ProtectedMachine, name="sigsegv")]


@pytest.mark.parametrize("machine", MACHINES)
def test_like_numpy(machine: type[MemoryMachine]) -> None:
    run(machine, 25, 30)


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
def test_like_numpy_for_longer(machine: type[MemoryMachine]) -> None:
    run(machine, 120 if os.environ.get("CI") else 400, 60)
