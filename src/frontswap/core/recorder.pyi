"""Compiled; see recorder.py."""

import mmap

from .hooks import Hooks

def record_begin(plane: Hooks, shared: mmap.mmap) -> None: ...
def record_end(plane: Hooks) -> int: ...
