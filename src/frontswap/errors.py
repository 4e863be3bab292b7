"""Every exception that frontswap raises on purpose.

::

    FrontswapError
    ├── ParameterError(ValueError)         a parameter is wrong; nothing has happened yet
    │   ├── DtypeError(TypeError)          an array's dtype cannot live in swappable memory
    │   └── SpecError                      a part of a stack of backends is wrong
    ├── TraceError(ValueError)             a file is not the trace that it should be
    ├── OutOfMemoryError(MemoryError)      neither the limit nor the disk can back an allocation
    ├── PinError(MemoryError)              so much pinned memory does not fit in the limit
    ├── InUseError(RuntimeError)           closing while arrays still live in the memory
    ├── ClosedError(ValueError)            use of what has been closed
    ├── DrainError(RuntimeError)           a backend could not give up all its pages in time
    ├── PageLostError(OSError)             a backend does not give back a page that it accepted
    ├── ExclusiveLoadError(LookupError)    the page was taken by an exclusive load
    ├── SlotError(OSError)                 the slot of a page cannot be written or read
    ├── SwapDirectoryError(OSError)        the swap file cannot be where it was asked to be
    ├── BaseError(OSError)                 the base of an export cannot be used, or has what must not be lost
    ├── ListenError(OSError)               a server cannot listen where it was asked to
    ├── ControlError(OSError)              a running server does not answer, or refuses what it is asked for
    ├── AttachError(OSError)               an export cannot become a swap device of this machine, or be taken from it
    ├── LockError(OSError)                 a server's memory cannot be locked
    ├── MissingPackageError(ImportError)   a package is not installed that only a part of this one needs
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


class SpecError(ParameterError):
    """A part of a stack of backends ("limit:size=2GiB / zcache") is wrong. Says which part and what is allowed."""

    def __init__(self, part: str, given: object, allowed: str) -> None:
        super().__init__("backends", given, allowed)
        self.args = (part, given, allowed)
        self.part = part

    def __str__(self) -> str:
        given = "" if self.given == self.part else f"{self.given!r} "
        return f"backends={self.part!r}: {given}must be {self.allowed}"


class TraceError(FrontswapError, ValueError):
    """A file is not the trace that it should be. Says which file, where in it, what is there and what is allowed."""

    def __init__(self, path: str, where: str, given: object, allowed: str) -> None:
        super().__init__(path, where, given, allowed)
        self.path = path
        self.where = where
        self.given = given
        self.allowed = allowed

    def __str__(self) -> str:
        return f"{self.path}: {self.where}: {self.given!r} must be {self.allowed}"


class OutOfMemoryError(FrontswapError, MemoryError):
    """Neither the limit nor the disk can back an allocation."""


class PinError(FrontswapError, MemoryError):
    """The memory to pin does not fit in the limit beside what is already pinned."""


class InUseError(FrontswapError, RuntimeError):
    """Arrays still live in the memory that was to be closed."""


class ClosedError(FrontswapError, ValueError):
    """The memory has been closed."""


class DrainError(FrontswapError, RuntimeError):
    """A backend could not give up all its pages within the deadline. It goes on serving them; ``left``: how many."""

    def __init__(self, message: str, left: int) -> None:
        super().__init__(message, left)
        self.left = left

    def __str__(self) -> str:
        return str(self.args[0])


class PageLostError(FrontswapError, OSError):
    """A backend does not give back a page that it accepted, or gives back other bytes. Never zeros, never old bytes."""


class ExclusiveLoadError(FrontswapError, LookupError):
    """The page was taken by an exclusive load: who loaded it has the only copy."""


class SlotError(FrontswapError, OSError):
    """The slot of a page cannot be written or read, or the area has none."""


class SwapDirectoryError(FrontswapError, OSError):
    """The swap file cannot be in the directory given: missing, read-only, too small, or RAM itself (tmpfs)."""


class BaseError(FrontswapError, OSError):
    """The base of an export cannot be used: in use, too small, full, or with data that must not be lost."""


class ListenError(FrontswapError, OSError):
    """A server cannot listen where it was asked to: in use, or not allowed."""


class ControlError(FrontswapError, OSError):
    """A running server does not answer, or refuses what it is asked for."""


class LockError(FrontswapError, OSError):
    """A server's memory cannot be locked: not allowed, or not there."""


class AttachError(FrontswapError, OSError):
    """An export cannot be made a swap device of this machine, or be taken from it."""


class KernelSupportError(FrontswapError, OSError):
    """The kernel has no userfaultfd, or this process may not use it. Says what can be done about it."""


class MissingPackageError(FrontswapError, ImportError):
    """A package that only a part of this one needs is not installed. Says what to install."""
