"""A guest with Debian's kernel swaps on `frontswap serve`: twice its RAM, every byte checked."""

from __future__ import annotations

import os
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import guest
import pytest
from helpers import ROOT, MiB
from nbd import Command, Monitor, command, need, where

from frontswap.nbd.asking import ask

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
# In a guest: swap on, all of that process, swap off; with what its kernel has counted, and its block device.
SWAPS = """
set -e
device=$1
grep MemTotal /proc/meminfo
count() { echo "$1" $(cat /sys/block/${device#/dev/}/stat); }
count on
python -c "$2" $3
/usr/sbin/swapoff $device
count off
grep -E '^(pswpin|pswpout|thp_swpout) ' /proc/vmstat
"""
DISK = """
/usr/sbin/mkswap /dev/vdb
/usr/sbin/swapon --discard /dev/vdb
"""
# A pool of a twentieth of its RAM, so that most goes on to the device. zbud: 6.1 writes back from no zsmalloc.
ZSWAP = """
mount -t debugfs none /sys/kernel/debug
cd /sys/module/zswap/parameters
echo lz4 >compressor
echo zbud >zpool
echo 5 >max_pool_percent
echo 1 >enabled
grep . enabled compressor zpool max_pool_percent
cd -
"""
ZSWAP_COUNTERS = """
cd /sys/kernel/debug
grep . zswap/* frontswap/*
"""
READ_SECTORS, WRITTEN_SECTORS = 2, 6  # of a line of /sys/block/*/stat


@dataclass(frozen=True)
class Swapped:
    """What a guest said at its end."""

    said: str

    def counter(self, name: str, by: str = " ") -> int:
        """Of /proc/vmstat, or of debugfs."""
        (line,) = [line for line in self.said.splitlines() if line.startswith(name + by)]
        return int(line.removeprefix(name + by))

    def device(self, which: int, when: str) -> int:
        """Of its swap device, in pages."""
        (line,) = [line for line in self.said.splitlines() if line.startswith(when + " ")]
        return int(line.split()[1 + which]) * 512 // 4096

    def between(self, which: int) -> int:
        """While it was a swap device."""
        return self.device(which, "off") - self.device(which, "on")


def swap(
    capfd: pytest.CaptureFixture[str], script: str, device: str, more: tuple[str, ...] = (), **how: Any
) -> Swapped:
    """A guest swaps by a script; what has to hold whatever its device is."""
    machine = guest.Guest(
        ["sh", "-c", script, "sh", device, FILL, str(2 * RAM), *more],
        memory=RAM * MiB,
        memory_max=8192 * MiB,
        root=True,
        timeout=1500,
        **how,
    )
    status = machine.run()
    found = Swapped(capfd.readouterr().out)
    assert status == 0, found.said
    assert "all bytes are right" in found.said
    assert int(found.said.split("MemTotal:")[1].split()[0]) << 10 <= RAM * MiB
    assert found.counter("pswpout") > RAM * MiB // 4096
    # Its kernel's count of pages, and what its device was asked for: the same, to the page.
    assert found.between(WRITTEN_SECTORS) == found.counter("pswpout")
    assert found.between(READ_SECTORS) == found.counter("pswpin")
    return found


def agrees(found: Swapped, export: dict[str, Any]) -> None:
    """The server has counted what the guest's device was asked for, mkswap's header too."""
    assert export["written_bytes"] // 4096 == found.device(WRITTEN_SECTORS, "off")
    # QEMU and its firmware read the first blocks, too.
    assert 0 <= export["read_bytes"] // 4096 - found.device(READ_SECTORS, "off") <= 16
    assert (export["errors"], export["poisoned"]) == (0, 0)
    # What the guest has freed it has trimmed, by clusters.
    assert export["trims"] > 0


def virtio(server: Command) -> str:
    """QEMU's disk, by its own NBD client."""
    return f"driver=nbd,server.type=unix,server.path={server.socket},discard=unmap"


@pytest.fixture(autouse=True)
def a_guest() -> None:
    if reason := guest.why_not():
        pytest.skip(reason)


