"""The data plane: the path a page takes, compiled, without the GIL.

What may enter this folder: code that a page fault, a reclaim thread or the swap file needs while no
Python object may be touched (Cython in pure Python mode: a ``.py`` with the code, a ``.pxd`` with its
C declarations, a ``.pyi`` where Python calls it). What may not: configuration, policy settings, text.

Imports point one way: ``pager -> reclaim -> frontswap -> filters -> zcache -> record -> segments -> swapfile -> uapi``,
and most of these ``-> balance`` (what has been asked for, by which the pool becomes larger or smaller);
pager and reclaim reach the pages themselves by ``region -> uffd, protection``. ``plane`` (the memory door) and ``area``
(swap areas) put them together for the control plane, on what ``hooks`` has for both; ``resize`` (another limit) stands
on all of the path. Beside it: ``calls``, ``sockets`` and ``queues`` (system calls on arrays) ``-> bounce -> seam``,
``mappings`` (calls that arrange memory) and ``arguments`` (what is used where it lies) ``-> seam``, ``heap`` (malloc)
``-> arena -> watch``, ``maps`` (memory that the program has mapped) ``-> arena, pager`` and ``locks`` (those in the
heap) ``-> pager``, put in place by ``got``.
"""

import os.path
from importlib.machinery import EXTENSION_SUFFIXES

# Uncompiled, these files do import Cython's shadows, and what fails then says nothing.
if not any(os.path.exists(os.path.join(os.path.dirname(__file__), f"plane{suffix}")) for suffix in EXTENSION_SUFFIXES):
    from ..causes import NOT_COMPILED

    raise ImportError(str(NOT_COMPILED))
