"""The brake: what lowers the limit without Python, on made-up machines and in processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import NewMemory
from helpers import Clock, MiB, noise, run_child, same, wait_until
from hypothesis import given
from hypothesis import strategies as st
from limits import Job
from tree import Tree

import frontswap
from frontswap.core.control import decision
from frontswap.memory.ledger import Ledger
from frontswap.memory.pressure import REST, SPARE, Follower, auto_limit, spare
from frontswap.memory.settings import MIN_LIMIT

GiB = 1 << 30


# --- what is decided -------------------------------------------------------------------------------


@given(left=st.integers(-GiB, 4 * GiB), memory=st.integers(64 * MiB, 64 * GiB))
def test_the_brake_has_a_line_of_its_own(left: int, memory: int) -> None:
    """Below half of the spare it asks for what is missing, and for no more; zcache takes less from there on."""
    kept = spare(memory)
    cut, level = decision(left, kept)
    assert (cut == 0) == (level == 0) == (left >= kept // 2)
    if cut:
        assert left + cut == kept
        assert decision(left + cut, kept) == (0, 0)
    assert level == sum(left < kept // part for part in (2, 4, 8))


# --- what is done ----------------------------------------------------------------------------------


class Braked(Job):
    """The same, in registered memory, and only the brake looks."""

    def __init__(self, root: Path, new_memory: NewMemory) -> None:
        super().__init__(root, new_memory)
        self.source = noise(160 * MiB)
        self.array = self.memory.array(self.source)
        self.memory._plane.register_arena()
        self.ours = self.memory._plane.charged()
        self.use(50 * MiB)
        self.follower.tick()
        self.brake = self.follower.brake

    def use(self, others: int) -> None:
        """What neighbours use; this process has 100 MiB beside its arrays, which have not changed."""
        charged = self.memory._plane.charged()
        self.neighbours(others, own=100 * MiB + charged)

    def turn(self) -> tuple[int, int]:
        self.brake.turn()
        now = self.memory.statistics()
        assert now.limit_bytes == self.memory.limit
        return now.limit_bytes, now.pressure_level


@pytest.fixture
def braked(tmp_path: Path, new_memory: NewMemory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Braked]:
    monkeypatch.setenv("FRONTSWAP_REGISTER", "late")
    job = Braked(tmp_path / "root", new_memory)
    yield job
    del job.array, job.follower


def test_half_of_the_spare_is_others(braked: Braked) -> None:
    """They may have it before anything happens; then what is missing of it is missing of the limit."""
    before = braked.memory.limit
    free = 512 * MiB - 150 * MiB - braked.ours
    braked.use(50 * MiB + free - SPARE // 2)
    assert braked.turn() == (before, 0)
    braked.use(50 * MiB + free - SPARE // 2 + MiB)
    limit, level = braked.turn()
    assert (limit, level) == (braked.ours - SPARE // 2 - MiB, 1)
    assert braked.memory.statistics().brakes == 1
    same(braked.array, braked.source)


def test_stdin_stays_the_programs(braked: Braked) -> None:
    """There are fewer sources than descriptors for them, and those that are not used are nobody's to close."""
    before = os.fstat(0)
    braked.turn()
    braked.array = braked.source
    braked.memory.close(force=True)
    assert os.path.samestat(before, os.fstat(0))


def test_python_is_told_and_agrees(braked: Braked) -> None:
    before = braked.memory.limit
    assert not braked.brake.wait(0)
    braked.use(300 * MiB)
    limit, _ = braked.turn()
    assert limit < before
    assert braked.brake.wait(0)
    assert not braked.brake.wait(0)
    while braked.memory.statistics().used_bytes > limit:
        braked.turn()
    braked.use(300 * MiB)
    assert braked.turn()[1] == 0
    step = braked.tick()
    assert next((one.why, one.before, one.limit) for one in braked.follower.steps) == ("brake", before, limit)
    assert braked.memory.steps() == tuple(braked.follower.steps)
    assert step.limit == pytest.approx(limit, rel=1 / 64)
    braked.use(50 * MiB)
    assert braked.tick(REST - 0.5).why == "steady", "it has changed a moment ago"
    assert braked.tick(0.6).why == "grow"
    same(braked.array, braked.source)


