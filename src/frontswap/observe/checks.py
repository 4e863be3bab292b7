"""The checks of ``frontswap doctor``: each tries one thing and says what it means for the user.

Nothing is changed. What errors say too comes from frontswap.causes; docs/doctor.md explains every finding by its name.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import resource
import signal
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from .. import causes
from ..causes import Cause
from ..core import plane
from ..core.plane import kernel_access, kernel_features, protection_access
from ..errors import FrontswapError
from ..machine import PSI, TRIGGER, Group, Machine
from ..memory.settings import MIN_LIMIT, numpy_asks
from ..sizes import format_size
from ..swap import SwapFile, default_directory, elsewhere, file_system, free_bytes, wrong_directory

GiB = 1 << 30
LITTLE_SPACE = GiB
LITTLE_RAM = 64 << 20
FEW_DESCRIPTORS = 64
FEW_MAPPINGS = 4096
MAX_MAP_COUNT = "/proc/sys/vm/max_map_count"
ARENA = 1 << 40  # what a Memory reserves unless told otherwise
MAP_NORESERVE = 0x4000
NETWORK = ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse", "virtiofs")
FS_IOC_GETFLAGS, FS_NOCOW_FL = 0x80086601, 0x00800000


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    NOTE = "note"  # good to know, nothing to do
    LIMIT = "limit"  # works, and would work better
    FAILS = "fails"  # a Memory cannot be made, or would lose its process


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, what it means in a plain sentence, and the command that improves it ("" if none does)."""

    name: str
    what: str
    meaning: str
    command: str = ""
    level: Level = Level.OK


def failing(name: str, cause: Cause) -> Finding:
    """What an error would say."""
    return Finding(name, cause.what, f"{cause.meaning[0].upper()}{cause.meaning[1:]}.", cause.command, Level.FAILS)


# --- the kernel ----------------------------------------------------------------------------------


def kernel(machine: Machine, _: str) -> Iterator[Finding]:
    """Its version, and the code that was compiled for this Python."""
    release = machine.text("/proc/sys/kernel/osrelease").strip() or "unknown"
    yield Finding(
        "kernel",
        f"Linux {release} on {platform.machine()}",
        "Linux 5.11 is the oldest that lets every user in; what newer ones add is said below.",
    )
    yield Finding(
        "compiled core",
        Path(plane.__file__).name,
        "Page faults are answered by compiled code, without the GIL.",
    )
    yield Finding("numpy", f"NumPy {np.__version__}", "It can take its arrays from a Memory (NEP 49).")


def userfaultfd(machine: Machine, _: str) -> Iterator[Finding]:
    """Page faults in user space: allowed, and with which features."""
    number, user_mode = kernel_access()
    if number and causes.without_userfaultfd(number) and (refused := protection_access()) == 0:
        yield from instead_of_userfaultfd(causes.userfaultfd(number, machine), machine)
        return
    if number:
        yield failing("userfaultfd", causes.userfaultfd(number, machine))
        if causes.without_userfaultfd(number):
            yield failing("protection", causes.proc_mem(refused))
        return
    yield Finding("userfaultfd", "opens for this user", "Evicted pages can come back when they are touched.")
    have = kernel_features()
    for name, key in (("write protect", "write_protect"), ("SIGBUS mode", "sigbus")):
        if have[key]:
            meaning = {
                "write protect": "A page that was only read leaves without being compressed again.",
                "SIGBUS mode": "The thread that touches an evicted page brings it back itself, the quickest way.",
            }[name]
            yield Finding(name, "there", meaning)
        else:
            yield failing(name, causes.NO_WRITE_PROTECTION)
    if have["move"]:
        yield Finding("MOVE", "there", "Pages that a device is writing into are seen and stay: nothing need be pinned.")
    else:
        yield Finding(
            "MOVE",
            "missing: this kernel is older than 6.8",
            "Pages that a device writes into (O_DIRECT, io_uring, RDMA, CUDA) must be pinned with mem.pin meanwhile.",
            level=Level.LIMIT,
        )
    if have["poison"]:
        meaning = "A page that a broken disk has lost ends every access at once, in system calls too."
        yield Finding("POISON", "there", meaning)
    else:
        yield Finding(
            "POISON",
            "missing: this kernel is older than 6.6",
            "A page that a broken disk has lost still ends the process, at the access.",
            level=Level.NOTE,
        )
    yield Finding(
        "kernel faults",
        "in user mode only" if user_mode else "those of system calls too",
        "Only the program's own accesses bring pages back: system calls need frontswap's help."
        if user_mode
        else "With FRONTSWAP_FAULTS=thread the kernel itself waits for evicted pages, in every system call.",
        "sudo sysctl vm.unprivileged_userfaultfd=1" if user_mode else "",
        Level.NOTE if user_mode else Level.OK,
    )


