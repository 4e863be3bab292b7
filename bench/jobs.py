"""`python -m bench.jobs`: jobs as users have them, 3 to 4 times larger than their memory, without us and with us."""

import argparse
import importlib.util
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from bench import cgroup, confine, tasks
from bench.__main__ import MIB, directory, terminated
from bench.command import names, parser, run
from bench.confine import FINISHED, NOBODY, Outcome
from bench.missing import Missing
from bench.rounds import Pair
from bench.sheet import Sheet, number

GOAL = 1.02  # times what it takes without, when everything fits
PROGRAM = Path(tasks.__file__)
PACKAGES = {"forest": ("sklearn", "scikit-learn"), "svd": ("scipy", "scipy")}  # what is imported, what is installed
# rows, peak to limit, --memory: with few rows nothing would be left for auto, which keeps 128 MiB free
FULL, QUICK = (10_000_000, 3.5, "auto"), (2_000_000, 1.5, "64M")
# Of less than this auto, which keeps 128 MiB free, leaves little more than what Python and its libraries take: half of
# it is better then.
LITTLE = 400 * MIB
TIGHT = """\
Each job alone in a memory cgroup, as uid 65534, without swap. "peak": the most that the group of the plain job was
charged without a limit, "limit": what it gets then. "plain": how it ends there. "frontswap": how it ends there under
`frontswap run` with that "--memory"; with the same answers, or it says WRONG. "s": whole processes, from start to end;
plain ones without a limit; "processor": the ratio of seconds of processors, which others on the machine disturb less.
"faults": those that came to frontswap, "refaults": pages that had to be brought back, "written": to disks, by the
process."""
FITS = """\
The same jobs, plain and under `frontswap run --memory SIZE` with a size that is never reached, in turn, both without a
limit. Whole processes, from start to end. "ratio": ours to plain in the same round, the median, and in brackets where
it lies with a probability of 95% (with few rounds: the extremes); the goal is 1.02, "missed" where all of it is above.
"processor": the same of the seconds of processors, which others on the machine disturb less. "inside": of the time that
the job itself takes, without the start of Python and of frontswap."""


@dataclass(frozen=True)
class Tight:
    """One job that is larger than its memory."""

    name: str
    limit: int
    memory: str  # what frontswap run was told
    free: Outcome  # plain, without a limit
    plain: Outcome
    ours: Outcome

    @property
    def wrong(self) -> bool:
        """True if any of them has another answer."""
        answers = {done.found.get("digest") for done in (self.free, self.plain, self.ours) if done.how == FINISHED}
        return len(answers) > 1

    @property
    def ratios(self) -> tuple[float, float]:
        """Ours to plain without a limit: by the clock, and of processors."""
        return self.ours.seconds / self.free.seconds, self.ours.cpu / self.free.cpu

    @property
    def lost(self) -> bool:
        """True if it does not finish with us."""
        return self.ours.how != FINISHED or self.wrong


@dataclass(frozen=True)
class Fits:
    """One job that fits, a process for each round."""

    name: str
    plain: list[Outcome]
    ours: list[Outcome]

    def pair(self, value: Callable[[Outcome], float]) -> Pair:
        """Both sides of something that was measured."""
        return Pair(list(map(value, self.plain)), list(map(value, self.ours)))

    @property
    def wrong(self) -> bool:
        """True if they do not all have the same answer."""
        return len({done.found["digest"] for done in (*self.plain, *self.ours)}) > 1


def check(name: str) -> None:
    """Missing if the job's package is not there."""
    library = name.partition("-")[0]
    imported, package = PACKAGES.get(library, (library, library))
    if importlib.util.find_spec(imported) is None:
        raise Missing(f"{package}: pip install {package}")


def plain(name: str, rows: int) -> list[str]:
    """The command of a job."""
    return [sys.executable, str(PROGRAM), name, str(rows)]


