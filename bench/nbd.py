"""`python -m bench.nbd`: `frontswap serve` beside nbdkit's memory disks, asked by fio's NBD engine.

nbdkit keeps what is written as it is (allocator=malloc) or compressed by zstd, in blocks of 32 KiB (allocator=zstd)."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import command
from bench.missing import Missing
from bench.proc import field
from bench.sheet import Sheet, number, size

MIB = 1 << 20
OURS, ZSTD, MALLOC = "frontswap", "nbdkit zstd", "nbdkit malloc"
#: at least so many times the peer's requests a second
GOALS = {ZSTD: 3.0, MALLOC: 0.8}
BLOCKS = (4096, 64 << 10)
DEPTHS = (1, 32)
CONNECTIONS = (1, 4)
WAYS = ("randread", "randwrite")
#: seconds to wait for a server that begins or ends
PATIENCE = 30.0
SPEED_NOTES = """\
Thousands of requests a second, median of {rounds} round(s) in which the servers take turns, by fio's NBD engine through
a Unix socket; "to ...": frontswap to the peer in the same round, the median. Goals: at least 3 times nbdkit's zstd, at
least 0.8 times its malloc. Half of each 4 KiB is random, the rest zeros (buffer_compress_percentage=50). Every block
has been written before. fio and the server share {processors} processors: who answers sooner has fio use more."""
MEMORY_NOTES = """\
MiB of RAM that the server's process has (PSS), all of it, when {size} MiB have been written; "ratio": to nbdkit's zstd,
goal below 1."""


def servers(folder: Path, bytes_: int) -> dict[str, list[str]]:
    """The commands, by name; each listens on a socket of its name in `folder`."""
    if shutil.which("nbdkit") is None:
        raise Missing("nbdkit (apt install nbdkit)")
    ours = [str(Path(sys.executable).with_name("frontswap")), "serve", "--quiet", "--force", "--size", str(bytes_)]
    kept = ["nbdkit", "--foreground", "memory", f"size={bytes_}"]
    return {
        OURS: [*ours, "--memory", str(bytes_ + bytes_ // 4), "--socket", str(socket(folder, OURS))],
        ZSTD: [*kept[:2], "--unix", str(socket(folder, ZSTD)), *kept[2:], "allocator=zstd"],
        MALLOC: [*kept[:2], "--unix", str(socket(folder, MALLOC)), *kept[2:], "allocator=malloc"],
    }


def socket(folder: Path, name: str) -> Path:
    """Where a server listens."""
    return folder / name.replace(" ", "-")


@contextmanager
def serving(command: list[str], at: Path) -> Iterator[subprocess.Popen[str]]:
    """A server that listens; it is ended with the block."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        try:
            until = time.monotonic() + PATIENCE
            while not at.is_socket():
                if server.poll() is not None or time.monotonic() > until:
                    server.kill()
                    raise RuntimeError(f"{command[0]} does not listen: {server.communicate()[1].strip()}")
                time.sleep(0.01)
            yield server
        finally:
            server.terminate()
            try:
                server.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                server.kill()


