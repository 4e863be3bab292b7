"""``frontswap doctor``: what this machine allows, what it means for the user, and the one command that improves it."""

from __future__ import annotations

import json
import os
import resource
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..machine import Machine
from ..memory.memory import Memory
from ..memory.settings import MIN_LIMIT
from .checks import (
    Finding,
    Level,
    address_space,
    blocked_signals,
    huge_pages,
    kernel,
    machine_swap,
    memory_limit,
    out_of_memory,
    pressure,
    process_limits,
    seccomp,
    swap_directory,
    userfaultfd,
)


@dataclass(frozen=True, slots=True)
class Report:
    """The findings by section, and what they come to."""

    sections: dict[str, tuple[Finding, ...]]

    @property
    def findings(self) -> list[Finding]:
        """All of them."""
        return [finding for section in self.sections.values() for finding in section]

    @property
    def works(self) -> bool:
        """False if a Memory cannot be had here."""
        return not self.of(Level.FAILS)

    def of(self, level: Level) -> list[Finding]:
        """The findings that matter that much."""
        return [finding for finding in self.findings if finding.level is level]

    @property
    def verdict(self) -> str:
        """The first line."""
        if not self.works:
            return f"frontswap does not work here: {self.of(Level.FAILS)[0].what}."
        if limits := self.of(Level.LIMIT):
            return f"frontswap works here, but look at: {', '.join(finding.name for finding in limits)}."
        said = {finding.name: finding.what for finding in self.findings}
        return f"frontswap works here: {said['kernel'].partition(' on ')[0]}, swap file in {said['swap directory']}."


# --- all together --------------------------------------------------------------------------------


def trial(_: Machine, where: str) -> Iterator[Finding]:
    """A Memory that is used: 24 MiB in 16 MiB, in a child, whose end harms nobody."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # BLAS has threads; the child calls none of it
        child = os.fork()
    if child == 0:
        os.close(read)
        status = 1
        try:
            os.dup2(write, 2)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            memory = Memory(MIN_LIMIT, swap=where)
            array = memory.empty(3 << 20, "u8")
            array[:] = np.arange(array.size)
            memory.advise(array, "cold")
            status = 0 if np.array_equal(array, np.arange(array.size)) else 2
        except BaseException as error:
            os.write(write, f"{error}\n".encode())
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, errors="replace") as said:
        last = [line.strip() for line in said if line.strip()][-1:]
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == 0:
        yield Finding(
            "trial", "24 MiB went through 16 MiB", "A Memory was made and used here, and every byte was right."
        )
        return
    why = f"ended by {signal.Signals(-status).name}" if status < 0 else "wrong bytes" if status == 2 else "refused"
    yield Finding(
        "trial",
        ": ".join(["a Memory was tried, and it was " + why, *last]),
        "A Memory cannot be used here, for the reason given or for one that frontswap does not know: please report it.",
        level=Level.FAILS,
    )


CHECKS: dict[str, tuple[Callable[[Machine, str], Iterator[Finding]], ...]] = {
    "Kernel": (kernel, userfaultfd, seccomp, blocked_signals),
    "Memory": (memory_limit, out_of_memory, machine_swap, address_space, process_limits),
    "Swap file": (swap_directory,),
    "Pressure and huge pages": (pressure, huge_pages),
}


def examine(machine: Machine | None = None, where: str = "auto") -> Report:
    """Do all checks; a Memory is tried only where nothing speaks against it."""
    here = machine or Machine()
    found = {
        section: tuple(finding for check in checks for finding in check(here, where))
        for section, checks in CHECKS.items()
    }
    if Report(found).works:
        found["Trial"] = tuple(trial(here, where))
    return Report(found)


# --- what is shown -------------------------------------------------------------------------------

MARKS = {
    Level.OK: ("✓", "+", "green"),
    Level.NOTE: ("·", "-", "cyan"),
    Level.LIMIT: ("!", "!", "yellow"),
    Level.FAILS: ("✗", "x", "bold red"),
}


def table(findings: tuple[Finding, ...], *, plain: bool) -> Table:
    """A mark, a name, and what there is to say: a few lines for each finding."""
    made = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_header=False)
    made.add_column(width=1)
    made.add_column(width=18)
    made.add_column()
    for finding in findings:
        mark, ascii_mark, style = MARKS[finding.level]
        said = Text(finding.what)
        said.append(f"\n{finding.meaning}", "dim")
        if finding.command:
            said.append("\n$ ", "dim").append(finding.command, "bold")
        made.add_row(Text(ascii_mark if plain else mark, style), Text(finding.name), said)
    return made


def show(swap: str | None, *, as_json: bool, console: Console | None = None) -> int:
    """Print the report; the exit code: 0 if frontswap works here, 1 if it does not."""
    report = examine(where="auto" if swap is None else swap)
    if as_json:
        found = [asdict(finding) for finding in report.findings]
        print(json.dumps({"verdict": report.verdict, "works": report.works, "findings": found}, indent=2))
    else:
        out = console or Console(highlight=False)
        worst = max((finding.level for finding in report.findings), key=list(Level).index)
        out.print(Text(report.verdict, MARKS[worst][2] if worst is not Level.NOTE else MARKS[Level.OK][2]))
        for section, findings in report.sections.items():
            out.print("", Text(section, "bold"), table(findings, plain=out.options.ascii_only), sep="\n")
    return 0 if report.works else 1