def ours(name: str, rows: int, memory: str, page: str, folder: Path) -> list[str]:
    """The same under frontswap."""
    run = [str(Path(sys.executable).with_name("frontswap")), "run", "--memory", memory, "--page", page]
    return [*run, "--swap", str(folder), "--summary", "json", *plain(name, rows)[1:]]


class Bench:
    """What is told once."""

    def __init__(self, chosen: argparse.Namespace, console: Console, folder: Path) -> None:
        self.chosen, self.console, self.folder = chosen, console, folder
        self.hierarchy = cgroup.find()
        self.all = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")

    def run(self, what: str, command: Sequence[str], limit: int | None = None) -> Outcome:
        """One process; without a limit unless there is one."""
        done = confine.run(command, self.hierarchy, limit or self.all, self.folder, self.chosen.timeout)
        self.console.print(
            f"{what}: {done.how}, {number(done.seconds)} s, {done.peak // MIB} MiB", markup=False, highlight=False
        )
        return done

    def free(self, name: str, rows: int) -> Outcome:
        """The plain job; RuntimeError if it does not even finish with all the memory that there is."""
        done = self.run(f"{name}: plain, no limit", plain(name, rows))
        if done.how != FINISHED:
            raise RuntimeError(f"{name} with {rows} rows does not finish without a limit: {done.how}")
        return done

    def tight(self, name: str) -> Tight:
        """A job in less memory than it needs."""
        rows = self.chosen.rows
        self.run(f"{name}: files into the page cache", plain(name, 1000))
        free = self.free(name, rows)
        limit = int(free.peak / self.chosen.times) // MIB * MIB
        without = self.run(f"{name}: plain, {limit // MIB} MiB", plain(name, rows), limit)
        memory = self.chosen.memory
        if memory == "auto" and limit < LITTLE:
            memory = f"{limit // 2 // MIB}M"
        page = self.chosen.page
        done = self.run(f"{name}: frontswap, {limit // MIB} MiB", ours(name, rows, memory, page, self.folder), limit)
        told = memory if page == "auto" else f"{memory} --page {page}"
        return Tight(name, limit, told, free, without, done)

    def fits(self, name: str) -> Fits:
        """A job that fits, in turn."""
        rows = self.chosen.rows
        # What is allocated counts until the limit is crossed, which may be much more than what is touched.
        size = f"{self.all // 2 // MIB}M"
        sides = (plain(name, rows), ours(name, rows, size, self.chosen.page, self.folder))
        taken: tuple[list[Outcome], list[Outcome]] = ([], [])
        for turn in range(self.chosen.rounds):
            for side in (0, 1) if turn % 2 == 0 else (1, 0):
                done = self.run(f"{name}: {('plain', 'frontswap')[side]}, no limit", sides[side])
                if done.how != FINISHED or done.statistics.get("registered"):
                    raise RuntimeError(f"{name} was to fit into {size}: {done.how}, {done.statistics}")
                taken[side].append(done)
        return Fits(name, *taken)


def tight_sheet(found: Sequence[Tight]) -> Sheet:
    """Every job that is larger than its memory."""
    rows = []
    for job in found:
        counts = job.ours.statistics
        rows.append(
            (
                job.name,
                f"{job.free.found.get('bytes', 0) // MIB}",
                f"{job.free.peak // MIB}",
                f"{job.limit // MIB} ({job.free.peak / job.limit:.1f}x)",
                job.plain.how,
                job.memory,
                "WRONG" if job.wrong else f"{job.ours.how}, same" if job.ours.how == FINISHED else job.ours.how,
                number(job.free.seconds),
                number(job.ours.seconds),
                *(f"{ratio:.1f}" if job.ours.how == FINISHED else "-" for ratio in job.ratios),
                f"{counts.get('faults', 0):,}",
                f"{counts.get('refaults', 0):,}",
                f"{job.ours.written // MIB:,}",
            )
        )
    head = (
        "job",
        "data MiB",
        "peak MiB",
        "limit MiB",
        "plain",
        "--memory",
        "frontswap",
        "plain s",
        "frontswap s",
        "ratio",
        "processor",
        "faults",
        "refaults",
        "written MiB",
    )
    return Sheet("Larger than its memory", head, rows, TIGHT, [asdict(job) for job in found])


