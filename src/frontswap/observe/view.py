"""What a Memory looks like at a glance: a line of text, and a box of HTML for notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..sizes import format_size

if TYPE_CHECKING:
    from ..memory.statistics import Statistics

# One hue, from what costs most RAM to what costs none: read as a bar from left to right.
_RESIDENT, _POOL = "#1f77b4", "#9ecae1"


def moved(found: Statistics) -> bool:
    """True if pages have left RAM."""
    return found.evicted_clean + found.evicted_dirty > 0


def line(found: Statistics) -> str:
    """What a Memory was good for so far, on one line."""
    limit = format_size(found.limit_bytes)
    if not moved(found):
        return f"frontswap: everything fits in {limit}, nothing was moved"
    ratio = f", {found.compression_ratio:.1f} times smaller in RAM" if found.compression_ratio else ""
    return (
        f"frontswap: limit {limit}, {found.refaults:,} pages came back, "
        f"{format_size(found.written_back_bytes)} written to disk{ratio}"
    )


def html(found: Statistics) -> str:
    """The limit as a bar, and beside it what does not fit in it."""
    limit = max(found.limit_bytes, 1)
    resident, pool = (min(100.0, 100 * size / limit) for size in (found.resident_bytes, found.pool_bytes))
    ratio = f" ({found.compression_ratio:.1f} times smaller)" if found.compression_ratio else ""
    rows = {
        "allocated": format_size(found.allocated_bytes),
        f'<span style="color:{_RESIDENT}">&#9632;</span> resident': format_size(found.resident_bytes),
        f'<span style="color:{_POOL}">&#9632;</span> compressed': f"{format_size(found.stored_bytes)} in "
        f"{format_size(found.pool_bytes)}{ratio}",
        "on disk": format_size(found.swapped_bytes),
        "came back": f"{found.refaults:,} pages" if found.registered else "nothing has left",
    }
    if found.poisoned:
        rows["<b>lost</b>"] = f"<b>{found.poisoned:,} pages: the disk is broken, see stderr</b>"
    cells = "".join(
        f'<tr><td style="text-align:left">{name}</td><td style="text-align:left">{value}</td></tr>'
        for name, value in rows.items()
    )
    return (
        '<div style="max-width:28em"><b>frontswap</b> within '
        f"{format_size(found.limit_bytes)}"
        '<div style="display:flex;height:.7em;border:1px solid #888;margin:.3em 0">'
        f'<div style="width:{resident:.1f}%;background:{_RESIDENT}"></div>'
        f'<div style="width:{min(pool, 100 - resident):.1f}%;background:{_POOL}"></div></div>'
        f"<table>{cells}</table></div>"
    )
