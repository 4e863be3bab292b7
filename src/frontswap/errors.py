"""Every exception that frontswap raises on purpose.

::

    FrontswapError
    ├── ParameterError(ValueError)         a parameter is wrong; nothing has happened yet
    │   └── DtypeError(TypeError)          an array's dtype cannot live in swappable memory
    ├── OutOfMemoryError(MemoryError)      neither the limit nor the disk can back an allocation
    ├── PinError(MemoryError)              so much pinned memory does not fit in the limit
    ├── InUseError(RuntimeError)           closing while arrays still live in the memory
    ├── ClosedError(ValueError)            use of what has been closed
    ├── SwapDirectoryError(OSError)        the swap file cannot be where it was asked to be
    └── KernelSupportError(OSError)        the kernel has no userfaultfd, or does not let us use it

Each keeps the builtin base that callers of NumPy and of the standard library already catch. A page that is
lost later, at a fault, raises nothing: no exception can be raised inside a memory access. It is a SIGBUS.
"""

from __future__ import annotations


class FrontswapError(Exception):
    """Base of all errors of this package."""


class ParameterError(FrontswapError, ValueError):
    """A parameter is wrong. Says which, what was given and what is allowed."""

    def __init__(self, parameter: str, given: object, allowed: str) -> None:
        super().__init__(parameter, given, allowed)
        self.parameter = parameter
        self.given = given
        self.allowed = allowed

    def __str__(self) -> str:
        return f"{self.parameter}={self.given!r}: must be {self.allowed}"


class DtypeError(ParameterError, TypeError):
    """An array's dtype cannot live in swappable memory: it holds references to Python objects."""


class OutOfMemoryError(FrontswapError, MemoryError):
    """Neither the limit nor the disk can back an allocation."""


class PinError(FrontswapError, MemoryError):
    """The memory to pin does not fit in the limit beside what is already pinned."""


class InUseError(FrontswapError, RuntimeError):
    """Arrays still live in the memory that was to be closed."""


class ClosedError(FrontswapError, ValueError):
    """The memory has been closed."""


class SwapDirectoryError(FrontswapError, OSError):
    """The swap file cannot be in the directory given: missing, read-only, too small, or RAM itself (tmpfs)."""


class KernelSupportError(FrontswapError, OSError):
    """The kernel has no userfaultfd, or this process may not use it. Says what can be done about it."""
