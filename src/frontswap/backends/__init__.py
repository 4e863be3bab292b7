"""Backends and filters: the contract, their settings, one file each, and how they are put together.

What may enter this folder: what a backend promises and how it is configured. What may not: how a page travels
(``frontswap.core``). File name = name in specs = label in counters.
"""

from .active_only import ActiveOnly
from .checksum import Checksum
from .contract import Backend, Pressure, Refusal
from .inject import Inject
from .latency import Latency
from .layers import Filter, Layer
from .limit import Limit
from .null import Null
from .stack import Stack
from .zcache import Zcache

__all__ = [
    "ActiveOnly",
    "Backend",
    "Checksum",
    "Filter",
    "Inject",
    "Latency",
    "Layer",
    "Limit",
    "Null",
    "Pressure",
    "Refusal",
    "Stack",
    "Zcache",
]
