"""``null``: refuses every page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..core.native import Native, make_null
from .layers import Layer


@dataclass(frozen=True)
class Null(Layer):
    """Refuses every page: what the hooks themselves cost, and what a full backend does."""

    name: ClassVar[str] = "null"

    def native(self) -> Native:
        """A new one."""
        return make_null()
