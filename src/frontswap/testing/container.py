"""A container as far as it matters here: Docker's and containerd's seccomp profiles answer EPERM to userfaultfd(2)."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

# <linux/prctl.h>, <linux/seccomp.h>, <linux/filter.h>: load a word of struct seccomp_data, jump if it is so, return
NO_NEW_PRIVS, SECCOMP, FILTER, DUMPABLE = 38, 22, 2, 4
LOAD, IF_EQUAL, RETURN = 0x20, 0x15, 0x06
NUMBER, SECOND_ARGUMENT = 0, 24  # little endian
REFUSE, ALLOW = 0x00050000, 0x7FFF0000
#: (userfaultfd, ioctl)
SYSTEM_CALLS = {"x86_64": (323, 16), "aarch64": (282, 29)}
USERFAULTFD_IOC_NEW = 0xAA00


def forbid_userfaultfd(number: int = errno.EPERM, *, device: bool = True) -> None:
    """From here on it fails with an errno in this thread and all that it starts, for good.

    Args:
        number: the errno.
        device: /dev/userfaultfd, which does the same and is root's, gives none either.

    Raises:
        OSError: the kernel refuses the filter.
    """
    userfaultfd, ioctl = SYSTEM_CALLS[os.uname().machine]
    program = [
        (LOAD, 0, 0, NUMBER),
        (IF_EQUAL, 3, 0, userfaultfd),
        (IF_EQUAL, 0, 3, ioctl if device else userfaultfd),
        (LOAD, 0, 0, SECOND_ARGUMENT),
        (IF_EQUAL, 0, 1, USERFAULTFD_IOC_NEW),
        (RETURN, 0, 0, REFUSE | number),
        (RETURN, 0, 0, ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    wanted = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or libc.prctl(SECCOMP, FILTER, wanted, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"seccomp: {os.strerror(error)}")


def become_dumpable() -> None:
    """Have a process that has changed its user own its /proc/self again, as one has that was this user all along."""
    if ctypes.CDLL(None, use_errno=True).prctl(DUMPABLE, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_DUMPABLE")
