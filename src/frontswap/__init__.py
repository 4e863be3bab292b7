"""More memory than RAM for NumPy arrays: frontswap in user space.

>>> import frontswap
>>> mem = frontswap.Memory(limit="512M")      # RAM for its arrays: resident and compressed together
>>> a = mem.zeros((1000, 1000))               # a plain numpy.ndarray
>>> del a
>>> mem.close()
"""

# First of all, before NumPy: handlers of pthread_atfork run in the reverse of their order before a fork, and OpenBLAS's
# waits for its threads. One of them that is at an evicted page would wait at our gate, if that were closed by then.
from .core import fork as _fork  # noqa: F401

# isort: split
from .area import Frontswap, SwapArea
from .errors import (
    ClosedError,
    DrainError,
    DtypeError,
    ExclusiveLoadError,
    FrontswapError,
    InUseError,
    KernelSupportError,
    OutOfMemoryError,
    PageLostError,
    ParameterError,
    PinError,
    SlotError,
    SpecError,
    SwapDirectoryError,
)
from .memory import Memory, Statistics

__version__ = "0.1.0"

__all__ = [
    "ClosedError",
    "DrainError",
    "DtypeError",
    "ExclusiveLoadError",
    "Frontswap",
    "FrontswapError",
    "InUseError",
    "KernelSupportError",
    "Memory",
    "OutOfMemoryError",
    "PageLostError",
    "ParameterError",
    "PinError",
    "SlotError",
    "SpecError",
    "Statistics",
    "SwapArea",
    "SwapDirectoryError",
    "__version__",
]
