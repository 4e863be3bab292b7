"""Two threads that store at once: does one wait for the other?"""

import resource
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass
from typing import Any

import numpy as np

from bench.data import floats
from bench.rounds import buffer, interval
from bench.sheet import Sheet, size
from bench.slots import Slots
from frontswap import Frontswap, SwapArea

BYTES = 8 << 20  # of an area; a thread stores all of it in one call of store_many
PAGES = (4096, 64 << 10)
NOTES = """\
Throughput of two threads in terms of one thread: 2 would be perfect; the median, and where it lies with a probability
of 95%. "CPU": processor time of both at once in terms of one after the other; above 1 they are in each other's way, or
share a core. "waits": how often a thread slept, for the GIL or for a lock (whose holder has lost its processor),
and was not just preempted; of two threads, and of one. Each thread stores 8 MiB of compressible float64 into an area
of its own by one call of store_many, as often as takes 50 ms. "one set of hooks": both areas and one zcache behind the
same hooks. "hooks of their own": only the process is shared; a GIL that is held would show here. "multiplying": a loop
in C that touches no memory, in turn with the others: what two threads get of this machine at that moment (hyperthreads
of one core and neighbours take their part); a call counts as 8 MiB."""

Job = Callable[[], object]


@dataclass(frozen=True)
class Taken:
    """Some threads at work at once."""

    seconds: float  # until the last is done
    cpu: float  # seconds of all of them together
    waits: int  # how often one of them slept: for the GIL, for a lock. Not: another process got the processor
    calls: int


def together(pool: ThreadPoolExecutor, jobs: list[Job], times: int) -> Taken:
    """Begin all jobs at the same moment, do each `times` times."""
    barrier = threading.Barrier(len(jobs))

    def run(job: Job) -> tuple[float, Taken]:
        barrier.wait()
        begun, waits, cpu = time.perf_counter(), resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw, time.thread_time()
        for _ in range(times):
            job()
        end, cpu = time.perf_counter(), time.thread_time() - cpu
        return begun, Taken(end, cpu, resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - waits, times)

    done = [future.result() for future in [pool.submit(run, job) for job in jobs]]
    return Taken(
        max(one.seconds for _, one in done) - min(begun for begun, _ in done),
        sum(one.cpu for _, one in done),
        sum(one.waits for _, one in done),
        sum(one.calls for _, one in done),
    )


Rounds = list[tuple[Taken, Taken, Taken]]  # the first thread alone, both, the second alone


def take_turns(pool: ThreadPoolExecutor, subjects: dict[str, list[Job]], rounds: int) -> dict[str, Rounds]:
    """All subjects, one after the other, in every round. A job is done as often as takes 50 ms."""
    often = {name: max(1, round(0.05 / together(pool, jobs[:1], 1).seconds)) for name, jobs in subjects.items()}
    found: dict[str, Rounds] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, jobs in subjects.items():
            first, both, second = (together(pool, which, often[name]) for which in (jobs[:1], jobs, jobs[1:]))
            found[name].append((first, both, second))
    return found


def per_gib(taken: list[Taken]) -> float:
    """Waits for each GiB that was stored."""
    return sum(one.waits for one in taken) / sum(one.calls for one in taken) * (1 << 30) / BYTES


def row(page: int, name: str, found: Rounds) -> tuple[tuple[str, ...], dict[str, Any]]:
    """One subject, for people and for the JSON."""
    gain = interval([(first.seconds + second.seconds) / both.seconds for first, both, second in found])
    of_minima = sum(min(taken[side].seconds for taken in found) for side in (0, 2)) / min(
        both.seconds for _, both, _ in found
    )
    cpu = interval([both.cpu / (first.cpu + second.cpu) for first, both, second in found])
    waits = per_gib([both for _, both, _ in found])
    alone = per_gib([one for first, _, second in found for one in (first, second)])
    cells = (size(page), name, gain.text(2), f"{of_minima:.2f}", cpu.text(2), f"{waits:.1f}", f"{alone:.1f}")
    record = {"page": page, "subject": name, "gain": astuple(gain), "gain_of_minima": of_minima, "cpu": astuple(cpu)}
    return cells, record | {"rounds": [[asdict(taken) for taken in three] for three in found]}


def storing(area: SwapArea) -> Job:
    """Store a whole area, new bytes over old ones."""
    data = buffer(BYTES)
    data[:] = floats(np.random.default_rng(area.page), 2)(BYTES)
    offsets = np.arange(area.pages)

    def store() -> None:
        if not (area.store_many(offsets, data.data) == 1).all():
            raise RuntimeError("zcache has refused pages")

    store()
    return store


def measure(slots: Slots, rounds: int) -> Sheet:
    """Every page size."""
    rows, records = [], []
    turns = 8_000_000  # about as long as a call of store_many
    with ThreadPoolExecutor(2) as pool:
        for page in PAGES:
            with Frontswap("zcache:size=256MiB") as one, Frontswap("zcache:size=256MiB") as other:
                shared = [storing(one.swapon(size=BYTES, page=page, swap=None)) for _ in range(2)]
                own = [shared[0], storing(other.swapon(size=BYTES, page=page, swap=None))]
                spinning: list[Job] = [lambda: slots.spin(turns)] * 2
                subjects = {"one set of hooks": shared, "hooks of their own": own, "multiplying": spinning}
                found = take_turns(pool, subjects, rounds)
            for name, taken in found.items():
                cells, record = row(page, name, taken)
                rows.append(cells)
                records.append(record)
    head: tuple[str, ...] = (
        "page",
        "two threads",
        "throughput of two / one (95%)",
        "of minima",
        "CPU of two / one (95%)",
    )
    head += ("waits per GiB", "of one")
    return Sheet(f"No GIL: two threads store into two areas, {rounds} rounds", head, rows, NOTES, records)
