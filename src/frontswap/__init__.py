"""More memory than RAM for NumPy arrays: frontswap in user space.

>>> import frontswap
>>> mem = frontswap.Memory(limit="512M")      # RAM for its arrays: resident and compressed together
>>> a = mem.zeros((1000, 1000))               # a plain numpy.ndarray
>>> del a
>>> mem.close()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# First of all, before NumPy: see there.
try:
    from .core import atfork as _atfork  # noqa: F401
except ImportError as error:
    # The core is for one interpreter of a process; another one is told when it asks for Memory.
    if "interpreter" not in str(error).lower():
        raise

# isort: split
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

if TYPE_CHECKING:
    from .area import Frontswap, SwapArea
    from .memory.install import install, installed
    from .memory.memory import Memory
    from .memory.statistics import Statistics

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
    "install",
    "installed",
]

# Imported when they are asked for: they import NumPy, and a script under `frontswap run` may want to set variables for
# it before it does.
_LATER = {
    "Frontswap": ".area",
    "SwapArea": ".area",
    "Memory": ".memory.memory",
    "Statistics": ".memory.statistics",
    "install": ".memory.install",
    "installed": ".memory.install",
    "load_ipython_extension": ".notebook",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_LATER[name], __name__), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
