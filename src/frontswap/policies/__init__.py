"""Reclaim policies, one a file: which of the pages that are held leaves next. And what runs a trace through them.

What may enter this folder: what chooses a page. What may not: where pages are, and how they travel
(``frontswap.core``). File name = name in the registry = name on the command line. Each is compiled (declarations in the
``.pxd`` beside it), and works without a compiler as well, slowly: what must not differ can be compared.
"""

from .contract import Policy
from .registry import find, names
from .simulator import Simulation, next_uses

__all__ = ["Policy", "Simulation", "find", "names", "next_uses"]
