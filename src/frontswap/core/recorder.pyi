"""Compiled; see recorder.py."""

import mmap
from typing import Final

from .hooks import Hooks

RECORD: Final[int]

def record_begin(plane: Hooks, shared: mmap.mmap) -> None: ...
def record_end(plane: Hooks) -> int: ...
