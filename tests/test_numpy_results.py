"""NumPy and SciPy on arrays of two to four times the limit: the results of ordinary memory, bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import scipy.fft
import scipy.sparse
from conftest import NewMemory, use
from helpers import PROTECTION, Array, MiB, Mode, mode_of, protected, run_child, same

LIMIT = 16 * MiB
N = 4 << 20  # float64: 32 MiB, twice the smallest limit


def _rng() -> np.random.Generator:
    return np.random.default_rng(1)


def _floats(n: int) -> Array:
    return _rng().normal(size=n).round(2)


def _ints(n: int) -> Array:
    return _rng().integers(-(1 << 40), 1 << 40, n)


def _small_ints(n: int) -> Array:
    return _rng().integers(0, 1000, 2 * n, "i4")


def _bytes(n: int) -> Array:
    return _rng().integers(0, 256, 8 * n, np.uint8)


def _almost_sorted(n: int) -> Array:
    return np.arange(n) + _rng().normal(size=n) * 1000  # an order that is random would only thrash


def _words(n: int) -> Array:
    return _rng().integers(ord("a"), ord("e"), (n // 4, 32), np.uint8).view("S32")[:, 0]


def _square(n: int) -> Array:
    return _rng().normal(size=(n // 2048, 2048))


def _complex(n: int) -> Array:
    return _rng().normal(size=(n // 2, 2)).view(complex)[:, 0]


Operation = Callable[[Array], Any]


def sort(kind: Any) -> Operation:
    def run(a: Array) -> None:
        a.sort(kind=kind)

    return run


def _fancy_assign(a: Array) -> None:
    where = _rng().integers(0, len(a), 1 << 14)
    a[where] = np.arange(len(where))


def _strings(a: Array) -> Any:
    return np.strings.count(a, b"ab"), np.strings.upper(a[: 1 << 18]), np.strings.find(a, b"dd"), a == a[0]


def _boolean_mask(a: Array) -> Any:
    chosen = a[a > 0.5]
    a[a < -1] = 0
    return chosen


def _sparse(a: Array) -> Any:
    rows = 1 << 16
    indices = (np.arange(len(a)) * 7919 % rows).astype("i4")
    matrix = scipy.sparse.csr_array((a, indices, np.arange(0, len(a) + 1, len(a) // rows, dtype="i4")), (rows, rows))
    vector = np.arange(rows, dtype=float)
    return matrix @ vector, matrix.sum(axis=0), (matrix * 2).sum(axis=1)


# Name: what the array is made of, what is done to it. An operation may change its array; that is compared too.
OPERATIONS: dict[str, tuple[Callable[[int], Array], Operation]] = {
    "sort float64": (_floats, sort(None)),
    "sort stable int64": (_ints, sort("stable")),
    "sort int32": (_small_ints, sort("quicksort")),
    "sort uint8": (_bytes, sort(None)),
    "sort strings": (_words, sort(None)),
    "argsort": (_almost_sorted, lambda a: a.argsort(kind="stable")),
    "partition": (_floats, lambda a: np.partition(a, [len(a) // 3, len(a) // 2])),
    "cumsum": (_floats, lambda a: (a.cumsum(), np.add.accumulate(a, out=a))),
    "reductions": (_floats, lambda a: (a.sum(), a.mean(), a.std(), a.min(), a.argmax(), np.median(a))),
    "reductions by axis": (_square, lambda a: (a.sum(0), a.sum(1), a.max(0), a.var(1), np.any(a > 4, 0))),
    "percentiles": (_floats, lambda a: np.percentile(a, [1, 50, 99.9])),
    "unique": (_small_ints, lambda a: np.unique(a, return_counts=True)),
    "bincount": (_small_ints, lambda a: (np.bincount(a), np.histogram(a, 50))),
    "searchsorted": (_small_ints, lambda a: np.sort(a).searchsorted(np.arange(1001))),
    "fancy reading": (_floats, lambda a: a[_rng().integers(0, len(a), 1 << 15)]),
    "fancy writing": (_floats, _fancy_assign),
    "boolean mask": (_floats, _boolean_mask),
    "where": (_ints, lambda a: np.where(a > 0, a, -a)),
    "matmul": (lambda n: _square(n // 2), lambda a: a @ a.T),
    "einsum": (_square, lambda a: (np.einsum("ij,ij->i", a, a), np.einsum("ij->j", a))),
    "fft": (_complex, np.fft.fft),
    "blocks": (_square, lambda a: np.block([[a, -a]])),
    "strings": (_words, _strings),
    "ufuncs in place": (_floats, lambda a: np.sqrt(np.abs(a, out=a), out=a)),
    "roll and flip": (_ints, lambda a: (np.roll(a, 12345)[::-3].copy(), np.diff(a))),
    "bits": (_bytes, lambda a: (np.packbits(a & 1), np.bitwise_xor.reduce(a))),
    "scipy fft": (_complex, lambda a: scipy.fft.dct(a.view(float), norm="ortho")),
    "scipy sparse": (_floats, _sparse),
}


def flat(result: Any) -> list[Any]:
    return [r for part in result for r in flat(part)] if isinstance(result, tuple) else [result]


#: these take seconds, or do to memory what a quicker one does
LONG = ("scipy fft", "sort uint8", "matmul", "fft", "sort stable int64", "argsort")
# Which code catches a fault is nothing that an operation could notice: with a handler thread a few of them will do.
WITH_THREAD = ("sort float64", "cumsum", "fancy writing")


def cases() -> Iterator[Any]:
    """All operations, with each way to catch a fault, and with arrays of two sizes; the quick ones first."""
    for scale, faults, name in itertools.product((1, 2), ("sigbus", "thread", PROTECTION.faults), OPERATIONS):
        slow = scale == 2 or name in LONG or (faults == "thread" and name not in WITH_THREAD)
        case = f"{name}-{faults}-{scale}"
        if faults == PROTECTION.faults:
            yield protected(name, faults, scale, name=case, slow=slow)
        else:
            yield pytest.param(name, faults, scale, id=case, marks=[pytest.mark.slow] * slow)


@pytest.mark.parametrize(("name", "faults", "scale"), list(cases()))
def test_results(name: str, faults: str, scale: int, monkeypatch: pytest.MonkeyPatch, new_memory: NewMemory) -> None:
    use(mode_of(faults), monkeypatch)
    make, operation = OPERATIONS[name]
    expected_array = make(scale * N)
    memory = new_memory(scale * LIMIT)
    array = memory.array(expected_array)
    expected = flat(operation(expected_array))
    with memory:  # results and temporary arrays come from the Memory too
        found = flat(operation(array))
    assert len(found) == len(expected)
    for f, e in zip(found, expected, strict=True):
        if isinstance(e, np.ndarray):
            same(f, e)
        else:
            assert (type(f), np.array(f).tobytes()) == (type(e), np.array(e).tobytes())
    same(array, expected_array)
    now = memory.statistics()
    assert now.refaults > 0
    assert (now.overshoots, now.poisoned) == (0, 0)
    del array, found, f


@pytest.mark.slow
def test_as_an_ordinary_user(seam: Mode) -> None:
    """User mode faults only: what system calls and privileges might hide shows here."""
    code = f"""
memory = frontswap.Memory({LIMIT})
source = walk({N})
expected = source.copy()
array = memory.array(source)
with memory:
    for work in (
        lambda a: a.sort(),
        lambda a: np.cumsum(a, out=a),
        lambda a: np.multiply(a, 1.5, out=a),
        lambda a: np.copyto(a, np.fft.irfft(np.fft.rfft(a[: len(a) // 4]), len(a) // 4).repeat(4)),
        lambda a: np.copyto(a, np.where(a > 0, a, -a)),
        lambda a: a.__setitem__(slice(None, None, 512), np.arange(len(a) // 512)),
    ):
        work(array)
        work(expected)
        same(array, expected)
assert os.geteuid() != 0
"""
    run_child(code, mode=seam, ordinary=True).check()