@pytest.mark.parametrize(("left", "level"), [(SPARE // 2, 0), (SPARE // 2 - 1, 1), (SPARE // 4 - 1, 2), (0, 3)])
def test_zcache_takes_less(left: int, level: int, braked: Braked) -> None:
    braked.tree.group("/job", current=512 * MiB - left, stat="inactive_file 0")
    assert braked.turn()[1] == level
    braked.use(50 * MiB)
    assert braked.turn()[1] == 0


def test_stores_are_refused_while_it_is_critical(braked: Braked) -> None:
    """And what leaves then leaves for the disk."""
    assert braked.memory.statistics().reject_pressure == 0
    braked.tree.group("/job", current=512 * MiB, stat="inactive_file 0")
    while (now := braked.memory.statistics()).used_bytes + now.reserve_bytes > now.limit_bytes or not now.brakes:
        braked.turn()
    now = braked.memory.statistics()
    assert now.reject_pressure > 0
    assert now.slot_stores > 0
    assert now.overshoots == 0
    same(braked.array, braked.source)


def test_a_lower_limit_of_the_group_is_seen_without_python(braked: Braked) -> None:
    before = braked.memory.limit
    assert braked.turn() == (before, 0)
    braked.tree.group("/job", max=512 * MiB - 200 * MiB)
    assert braked.turn()[0] < before
    assert braked.memory.statistics().brakes == 1
    same(braked.array, braked.source)


def test_a_limit_that_is_refused_is_never_seen(new_memory: NewMemory) -> None:
    """One that is more than half pinned is tried, and taken back."""
    memory = new_memory("64M")
    array = memory.zeros(48 * MiB, "u1")
    refused = []

    def resize() -> None:
        for _ in range(300):
            with pytest.raises(frontswap.PinError):
                memory.resize("34M")
        refused.append(True)

    with memory.pin(array[: 24 * MiB]):
        thread = threading.Thread(target=resize)
        thread.start()
        seen = set()
        while not refused:
            seen.add(memory.limit)
        thread.join()
    assert seen == {64 * MiB}


def test_what_somebody_has_said_holds_too(braked: Braked) -> None:
    braked.memory.backends.pressure("medium")
    assert braked.turn()[1] == 2
    braked.tree.group("/job", current=512 * MiB, stat="inactive_file 0")
    assert braked.turn()[1] == 3
    braked.use(50 * MiB)
    assert braked.turn()[1] == 2
    braked.memory.backends.pressure("none")
    assert braked.turn()[1] == 0


def test_page_cache_is_nobodys_to_the_brake(braked: Braked) -> None:
    before = braked.memory.limit
    braked.tree.group("/job", current=512 * MiB, stat=f"anon 7\ninactive_file {120 * MiB}\nactive_file {30 * MiB}")
    assert braked.turn() == (before, 0)
    assert braked.brake.free()[-1] == 150 * MiB


def test_each_of_a_run_takes_its_part(braked: Braked) -> None:
    """Others have three times as much, and brakes of their own."""
    braked.brake.told(3 * braked.ours)
    free = 512 * MiB - 150 * MiB - braked.ours
    braked.use(50 * MiB + free - 28 * MiB)
    assert braked.turn()[0] == pytest.approx(braked.ours - 25 * MiB, abs=MiB)


def test_a_share_does_not_come_back_at_once(braked: Braked, tmp_path: Path) -> None:
    """Of a run: the budget may be what it was, and still memory was short a moment ago."""
    ledger = Ledger(str(tmp_path / "ledger"), braked.memory.limit)
    ledger.join()
    follower = braked.follower = Follower(braked.memory._space, braked.tree.machine, braked.clock, ledger=ledger)
    before = braked.tick().limit
    braked.use(300 * MiB)
    follower.brake.turn()
    low = braked.memory.limit
    assert low < before
    braked.use(50 * MiB)
    assert braked.tick().limit == low
    assert [step.why for step in follower.steps] == ["brake"]
    assert braked.tick(REST).limit > low
    ledger.leave()


def test_pins_are_left(braked: Braked) -> None:
    with braked.memory.pin(braked.array[: 64 * MiB]):
        braked.tree.group("/job", current=512 * MiB, stat="inactive_file 0")
        limit, _ = braked.turn()
        assert 128 * MiB <= limit <= 160 * MiB
    assert braked.array[0] == braked.source[0]


def test_files_that_cannot_be_read_are_opened_anew(braked: Braked) -> None:
    """A group that comes again has other files, and a raw system call may have closed ours; once a second is enough."""
    group = braked.tree.machine.path("/sys/fs/cgroup/job")
    braked.turn()
    aside = group.rename(group.with_name("aside"))
    (aside / "memory.current").write_text("")
    braked.use(300 * MiB)
    limit, _ = braked.turn()
    assert braked.brake.free()[-1] is None

    def found() -> bool:
        return braked.turn()[0] < limit

    wait_until(found, "a look at the new files")


@pytest.mark.parametrize("text", ["", "max\n", "-\n", "words\n"])
def test_files_that_say_nothing(text: str, braked: Braked) -> None:
    """As when a group has been removed, or another process writes the file of a test."""
    before = braked.memory.limit
    braked.tree.write("/sys/fs/cgroup/job/memory.current", text)
    assert braked.turn() == (before, 0)
    assert braked.brake.free()[-1] is None
    braked.tree.group("/job", current=512 * MiB)
    braked.tree.write("/sys/fs/cgroup/job/memory.stat", "")
    assert braked.turn()[1] == 3
    assert braked.brake.free()[-1] == 0


def test_the_machine_runs_short(braked: Braked) -> None:
    kept = spare(8 * GiB + braked.ours)
    assert braked.brake.free() == []
    braked.tree.write("/proc/meminfo", f"MemTotal: 7 kB\nMemFree: 1 kB\nMemAvailable:  {(kept // 2 - MiB) >> 10} kB\n")
    limit, level = braked.turn()
    assert level == 1
    assert limit == max(MIN_LIMIT, braked.memory._plane.least_limit())


def test_nobody_to_look_at(braked: Braked) -> None:
    """Without cgroups, and without a word of the machine."""
    before = braked.memory.limit
    braked.brake.set([], [], b"", (b"", b""), MIN_LIMIT, MiB)
    assert braked.turn() == (before, 0)
    assert braked.brake.free() == []
    assert braked.brake.called_by() == ()


def test_version_1_to_the_brake(tmp_path: Path, new_memory: NewMemory) -> None:
    tree = Tree(tmp_path / "root")
    tree.write("/proc/self/cgroup", "4:memory:/job\n0::/\n")
    mounted = "33 22 0:29 / /sys/fs/cgroup rw - cgroup cgroup rw,memory\n"
    tree.write("/proc/self/mountinfo", "22 1 8:1 / / rw,relatime - ext4 /dev/vda rw\n" + mounted)
    tree.write("/proc/self/status", f"RssAnon:\t{100 << 10} kB\n")
    tree.group("/job", limit_in_bytes=512 * MiB, usage_in_bytes=250 * MiB)
    tree.group("/job", stat=f"total_inactive_file {60 * MiB}\ntotal_active_file {40 * MiB}")
    memory = new_memory(auto_limit(tree.machine))
    follower = Follower(memory._space, tree.machine, Clock())
    follower.tick()
    tree.group("/job", usage_in_bytes=500 * MiB)
    follower.brake.turn()
    assert follower.brake.free()[-1] == 112 * MiB
    assert memory.statistics().pressure_level == 0
    tree.group("/job", stat="inactive_file 7\ntotal_inactive_file 0\ntotal_active_file 1048576")
    follower.brake.turn()
    assert follower.brake.free()[-1] == 13 * MiB
    assert memory.statistics().pressure_level == 3


# --- in a process ----------------------------------------------------------------------------------

LATE = {"FRONTSWAP_REGISTER": "late"}


def test_descriptors_of_the_brake_are_ours() -> None:
    """The program may close all it finds; a forked child has its own; nothing is left when a Memory ends."""
    code = """
from frontswap.memory.pressure import Follower
memory = frontswap.Memory("32M")
array = memory.ones(64 << 20, "u1")
before = census()
follower = Follower(memory._space)
follower.tick()
follower.brake.turn()
assert any("meminfo" in name for name in census().descriptors), census()
os.closerange(3, 1024)
follower.brake.turn()
assert follower.brake.free()[0] > 0
pid = os.fork()
if pid == 0:
    assert not any("meminfo" in name for name in census().descriptors), census()
    follower.brake.turn()
    os._exit(0 if follower.brake.free()[0] > 0 and array.all() else 1)
assert os.waitpid(pid, 0)[1] == 0
assert array.all()
del array
memory.close()
assert not any("meminfo" in name for name in census().descriptors), census()
"""
    run_child(code, fresh=True).check()


def test_a_brake_begins_with_the_allocation_that_is_half() -> None:
    """Not before, and without a moment of Python; the kernel shows its thread."""
    code = """
memory = frontswap.install("auto")
follower, = frontswap.memory.install._followers
few = np.ones(4 << 20)
assert not follower.brake.running()
many = np.empty(memory.limit // 2, "u1")  # never touched
assert follower.brake.running()
pid = os.fork()
if pid == 0:
    assert not follower.brake.running()
    more = np.empty(8 << 20, "u1")
    assert follower.brake.running()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""
    run_child(code, environment=LATE, fresh=True).check()


def test_the_child_of_a_c_library_has_none() -> None:
    """Only Python raises a limit again, and nothing tells Python there."""
    code = """
from frontswap.memory.pressure import Follower
memory = frontswap.Memory("64M")
follower = Follower(memory._space)
follower.tick()
follower.brake.begin(1 << 20)
array = memory.ones(1 << 20)
assert follower.brake.running()
pid = ctypes.PyDLL(None).fork()
if pid == 0:
    more = memory.ones(1 << 20)
    os._exit(10 + follower.brake.running())
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 10
assert follower.brake.running()
"""
    run_child(code, environment=LATE).check()