def instead_of_userfaultfd(cause: Cause, machine: Machine) -> Iterator[Finding]:
    """Without it pages are protected, and the thread that touches one that is absent gets SIGSEGV."""
    yield Finding(
        "userfaultfd",
        cause.what,
        "Evicted pages come back all the same, through PROT_NONE and SIGSEGV: slower, and with fewer, larger pages.",
        cause.command,
        Level.LIMIT,
    )
    yield Finding(
        "protection",
        f"/proc/self/mem writes to protected memory, vm.max_map_count is {machine.number(MAX_MAP_COUNT)}",
        "Pages that a device writes into (O_DIRECT, io_uring, RDMA, CUDA) must be pinned with mem.pin meanwhile; a "
        "thread that blocks SIGSEGV is killed when it touches an evicted page.",
        level=Level.NOTE,
    )


def seccomp(machine: Machine, _: str) -> Iterator[Finding]:
    """A container's filter of system calls."""
    if machine.seccomp():
        yield Finding(
            "seccomp",
            "a filter decides about system calls",
            "This is a container or a sandbox; what its filter forbids frontswap shows up in the other findings.",
            level=Level.NOTE,
        )
    else:
        yield Finding("seccomp", "no filter", "No sandbox forbids frontswap any system call.")


def blocked_signals(machine: Machine, _: str) -> Iterator[Finding]:
    """SIGBUS must reach the thread that has touched an evicted page. The mask is inherited from the parent.

    Without userfaultfd it is SIGSEGV, and there are no handler threads for who blocks it.
    """
    if causes.without_userfaultfd(kernel_access()[0]) and protection_access() == 0:
        threads = machine.threads_that_block(signal.SIGSEGV)
        yield Finding(
            "SIGSEGV",
            f"blocked in {len(threads)} threads of this process (inherited from its parent)"
            if threads
            else "not blocked",
            "A thread that blocks SIGSEGV is killed when it touches an evicted page."
            if threads
            else "The thread that touches an evicted page gets it.",
            level=Level.OK if not threads else Level.FAILS if min(threads) == os.getpid() else Level.LIMIT,
        )
        return
    threads = machine.threads_that_block(signal.SIGBUS)
    if not threads:
        yield Finding("SIGBUS", "not blocked", "The thread that touches an evicted page gets it.")
    elif os.environ.get("FRONTSWAP_FAULTS") != "sigbus":
        yield Finding(
            "SIGBUS",
            f"blocked in {len(threads)} threads of this process (inherited from its parent)",
            "Handler threads catch the faults then, which takes longer than a signal handler.",
            level=Level.NOTE,
        )
    else:
        yield Finding(
            "SIGBUS",
            f"blocked in {len(threads)} threads of this process, and FRONTSWAP_FAULTS=sigbus",
            "A thread that blocks SIGBUS is killed when it touches an evicted page.",
            "export FRONTSWAP_FAULTS=auto",
            Level.FAILS if min(threads) == os.getpid() else Level.LIMIT,
        )


# --- memory --------------------------------------------------------------------------------------


