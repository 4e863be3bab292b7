"""The rounds: every subject once per round, A B C A B C, each in a fresh process and a fresh memory cgroup."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import cgroup, subjects
from bench.child import Job
from bench.data import Source
from bench.native import Loops
from bench.subjects import Subject
from bench.zram import ZramSwap, read_pool
from bench.zswap import ZswapSwap, file_bytes

ROOT = Path(__file__).resolve().parent.parent
SLACK = 128 << 20  # what frontswap's group may hold beyond its limit; it must not come near
PASS = ("fill", "scan", "rmw", "random", "random-write")
SORTED = {"float64": "f8", "mixed": "u8"}  # whatever lies in mixed pages, by its words
STEPS = (*PASS, "sort", "memory", "metadata")


@dataclass(frozen=True)
class Plan:
    """What is to be measured; main.py makes it from the command line."""

    subjects: tuple[Subject, ...]
    kinds: tuple[str, ...]
    steps: tuple[str, ...]
    rounds: int
    size: int
    sort_size: int
    memory_size: int
    limit: int
    touches: int
    touch_seconds: int
    timeout: float
    folder: Path
    perf: Path | None = None


@dataclass
class Record:
    """One child: what it was given, what it measured, what RAM it took."""

    data: str
    work: str  # "pass", "sort" or "memory"
    round: int
    subject: str
    limit: int
    failed: str | None = None  # why there is no result; a peer that runs out of memory is a result too
    wrong: str | None = None  # a wrong byte: fails the bench
    overhead: dict[str, float] = field(default_factory=dict)
    steps: dict[str, dict[str, float]] = field(default_factory=dict)
    samples: dict[str, dict[str, float]] = field(default_factory=dict)
    group_peak: int = 0
    pool_peak: int = 0
    seconds: float = 0.0

    @property
    def trouble(self) -> str | None:
        """Why this record's numbers do not count."""
        return self.wrong or self.failed

    @property
    def ram(self) -> int:
        """All RAM that it used: what its group was charged, and a pool that no group is charged for."""
        return self.group_peak + self.pool_peak


def works(plan: Plan) -> Iterator[tuple[str, str, int, tuple[str, ...]]]:
    """Give each workload: its name, its data, its size and which of its steps are wanted."""
    wanted = tuple(step for step in PASS if step in plan.steps)
    if wanted:
        for kind in plan.kinds:
            yield "pass", kind, plan.size, wanted
    if "sort" in plan.steps:
        for kind in SORTED:
            if kind in plan.kinds:
                yield "sort", kind, plan.sort_size, ("sort",)
    if "memory" in plan.steps:
        for kind in plan.kinds:
            yield "memory", kind, plan.memory_size, ("memory",)


def run(plan: Plan, library: Path, report: Callable[[Record], None]) -> list[Record]:
    """Measure everything; each record is reported as soon as it is there."""
    loops = Loops(library)
    hierarchy = cgroup.find()
    records: list[Record] = []
    for work, kind, size, wanted in works(plan):
        with Source(kind, size, seed=1, loops=loops) as source:
            for round_ in range(1, plan.rounds + 1):
                pool = 0
                for subject in plan.subjects:
                    steps = tuple(step for step in wanted if subject.takes(step))
                    if not steps:
                        continue
                    if subject.same_ram and not pool:
                        continue  # zram failed in this round: there is nothing to be the same as
                    limit = plan.limit + pool * subject.same_ram if subject.limited else 2 * size
                    if work == "memory":
                        limit = 3 * size // 2  # nothing has to leave before it is told to
                    record = Record(kind, work, round_, subject.name, limit)
                    measure(record, plan, subject, source, steps, hierarchy, library)
                    if subject.name == subjects.ZRAM:
                        pool = record.pool_peak
                    records.append(record)
                    report(record)
    return records


def measure(
    record: Record,
    plan: Plan,
    subject: Subject,
    source: Source,
    steps: Sequence[str],
    hierarchy: cgroup.Hierarchy,
    library: Path,
) -> None:
    """Run one child to its end and take down what it used."""
    os.sync()  # the disk has nothing left to write for the one before
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        settings: dict[str, Any] = {}
        zram = None
        limit = record.limit
        if subject.keeper == "zram":
            zram = stack.enter_context(ZramSwap(subject.algorithm, 2 * source.size))
            settings = {"mm_stat": str(zram.mm_stat)}
        elif subject.keeper == "zswap":
            file = plan.folder / f"frontswap-bench-{os.getpid()}.swap"
            stack.enter_context(ZswapSwap(file, file_bytes(source.size)))
        elif subject.keeper == "memmap":
            file = plan.folder / f"frontswap-bench-{os.getpid()}.dat"
            stack.callback(file.unlink, missing_ok=True)
            settings = {"file": str(file), "advice": subject.advice}
        elif subject.keeper == "frontswap":
            settings = {"limit": record.limit, "folder": str(plan.folder), "page": subject.page}
            limit += SLACK
        group = stack.enter_context(
            cgroup.MemoryGroup(
                hierarchy, cgroup.group_name(subject.name), limit, swap=subject.keeper in {"zram", "zswap"}
            )
        )
        job = Job(
            keeper=subject.keeper,
            settings=settings,
            steps=("fill", *(step for step in steps if step != "fill")),
            dtype=SORTED[source.kind.name] if record.work == "sort" else source.kind.dtype,
            size=source.size,
            checksum=source.checksum,
            flip=source.kind.flip,
            touches=plan.touches,
            touch_seconds=plan.touch_seconds,
            seed=record.round,
            library=str(library),
            source_fd=source.fd,
            procs=str(group.procs),
        )
        result = _child(job, [*_perf(plan, record), subject.python or sys.executable], plan.timeout)
        record.group_peak = group.peak()
        if zram is not None:
            record.pool_peak = read_pool(zram.mm_stat).mem_used_max
        if group.oom_kills():
            record.failed = "killed: out of memory"
        elif isinstance(result, str):
            record.failed = result
        else:
            record.wrong = result.get("wrong")
            record.overhead, record.steps = result.get("overhead", {}), result.get("steps", {})
            record.samples = result.get("samples", {})
            if subject.keeper == "zswap" and hierarchy.version == 1:  # version 2 charges the group
                record.pool_peak = int(max(sample["mem_used_total"] for sample in record.samples.values()))
    record.seconds = time.monotonic() - begun


def _perf(plan: Plan, record: Record) -> list[str]:
    if plan.perf is None:
        return []
    file = plan.perf / f"{record.subject}-{record.data}-{record.work}-{record.round}.perf"
    return ["perf", "record", "--quiet", "--freq", "999", "-g", "--output", str(file), "--"]


def _child(job: Job, prefix: list[str], timeout: float) -> dict[str, Any] | str:
    """Run the child; its result, or in words why there is none."""
    get, put = os.pipe()
    command = [*prefix, "-m", "bench.child", json.dumps(dataclasses.asdict(job)), str(put)]
    with os.fdopen(get) as results, contextlib.ExitStack() as stack:
        try:
            process = stack.enter_context(
                subprocess.Popen(command, pass_fds=(job.source_fd, put), cwd=ROOT, stderr=subprocess.PIPE, text=True)
            )
        finally:
            os.close(put)
        stack.callback(process.kill)
        try:
            _, said = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            return f"stopped after {timeout:.0f} s"
        if process.returncode < 0:
            return f"killed by signal {-process.returncode}"
        if process.returncode:
            return (said.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        decoded: dict[str, Any] = json.load(results)
        return decoded
