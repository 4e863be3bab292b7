"""Pages that say what they are: every word follows from a page's key and its generation."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Page = npt.NDArray[np.uint64]

#: how pages of a kind are: one word, text-like, measurements, noise, bytes that zstd makes smaller than LZ4
KINDS = ("same", "ramp", "walk", "noise", "bits")


@cache
def patterns(words: int, seed: int) -> dict[str, Page]:
    """A page of each kind; not to be written to."""
    rng = np.random.default_rng(seed)
    walk = rng.normal(size=words).cumsum().round(2)
    return {
        "same": np.zeros(words, np.uint64),
        "ramp": np.arange(words, dtype=np.uint64) // 3,
        "walk": walk.view(np.uint64),
        "noise": rng.integers(0, 1 << 63, words, np.uint64),
        "bits": (rng.integers(0, 64, words * 8, np.uint8) & rng.integers(0, 64, words * 8, np.uint8)).view(np.uint64),
    }


class Content:
    """Pages of one size, told apart by key and generation.

    Args:
        page: bytes of a page.
        seed: of the patterns.
    """

    def __init__(self, page: int, seed: int = 0) -> None:
        self.words = page // 8
        self._patterns = patterns(self.words, seed)

    def page(self, key: int, generation: int) -> Page:
        """The page's bytes. Kinds change with the generation, so that a page goes from backend to slot and back."""
        kind = KINDS[(key * 7 + generation * 3) % 11 % len(KINDS)]
        return self._patterns[kind] + np.uint64((key << 24) + generation)

    def generation(self, key: int, found: npt.NDArray[Any]) -> int:
        """The generation that these bytes are, or -1: they are no page of this key."""
        words = found.view(np.uint64)
        for kind in KINDS:
            first = (int(words[0]) - int(self._patterns[kind][0])) & (1 << 64) - 1
            generation = first - (key << 24)
            if 0 <= generation < 1 << 24 and np.array_equal(self.page(key, generation), words):
                return generation
        return -1
