"""The memory door: page faults of NumPy arrays come in here.

Configuration, checks and the Python face; the path of a page is in ``frontswap.core``.
"""

from .install import install, installed
from .memory import Memory
from .statistics import Statistics

__all__ = ["Memory", "Statistics", "install", "installed"]
