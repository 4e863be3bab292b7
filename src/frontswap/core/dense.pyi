"""Its face for tests and measurements: see codec."""

from .codec import Bytes

def densify(codec: int, data: Bytes, page: int, cap: int = -1) -> tuple[int, bytes] | None:
    """Return (codec, record) of a record packed anew by zstd, or None where that does not fit in cap bytes."""
