"""A zcache whose policy can be looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from frontswap.backends import Zcache
from frontswap.policies import Policy


class Watched(Zcache):
    """Keeps the policy that it has made."""

    made: ClassVar[list[Policy]] = []

    @property
    def make_policy(self) -> Callable[[int], Policy] | None:
        inner = super().make_policy
        assert inner is not None

        def make(pages: int) -> Policy:
            self.made.append(inner(pages))
            return self.made[-1]

        return make
