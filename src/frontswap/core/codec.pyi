"""The codec's face for tests and measurements: pages as bytes-like objects of uint8."""

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Bytes: TypeAlias = bytes | bytearray | memoryview | NDArray[np.uint8]

RAW: Final[int]
LZ4: Final[int]
SHUFFLE: Final[int]
BITSHUFFLE: Final[int]
DECIMALS: Final[int]
SPARSE: Final[int]
ZSTD: Final[int]

def compress(data: Bytes, typesize: int = 1, kind: int = ...) -> tuple[int, bytes]:
    """Return (codec, record) of a page; the page itself with codec RAW when it does not shrink."""

def decompress(codec: int, data: Bytes, page: int) -> bytes:
    """Return the page of a record. A malformed record is a ValueError."""

def same_filled(data: Bytes) -> int | None:
    """Return the 8-byte word that all words of the page are, or None."""

def checksum(data: Bytes, seed: int = 0) -> int:
    """Return the 32-bit checksum of a record."""
