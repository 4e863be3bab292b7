"""One `frontswap run` is one budget: processes of its tree that come, want more, fork, and are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import NewMemory
from helpers import FRONTSWAP, Clock, MiB, wait_until
from hypothesis import given
from hypothesis import strategies as st

import frontswap
from frontswap.memory.ledger import Ledger, shares
from frontswap.memory.pressure import REST, Follower
from frontswap.memory.startup import FOLDER, PREFIX, VARIABLE, Order, new_ledger

BUDGET = 256 * MiB
FUTEXES = {"x86_64": 202, "aarch64": 98}
FUTEX = FUTEXES.get(os.uname().machine)

# Does what it is told, line by line, and says what it has.
WORKER = """
import json, os, signal, sys, time
import numpy as np
from frontswap.memory import install

follower = install._followers[0]
arrays = []

def take(mib):
    seed = len(arrays)
    array = np.random.default_rng(seed).integers(0, 256, int(mib) << 20, "u1")
    arrays.append((array, int(array.sum(dtype="u8"))))

def check():
    for array, total in arrays:
        assert int(array.sum(dtype="u8")) == total, "wrong bytes"

def drop():
    arrays.pop()

def fork():
    pid = os.fork()
    if pid:
        pids.append(pid)
        return
    try:
        check()
        for array, total in arrays:
            array += 1
        while install._followers[0].last is None:
            time.sleep(0.01)
        ours = [line for line in follower.ledger.lines() if line.pid == os.getpid()]
        assert len(ours) == 1, ours
        signal.pause()
    except BaseException:
        import traceback
        traceback.print_exc()
    os._exit(1)

def kill():
    while pids:
        pid = pids.pop()
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL

pids = []

def say():
    now = follower.space.statistics()
    return dict(limit=now.limit_bytes, used=follower.space.plane.charged(), overshoots=now.overshoots, pids=pids)

print("ready", flush=True)
for line in sys.stdin:
    word, *rest = line.split()
    globals()[word](*rest) if word != "say" else None
    print(json.dumps(say()), flush=True)