@pytest.mark.slow
@pytest.mark.parametrize("base", ["file", "ram"])
def test_a_guest_swaps_twice_its_ram(where: Path, capfd: pytest.CaptureFixture[str], base: str) -> None:
    options = ["--base", str(where / "base")] if base == "file" else []
    memory = "256M" if base == "file" else "1G"
    with command(where, "--force", *options, size=1024 * MiB, memory=memory) as server:
        found = swap(capfd, DISK + SWAPS, "/dev/vdb", disks=(virtio(server),))
        agrees(found, server.counters()["exports"][0])
        assert server.end() == 0


@pytest.mark.slow
def test_with_its_own_zswap_in_front(where: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with command(where, "--force", "--base", str(where / "base"), size=1024 * MiB, memory="256M") as server:
        # One processor: frontswap counts without a lock.
        found = swap(
            capfd,
            ZSWAP + DISK + SWAPS + ZSWAP_COUNTERS,
            "/dev/vdb",
            disks=(virtio(server),),
            modules=("lz4",),
            cpus=1,
        )
        agrees(found, server.counters()["exports"][0])
        for line in ("enabled:Y", "compressor:lz4", "zpool:zbud", "max_pool_percent:5"):
            assert line in found.said
        # A page comes to us because zswap has refused it (a huge one is refused once), or has written it back.
        refused = found.counter("frontswap/failed_stores", ":") + 511 * found.counter("thp_swpout")
        written_back = found.counter("zswap/written_back_pages", ":")
        assert found.counter("pswpout") == refused + written_back
        assert written_back > 0
        assert found.counter("frontswap/succ_stores", ":") > 0
        assert server.end() == 0


# What is on its way out over a network needs memory for its packets, before any is free by that.
ATTACH = """
frontswap attach --connect $4 $1
/usr/sbin/swapon --show
"""
DETACH = """
frontswap detach $1
cat /sys/block/nbd0/size
"""


@pytest.mark.slow
@need("nbd-client")
def test_by_the_kernels_own_client_on_a_server_of_another_machine(
    where: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = (
        ["--force", "--lock", "--base", str(where / "base")] if ROOT else ["--force", "--base", str(where / "base")]
    )
    with command(where, *options, size=1024 * MiB, memory="256M", listen="127.0.0.1:0") as server:
        host, port = server.address.split(":")
        assert host == "127.0.0.1"
        found = swap(
            capfd,
            ATTACH + SWAPS + DETACH,
            "/dev/nbd0",
            more=(f"10.0.2.2:{port}",),
            modules=("nbd",),
            network=True,
            cpus=1,
        )
        agrees(found, server.counters()["exports"][0])
        assert found.said.splitlines()[-1] == "0", "the device is free again"
        assert server.end() == 0


# It swaps to a server of its own: what that needs to free memory must be there before.
OWN = """
set -e
own="--lock --realtime --socket /tmp/swap.sock"
frontswap serve --size 1G --memory 48M --base /dev/vdb --discard --force $own 2>/tmp/said &
server=$!
until grep -q " of RAM" /tmp/said; do kill -0 $server; sleep 1; done
frontswap attach --socket /tmp/swap.sock $1
"""
OWN_ENDS = """
frontswap detach $1
kill $server
wait $server
cat /tmp/said
"""


@pytest.mark.slow
@need("nbd-client")
def test_a_guest_that_swaps_to_a_server_of_its_own(where: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Memory locked, a realtime process, a Unix socket, a disk that is written with O_DIRECT."""
    disk = where / "disk"
    disk.touch()
    os.truncate(disk, 1100 * MiB)
    machine = guest.Guest(
        ["sh", "-c", OWN + SWAPS + OWN_ENDS, "sh", "/dev/nbd0", FILL, "400"],
        memory=448 * MiB,
        memory_max=8192 * MiB,
        root=True,
        timeout=1500,
        modules=("nbd",),
        disks=(f"driver=raw,file.driver=file,file.filename={disk},discard=unmap",),
    )
    status = machine.run()
    found = Swapped(capfd.readouterr().out)
    assert status == 0, found.said
    assert "all bytes are right" in found.said
    assert found.counter("pswpout") > 128 * MiB // 4096
    assert found.between(WRITTEN_SECTORS) == found.counter("pswpout")
    assert "0 errors" in found.said
    assert " 0 lost" in found.said


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
