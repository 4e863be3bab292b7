"""A limit of "auto" follows what is left: on made-up machines with a clock of the test's own, and in a real cgroup."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import NewMemory, c_library
from groups import Group, memory_group
from helpers import FRONTSWAP, Clock, MiB, noise, run_child, same
from hypothesis import given
from hypothesis import strategies as st
from limits import Job
from tree import Tree

from frontswap.memory.pressure import CALM, REST, SPARE, STALLED, Follower, auto_limit, decide, look
from frontswap.memory.settings import MIN_LIMIT
from frontswap.memory.steps import Reading

GiB = 1 << 30


@pytest.fixture
def job(tmp_path: Path, new_memory: NewMemory, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setenv("FRONTSWAP_REGISTER", "late")
    return Job(tmp_path / "root", new_memory)


LEFT = 512 * MiB - SPARE - 150 * MiB


def test_it_begins_with_what_is_left(job: Job) -> None:
    assert job.memory.limit == LEFT
    step = job.tick()
    assert (step.why, step.before, step.limit) == ("steady", LEFT, LEFT)
    assert not job.follower.steps
    reading = step.reading
    assert (reading.by, reading.allowed, reading.outside) == ("/sys/fs/cgroup/job", LEFT, 100 * MiB)


def test_it_shrinks_at_once(job: Job) -> None:
    """By what the process takes beside its arrays, and by what its neighbours take."""
    job.neighbours(50 * MiB, own=150 * MiB)
    step = job.tick()
    assert (step.why, step.limit) == ("shrink", LEFT - 50 * MiB)
    job.neighbours(80 * MiB, own=150 * MiB)
    step = job.tick()
    assert (step.why, step.limit) == ("shrink", LEFT - 80 * MiB)
    assert [step.why for step in job.follower.steps] == ["shrink", "shrink"]


def test_arrays_are_not_what_it_makes_room_for(job: Job) -> None:
    """Pages, records and the reserve are ours, and in RssAnon and memory.current as all else is."""
    source = noise(64 * MiB)
    array = job.memory.array(source)
    ours = job.memory._plane.charged()
    assert ours >= 64 * MiB
    job.neighbours(50 * MiB, own=100 * MiB + ours)
    step = job.tick()
    assert (step.why, step.reading.ours, step.reading.outside) == ("steady", ours, 100 * MiB)
    job.neighbours(200 * MiB, own=100 * MiB + ours)
    step = job.tick()
    assert step.why == "shrink"
    now = job.memory.statistics()
    assert now.used_bytes + now.reserve_bytes <= step.limit < 100 * MiB
    same(array, source)


def test_it_looks_when_much_more_is_used(job: Job) -> None:
    """By the process, and in its groups; and every second."""
    job.tree.write("/proc/self/statm", "1 1000 0 0 0 0 0")
    job.tick()
    assert not job.follower.due()
    job.neighbours(60 * MiB)
    assert not job.follower.due()
    job.neighbours(90 * MiB)
    assert job.follower.due()
    job.tick()
    assert not job.follower.due()
    job.tree.write("/proc/self/statm", f"1 {1000 + (32 * MiB >> 12)} 0 0 0 0 0")
    assert job.follower.due()
    job.tick()
    job.clock.now += 1.1
    assert job.follower.due()


def test_page_cache_is_nobodys(job: Job) -> None:
    job.neighbours(50 * MiB, cache=300 * MiB)
    assert job.tick().why == "steady"


def test_it_grows_slowly(job: Job) -> None:
    job.neighbours(50 * MiB, own=250 * MiB)
    assert job.tick().limit == LEFT - 150 * MiB
    job.neighbours(50 * MiB)
    assert job.tick(REST - 0.5).why == "steady", "too soon"
    limits = [job.memory.limit]
    while (step := job.tick(REST + 0.1)).why == "grow":
        limits.append(step.limit)
    assert step.why == "steady"
    assert len(limits) > 4
    assert all(before < after for before, after in itertools.pairwise(limits))
    assert LEFT - LEFT // 8 <= limits[-1] <= LEFT


def test_small_swings_change_nothing(job: Job) -> None:
    for used in (51, 49, 52, 30, 50):
        job.neighbours(used * MiB)
        assert job.tick(REST + 0.1).why == "steady"


def test_it_never_goes_below_the_least(job: Job) -> None:
    job.neighbours(2 * GiB)
    step = job.tick()
    assert step.limit == max(MIN_LIMIT, job.memory._plane.least_limit())
    assert step.reading.allowed < 0
    assert job.tick().why == "steady"


def test_who_waits_for_memory_gets_some(job: Job) -> None:
    """There is room by the figures, and a tenth of the time somebody waits: it shrinks, to the half at most."""
    waited = 0
    job.wait(waited)
    assert job.tick().why == "steady"
    limits = [job.memory.limit]
    for _ in range(40):
        waited += 300_000
        job.wait(waited)
        step = job.tick(1.0)
        assert step.reading.stalled == pytest.approx(0.3)
        limits.append(step.limit)
    assert limits[1] == LEFT - LEFT // 16
    assert limits[-1] == LEFT // 2
    assert "grow" not in {step.why for step in job.follower.steps}
    job.tick(1.0)
    assert job.tick(REST + 0.1).why == "grow"


def test_it_begins_with_the_average(job: Job) -> None:
    job.tree.group("/job", pressure="some avg10=25.00 avg60=0.00 avg300=0.00 total=7")
    assert job.tick().reading.stalled == 0.25


def test_the_machine_has_less_than_the_group(job: Job) -> None:
    job.tree.write("/proc/meminfo", f"MemAvailable: {(200 * MiB) >> 10} kB\n")
    step = job.tick()
    assert (step.reading.by, step.limit) == ("the machine", 200 * MiB - SPARE)


def test_a_machine_that_says_nothing(job: Job) -> None:
    job.tree.write("/proc/meminfo", "")
    job.tree.write("/proc/self/cgroup", "")
    assert look(job.tree.machine, 0, job.tree.machine.groups()) is None
    assert job.follower.tick() is None
    assert job.memory.limit == LEFT


def test_version_1(tmp_path: Path, new_memory: NewMemory) -> None:
    """Page cache of the group and of those below it; the pressure is the machine's."""
    tree = Tree(tmp_path / "root")
    tree.write("/proc/self/cgroup", "4:memory:/job\n0::/\n")
    mounted = "33 22 0:29 / /sys/fs/cgroup rw - cgroup cgroup rw,memory\n"
    tree.write("/proc/self/mountinfo", "22 1 8:1 / / rw,relatime - ext4 /dev/vda rw\n" + mounted)
    tree.write("/proc/self/status", f"RssAnon:\t{100 << 10} kB\n")
    tree.write("/proc/pressure/memory", "some avg10=50.00 avg60=0.00 avg300=0.00 total=7\n")
    tree.group("/job", limit_in_bytes=512 * MiB, usage_in_bytes=250 * MiB)
    tree.group("/job", stat=f"total_inactive_file {60 * MiB}\ntotal_active_file {40 * MiB}")
    memory = new_memory(auto_limit(tree.machine))
    assert memory.limit == 512 * MiB - SPARE - 150 * MiB
    step = Follower(memory._space, tree.machine, Clock()).tick()
    assert step is not None
    assert step.reading.stalled == 0.5


