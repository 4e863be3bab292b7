"""More memory than RAM for NumPy arrays: frontswap in user space.

>>> import frontswap
>>> mem = frontswap.Memory(limit="512M")      # RAM for its arrays: resident and compressed together
>>> a = mem.zeros((1000, 1000))               # a plain numpy.ndarray
>>> del a
>>> mem.close()
"""

from .errors import (
    ClosedError,
    DtypeError,
    FrontswapError,
    InUseError,
    KernelSupportError,
    OutOfMemoryError,
    ParameterError,
    PinError,
    SwapDirectoryError,
)
from .memory import Memory, Statistics

__version__ = "0.1.0"

__all__ = [
    "ClosedError",
    "DtypeError",
    "FrontswapError",
    "InUseError",
    "KernelSupportError",
    "Memory",
    "OutOfMemoryError",
    "ParameterError",
    "PinError",
    "Statistics",
    "SwapDirectoryError",
    "__version__",
]