def fio(at: Path, way: str, block: int, depth: int, connections: int, *more: str) -> dict[str, Any]:
    """What fio says of one job."""
    if shutil.which("fio") is None:
        raise Missing("fio (apt install fio)")
    done = subprocess.run(
        [
            "fio",
            "--name=bench",
            "--ioengine=nbd",
            f"--uri=nbd+unix:///?socket={at}",
            f"--rw={way}",
            f"--bs={block}",
            f"--iodepth={depth}",
            f"--numjobs={connections}",
            "--thread",
            "--group_reporting",
            "--buffer_compress_percentage=50",
            "--buffer_compress_chunk=4096",
            "--output-format=json",
            *more,
        ],
        capture_output=True,
        text=True,
        cwd=at.parent,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"fio: {done.stdout.strip()}\n{done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    if found["error"]:
        raise RuntimeError(f"fio: error {found['error']} of {at.name}")
    return found


def held(server: subprocess.Popen[str]) -> int:
    """Bytes of RAM that it has; what it shares with others in part."""
    return field(Path(f"/proc/{server.pid}/smaps_rollup"), "Pss") << 10


def measure(console: Console, folder: Path, bytes_: int, seconds: float, rounds: int) -> list[Sheet]:
    """Memory first, of servers that are filled for that; then all cells of the matrix."""
    cells = list(product(WAYS, BLOCKS, DEPTHS, CONNECTIONS))
    rates: dict[tuple[str, int, int, int], dict[str, list[float]]] = {cell: {} for cell in cells}
    with ExitStack() as stack:
        memory: dict[str, int] = {}
        for name, line in servers(folder, bytes_).items():
            at = socket(folder, name)
            server = stack.enter_context(serving(line, at))
            console.print(f"filling {name}", markup=False, highlight=False)
            # new bytes in every request: what is the same again would say nothing of memory
            fio(at, "write", 64 << 10, 8, 1, f"--size={bytes_}", "--refill_buffers")
            memory[name] = held(server)
        for turn, cell in product(range(rounds), cells):
            way, block, depth, connections = cell
            console.print(
                f"round {turn + 1} of {rounds}: {way}, {size(block)}, depth {depth}, {connections} connection(s)"
            )
            for name in memory:
                found = fio(
                    socket(folder, name),
                    way,
                    block,
                    depth,
                    connections,
                    f"--size={bytes_}",
                    "--time_based",
                    f"--runtime={seconds}",
                    "--norandommap",
                )
                rates[cell].setdefault(name, []).append(found["read" if way == "randread" else "write"]["iops"])
    return [speed(rates, rounds), memory_sheet(memory, bytes_)]


def speed(rates: dict[tuple[str, int, int, int], dict[str, list[float]]], rounds: int) -> Sheet:
    """A row for each cell."""
    rows, records = [], []
    for (way, block, depth, connections), found in rates.items():
        row = [way.removeprefix("rand"), size(block), str(depth), str(connections)]
        record: dict[str, Any] = {"way": way, "block": block, "depth": depth, "connections": connections, "iops": found}
        row += [number(statistics.median(found[name]) / 1000) for name in (OURS, ZSTD, MALLOC)]
        for peer, goal in GOALS.items():
            ratio = statistics.median(ours / theirs for ours, theirs in zip(found[OURS], found[peer], strict=True))
            row.append(f"{number(ratio)} {'met' if ratio >= goal else 'missed'}")
            record[f"to {peer}"] = ratio
        rows.append(tuple(row))
        records.append(record)
    head = ("", "block", "depth", "connections", OURS, ZSTD, MALLOC, "to zstd", "to malloc")
    return Sheet(
        "Requests", head, rows, SPEED_NOTES.format(rounds=rounds, processors=len(os.sched_getaffinity(0))), records
    )


def memory_sheet(memory: dict[str, int], bytes_: int) -> Sheet:
    """A row for each server."""
    rows = []
    for name, used in memory.items():
        ratio = used / memory[ZSTD]
        judged = f" {'met' if ratio < 1 else 'missed'}" if name == OURS else ""
        rows.append((name, number(used / MIB), f"{number(ratio)}{judged}"))
    return Sheet("Memory", ("", "MiB", "ratio"), rows, MEMORY_NOTES.format(size=bytes_ // MIB), [memory])


def main() -> int:
    """Exit code 0: a goal that is missed is in the table."""
    parser = command.parser("nbd", __doc__, "64 MiB, half a second for each cell, one round")
    chosen = parser.parse_args()

    def work(console: Console, folder: Path) -> tuple[list[Sheet], int]:
        if chosen.quick:
            return measure(console, folder, 64 * MIB, 0.5, 1), 0
        return measure(console, folder, 512 * MIB, 2.0, 3), 0

    return command.run("nbd", chosen, Path("/var/tmp"), work)


if __name__ == "__main__":
    sys.exit(main())
