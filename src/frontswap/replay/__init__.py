"""The replay door: traces of pages, from files through the policies, and how often they miss.

What may enter this folder: how traces are read, and what is shown of them. What may not: what a policy does
(``frontswap.policies``).
"""

from .curves import Replay, replay
from .traces import Trace, read

__all__ = ["Replay", "Trace", "read", "replay"]