def memory_limit(machine: Machine, _: str) -> Iterator[Finding]:
    """The lowest limit of all memory cgroups that this process is in, v1 and v2; else the machine's RAM."""
    groups = machine.groups()
    info = machine.fields("/proc/meminfo")
    ram, available = (int(info.get(name, "0 kB").split()[0]) << 10 for name in ("MemTotal", "MemAvailable"))
    limited = [group for group in groups if _lowest(group) < ram]
    if not limited:
        yield Finding(
            "memory limit",
            f"none below the {format_size(ram)} of RAM, {format_size(available)} available"
            + (f" ({len(groups)} cgroups looked at)" if groups else " (no memory cgroup)"),
            "Only RAM bounds this job: a limit= below what is available keeps the machine from running out.",
        )
        return
    group = min(limited, key=_lowest)
    low = _lowest(group)
    hard = group.most is not None and group.most == low
    name = ("memory.max" if group.version == 2 else "memory.limit_in_bytes") if hard else "memory.high"
    effect = "the kernel kills" if hard and group.kill != "nobody" else "the kernel stops" if hard else "it slows down"
    room = low - min(group.used, low)
    yield Finding(
        "memory limit",
        f"{format_size(low)}, {format_size(group.used)} in use ({name} of {group.path})",
        f"Above it {effect} the processes of this group: keep limit= and all else that the job needs below it.",
        f"frontswap run --memory {max(low * 3 // 4, MIN_LIMIT) >> 20}M job.py",
        Level.LIMIT if low < LITTLE_RAM or room < low // 16 else Level.NOTE,
    )


def _lowest(group: Group) -> int:
    """The lower of its two limits; more than there can be if it has none."""
    return min(limit for limit in (group.most, group.high, 1 << 63) if limit is not None)


def out_of_memory(machine: Machine, _: str) -> Iterator[Finding]:
    """Whom the OOM killer would take."""
    groups = machine.groups()
    score = machine.number("/proc/self/oom_score_adj") or 0
    killed = {group.kill for group in groups}
    if "nobody" in killed:
        yield Finding(
            "OOM killer",
            "off in a cgroup of this process (oom_kill_disable)",
            "A job that crosses the limit hangs instead of being killed.",
            level=Level.LIMIT,
        )
    elif "group" in killed:
        yield Finding(
            "OOM killer",
            "kills all processes of the group together (memory.oom.group)",
            "One process over the limit ends the whole job: frontswap's limit= keeps its arrays from being the reason.",
            level=Level.NOTE,
        )
    else:
        yield Finding(
            "OOM killer",
            f"kills one process (oom_score_adj {score})",
            "What crosses the limit is killed without a traceback; arrays in a Memory stay below limit=.",
        )


def machine_swap(machine: Machine, _: str) -> Iterator[Finding]:
    """The kernel's own swap, in front of which frontswap stands or which it replaces."""
    lines = machine.text("/proc/swaps").splitlines()[1:]
    names = [line.split()[0] for line in lines]
    zswap = machine.text("/sys/module/zswap/parameters/enabled").strip() == "Y"
    forbidden = any(group.swap == 0 for group in machine.groups())
    if not names or forbidden:
        yield Finding(
            "machine's swap",
            "closed to this cgroup (memory.swap.max is 0)" if names else "none",
            "What does not fit in RAM and is not in a Memory ends in the OOM killer.",
            level=Level.NOTE,
        )
        return
    compressed = zswap or any("zram" in name for name in names)
    yield Finding(
        "machine's swap",
        ", ".join(names) + (", zswap on" if zswap else ""),
        "The kernel may swap frontswap's compressed pages too, and gains nothing by compressing them again: "
        "keep limit= below RAM."
        if compressed
        else "The kernel may swap frontswap's memory too, which makes its pages slow: keep limit= below RAM.",
        level=Level.NOTE,
    )