def fits_sheet(found: Sequence[Fits]) -> Sheet:
    """Every job that fits."""
    rows, kept = [], []
    for job in found:
        whole = job.pair(lambda done: done.seconds)
        ratio = whole.ratio()
        verdict = "WRONG" if job.wrong else "missed" if ratio.low > GOAL else ""
        rows.append(
            (
                job.name,
                number(statistics.median(whole.base)),
                number(statistics.median(whole.ours)),
                f"{ratio.text(3)} {verdict}".strip(),
                job.pair(lambda done: done.cpu).ratio().text(3),
                job.pair(lambda done: done.found["seconds"]).ratio().text(3),
                str(len(whole.base)),
            )
        )
        kept.append({"verdict": verdict, **asdict(job)})
    head = ("job", "plain s", "frontswap s", "ratio (95%)", "processor (95%)", "inside (95%)", "rounds")
    return Sheet("When it fits", head, rows, FITS, kept)


def measure(chosen: argparse.Namespace, console: Console) -> tuple[list[Sheet], int]:
    """All of it; 1 for a wrong answer, a job that does not finish with us, or a goal that is missed."""
    confine.check()
    jobs = []
    for name in chosen.jobs:
        try:
            check(name)
        except Missing as what:
            console.print(f"{name}: skipped: this needs {what}", markup=False, highlight=False)
        else:
            jobs.append(name)
    with tempfile.TemporaryDirectory(prefix="frontswap-jobs-", dir=chosen.dir) as folder:
        os.chown(folder, NOBODY, NOBODY)
        bench = Bench(chosen, console, Path(folder))
        tight = [bench.tight(name) for name in jobs] if "tight" in chosen.parts else []
        fits = [bench.fits(name) for name in jobs] if "fits" in chosen.parts else []
    sheets = [tight_sheet(tight)] if tight else []
    sheets += [fits_sheet(fits)] if fits else []
    missed = any(record["verdict"] for record in sheets[-1].records) if fits else False
    return sheets, int(missed or any(job.lost for job in tight))


def options() -> argparse.ArgumentParser:
    """Describe the command line."""
    made = parser("jobs", __doc__, f"{QUICK[0]:,} rows, {QUICK[1]} times too small, one round")
    made.add_argument("--rows", type=int, help=f"of the tables; the other jobs are as large (default {FULL[0]})")
    made.add_argument("--jobs", help="(default all)", **names(tasks.JOBS))
    made.add_argument("--parts", help="(default both)", **names(("tight", "fits")))
    made.add_argument("--rounds", type=int, help="when it fits (default 5; --quick: 1)")
    made.add_argument("--times", type=float, help=f"peak to limit (default {FULL[1]})")
    made.add_argument("--memory", help=f"of frontswap run, when larger (default {FULL[2]})")
    made.add_argument("--page", default="auto", help="of frontswap run (default %(default)s)")
    made.add_argument("--timeout", type=float, default=1800, help="seconds for one process (default %(default)g)")
    made.add_argument("--dir", type=directory, default=Path("/var/tmp"), help="for swap files (default %(default)s)")
    return made


def main() -> int:
    chosen = options().parse_args()
    rows, times, memory = QUICK if chosen.quick else FULL
    chosen.rows = chosen.rows or rows
    chosen.times = chosen.times or times
    chosen.memory = chosen.memory or memory
    chosen.rounds = chosen.rounds or (1 if chosen.quick else 5)
    signal.signal(signal.SIGTERM, terminated)
    return run("jobs", chosen, chosen.dir, lambda console, _: measure(chosen, console))


if __name__ == "__main__":
    sys.exit(main())
