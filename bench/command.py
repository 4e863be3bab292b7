"""What `python -m bench.hooks` and `python -m bench.locks` share: options, what machine it is, saved sheets."""

import argparse
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import sheet
from bench.environment import environment
from bench.missing import Missing
from bench.sheet import Sheet


def parser(name: str, about: str | None, quick: str, out: str = "for the results") -> argparse.ArgumentParser:
    """The command line of `python -m bench.NAME`: --quick and --out."""
    made = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=about)
    made.add_argument("--quick", action="store_true", help=f"{quick}: shows that all works")
    made.add_argument("--out", type=Path, default=Path("build/bench"), help=f"{out} (default %(default)s)")
    return made


def names(known: Iterable[str]) -> dict[str, Any]:
    """What add_argument() wants for an option that takes some of these names, in their order."""
    every = tuple(known)

    def split(text: str) -> tuple[str, ...]:
        chosen = text.split(",")
        for name in chosen:
            if name not in every:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(every)}")
        return tuple(name for name in every if name in chosen)

    return {"type": split, "default": every, "metavar": "NAME,..."}


def run(
    name: str, chosen: argparse.Namespace, where: Path, work: Callable[[Console, Path], tuple[list[Sheet], int]]
) -> int:
    """Say what machine this is, do the work in a temporary folder, show and save its sheets; its exit code."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    known = environment(where)
    console.print("\n".join(f"{name}: {value}" for name, value in known.items()), markup=False, highlight=False)
    with tempfile.TemporaryDirectory(prefix="frontswap-bench-") as folder:
        try:
            sheets, code = work(console, Path(folder))
        except Missing as what:
            console.print(f"skipped: this needs {what}", markup=False)
            return 0
        except KeyboardInterrupt:
            return 130
    sheet.show(console, sheets)
    stem = sheet.save(chosen.out, f"{name}-quick" if chosen.quick else name, sheets, known)
    console.print(f"saved: {stem}.json, .md", markup=False, highlight=False)
    return code