def address_space(machine: Machine, _: str) -> Iterator[Finding]:
    """A terabyte of addresses, reserved and given back."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    kinds = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
    libc.mmap.argtypes = kinds
    libc.munmap.argtypes = kinds[:2]
    private, anonymous, read_write = 0x02, 0x20, 0x3
    at = libc.mmap(None, ARENA, read_write, private | anonymous | MAP_NORESERVE, -1, 0)
    if at in (None, ctypes.c_void_p(-1).value):
        yield failing("addresses", causes.addresses(ARENA, machine))
        return
    libc.munmap(at, ARENA)
    yield Finding("addresses", f"{format_size(ARENA)} can be reserved", "There is room for the arrays of a Memory.")


def process_limits(machine: Machine, _: str) -> Iterator[Finding]:
    """Descriptors and mappings that are left to this process."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    left = FEW_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft - machine.entries("/proc/self/fd")
    few = left < FEW_DESCRIPTORS
    yield Finding(
        "descriptors",
        f"{'unlimited' if soft == resource.RLIM_INFINITY else soft} (ulimit -n)",
        "Each Memory takes a few; what opens many files or Memory objects may run out of them."
        if few
        else "Each Memory takes a few of them.",
        causes.more_descriptors() if few else "",
        Level.LIMIT if few else Level.OK,
    )
    most = machine.number("/proc/sys/vm/max_map_count") or 0
    used = len(machine.text("/proc/self/maps").splitlines())
    few = most - used < FEW_MAPPINGS
    yield Finding(
        "mappings",
        f"{used} of {most} in use (vm.max_map_count)",
        "Each Memory takes some thirty, each library a handful; without any left, memory cannot be had."
        if few
        else "Each Memory takes some thirty, however many arrays it has.",
        "sudo sysctl vm.max_map_count=262144" if few else "",
        Level.LIMIT if few else Level.OK,
    )


# --- the swap file -------------------------------------------------------------------------------


def swap_directory(machine: Machine, where: str) -> Iterator[Finding]:
    """Where the swap file would lie: the same choice and the same checks as those of a Memory, and a file to try."""
    auto = where == "auto"
    directory = default_directory() if auto else Path(where)
    wrong = wrong_directory(directory, 0, auto=auto)
    if wrong is not None:
        yield failing("swap directory", wrong)
        return
    try:
        file = SwapFile(directory, 0)
    except FrontswapError as error:
        yield Finding("swap directory", str(error), "A Memory cannot be made here.", elsewhere(0), Level.FAILS)
        return
    try:
        kind = file_system(directory) or "unknown file system"
        far = kind.split(".")[0] in NETWORK
        passed = os.environ.get("TMPDIR", "") if auto else ""
        ignored = f"; TMPDIR={passed} is RAM or missing" if passed and Path(passed) != directory else ""
        meaning = "The swap file has no name there, mode 0600, and goes with the process."
        if far:
            meaning = "Pages come back from another machine or another program: slowly, and not at all without it."
        elif kind == "overlay":
            meaning = "This is the container's own layer, whose size may be limited; a volume may have more room."
        yield Finding(
            "swap directory",
            f"{directory} ({kind}{ignored})",
            meaning,
            elsewhere(0) if far and auto else "",
            Level.LIMIT if far else Level.NOTE if kind == "overlay" else Level.OK,
        )
        yield _space(directory, auto)
        yield from _file(file, directory, kind)
    finally:
        file.close()


def _space(directory: Path, auto: bool) -> Finding:
    free = free_bytes(directory)
    little = free < LITTLE_SPACE
    return Finding(
        "swap space",
        f"{format_size(free)} free",
        # swap_grow() reserves an eighth more, for cleaning
        f"Arrays may take about {format_size(free * 8 // 9)} more than limit=; beyond, making one is a MemoryError.",
        elsewhere(free) if little and auto else "",
        Level.LIMIT if little else Level.OK,
    )


