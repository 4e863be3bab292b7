"""A guest with Debian's kernel swaps on `frontswap serve`: twice its RAM, every byte checked."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path

import guest
import pytest
from helpers import MiB
from nbd import Monitor, command, need, where

from frontswap.nbd.control import ask

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


# Its disk grows while it swaps on it, and is used as it is then.
GROWS = """
set -e
/usr/sbin/mkswap /dev/vdb
/usr/sbin/swapon --discard /dev/vdb
until [ $(/usr/sbin/blockdev --getsize64 /dev/vdb) = $3 ]; do
    python -c "$1" $2
done
cat /proc/swaps
/usr/sbin/swapoff /dev/vdb
/usr/sbin/mkswap /dev/vdb
/usr/sbin/swapon --discard /dev/vdb
cat /proc/swaps
python -c "$1" $2
/usr/sbin/swapoff /dev/vdb
"""


@pytest.mark.slow
def test_a_guests_disk_grows_while_it_swaps_on_it(where: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its connection is ended in the middle of that, QEMU connects again, and its block_resize reaches the guest."""
    if reason := guest.why_not():
        pytest.skip(reason)
    small, large = 512 * MiB, 768 * MiB
    at, qmp = where / "control", where / "qmp"
    with command(
        where, "--force", "--base", str(where / "base"), "--control", str(at), size=small, memory="256M"
    ) as server:
        machine = guest.Guest(
            ["sh", "-c", GROWS, "sh", FILL, str(5 * RAM // 4), str(large)],
            memory=RAM * MiB,
            memory_max=8192 * MiB,
            root=True,
            timeout=1500,
            disks=(f"driver=nbd,server.type=unix,server.path={server.socket},discard=unmap,reconnect-delay=300",),
            monitor=qmp,
        )
        status: list[int] = []
        runs = threading.Thread(target=lambda: status.append(machine.run()))
        runs.start()
        while runs.is_alive() and ask(at, "/statistics")["exports"][0]["written_bytes"] < 32 * MiB:
            time.sleep(0.2)
        if runs.is_alive():
            assert ask(at, "/resize", {"name": "", "size": large, "reconnect": True})["ended"] == 1
            with closing(Monitor(qmp)) as monitor:
                # Until it has connected again.
                while runs.is_alive() and monitor.resize("more0", large):
                    time.sleep(0.2)
                assert monitor.size("more0") == large
        runs.join()
        said = capfd.readouterr().out
        assert status == [0], said
        assert said.count("all bytes are right") >= 2
        sizes = [int(line.split()[2]) for line in said.splitlines() if line.startswith("/dev/vdb")]
        assert sizes == [(small >> 10) - 4, (large >> 10) - 4], "swap has the size that mkswap has seen"
        found = server.counters()["exports"][0]
        assert (found["errors"], found["poisoned"]) == (0, 0)
        assert server.end() == 0


# By the kernel's own client: what attach and detach do, and that their work is done.
ATTACHED = """
set -e
frontswap serve --size 256M --memory 64M --base /var/tmp/base --lock --force --socket /tmp/swap.sock &
server=$!
until nbdinfo --size "nbd+unix:///?socket=/tmp/swap.sock"; do sleep 1; done
cat /proc/$server/oom_score_adj
frontswap attach --socket /tmp/swap.sock /dev/nbd0
cat /proc/swaps
frontswap attach --socket /tmp/swap.sock /dev/nbd0 || echo "in use already"
frontswap detach /dev/nbd0
cat /proc/swaps
frontswap attach --socket /tmp/swap.sock /dev/nbd0
frontswap detach /dev/nbd0
/usr/sbin/nbd-client -unix /tmp/swap.sock /dev/nbd0 -block-size 4096
mke2fs -q /dev/nbd0
/usr/sbin/nbd-client -d /dev/nbd0
frontswap attach --socket /tmp/swap.sock /dev/nbd0 || echo "not over a file system"
kill $server
wait $server || echo "status $?"
echo done
"""


@pytest.mark.slow
@need("nbd-client", "nbdinfo")
def test_attach_and_detach(capfd: pytest.CaptureFixture[str]) -> None:
    if reason := guest.why_not():
        pytest.skip(reason)
    machine = guest.Guest(
        ["sh", "-c", ATTACHED],
        memory=768 * MiB,
        memory_max=8192 * MiB,
        root=True,
        timeout=1500,
        modules=("nbd",),
    )
    status = machine.run()
    said = capfd.readouterr().out
    assert status == 0, said
    assert "-1000\n" in said, "the out of memory killer passes by"
    assert said.count("partition") == 1, "in use while it is attached"
    assert "/dev/nbd0 is connected already" in said
    assert "in use already" in said
    assert "the export has something else in it (ext2)" in said
    assert "not over a file system" in said
    assert said.rstrip().endswith("done")