"""


class Worker:
    """A process of the run."""

    def __init__(self, order: Order) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith("FRONTSWAP")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env={**env, VARIABLE: order.text()},
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.answer() == "ready"
        self.before = self.resident()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def do(self, command: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        print(command, file=self.process.stdin, flush=True)
        answer = self.answer()
        assert answer, f"exit status {self.process.wait()}"
        found: dict[str, Any] = json.loads(answer)
        return found

    def resident(self) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(text.split("RssAnon:")[1].split()[0]) << 10

    def grown(self) -> int:
        return self.resident() - self.before

    def end(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return self.process.wait()


class Family:
    """The run."""

    def __init__(self) -> None:
        self.path = new_ledger()
        self.order = Order(0, str(BUDGET), "auto", "zcache", "1M", "auto", "none", None, None, self.path)
        self.workers: list[Worker] = []

    def worker(self) -> Worker:
        self.workers.append(Worker(self.order))
        return self.workers[-1]

    def claims(self) -> list[int]:
        return [line.claim for line in Ledger(self.path, BUDGET).lines()]

    def settled(self, *living: Worker) -> bool:
        """All claims together are within the budget, and what is used is claimed."""
        lines = {line.pid: line.claim for line in Ledger(self.path, BUDGET).lines()}
        said = {worker.process.pid: worker.do("say") for worker in living}
        assert not any(each["overshoots"] for each in said.values())
        return sum(lines.values()) <= BUDGET and all(each["used"] <= lines[pid] for pid, each in said.items())


@pytest.fixture
def family() -> Iterator[Family]:
    family = Family()
    yield family
    for worker in family.workers:
        worker.process.kill()
        worker.end()
    Path(family.path).unlink(missing_ok=True)


@given(st.integers(0, 10**12), st.lists(st.integers(0, 10**12), min_size=1, max_size=20))
def test_fair_shares(budget: int, demands: list[int]) -> None:
    found = shares(budget, demands)
    assert budget - len(demands) < sum(found) <= budget
    fair = budget // len(demands)
    for share, demand in zip(found, demands, strict=True):
        assert share >= min(demand, fair)
        if share < demand:  # who does not get all has as much as anybody who has not either
            assert share >= max(s for s, d in zip(found, demands, strict=True) if s <= d) - 1


def test_shares_by_hand() -> None:
    assert shares(90, [10, 100, 100]) == [10, 40, 40]
    assert shares(90, [100]) == [90]
    assert shares(90, [10, 20, 30]) == [20, 30, 40]
    assert shares(90, [0, 0, 1000]) == [0, 0, 90]


@pytest.mark.slow
def test_three_processes_share(family: Family) -> None:
    """Each would have all of it; together they stay within it, seen from outside; each has its own bytes."""
    workers = [family.worker() for _ in range(3)]
    for worker in workers:
        worker.do("take 150")
    wait_until(lambda: family.settled(*workers), "all within the budget")
    assert sum(worker.grown() for worker in workers) <= BUDGET + 3 * 8 * MiB
    limits = [worker.do("check")["limit"] for worker in workers]
    assert min(limits) > BUDGET // 5
    wait_until(lambda: family.settled(*workers), "all within the budget")
    for worker in workers:
        worker.do("check")
        assert worker.end() == 0
    assert not Path(family.path).exists(), "the last one removes it"


def test_who_needs_little_lends_the_rest(family: Family) -> None:
    small, large = family.worker(), family.worker()
    small.do("take 20")
    large.do("take 200")
    wait_until(lambda: family.settled(small, large) and large.do("say")["limit"] >= BUDGET // 8 * 5, "it has the rest")
    large.do("check")


@pytest.mark.slow
def test_the_share_of_who_is_killed_goes_back(family: Family) -> None:
    first, second = family.worker(), family.worker()
    for worker in (first, second):
        worker.do("take 220")
    wait_until(lambda: family.settled(first, second), "both within the budget")
    assert first.do("say")["limit"] < BUDGET // 3 * 2
    second.process.send_signal(signal.SIGKILL)
    second.process.wait()
    wait_until(lambda: first.do("say")["limit"] == BUDGET, "all of it")
    assert len(family.claims()) == 1
    first.do("check")


@pytest.mark.slow
def test_one_that_begins_when_all_is_in_use(family: Family) -> None:
    first = family.worker()
    first.do("take 250")
    wait_until(lambda: family.settled(first), "one within the budget")
    assert first.do("say")["limit"] > BUDGET // 4 * 3
    late = family.worker()
    late.do("take 250")
    wait_until(lambda: family.settled(first, late) and late.do("say")["limit"] > BUDGET // 3, "its share")
    first.do("check")
    late.do("check")


@pytest.mark.slow
def test_what_is_freed_goes_back(family: Family) -> None:
    first, second = family.worker(), family.worker()
    for worker in (first, second):
        worker.do("take 220")
    wait_until(lambda: family.settled(first, second), "both within the budget")
    second.do("drop")
    wait_until(lambda: first.do("say")["limit"] > BUDGET // 4 * 3, "nearly all of it")
    first.do("check")


@pytest.mark.slow
def test_forked_children(family: Family) -> None:
    """They have a line, and are gone from it when they have been killed."""
    parent = family.worker()
    parent.do("take 200")
    wait_until(lambda: family.settled(parent), "one within the budget")
    for _ in range(2):
        parent.do("fork")
    wait_until(lambda: len(family.claims()) == 3 and family.settled(parent), "three within the budget")
    assert parent.do("check")["limit"] < BUDGET // 2
    parent.do("kill")
    wait_until(lambda: parent.do("say")["limit"] == BUDGET, "all of it again")
    parent.do("check")


def sleepers(pid: int) -> int:
    """Threads that wait for a word of shared memory: futex(2), FUTEX_WAIT (Python's own waits are private)."""
    calls = [Path(f"/proc/{pid}/task/{thread}/syscall") for thread in os.listdir(f"/proc/{pid}/task")]
    words = [call.read_text(encoding="ascii").split() for call in calls]
    return sum(call[0] == str(FUTEX) and int(call[2], 16) == 0 for call in words if call[1:])


@pytest.mark.skipif(os.uname().machine not in FUTEXES, reason="the number of futex(2) on this machine is not known")
def test_who_has_all_of_it_runs_no_python(family: Family) -> None:
    """Until somebody comes: NumPy's tests count the references of small numbers, which a tick has too."""
    first = family.worker()
    first.do("take 200")
    wait_until(lambda: first.do("say")["limit"] == BUDGET and sleepers(first.process.pid) == 1, "it sleeps")
    second = family.worker()
    second.do("take 200")
    wait_until(lambda: family.settled(first, second) and second.do("say")["limit"] > BUDGET // 3, "its share")
    assert sleepers(first.process.pid) == 0
    first.do("check")
    assert second.end() == 0
    wait_until(lambda: first.do("say")["limit"] == BUDGET and sleepers(first.process.pid) == 1, "it sleeps again")
    first.do("check")
    assert first.end() == 0
    assert not Path(family.path).exists()


@pytest.mark.skipif(os.uname().machine not in FUTEXES, reason="the number of futex(2) on this machine is not known")
@pytest.mark.slow
def test_the_file_of_one_that_sleeps_is_removed(family: Family) -> None:
    """systemd-logind does that (RemoveIPC) when the user logs out. Who comes then makes another one."""
    first = family.worker()
    first.do("take 200")
    wait_until(lambda: first.do("say")["limit"] == BUDGET and sleepers(first.process.pid) == 1, "it sleeps")
    Path(family.path).unlink()
    second = family.worker()
    second.do("take 200")
    wait_until(lambda: len(family.claims()) == 2 and family.settled(first, second), "both within the budget")
    assert Ledger(family.path, 0).budget == BUDGET
    first.do("check")
    second.do("check")


def follow(family: Family, memory: frontswap.Memory, clock: Clock) -> Follower:
    """This process, with a Memory, is the only one of the run, and has had its first look."""
    ledger = Ledger(family.path, BUDGET)
    ledger.join()
    follower = Follower(memory._space, clock=clock, auto=False, ledger=ledger)
    assert follower.tick() is not None
    assert memory.limit == BUDGET
    while ledger.changed:  # by its own line
        follower.tick()
    assert follower.settled
    return follower


def test_who_comes_during_a_look_is_seen(family: Family) -> None:
    """It would sleep, with all of the budget, until that one changes something."""
    ledger = Ledger(family.path, BUDGET)
    ledger.join()
    assert ledger.settle(0, BUDGET, 8 * MiB, BUDGET) == BUDGET
    assert not ledger.changed
    family.worker()
    ledger.claim(BUDGET)
    assert ledger.changed
    ledger.wait()
    assert ledger.settle(0, BUDGET, 8 * MiB, BUDGET) < BUDGET
    ledger.claim(BUDGET // 2)
    assert not ledger.changed, "what it has changed itself is nothing new"
    ledger.leave()


def test_who_cannot_make_room_tries_again(family: Family, new_memory: NewMemory) -> None:
    """It does not sleep over its share until somebody else changes something."""
    memory, clock = new_memory(BUDGET), Clock()
    follower = follow(family, memory, clock)
    array = memory.ones(100 * MiB, "u1")
    with memory.pin(array):
        family.worker().do("take 150")
        step = follower.tick()
        assert step is not None
        assert (step.why, step.limit) == ("refused", BUDGET)
        assert not follower.settled
        step = follower.tick()
        assert step is not None
        assert (step.why, step.limit) == ("steady", BUDGET)
        assert not follower.settled
    clock.now += REST
    step = follower.tick()
    assert step is not None
    assert step.why == "share"
    assert memory.limit < BUDGET
    assert array.all()
    follower.stop()


def test_a_look_that_fails_is_not_repeated_at_once(tmp_path: Path, family: Family, new_memory: NewMemory) -> None:
    """One without descriptors, or without its rights: it would look without end, as there is something new to see."""
    family.path = str(tmp_path / "shm" / "ledger")
    Path(family.path).parent.mkdir()
    follower = follow(family, new_memory(BUDGET), Clock())
    assert follower.ledger is not None
    other = Ledger(family.path, BUDGET)
    with other._held() as at:
        other._head(at)
    Path(family.path).parent.rename(tmp_path / "away")
    assert follower.ledger.changed
    assert follower.tick() is None
    assert not follower.settled
    Path(tmp_path / "away").rename(Path(family.path).parent)
    follower.tick()
    assert follower.settled
    follower.stop()


def test_small_processes_have_no_thread(family: Family) -> None:
    """Below an eighth of the budget nobody looks."""
    workers = [family.worker() for _ in range(3)]
    for worker in workers:
        worker.do("take 8")
    threads = [len(os.listdir(f"/proc/{worker.process.pid}/task")) for worker in workers]
    idle = subprocess.run(
        [sys.executable, "-c", "import numpy, os; print(len(os.listdir('/proc/self/task')))"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert threads == [int(idle.stdout)] * 3
    assert sum(family.claims()) <= BUDGET


def test_what_killed_runs_have_left_is_removed(family: Family) -> None:
    worker = family.worker()
    path = Path(family.path)
    assert path.exists()
    Ledger.sweep()
    assert path.exists(), "somebody lives"
    worker.process.send_signal(signal.SIGKILL)
    worker.process.wait()
    Ledger.sweep()
    assert not path.exists()


@pytest.mark.parametrize("begun", [False, True])
def test_a_run_that_begins_beside_sweeps_has_its_budget(begun: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One has listed its ledger, and another removes it; or it is there, and empty yet."""
    path = Path(new_ledger())
    ledgers: list[Ledger] = []
    if begun:
        ledgers.append(Ledger(str(path), BUDGET))
    else:
        path.touch()
    stat, leave = Path.stat, Ledger.remove_if_empty

    def removed(self: Path) -> os.stat_result:
        found = stat(self)
        if begun and self == path:
            path.unlink(missing_ok=True)
        return found

    def late(self: Ledger) -> None:
        if self.path == str(path):
            ledgers[:] = ledgers or [Ledger(str(path), BUDGET)]
            ledgers[0].join()
        leave(self)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", removed)
        patch.setattr(Ledger, "remove_if_empty", late)
        Ledger.sweep()
    ledger = ledgers[0] if ledgers else Ledger(str(path), BUDGET)
    try:
        assert ledger.join() == (BUDGET, BUDGET // 8)
        assert ledger.budget == Ledger(str(path), 0).budget == BUDGET
    finally:
        ledger.leave()
    assert not path.exists()


def test_run_makes_one_and_removes_it(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        "import subprocess, sys\n"
        "from frontswap.memory import install\n"
        "code = 'from frontswap.memory import install; print(len(install._followers[0].ledger.lines()))'\n"
        "print(install._followers[0].ledger.path, flush=True)\n"
        "subprocess.run([sys.executable, '-c', code], check=True)\n"
    )
    command = [FRONTSWAP, "run", "--quiet", "--memory", "64M", str(script)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    path, lines = done.stdout.split()
    assert path.startswith(str(FOLDER / PREFIX))
    assert lines == "2"
    assert not Path(path).exists()