def _file(file: SwapFile, directory: Path, kind: str) -> Iterator[Finding]:
    """What the file system can do, tried on the file."""
    if file.direct:
        yield Finding("O_DIRECT", "works", "What is swapped takes no page cache.")
    else:
        yield Finding(
            "O_DIRECT",
            f"not on {kind}",
            "What is swapped goes through the page cache: slower, and charged to the job until it is dropped again.",
            level=Level.NOTE,
        )
    try:
        os.close(os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600))
        yield Finding("O_TMPFILE", "works", "Nothing is left behind, whatever ends the process.")
    except OSError:
        yield Finding(
            "O_TMPFILE",
            f"not on {kind}",
            "The file has a name for a moment: a process killed just then leaves an empty one.",
            level=Level.NOTE,
        )
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(file.fd, 0, ctypes.c_long(0), ctypes.c_long(1 << 20)) == 0:
        yield Finding("fallocate", "works", "The space of an array is reserved at once when it is made.")
    else:
        yield Finding(
            "fallocate",
            f"not on {kind} ({os.strerror(ctypes.get_errno())})",
            "Space is reserved by writing zeros: making an array takes as long as writing it once.",
            level=Level.LIMIT,
        )
    os.ftruncate(file.fd, 0)
    if kind != "btrfs":
        yield Finding("copy on write", f"none on {kind}", "Slots are overwritten in place.")
    elif struct.unpack("l", fcntl.ioctl(file.fd, FS_IOC_GETFLAGS, bytes(8)))[0] & FS_NOCOW_FL:
        yield Finding("copy on write", "switched off for the file", "Slots are overwritten in place.")
    else:
        yield Finding(
            "copy on write",
            "cannot be switched off",
            "btrfs writes each slot to a new place: slower, and it may need more space than was reserved.",
            level=Level.LIMIT,
        )


# --- pressure, huge pages ------------------------------------------------------------------------


def pressure(machine: Machine, _: str) -> Iterator[Finding]:
    """Who says that memory runs short: the kernel (PSI) or a cgroup."""
    why = _trigger(machine.path(PSI))
    heard = 'A limit of "auto" is woken when memory runs short (docs/pressure.md).'
    if why:
        yield Finding(
            "PSI",
            f"no trigger ({why})",
            "Nobody can be woken when memory runs short; boot with psi=1 if the kernel has it."
            if "No such" in why
            else "This user cannot be woken when memory runs short: it has to ask again and again.",
            level=Level.NOTE,
        )
    else:
        yield Finding("PSI", "triggers work for this user", heard)
    groups = machine.groups()
    if not groups:
        yield Finding(
            "cgroup pressure", "no memory cgroup", "Only the whole machine's pressure is known.", level=Level.NOTE
        )
        return
    inner = groups[0]
    if inner.version == 2:
        why = _trigger(machine.path(inner.pressure))
    else:
        may = os.access(machine.path(inner.pressure), os.R_OK) and os.access(machine.path(inner.control), os.W_OK)
        why = "" if may else "Permission denied"
    name = inner.pressure.rsplit("/", 1)[1]
    if why:
        yield Finding(
            "cgroup pressure",
            f"{name} of the group cannot be used ({why})",
            "Pressure inside the job's own limit can only be asked for again and again.",
            level=Level.NOTE,
        )
    else:
        yield Finding("cgroup pressure", f"{name} of the group can be used", heard)


def _trigger(path: Path) -> str:
    """Ask to be woken, and take it back by closing; "" or why it is refused."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(fd, TRIGGER + b"\0")
        finally:
            os.close(fd)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def huge_pages(machine: Machine, _: str) -> Iterator[Finding]:
    """Huge pages: what the kernel gives, and what NumPy asks for."""
    text = machine.text("/sys/kernel/mm/transparent_hugepage/enabled")
    chosen = text.partition("[")[2].partition("]")[0] or "not in this kernel"
    never = chosen not in ("always", "madvise")
    yield Finding(
        "huge pages",
        chosen,
        "Large arrays are slower than they could be, with frontswap and without."
        if never
        else "Large arrays that fit in the limit may have huge pages.",
        "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled" if chosen == "never" else "",
        Level.NOTE if never else Level.OK,
    )
    asks = numpy_asks()
    yield Finding(
        "numpy's huge pages",
        "asked for" if asks else "not asked for (NUMPY_MADVISE_HUGEPAGE=0)",
        "NumPy asks for huge pages for arrays of 4 MiB and more." if asks else "NumPy's large arrays have small pages.",
        "" if asks else "export NUMPY_MADVISE_HUGEPAGE=1",
        Level.OK if asks else Level.NOTE,
    )