def test_what_is_refused_is_tried_again_later(job: Job) -> None:
    """Half of it is pinned."""
    array = job.memory.ones(80 * MiB, "u1")
    with job.memory.pin(array):
        job.neighbours(150 * MiB, own=100 * MiB + job.memory._plane.charged())
        step = job.tick()
        assert (step.why, step.limit) == ("refused", LEFT)
        assert "pinned" in step.error
        assert job.tick().why == "steady"
        assert job.tick(REST + 0.1).why == "refused"
    assert job.tick(REST + 0.1).why == "shrink"
    assert array.all()


# --- what is decided -------------------------------------------------------------------------------

SIZES = st.integers(MIN_LIMIT, 4 * GiB)


@given(room=st.integers(-GiB, 4 * GiB), limit=SIZES, most=SIZES, stalled=st.floats(0, 1))
def test_a_limit_settles(room: int, limit: int, most: int, stalled: float) -> None:
    """While what is read stays as it is the limit goes one way, comes to rest, and is not above what there is room for.

    Of what there is room for it may be a 64th too large, which is the swing of the figures.
    """
    limit = min(limit, most)
    reading = Reading(0.0, 0, 0, room, "the machine", stalled)
    cap = max(min(room, most), MIN_LIMIT)
    before = limit
    way: set[bool] = set()
    for _ in range(400):
        after, why = decide(reading, before, MIN_LIMIT, most, REST)
        assert (why == "steady") == (after == before)
        assert MIN_LIMIT <= after <= most
        if after == before:
            break
        assert after <= cap or after < before
        way.add(after > before)
        before = after
    else:
        pytest.fail(f"{before} of {cap}: it never comes to rest")
    assert len(way) < 2, "there and back"
    assert before <= cap + max(before // 64, MiB)
    if stalled <= CALM:
        assert before >= cap - before // 8
    if stalled >= STALLED:
        assert before <= max(cap // 2, MIN_LIMIT) or before <= limit


# --- in a process ----------------------------------------------------------------------------------

LATE = {"FRONTSWAP_REGISTER": "late"}


def test_a_thread_when_half_of_it_is_allocated() -> None:
    """Not before; nobody sees it; a forked child has its own; the process ends with it."""
    code = """
import _thread
memory = frontswap.install("auto")
others = _thread._count()
few = np.ones(4 << 20)
assert _thread._count() == others
many = np.empty(memory.limit // 2, "u1")  # never touched
wait_until(lambda: _thread._count() == others + 1, "a look")
assert threading.active_count() == len(threading.enumerate()) == 1
follower, = frontswap.memory.install._followers
wait_until(lambda: follower.last is not None, "the first step")
pid = os.fork()
if pid == 0:
    wait_until(lambda: follower.last is not None, "a look of the child's own")
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""
    run_child(code, environment=LATE, fresh=True).check()


def test_a_child_begins_when_it_has_half() -> None:
    code = """
memory = frontswap.install("auto")
pid = os.fork()
if pid == 0:
    many = np.empty(memory.limit // 2, "u1")
    wait_until(lambda: frontswap.memory.install._followers[0].last is not None, "a look of its own")
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""
    run_child(code, environment=LATE, fresh=True).check()


def test_a_size_is_not_followed() -> None:
    code = """
import _thread
memory = frontswap.install("64M")
many = np.ones(100 << 20, "u1")
assert memory.statistics().registered and not frontswap.memory.install._followers and _thread._count() == 0
"""
    run_child(code, environment=LATE, fresh=True).check()


LATER = """
#include <stdlib.h>

size_t later;

static void at_exit(void) { *(volatile char *)malloc(later) = 1; }

__attribute__((constructor)) static void begin(void) { atexit(at_exit); }
"""


def test_allocations_after_the_interpreter_has_ended(tmp_path: Path) -> None:
    """Nobody is called any more."""
    code = f"""
memory = frontswap.install("auto")
library = ctypes.CDLL({str(c_library(LATER, tmp_path))!r})
ctypes.c_size_t.in_dll(library, "later").value = memory.limit // 2 + (4 << 20)
"""
    run_child(code, environment=LATE, fresh=True).check()


# --- a real cgroup ---------------------------------------------------------------------------------


@pytest.fixture
def group() -> Iterator[Group]:
    with memory_group(512 * MiB) as group:
        yield group


# 300 MiB of arrays, then 220 MiB of small objects that frontswap has no part in: as fast as pages can leave, for those
# of a loop that does nothing else are faster than a disk.
GROWS = """
import os
open({procs!r}, "w").write(str(os.getpid()))
words = {words!r}
os.execv(words[0], [*words, "-c", '''
import time
import numpy as np
arrays = [np.random.default_rng(i).integers(0, 200, 25 << 20, "u1") for i in range(12)]
sums = [int(array.sum()) for array in arrays]
objects = []
for i in range(400_000):
    objects.append(b"%d" % i + bytes(500))
    if i % 40_000 == 0:
        time.sleep(0.2)
assert [int(array.sum()) for array in arrays] == sums
assert objects[7] == b"7" + bytes(500)
print("right")
'''])
"""


def grow(group: Group, words: list[str]) -> subprocess.CompletedProcess[str]:
    code = GROWS.format(procs=str(group.path / "cgroup.procs"), words=words)
    env = {name: value for name, value in os.environ.items() if not name.startswith("FRONTSWAP")}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, cwd="/", check=False, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_run_makes_room_for_what_the_program_uses_beside(group: Group) -> None:
    done = grow(group, [FRONTSWAP, "run"])
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr
    assert group.kills == 0


@pytest.mark.slow
def test_it_would_be_killed(group: Group) -> None:
    """The counterproof."""
    done = grow(group, [sys.executable])
    assert done.returncode == -signal.SIGKILL
    assert group.kills == 1
