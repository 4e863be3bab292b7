"""The face of the choice between codecs, for tests and measurements."""

from .codec import Bytes

class Chooser:
    """One array's choice of codec: give it the pages in the order in which they are stored."""

    def __init__(self, typesize: int = 0, kind: int = -1) -> None: ...
    @property
    def codec(self) -> int:
        """The codec byte in use."""
    @property
    def rivals(self) -> list[int]:
        """The codec bytes that are tried on a piece of each page beside it."""
    def compress(self, data: Bytes, cap: int = -1) -> tuple[int, bytes] | None:
        """Return (codec, record), or None for a page that does not fit in cap bytes."""
