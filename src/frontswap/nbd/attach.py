"""``frontswap attach`` and ``detach``: an export as a swap device of this machine, by nbd-client, mkswap and swapon.

Each step is a command that a person could give, and is shown; what has been done is undone when a later one fails.
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import AttachError, ParameterError
from .server import tcp_address

#: seconds in which a device that nbd-client has set up has its size
PATIENCE = 10.0
#: bytes of a block: a page
BLOCK = 4096
# util-linux's swapon first: a busybox of that name knows no --discard=pages.
_PATH = "/usr/sbin:/sbin:" + os.environ.get("PATH", os.defpath)


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """How a server is reached, which export is meant, and how it is swapped on."""

    socket_path: Path | None
    connect: str | None  #: HOST:PORT
    name: str
    connections: int
    priority: int
    tls_ca: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    tls_host: str | None  #: in the server's certificate, if it is not that of `connect`

    def commands(self, device: str) -> tuple[list[str], list[str], list[str]]:
        """What makes the device, the swap signature, and the swap.

        nbd-client hands the connection to the kernel by netlink and ends, so that nothing of it could be swapped out to
        this very device (where it goes on, as without netlink, and behind TLS, -swap has it lock its memory). swapon
        tells the server what is not used any more (--discard).

        Raises:
            ParameterError: a setting is not allowed.
        """
        if (self.socket_path is None) == (self.connect is None):
            raise ParameterError(
                "socket", None if self.socket_path is None else str(self.socket_path), "given, or --connect"
            )
        if not 1 <= self.connections <= 64:
            raise ParameterError("connections", self.connections, "from 1 to 64")
        if not -1 <= self.priority <= 32767:
            raise ParameterError("priority", self.priority, "from -1 to 32767, as of swapon")
        if self.tls_ca is None and (self.tls_cert is not None or self.tls_key is not None or self.tls_host is not None):
            raise ParameterError("tls_ca", None, "given, for TLS: without it nobody knows whose server answers")
        if self.tls_key is not None and self.tls_cert is None:
            raise ParameterError("tls_cert", None, "given, with --tls-key")
        if self.tls_ca is not None and self.socket_path is not None:
            raise ParameterError(
                "tls_ca", str(self.tls_ca), "with --connect: nbd-client speaks no TLS on a Unix socket"
            )
        if self.socket_path is not None:
            server = ["-unix", str(self.socket_path.absolute()), device]
        else:
            host, port = tcp_address(self.connect or "", "connect")
            server = [host, str(port), device]
        tls: list[str] = []
        if self.tls_ca is not None:
            tls = ["-cacertfile", str(self.tls_ca.absolute()), "-tlshostname", self.tls_host or host]
        if self.tls_cert is not None:
            tls += [
                "-certfile",
                str(self.tls_cert.absolute()),
                "-keyfile",
                str((self.tls_key or self.tls_cert).absolute()),
            ]
        client = [
            "nbd-client",
            *server,
            "-name",
            self.name,
            "-block-size",
            str(BLOCK),
            "-connections",
            str(self.connections),
        ]
        return (
            [*client, *tls, "-swap"],
            ["mkswap", device],
            ["swapon", "--discard=pages", "--priority", str(self.priority), device],
        )


def attach(device: str, wanted: Attachment, *, only_print: bool) -> None:
    """Make the export a swap device, or print the commands that do.

    Raises:
        ParameterError: a setting is not allowed.
        AttachError: this machine cannot, the device is in use, the export has something else in it, or a command fails.
    """
    client, format_, use = wanted.commands(device)
    if only_print:
        for command in (["modprobe", "nbd"], client, format_, use):
            print(shlex.join(command))
        return
    for file in (wanted.tls_ca, wanted.tls_cert, wanted.tls_key):
        if file is not None and not os.access(file, os.R_OK):
            raise ParameterError("tls", str(file), "a file that can be read")
    _able("nbd-client", "mkswap", "swapon")
    if not Path(device).exists():
        _able("modprobe")
        _step(["modprobe", "nbd"])
    block = _block(device)
    if _size(block):
        raise AttachError(f"{device} is connected already: frontswap detach {device}, or another one")
    if wanted.tls_ca is not None:
        print(
            "frontswap: nbd-client is between kernel and server, and needs memory itself: a machine that is short "
            "of it stands still (docs/serve.md, TLS)",
            file=sys.stderr,
        )
    with _undone_by(["nbd-client", "-d", device]):
        _step(client)
        until = time.monotonic() + PATIENCE
        while not _size(block):
            if time.monotonic() > until:
                raise AttachError(f"{device} has no size, {PATIENCE:g} s after nbd-client has set it up")
            time.sleep(0.01)
        found = signature(device)
        if found not in ("", "swap"):
            raise AttachError(f"the export has something else in it ({found}): wipefs --all {device}, if it may go")
        if not found:
            _step(format_)
        _step(use)


def detach(device: str, *, only_print: bool) -> None:
    """Swap off, then disconnect: in this order, for what is swapped has to come back first.

    Raises:
        AttachError: this machine cannot, there is no room for what is swapped out, or a command fails.
    """
    off, disconnect = ["swapoff", device], ["nbd-client", "-d", device]
    if only_print:
        print(shlex.join(off))
        print(shlex.join(disconnect))
        return
    _able("nbd-client", "swapoff")
    block = _block(device)
    if is_swap(device):
        _step(off)
    if _size(block):
        _step(disconnect)


def _able(*programs: str) -> None:
    """All that is needed is here."""
    if os.geteuid() != 0:
        raise AttachError("a swap device is root's affair: sudo, or --print shows the commands")
    missing = [program for program in programs if shutil.which(program, path=_PATH) is None]
    if missing:
        raise AttachError(f"not installed: {', '.join(missing)} (Debian: apt install nbd-client util-linux kmod)")


def _run(command: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
    # Not without a stdin: nbd-client's socket would have its number, which the half of it that does TLS opens anew.
    return subprocess.run(
        command, env={**os.environ, "PATH": _PATH}, check=False, text=True, stdin=subprocess.DEVNULL, **how
    )


def _step(command: list[str]) -> None:
    print(f"frontswap: {shlex.join(command)}", file=sys.stderr, flush=True)
    # Its output is no pipe of ours: nbd-client goes on in the background, and would keep it open.
    done = _run(command, stdout=subprocess.DEVNULL)
    if done.returncode:
        raise AttachError(f"{shlex.join(command)}: exit status {done.returncode}")


@contextmanager
def _undone_by(command: list[str]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        _run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        raise


def _block(device: str) -> Path:
    """What sysfs has of it."""
    found = Path("/sys/block", os.path.basename(os.path.realpath(device)))
    if not Path(device).is_block_device() or not found.is_dir() or not found.name.startswith("nbd"):
        raise AttachError(f"{device} is no block device of nbd: /dev/nbd0, after modprobe nbd")
    return found


def _size(block: Path) -> int:
    """Bytes; 0: nobody is connected."""
    return 512 * int((block / "size").read_text())


def signature(device: str) -> str:
    """What is in a device: "", "swap", "ext4"; "gpt" if it has partitions."""
    probe = ["blkid", "--probe", "--match-tag", "TYPE", "--match-tag", "PTTYPE", "--output", "value", device]
    done = _run(probe, capture_output=True)
    if done.returncode not in (0, 2):  # 2: nothing was found
        raise AttachError(f"{shlex.join(probe)}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    found = done.stdout.split()
    # mkswap leaves the boot sector alone where there were partitions once.
    return "swap" if "swap" in found else ", ".join(found)


def is_swap(device: str) -> bool:
    """Does this machine swap on it? Whatever it is called here: to disconnect it then would lose what is swapped."""
    number = os.stat(device).st_rdev
    for line in Path("/proc/swaps").read_text().splitlines()[1:]:
        with suppress(OSError):  # deleted, or a name with a space in it: no device of nbd
            found = os.stat(line.split()[0])
            if stat.S_ISBLK(found.st_mode) and found.st_rdev == number:
                return True
    return False
