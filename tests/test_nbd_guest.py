"""A guest with Debian's kernel swaps on `frontswap serve`: twice its RAM, every byte checked."""

from __future__ import annotations

from pathlib import Path

import guest
import pytest
from helpers import MiB
from nbd import command, need, where

assert where  # a fixture

RAM = 320
# Its process's memory: numbers, noise and text, changed once, so that what was swapped in leaves again.
FILL = """
import sys
import numpy as np
rng = np.random.default_rng(1)
kinds = [
    rng.normal(size=1 << 17).cumsum().round(2).view("u8"),
    rng.integers(0, 1 << 63, 1 << 17, "u8"),
    np.tile(rng.integers(97, 123, 1 << 10, "u1"), 1 << 10).view("u8"),
]
def part(n, turn):
    return kinds[n % 3] ^ np.uint64(n * 1000003 + turn)
parts = [part(n, 0) for n in range(int(sys.argv[1]))]
for turn in (0, 1):
    for n, found in enumerate(parts):
        assert np.array_equal(found, part(n, turn)), (n, turn)
        if turn == 0:
            found[:] = part(n, 1)
print("all bytes are right", len(parts), "MiB")
"""
SCRIPT = """
set -e
/usr/sbin/mkswap /dev/vdb
/usr/sbin/swapon --discard /dev/vdb
grep MemTotal /proc/meminfo
python -c "$1" $2
/usr/sbin/swapoff /dev/vdb
grep -E '^pswp(in|out) ' /proc/vmstat
"""


@pytest.mark.slow
@pytest.mark.parametrize("base", ["file", "ram"])
def test_a_guest_swaps_twice_its_ram(where: Path, capfd: pytest.CaptureFixture[str], base: str) -> None:
    if reason := guest.why_not():
        pytest.skip(reason)
    options = ["--base", str(where / "base")] if base == "file" else []
    memory = "256M" if base == "file" else "1G"
    with command(where, "--force", *options, size=1024 * MiB, memory=memory) as server:
        disk = f"driver=nbd,server.type=unix,server.path={server.socket},discard=unmap"
        machine = guest.Guest(
            ["sh", "-c", SCRIPT, "sh", FILL, str(2 * RAM)],
            memory=RAM * MiB,
            memory_max=8192 * MiB,
            root=True,
            timeout=1500,
            disks=(disk,),
        )
        status = machine.run()
        said = capfd.readouterr().out
        assert status == 0, said
        assert "all bytes are right" in said
        total = int(said.split("MemTotal:")[1].split()[0]) << 10
        assert total <= RAM * MiB
        swapped = {line.split()[0]: int(line.split()[1]) for line in said.splitlines() if line.startswith("pswp")}
        found = server.counters()["exports"][0]
        # mkswap writes its header, and reads what was there.
        assert swapped["pswpout"] > RAM * MiB // 4096
        assert 0 <= found["written_bytes"] // 4096 - swapped["pswpout"] <= 16
        assert 0 <= found["read_bytes"] // 4096 - swapped["pswpin"] <= 4096
        assert (found["errors"], found["poisoned"]) == (0, 0)
        # What the guest has freed it has trimmed, by clusters.
        assert found["trims"] > 0
        assert server.end() == 0


# The server in the machine that swaps on it, by the kernel's own client: its memory is locked, or it would hang.
ATTACHED = """
set -e
serve() {
    frontswap serve --size 512M --socket /tmp/swap.sock --force "$@" &
    until [ -S /tmp/swap.sock ] && nbdinfo --size "nbd+unix:///?socket=/tmp/swap.sock"; do sleep 1; done
}
serve --memory 96M --base /var/tmp/base --lock
server=$!
cat /proc/$server/oom_score_adj
frontswap attach --socket /tmp/swap.sock /dev/nbd0
cat /proc/swaps
python -c "$1" $2
grep -E '^pswp(in|out) ' /proc/vmstat
frontswap detach /dev/nbd0
kill -USR1 $server
sleep 1
kill $server
wait $server || echo "status $?"
"""
# Killed with what is written through, and started again: nbd-client comes back by itself.
KILLED = """
import fcntl, mmap, os, signal, subprocess, sys, time
import numpy as np
SIZE = 64 << 20
line = "frontswap serve --size 64M --memory 64M --base /var/tmp/base --writethrough --force --socket /tmp/w.sock"
def serve():
    made = subprocess.Popen(line.split())
    while subprocess.run(["nbdinfo", "--size", "nbd+unix:///?socket=/tmp/w.sock"], capture_output=True).returncode:
        time.sleep(0.2)
    return made
server = serve()
client = "nbd-client -unix /tmp/w.sock /dev/nbd0 -name  -block-size 4096 -nonetlink -persist".split(" ")
subprocess.run(client, check=True)
fd = os.open("/dev/nbd0", os.O_RDWR | os.O_DIRECT)
buffer = mmap.mmap(-1, SIZE)
array = np.frombuffer(buffer, "u8")
for turn in range(3):
    array[:] = np.random.default_rng(turn).integers(0, 1 << 63 if turn % 2 else 9, len(array), "u8")
    at = 0
    while at < SIZE:
        at += os.pwrite(fd, memoryview(buffer)[at : at + (1 << 20)], at)
    expected = array.copy()
    server.send_signal(signal.SIGKILL)
    server.wait()
    server = serve()
    array[:] = 0
    at = 0
    deadline = time.monotonic() + 300
    while at < SIZE:
        try:
            at += os.preadv(fd, [memoryview(buffer)[at : at + (1 << 20)]], at)
        except OSError as error:  # between the two servers; never the bytes of before
            assert time.monotonic() < deadline, error
            time.sleep(0.2)
    assert np.array_equal(array, expected), turn
os.close(fd)
subprocess.run(["nbd-client", "-d", "/dev/nbd0"], check=True)
server.terminate()
assert server.wait() == 0
print("nothing is lost", turn + 1)
"""


def attached(*command: str) -> int:
    """Run it as root in a guest that has nbd.ko."""
    if reason := guest.why_not():
        pytest.skip(reason)
    return guest.Guest(
        list(command), memory=448 * MiB, memory_max=8192 * MiB, root=True, timeout=1500, modules=("nbd",)
    ).run()


@pytest.mark.slow
@need("nbd-client", "nbdinfo")
def test_a_machine_swaps_on_its_own_server(capfd: pytest.CaptureFixture[str]) -> None:
    status = attached("sh", "-c", ATTACHED, "sh", FILL, "448")
    said = capfd.readouterr()
    assert status == 0, said
    assert "all bytes are right" in said.out
    assert "-1000" in said.out
    assert "/dev/nbd0" in said.out
    swapped = {line.split()[0]: int(line.split()[1]) for line in said.out.splitlines() if line.startswith("pswp")}
    assert swapped["pswpout"] > 64 * MiB // 4096


@pytest.mark.slow
@need("nbd-client", "nbdinfo")
def test_killed_and_started_again_nothing_is_lost(capfd: pytest.CaptureFixture[str]) -> None:
    status = attached("python", "-c", KILLED)
    said = capfd.readouterr()
    assert status == 0, said
    assert "nothing is lost 3" in said.out
