"""The limit holds, measured from outside: the resident bytes of a child process, and a memory cgroup.

Allowed above the limit, and why:

* 24 bytes for each page of the arrays: the page table, which is documented as costing that beside the limit;
* 4 MiB: Python's and NumPy's own small objects, stacks, the tables' first pages, and the kernel's counter of
  resident pages, which may lag by some dozen pages for each processor;
* 192 KiB for each thread of the program: its stack and its malloc arena.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from groups import Group, memory_group
from helpers import PROTECTION, MiB, child_command, mode_of, protected

LIMIT = 64 * MiB
SIZE = 256 * MiB

# The child does a phase for each line it reads, and answers with a line. The parent looks at it in between.
STORY = """
memory = None
array = None
part = MiB
data = {data}
assert data.nbytes == 4 * part

def threads(number, work):
    running = [threading.Thread(target=work, args=(i,)) for i in range(number)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()

def start():
    global memory, array
    memory = frontswap.Memory({limit}, page={page})
    array = memory.empty({size}, "u1")

def fill():
    for i in range(0, len(array), len(data)):
        array[i : i + len(data)] = data

def scan():
    for i in range(0, len(array), part):
        array[i : i + part].max()

def sort():
    array[: 3 * len(array) // 8].view("u8").sort()

def random(i=0, n=1500):
    rng = np.random.default_rng(i)
    for at in rng.integers(0, len(array) - 8192, n):
        array[at : at + 8192] ^= 1

def random16():
    threads(16, lambda i: random(i, 200))

def scan16():
    def work(i):
        own = array[i * len(array) // 16 : (i + 1) * len(array) // 16]
        for at in range(0, len(own), part):
            np.add(own[at : at + part], 1, out=own[at : at + part])
    threads(16, work)

def counters():
    now = memory.statistics()
    assert (now.overshoots, now.poisoned, now.slot_errors) == (0, 0, 0), now
    assert now.evicted_clean + now.evicted_dirty > 0

threads(16, lambda i: random.__name__)  # stacks and malloc arenas
print("ready", flush=True)
for line in sys.stdin:
    globals()[line.strip()]()
    print("done", flush=True)
"""
PHASES = ["start", "fill", "scan", "sort", "random", "scan16", "random16", "counters"]
DATA = {"walk": "walk(512 << 10).view('u1')", "noise": "noise(4 << 20)"}


class Child:
    """A process that works in phases."""

    def __init__(self, code: str, faults: str) -> None:
        self.process = subprocess.Popen(
            child_command(code),
            env=dict(os.environ, FRONTSWAP_FAULTS=faults),
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.expect("ready")

    def expect(self, answer: str) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line == answer, f"{line!r}, exit status {self.process.poll()}"

    def do(self, phase: str) -> None:
        assert self.process.stdin is not None
        print(phase, file=self.process.stdin, flush=True)
        self.expect("done")

    def end(self) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait()

    def status(self, name: str) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(text.split(f"{name}:")[1].split()[0]) << 10

    def forget_peak(self) -> None:
        """From now on VmHWM is the most since now: clear_refs(5) of proc_pid(5)."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5", encoding="utf-8")


Case = tuple[str, int, str]


def cases(page: int, data: str) -> Iterator[Any]:
    """All combinations of seam, page size and data; quick are those of SIGBUS (SIGSEGV) that are named."""
    for case in itertools.product(("sigbus", "thread", PROTECTION.faults), (4096, 65536), DATA):
        slow = case[1:] != (page, data) or case[0] == "thread"
        name = "-".join(map(str, case))
        if case[0] == PROTECTION.faults:
            yield protected(case, name=name, slow=slow)
        else:
            yield pytest.param(case, id=name, marks=[pytest.mark.slow] * slow)


@pytest.fixture
def child(request: pytest.FixtureRequest) -> Iterator[Callable[..., Child]]:
    """Starts a child for a case; it is gone after the test."""
    started: list[Child] = []

    def start(case: Case, entry: str = "") -> Child:
        faults, page, data = case
        if mode_of(faults).why_not():
            pytest.skip(mode_of(faults).why_not())
        code = STORY.format(page=page, data=DATA[data], limit=LIMIT, size=SIZE)
        started.append(Child(entry + code, faults))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


@pytest.mark.parametrize("case", list(cases(4096, "noise")))
def test_resident_memory_seen_from_outside(case: Case, child: Callable[..., Child]) -> None:
    process = child(case)
    before = process.status("VmRSS")
    process.forget_peak()
    most = {}
    for phase in PHASES:
        process.do(phase)
        most[phase] = process.status("VmHWM") - before
        process.forget_peak()
    assert process.end() == 0
    allowed = LIMIT + 24 * SIZE // case[1] + 4 * MiB
    for phase, peak in most.items():
        assert peak <= allowed + (16 * (192 << 10) if "16" in phase else 0), f"{phase}: {peak - LIMIT} too much: {most}"


# --- a memory cgroup -----------------------------------------------------------------------------


@pytest.fixture
def group() -> Iterator[Group]:
    with memory_group(LIMIT + 128 * MiB) as group:
        yield group


@pytest.mark.parametrize("case", list(cases(65536, "noise")))
def test_memory_cgroup_is_never_short(case: Case, group: Group, child: Callable[..., Child]) -> None:
    """Limit + 128 MiB, for Python, NumPy and the kernel's own: nothing is killed."""
    process = child(case, f"open({str(group.path / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n")
    for phase in PHASES:
        process.do(phase)
    assert process.end() == 0
    assert group.kills == 0


def test_the_cgroup_does_kill(group: Group) -> None:
    """The counterproof: without a Memory the same array is too much."""
    code = f"open({str(group.path / 'cgroup.procs')!r}, 'w').write(str(os.getpid())); np.ones({SIZE}, 'u1')"
    done = subprocess.run(child_command(code), cwd="/", check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert group.kills == 1
