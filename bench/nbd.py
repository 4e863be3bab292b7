"""`python -m bench.nbd`: `frontswap serve` beside nbdkit's memory disks, asked by fio's NBD engine and nbdcopy.

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

import numpy as np
from rich.console import Console

from bench import command
from bench.data import CHUNK, stream
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
NOISE, MIXED = "half noise", "mixed"
#: what is written; fio makes the first, the other one is bench.data's
KINDS = {
    NOISE: "Half of each 4 KiB is random, the rest zeros (fio: buffer_compress_percentage=50)",
    MIXED: "64 KiB each of float64 walks with 3 decimals, int32 counters and text in turn (bench.data)",
}
#: what each round has come to, by server, of each cell: way, block, depth, connections
Rounds = dict[tuple[str, int, int, int], dict[str, list[float]]]
#: seconds in which a server that nobody asks may make what it has smaller
SETTLE = 10.0
#: seconds to wait for a server that begins or ends
PATIENCE = 30.0
SPEED_NOTES = """\
{what}. Thousands of requests a second, median of {rounds} round(s) in which the servers take turns, through a Unix
socket, by fio's NBD engine at random offsets{but}; "to ...": frontswap to the peer in the same round, the median.
Goals: at least 3 times nbdkit's zstd, at least 0.8 times its malloc. Every block has been written before. Client and
server share {processors} processors: who answers sooner has the client use more. The last column is the processor time
that each server has had for a request, all its threads: it depends less on what else the machine does."""
BY_COPY = ", writes by nbdcopy in order (fio writes no data of others), {size} MiB a round"
MEMORY_NOTES = """\
MiB of RAM that the server's process has (PSS), all of it, when so much has been written once; "to zstd": frontswap to
nbdkit's zstd, goal below 1. "settled": 10 s later, in which nobody asked for anything. With nothing written it is what
the process takes for itself: Python, and its buffers."""


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


def make(at: Path, bytes_: int) -> None:
    """A file of mixed data."""
    take = stream(MIXED, np.random.default_rng(1), bytes_)
    with at.open("wb") as file:
        for done in range(0, bytes_, CHUNK):
            file.write(take(min(CHUNK, bytes_ - done)).tobytes())


def copy(data: Path, at: Path, block: int, depth: int, connections: int) -> tuple[int, float]:
    """Requests of nbdcopy, which writes a file to a server, and seconds."""
    if shutil.which("nbdcopy") is None:
        raise Missing("nbdcopy (apt install libnbd-bin)")
    how = [f"--request-size={block}", f"--requests={depth}", f"--connections={connections}", f"--threads={connections}"]
    begun = time.monotonic()
    done = subprocess.run(
        ["nbdcopy", "--sparse=0", "--no-extents", *how, str(data), f"nbd+unix:///?socket={at}"],
        capture_output=True,
        text=True,
        check=False,
    )
    took = time.monotonic() - begun
    if done.returncode:
        raise RuntimeError(f"nbdcopy: {done.stderr.strip()}")
    return data.stat().st_size // block, took


def fill(kind: str, data: Path, at: Path, bytes_: int) -> None:
    """Write all of an export once. New bytes in every request: what is the same again would say nothing of memory."""
    if kind == NOISE:
        fio(at, "write", 64 << 10, 8, 1, f"--size={bytes_}", "--refill_buffers")
    else:
        copy(data, at, 64 << 10, 8, 1)


def worked(server: subprocess.Popen[str]) -> float:
    """Seconds of processor time that it has had."""
    times = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


def held(server: subprocess.Popen[str]) -> int:
    """Bytes of RAM that it has; what it shares with others in part."""
    return field(Path(f"/proc/{server.pid}/smaps_rollup"), "Pss") << 10


def measure(console: Console, folder: Path, bytes_: int, seconds: float, rounds: int, large: int) -> list[Sheet]:
    """Memory first, with `bytes_` and `large` bytes written; then all cells of the matrix, kind by kind."""
    data, part = folder / "data", folder / "part"
    make(data, large)
    sheets = [memory(console, folder, data, sorted({bytes_, large}))]
    os.truncate(data, bytes_)
    shutil.copy(data, part)
    os.truncate(part, bytes_ // 4)
    sheets += [speed(console, folder, kind, data, part, bytes_, seconds, rounds) for kind in KINDS]
    return sheets


def memory(console: Console, folder: Path, data: Path, sizes: list[int]) -> Sheet:
    """A row for each kind and size; `data` has as much as the largest."""
    rows, records = [], []
    cells: list[tuple[str, int]] = [("nothing", sizes[-1]), *((kind, bytes_) for bytes_ in sizes for kind in KINDS)]
    for kind, bytes_ in sorted(cells, key=lambda cell: -cell[1]):
        os.truncate(data, bytes_)  # the largest first: a file that is cut stays so
        found: dict[str, int] = {}
        settled: dict[str, int] = {}
        for name, line in servers(folder, bytes_).items():
            console.print(f"memory: {name}, {kind}, {bytes_ // MIB} MiB", markup=False, highlight=False)
            with serving(line, socket(folder, name)) as server:
                if kind in KINDS:
                    fill(kind, data, socket(folder, name), bytes_)
                found[name] = held(server)
                if kind in KINDS:
                    time.sleep(SETTLE)
                    settled[name] = held(server)
            socket(folder, name).unlink(missing_ok=True)  # nbdkit leaves it
        written = f"{bytes_ // MIB} MiB of {kind}" if kind in KINDS else kind
        for what, bytes_held in (("", found), (", settled", settled)):
            if bytes_held:
                ratio = bytes_held[OURS] / bytes_held[ZSTD]
                judged = f" {'met' if ratio < 1 else 'missed'}" if kind in KINDS else ""
                values = (number(bytes_held[name] / MIB) for name in (OURS, ZSTD, MALLOC))
                rows.append((written + what, *values, f"{number(ratio)}{judged}"))
                records.append({"kind": kind, "bytes": bytes_, "settled": bool(what), **bytes_held})
    return Sheet("Memory", ("written", OURS, ZSTD, MALLOC, "to zstd"), rows, MEMORY_NOTES, records)


def speed(
    console: Console, folder: Path, kind: str, data: Path, part: Path, bytes_: int, seconds: float, rounds: int
) -> Sheet:
    """Fill a server of each sort with a kind of data, and ask them in turn."""
    cells = list(product(WAYS, BLOCKS, DEPTHS, CONNECTIONS))
    rates: Rounds = {cell: {} for cell in cells}
    costs: Rounds = {cell: {} for cell in cells}
    running: dict[str, subprocess.Popen[str]] = {}
    with ExitStack() as stack:
        lines = servers(folder, bytes_)
        for name, line in lines.items():
            at = socket(folder, name)
            stack.callback(at.unlink, missing_ok=True)
            running[name] = stack.enter_context(serving(line, at))
            console.print(f"filling {name}: {kind}", markup=False, highlight=False)
            fill(kind, data, at, bytes_)
        for turn, cell in product(range(rounds), cells):
            way, block, depth, connections = cell
            console.print(
                f"round {turn + 1} of {rounds}: {kind}, {way}, {size(block)}, depth {depth}, connections {connections}"
            )
            for name in lines:
                at, before = socket(folder, name), worked(running[name])
                if kind == MIXED and way == "randwrite":
                    requests, took = copy(part, at, block, depth, connections)
                else:
                    timed = ("--time_based", f"--runtime={seconds}", "--norandommap")
                    found = fio(at, way, block, depth, connections, f"--size={bytes_}", *timed)
                    asked = found["read" if way == "randread" else "write"]
                    requests, took = asked["total_ios"], asked["total_ios"] / asked["iops"]
                rates[cell].setdefault(name, []).append(requests / took)
                costs[cell].setdefault(name, []).append((worked(running[name]) - before) / requests)
    but = BY_COPY.format(size=part.stat().st_size // MIB) if kind == MIXED else ""
    notes = SPEED_NOTES.format(what=KINDS[kind], rounds=rounds, but=but, processors=len(os.sched_getaffinity(0)))
    return speed_sheet(kind, rates, costs, notes)


def speed_sheet(kind: str, rates: Rounds, costs: Rounds, notes: str) -> Sheet:
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
        cost = costs[way, block, depth, connections]
        row.append(" / ".join(number(1e6 * statistics.median(cost[name])) for name in (OURS, ZSTD, MALLOC)))
        rows.append(tuple(row))
        records.append({**record, "seconds": cost})
    head = ("", "block", "depth", "connections", OURS, ZSTD, MALLOC, "to zstd", "to malloc", "us of processor")
    return Sheet(f"Requests: {kind}", head, rows, notes, records)


def main() -> int:
    """Exit code 0: a goal that is missed is in the table."""
    parser = command.parser("nbd", __doc__, "64 MiB, half a second for each cell, one round")
    parser.add_argument("--short", action="store_true", help="256 MiB, a second for each cell, two rounds: 8 minutes")
    chosen = parser.parse_args()

    def work(console: Console, folder: Path) -> tuple[list[Sheet], int]:
        if chosen.quick:
            return measure(console, folder, 64 * MIB, 0.5, 1, 64 * MIB), 0
        if chosen.short:
            return measure(console, folder, 256 * MIB, 1.0, 2, 1024 * MIB), 0
        return measure(console, folder, 512 * MIB, 2.0, 3, 1024 * MIB), 0

    return command.run("nbd", chosen, Path("/var/tmp"), work)


if __name__ == "__main__":
    sys.exit(main())
