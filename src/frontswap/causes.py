"""Why a machine refuses what frontswap needs, what this means, and the one command that helps.

Errors say these texts when something has failed, ``frontswap doctor`` says them before. They stand here only.
"""

from __future__ import annotations

import errno
import os
import resource
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from .machine import Machine
from .sizes import format_size

DOCTOR = "`frontswap doctor` looks at all that matters here"


@dataclass(frozen=True, slots=True)
class Cause:
    """What is refused, what it means in a sentence, and a command ("" if none helps)."""

    what: str
    meaning: str
    command: str = ""

    def __str__(self) -> str:
        command = f"; try: {self.command}" if self.command else ""
        return f"{self.what}: {self.meaning}{command} ({DOCTOR})"


NOT_COMPILED = Cause(
    f"frontswap's core is not compiled for this Python ({EXTENSION_SUFFIXES[0]})",
    "it answers page faults, which Python cannot; in a checkout, make test compiles it",
    "pip install --force-reinstall frontswap",
)


# --- userfaultfd ---------------------------------------------------------------------------------


def userfaultfd(number: int, machine: Machine | None = None) -> Cause:
    """Why a Memory cannot have its userfaultfd, or what it needs beside it, by the errno."""
    here = machine or Machine()
    if number in (errno.EPERM, errno.ENOSYS) and here.seccomp():
        return _seccomp(here)
    if number == errno.EPERM and here.release() >= (5, 11):
        return Cause(
            "this process may not use userfaultfd",
            "the kernel allows it to every user, so a security module (SELinux, AppArmor) forbids it",
        )
    if number == errno.EPERM:
        return Cause(
            "this process may not use userfaultfd",
            "kernels before 5.11 keep it for root unless they are told otherwise",
            "sudo sysctl vm.unprivileged_userfaultfd=1",
        )
    if number == errno.ENOSYS:
        return Cause("this kernel has no userfaultfd", "frontswap needs Linux with CONFIG_USERFAULTFD, 5.11 or later")
    if number == errno.EINVAL:
        return NO_WRITE_PROTECTION
    if number == errno.EAGAIN:
        return Cause(
            "no more threads can be started",
            "each Memory has a few of its own; the user (ulimit -u) or the container (pids.max) may have no more",
            "ulimit -u unlimited",
        )
    if number == errno.EMFILE:
        return Cause(
            "no more descriptors, or 64 Memory objects are open",
            "each Memory takes a few descriptors, and a process may have 64 of them",
            more_descriptors(),
        )
    if number in (errno.EACCES, errno.EIO, errno.ENOENT):
        return proc_mem(number)
    if number == errno.ENOMEM:
        return MAPPINGS
    return Cause("userfaultfd cannot be used here", os.strerror(number) if number else "for a reason unknown")


def without_userfaultfd(number: int) -> bool:
    """True if by this errno the kernel has no userfaultfd for us at all, so that pages are protected instead."""
    return number in (errno.EPERM, errno.ENOSYS)


def instead_of_userfaultfd(number: int, machine: Machine | None = None) -> str:
    """What is said once where it is so."""
    cause = userfaultfd(number, machine)
    return (
        f"frontswap: {cause.what}: evicted pages are found by PROT_NONE and SIGSEGV, which takes longer"
        f"{f'; with userfaultfd: {cause.command}' if cause.command else ''} ({DOCTOR})"
    )


def proc_mem(number: int) -> Cause:
    """Why pages cannot be filled through /proc/self/mem, by the errno."""
    if number == errno.EACCES:
        return Cause(
            "this process may not open /proc/self/mem",
            "one that has changed its user (setuid) may not, unless it is dumpable (PR_SET_DUMPABLE): evicted pages "
            "come back through that file where userfaultfd is forbidden",
        )
    if number == errno.ENOENT:
        return Cause("there is no /proc/self/mem", "evicted pages come back through it where userfaultfd is forbidden")
    return Cause(
        "this kernel does not let /proc/self/mem write to protected memory",
        "it was started with proc_mem.force_override=never or =ptrace, or is an emulation of Linux: evicted pages come "
        "back that way where userfaultfd is forbidden",
    )


MAPPINGS = Cause(
    "too many mappings (vm.max_map_count)",
    "where userfaultfd is forbidden the kernel has two for each page in RAM: this limit=, with those of the other "
    "Memory objects, may need more than half of what a process may have, even with the largest pages",
    "sudo sysctl vm.max_map_count=262144",
)


def more_descriptors() -> str:
    """The command for a process that has few descriptors; "" if it has many."""
    return "ulimit -n 4096" if 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 4096 else ""


NO_WRITE_PROTECTION = Cause(
    "this kernel's userfaultfd has no write protection or no SIGBUS mode",
    "frontswap could not see which pages are written; Linux 5.11 has both",
)


def _seccomp(machine: Machine) -> Cause:
    # The profiles of Docker and containerd forbid the system call, but not the device, which does the same.
    device = machine.root_of_the_machine() and machine.release() >= (6, 1)
    return Cause(
        "a seccomp filter forbids userfaultfd",
        "those of Docker and containerd do, unless they are told otherwise",
        "docker run --device /dev/userfaultfd ..." if device else "docker run --security-opt seccomp=unconfined ...",
    )


# --- addresses -----------------------------------------------------------------------------------


def addresses(size: int, machine: Machine | None = None) -> Cause:
    """Why so many bytes of addresses cannot be reserved."""
    if (machine or Machine()).number("/proc/sys/vm/overcommit_memory") == 2:
        why, command = "vm.overcommit_memory=2 counts them as if they were RAM", "sudo sysctl vm.overcommit_memory=0"
    else:
        why, command = "a limit on addresses (ulimit -v) is too low", "ulimit -v unlimited"
    return Cause(
        f"{format_size(size)} of addresses cannot be reserved",
        f"{why}; they cost no RAM, and a Memory with a smaller arena= needs fewer",
        command,
    )


# --- the swap file -------------------------------------------------------------------------------


def ram_directory(directory: Path, kind: str, elsewhere: str) -> Cause:
    """The directory is RAM."""
    return Cause(
        f"{directory} is a {kind}, which is RAM itself",
        'name a directory on a disk, or swap=None to use compressed RAM alone (a Memory takes allocate="..." with it)',
        elsewhere,
    )


def unwritable_directory(directory: Path, elsewhere: str) -> Cause:
    """The user may not make files there."""
    return Cause(
        f"{directory} is not writable for this user",
        "the swap file must lie somewhere; name another with swap=",
        elsewhere,
    )


def missing_directory(directory: Path, elsewhere: str) -> Cause:
    """It is not there."""
    return Cause(
        f"{directory} is not a directory", "the swap file must lie somewhere; name another with swap=", elsewhere
    )


def full_directory(directory: Path, free: int, least: int, elsewhere: str) -> Cause:
    """There is no room for even a small swap file."""
    return Cause(
        f"the disk of {directory} is full",
        f"{format_size(free)} free, at least {format_size(least)} needed; name another with swap=",
        elsewhere,
    )


def no_space(directory: Path, number: int, free: int, also: str, elsewhere: str) -> Cause:
    """The swap file cannot grow; `also`: what else may help, in the words of who asked for it."""
    return Cause(
        f"the swap file in {directory} cannot grow",
        f"{os.strerror(number)}; {format_size(free)} free there. Give swap= a directory with more space, {also}",
        elsewhere,
    )
