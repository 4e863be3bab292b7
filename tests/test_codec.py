"""The page codec: what comes back is what went in, and bad records stay harmless."""

import ctypes
import mmap
import platform
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from helpers import MiB
from hypothesis import given
from hypothesis import strategies as st
from pages import (
    CANARY,
    KINDS,
    SIZES,
    TYPESIZES,
    Bytes,
    Guarded,
    Make,
    capsule_function,
    half_noise,
    ids,
    noise,
    sparse,
    text,
    walk,
)

from frontswap.core import choice, codec, decimals, dense

PAGES = [1 << i for i in range(12, 22)]

kinds = st.sampled_from(list(KINDS.values()))
typesizes = st.sampled_from(TYPESIZES)
pages = st.sampled_from([*PAGES[:5] * 4, *PAGES])
seeds = st.integers(0, 2**32 - 1)


makers = st.sampled_from([walk, ids, noise, text, half_noise])


# --- the C functions, with canaries around every buffer ------------------------------------------------------


def c_function(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    return capsule_function(codec, name, result, *arguments)


P, U8, U32 = ctypes.c_void_p, ctypes.c_uint8, ctypes.c_uint32
c_init = capsule_function(choice, "codec_choice_init", None, P, ctypes.c_int, ctypes.c_int)
c_state_bytes = c_function("codec_state_bytes", ctypes.c_size_t)
c_compress = capsule_function(choice, "codec_compress", U32, P, P, P, U32, P, P, U32, P)
c_encode = c_function("codec_encode", U32, U8, P, P, U32, P, P, U32)
c_decompress = c_function("codec_decompress", ctypes.c_int, U8, P, P, U32, P, P, U32)
c_densify = capsule_function(dense, "densify_record", U32, U8, P, P, U32, P, P, U32, U32, P)
c_encoder_bytes = capsule_function(dense, "dense_encoder_bytes", ctypes.c_size_t, U32)
c_encoder_init = capsule_function(dense, "dense_encoder_init", P, P, U32)


def guarded_decompress(codec_byte: int, record: bytes | Bytes, page: int) -> bytes | None:
    source = np.frombuffer(bytes(record) or b"\0", np.uint8)
    state, tmp, out = Guarded(c_state_bytes()), Guarded(page), Guarded(page)
    state.inside[:] = 0
    failed = c_decompress(codec_byte, state.address, source.ctypes.data, len(record), tmp.address, out.address, page)
    for buffer in (state, tmp, out):
        buffer.check()
    return None if failed else out.inside.tobytes()


def guarded_densify(codec_byte: int, record: bytes | Bytes, page: int, cap: int) -> tuple[int, bytes] | None:
    source = np.frombuffer(bytes(record) or b"\0", np.uint8)
    encoder, tmp, out = Guarded(c_encoder_bytes(page)), Guarded(page), Guarded(page)
    made, context = U8(), c_encoder_init(encoder.address, page)
    assert context
    length = c_densify(
        codec_byte,
        context,
        source.ctypes.data,
        len(record),
        tmp.address,
        out.address,
        cap,
        page,
        ctypes.addressof(made),
    )
    for buffer in (encoder, tmp, out):
        buffer.check()
    assert length <= cap
    return (made.value, out.inside[:length].tobytes()) if length else None


@pytest.fixture
def read_only_page() -> Iterator[mmap.mmap]:
    """A page that must not be written to, before memory that must not be read."""
    page = 4096
    libc = ctypes.CDLL(None, use_errno=True)
    memory = mmap.mmap(-1, 2 * page)
    memory[:page] = walk(1, page).tobytes()
    view = ctypes.c_char.from_buffer(memory)
    start = ctypes.addressof(view)
    for address, protection in ((start, mmap.PROT_READ), (start + page, 0)):
        assert libc.mprotect(ctypes.c_void_p(address), page, protection) == 0
    yield memory
    libc.mprotect(ctypes.c_void_p(start), 2 * page, mmap.PROT_READ | mmap.PROT_WRITE)
    del view
    memory.close()


# --- round trips ---------------------------------------------------------------------------------------------


@given(kinds, typesizes, pages, makers, seeds)
def test_page_survives(kind: int, typesize: int, page: int, make: Make, seed: int) -> None:
    data = make(seed, page)
    used, record = codec.compress(data, typesize, kind)
    assert used & 15 in (kind, codec.RAW)
    assert len(record) < page or used == codec.RAW
    assert codec.decompress(used, record, page) == data.tobytes()


@given(st.binary(max_size=4096), kinds, typesizes)
def test_any_bytes_survive(data: bytes, kind: int, typesize: int) -> None:
    data += bytes(4096 - len(data))
    used, record = codec.compress(data, typesize, kind)
    assert codec.decompress(used, record, len(data)) == data


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("typesize", TYPESIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_size_and_page(kind: str, typesize: int, page: int) -> None:
    data = half_noise(page + typesize, page)
    used, record = codec.compress(data, typesize, KINDS[kind])
    assert used == KINDS[kind] | (typesize.bit_length() - 1) << 4
    assert guarded_decompress(used, record, page) == data.tobytes()


@given(pages, st.lists(makers, min_size=1, max_size=3), seeds, st.integers(0, 16), st.floats(0, 1))
def test_compress_stays_in_its_buffers(page: int, make: list[Make], seed: int, typesize: int, part: float) -> None:
    cap = int(part * page)
    choice, state, tmp, record = Guarded(96), Guarded(c_state_bytes()), Guarded(page), Guarded(cap)
    used = U8()
    c_init(choice.address, typesize, -1)
    # Kinds of pages in turn: soon each is tried on.
    for i in range(1 if len(make) == 1 else 2 * MiB // page if page > 65536 else 40):
        data = make[i % len(make)](seed + i, page)
        length = c_compress(
            choice.address, state.address, data.ctypes.data, page, tmp.address, record.address, cap, ctypes.byref(used)
        )
        for buffer in (choice, state, tmp, record):
            buffer.check()
        assert length <= cap
        if length:
            assert guarded_decompress(used.value, record.inside[:length], page) == data.tobytes()


@pytest.mark.parametrize("kind", [-1, *KINDS.values()])
def test_source_is_only_read(read_only_page: mmap.mmap, kind: int) -> None:
    page = memoryview(read_only_page)[:4096]
    stored = choice.Chooser(8, kind).compress(page)
    assert stored is not None
    assert codec.decompress(*stored, 4096) == bytes(page)


def packed(kind: int, typesize: int, data: Bytes) -> tuple[int, bytes]:
    """A record of zstd if the page has one."""
    used, record = codec.compress(data, typesize, kind)
    return dense.densify(used, record, len(data), len(data)) or (used, record)


@given(kinds, typesizes, pages, makers, seeds, st.floats(0, 1))
def test_recompressed_page_survives(kind: int, typesize: int, page: int, make: Make, seed: int, part: float) -> None:
    data = make(seed, page)
    used, record = codec.compress(data, typesize, kind)
    made = guarded_densify(used, record, page, int(part * len(record)))
    assert used & 15 != codec.RAW or made is None
    if made:
        assert guarded_decompress(*made, page) == data.tobytes()
        assert codec.decompress(*made, page) == data.tobytes()
        assert guarded_densify(*made, page, page) is None


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("typesize", TYPESIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_size_and_page_recompressed(kind: str, typesize: int, page: int) -> None:
    data = half_noise(page + typesize, page)
    used, record = codec.compress(data, typesize, KINDS[kind])
    made = guarded_densify(used, record, page, page)
    assert made
    assert guarded_decompress(*made, page) == data.tobytes()


@pytest.mark.parametrize("page", [4096, 65536, 2 << 20])
@pytest.mark.parametrize(("typesize", "most"), [(2, 0.73), (4, 0.87)])
def test_exponents_and_mantissas_are_packed_apart(page: int, typesize: int, most: float) -> None:
    """Normal noise as bfloat16 and float32: of a record behind the bit shuffle the planes of bytes are made."""
    noisy = np.random.default_rng(page).standard_normal(page // typesize, np.float32)
    data = noisy.view(np.uint8) if typesize == 4 else (noisy.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    used, record = codec.compress(data, typesize, codec.BITSHUFFLE)
    made = guarded_densify(used, record, page, page)
    assert made
    assert made[0] == codec.SHUFFLE | (used & 0xF0) | codec.ZSTD
    assert len(made[1]) < most * page < 0.97 * len(record)
    assert guarded_decompress(*made, page) == data.tobytes()


@pytest.mark.parametrize("page", PAGES)
def test_decimals_recompressed(page: int) -> None:
    values = walk(page, page).view("f8").copy()
    values[::100] = np.nan
    used, record = codec.compress(values.view("u1"), 8, codec.DECIMALS)
    assert used & 15 == codec.DECIMALS
    made = guarded_densify(used, record, page, page)
    assert made
    assert guarded_decompress(*made, page) == values.tobytes()


def test_a_decoder_serves_one_record_after_another() -> None:
    """Also after bad ones: nothing of those before is left in it."""
    state, tmp, out = Guarded(c_state_bytes()), Guarded(65536), Guarded(65536)
    state.inside[:] = 0
    for seed in range(40):
        page = (4096, 16384, 65536)[seed % 3]
        data = (text, ids, half_noise)[seed % 3](seed, page)
        used, record = packed((codec.LZ4, codec.SHUFFLE, codec.BITSHUFFLE)[seed % 3], 4, data)
        assert used & codec.ZSTD
        wrong = bytearray(record)
        wrong[seed % 9 :: 50] = bytes(len(wrong[seed % 9 :: 50]))
        for one, good in ((bytes(wrong), False), (record, True), (record[:-1], False)):
            failed = c_decompress(used, state.address, one, len(one), tmp.address, out.address, page)
            assert failed if one is not record and one == record[:-1] else not (good and failed)
            if good:
                assert out.inside[:page].tobytes() == data.tobytes()
        for buffer in (state, tmp, out):
            buffer.check()


class Stack:
    """Calls a C function on a stack of its own (makecontext), and says how much of that it has used."""

    SIZE = 65536

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None)
        self.here, self.there = (ctypes.c_uint64 * 256)(), (ctypes.c_uint64 * 256)()

    def used(self, function: Any, *arguments: int) -> int:
        memory = np.full(self.SIZE, CANARY, np.uint8)
        assert self.libc.getcontext(self.there) == 0
        # ucontext_t: flags, the one to go on with, and the stack's address, flags and size
        self.there[1] = ctypes.addressof(self.here)
        self.there[2], self.there[3], self.there[4] = memory.ctypes.data, 0, self.SIZE
        words = [ctypes.c_uint64(word) for word in arguments]
        self.libc.makecontext(self.there, ctypes.cast(function, ctypes.c_void_p), len(words), *words)
        assert self.libc.swapcontext(self.here, self.there) == 0
        return self.SIZE - int(np.flatnonzero(memory != CANARY)[0])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="knows ucontext_t of x86-64")
def test_a_record_of_zstd_needs_little_stack() -> None:
    """A fault decompresses on the stack of the thread that has it; codec.pxd promises 7 KiB for all that it does."""
    page = 65536
    stack = Stack()
    most = 0
    for make in (text, ids, half_noise, walk):
        for kind in (*KINDS.values(), codec.DECIMALS):
            used, record = packed(kind, 8, make(1, page))
            if used == codec.RAW:
                continue
            state, tmp, out = Guarded(c_state_bytes()), Guarded(page), Guarded(page)
            state.inside[:] = 0
            source = np.frombuffer(record, np.uint8)
            where = (state.address, source.ctypes.data, len(record), tmp.address, out.address, page)
            most = max(most, stack.used(c_decompress, used, *where))
            assert out.inside.tobytes() == make(1, page).tobytes()
    assert 1000 < most < 7 << 10


# --- malformed records ---------------------------------------------------------------------------------------


@given(st.integers(0, 255), st.binary(max_size=5000), st.sampled_from(PAGES[:4]))
def test_garbage_is_harmless(codec_byte: int, record: bytes, page: int) -> None:
    guarded_decompress(codec_byte, record, page)
    guarded_densify(codec_byte, record, page, page)


@given(st.binary(max_size=200), st.sampled_from(PAGES[:4]), st.integers(0, 4))
def test_garbage_that_says_it_is_of_zstd_is_harmless(record: bytes, page: int, kind: int) -> None:
    guarded_decompress(kind | codec.ZSTD, bytes.fromhex("28b52ffd") + record, page)


@given(
    kinds,
    typesizes,
    makers,
    seeds,
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    st.floats(0, 1),
)
def test_damaged_record_is_harmless(
    kind: int,
    typesize: int,
    make: Make,
    seed: int,
    changes: list[tuple[float, int]],
    kept: float,
) -> None:
    for used, record in (codec.compress(make(seed, 8192), typesize, kind), packed(kind, typesize, make(seed, 8192))):
        damaged = bytearray(record[: max(1, int(kept * len(record)))])
        for place, value in changes:
            damaged[int(place * len(damaged))] = value
        for codec_byte in (used, used ^ codec.ZSTD):
            page = guarded_decompress(codec_byte, bytes(damaged), 8192)
            assert page is None or len(page) == 8192
            guarded_densify(codec_byte, bytes(damaged), 8192, 8192)


@pytest.mark.parametrize("page", [0, 2048, 4095, 4097, 12288, 1 << 22, 2**32 - 1])
def test_page_sizes_that_do_not_exist_are_refused(page: int) -> None:
    nothing = np.zeros(4096, np.uint8)
    at = nothing.ctypes.data
    assert c_decompress(codec.LZ4, at, at, 16, at, at, page) == -1
    with pytest.raises(ValueError, match="power of two"):
        codec.decompress(codec.LZ4, b"\0" * 16, page)


@pytest.mark.parametrize(
    ("codec_byte", "length"),
    [
        (codec.RAW, 4095),
        (codec.RAW, 4097),
        (4, 100),
        (15, 100),
        (codec.LZ4 | 5 << 4, 100),
        (255, 100),
        (codec.LZ4, 0),
        (8, 4096),
    ],
)
def test_records_that_cannot_be_are_refused(codec_byte: int, length: int) -> None:
    assert guarded_decompress(codec_byte, bytes(length), 4096) is None
    with pytest.raises(ValueError, match="malformed record"):
        codec.decompress(codec_byte, bytes(length), 4096)


def test_record_of_another_page_size_is_refused() -> None:
    used, record = codec.compress(walk(1, 8192), 8)
    for page in (4096, 16384):
        with pytest.raises(ValueError, match="malformed record"):
            codec.decompress(used, record, page)


@pytest.mark.parametrize(
    "wrong", [{"typesize": 3}, {"typesize": 0}, {"kind": 0}, {"kind": 4}, {"kind": 5}, {"kind": 6}]
)
def test_wrong_parameters_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"is 1, 2, 4|is one of LZ4|is 8|of 4 or 8 bytes"):
        codec.compress(bytes(4096), **wrong)


# --- decimals ------------------------------------------------------------------------------------------------

c_fegetround, c_fesetround = (ctypes.CDLL("libm.so.6")[name] for name in ("fegetround", "fesetround"))
FE_UPWARD = 0x800  # of x86-64
SPECIAL = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 5e-324, -5e-324, 1e308, 2.0**51, 2.0**53, -(2.0**50), 1 / 3]
doubles = st.one_of(
    st.sampled_from(SPECIAL),
    st.floats(allow_nan=True, allow_infinity=True),
    st.integers(-(2**53), 2**53).map(float),
    st.integers(-(10**9), 10**9).map(lambda n: n / 100),
)


@given(seeds, st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8), st.floats(0, 1))
def test_damaged_decimals_are_harmless(seed: int, changes: list[tuple[float, int]], kept: float) -> None:
    values = walk(seed, 8192).view("f8").copy()
    values[:: 1 + seed % 100] = np.nan
    used, record = codec.compress(values.view("u1"), 8, codec.DECIMALS)
    damaged = bytearray(record[: max(1, int(kept * len(record)))])
    for place, value in changes:
        damaged[int(place * len(damaged))] = value
        damaged[int(place * min(len(damaged), 64))] = value  # the head, more often than by chance
    page = guarded_decompress(used, bytes(damaged), 8192)
    assert page is None or len(page) == 8192


@given(st.data(), st.integers(0, 11), pages, seeds, st.booleans())
def test_decimals_survive_with_exceptions_among_them(
    data: st.DataObject, decimals: int, page: int, seed: int, trend: bool
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(scale=data.draw(st.sampled_from([1e-3, 1.0, 1e3, 1e6, 1e12])), size=page // 8)
    values = np.round(values.cumsum() if trend else values, decimals)
    part = data.draw(st.sampled_from([0, 1, page // 800, page // 64 - 1, page // 64, page // 64 + 1, page // 8]))
    places = rng.permutation(page // 8)[:part]
    values[places] = rng.choice(data.draw(st.lists(doubles, min_size=1, max_size=20)), part)
    used, record = codec.compress(values.view("u1"), 8, codec.DECIMALS)
    assert guarded_decompress(used, record, page) == values.tobytes()


@pytest.mark.parametrize("exceptions", range(4096 // 64 + 3))
def test_decimals_keep_every_number_of_exceptions(exceptions: int) -> None:
    values = np.arange(512) / 4
    values[np.linspace(17, 511, exceptions, dtype=int)] = np.nan
    used, record = codec.compress(values.view("u1"), 8, codec.DECIMALS)
    assert codec.decompress(used, record, 4096) == values.tobytes()
    # in between it depends on the few values that are looked at first
    if exceptions <= 512 // 16 or exceptions > 512 // 8:
        assert (used == codec.RAW) == (exceptions > 512 // 8)


@pytest.mark.parametrize("rounding", [0, 0x400, FE_UPWARD, 0xC00], ids=["nearest", "down", "up", "to zero"])
def test_decimals_do_not_depend_on_how_a_thread_rounds(rounding: int) -> None:
    """What one thread has split another joins, and each may round, trap and flush denormals as it likes."""
    values = np.round(np.random.default_rng(0).normal(scale=1000, size=8192), 3)
    before = c_fegetround()
    used, record = codec.compress(values.view("u1"), 8, codec.DECIMALS)
    assert used == codec.DECIMALS | 3 << 4
    try:
        assert c_fesetround(rounding) == 0
        back = codec.decompress(used, record, 65536)
        again = codec.compress(values.view("u1"), 8, codec.DECIMALS)
        assert c_fegetround() == rounding
    finally:
        c_fesetround(before)
    assert back == values.tobytes()
    assert again == (used, record)


def test_decimals_of_measurements_take_a_fifth() -> None:
    data = walk(0, 65536)
    assert len(codec.compress(data, 8, codec.DECIMALS)[1]) < 65536 // 5


# --- sparse --------------------------------------------------------------------------------------------------

sparse_sizes = st.sampled_from(list(SIZES))


@given(sparse_sizes, pages, seeds, st.sampled_from([0.0, 0.001, 0.02, 0.2, 0.7, 1.0]), st.integers(0, 2**32 - 1))
def test_sparse_pages_survive(typesize: int, page: int, seed: int, part: float, background: int) -> None:
    data = sparse(seed, page, typesize, part, background)
    used, record = codec.compress(data, typesize, codec.SPARSE)
    assert guarded_decompress(used, record, page) == data.tobytes()
    if part <= 0.02 and page <= 1 << 20:
        assert used == codec.SPARSE | (typesize.bit_length() - 1) << 4
        most = page // typesize
        others = int((data.view(SIZES[typesize]) != background).sum())
        assert len(record) <= 4 + typesize + others * (typesize + 1) + most // 255


@given(
    sparse_sizes,
    st.lists(st.sampled_from([0, 1, 2, 253, 254, 255, 256, 509, 510, 511, 765]), max_size=60),
    st.booleans(),
)
def test_every_gap_survives(typesize: int, gaps: list[int], ends: bool) -> None:
    """A gap of 255 and more takes several bytes; nothing need follow the last one."""
    values = np.zeros(65536 // typesize, SIZES[typesize])
    at = 0
    for number, gap in enumerate(gaps):
        at += gap
        if at < len(values):
            values[at] = 1 + number
        at += 1
    if ends:
        values[-1] = 7
    used, record = codec.compress(values.view("u1"), typesize, codec.SPARSE)
    assert guarded_decompress(used, record, 65536) == values.tobytes()


@given(sparse_sizes, pages, seeds, st.floats(0, 0.3), st.integers(0, 3), st.floats(0, 1.1))
def test_sparse_stays_in_its_buffers(
    typesize: int, page: int, seed: int, part: float, background: int, room: float
) -> None:
    data = sparse(seed, page, typesize, part, background)
    state, tmp, whole = Guarded(c_state_bytes()), Guarded(page), Guarded(page)
    codec_byte = codec.SPARSE | (typesize.bit_length() - 1) << 4
    length = c_encode(codec_byte, state.address, data.ctypes.data, page, tmp.address, whole.address, page)
    cap = int(room * length)
    record = Guarded(cap)
    again = c_encode(codec_byte, state.address, data.ctypes.data, page, tmp.address, record.address, cap)
    for buffer in (state, tmp, whole, record):
        buffer.check()
    assert again == (length if cap >= length else 0)


@given(
    sparse_sizes,
    seeds,
    st.integers(0, 1),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    st.floats(0, 1),
)
def test_damaged_sparse_records_are_harmless(
    typesize: int, seed: int, background: int, changes: list[tuple[float, int]], kept: float
) -> None:
    used, record = codec.compress(sparse(seed, 8192, typesize, 0.05, background), typesize, codec.SPARSE)
    damaged = bytearray(record[: max(1, int(kept * len(record)))])
    for place, value in changes:
        damaged[int(place * len(damaged))] = value
        damaged[int(place * min(len(damaged), 16))] = value  # the head, more often than by chance
    for codec_byte in (used, used ^ codec.ZSTD, used & 15, used & 15 | 0x70):
        page = guarded_decompress(codec_byte, bytes(damaged), 8192)
        assert page is None or len(page) == 8192
        guarded_densify(codec_byte, bytes(damaged), 8192, 8192)


@pytest.mark.parametrize("typesize", SIZES)
@pytest.mark.parametrize("page", PAGES)
def test_sparse_recompressed(page: int, typesize: int) -> None:
    """Few values, often the same: zstd finds more."""
    data = sparse(page, page, typesize, 0.2) & np.uint8(3)
    used, record = codec.compress(data, typesize, codec.SPARSE)
    assert used & 15 == codec.SPARSE
    made = guarded_densify(used, record, page, page)
    assert made
    assert made[0] == codec.LZ4 | codec.ZSTD
    assert len(made[1]) < len(record)
    assert guarded_decompress(*made, page) == data.tobytes()


def test_a_value_takes_itself_and_a_byte() -> None:
    data = sparse(0, 65536, 8, 1 / 50)
    assert len(codec.compress(data, 8, codec.SPARSE)[1]) < 65536 * 0.0235
    assert min(len(codec.compress(data, 8, kind)[1]) for kind in KINDS.values()) > 65536 * 0.03


# --- same-filled, checksum -----------------------------------------------------------------------------------


@given(st.integers(0, 2**64 - 1), pages)
def test_same_filled_page(word: int, page: int) -> None:
    assert codec.same_filled(np.full(page // 8, word, "u8").view(np.uint8)) == word


@given(st.integers(0, 2**64 - 1), pages, seeds, st.integers(1, 255))
def test_page_with_one_other_byte_is_not_same_filled(word: int, page: int, place: int, change: int) -> None:
    data = np.full(page // 8, word, "u8").view(np.uint8)
    data[place % page] ^= np.uint8(change)
    assert codec.same_filled(data) is None


def test_checksum_is_folded_xxh64() -> None:
    # XXH64("", 0) = ef46db3751d8e999, XXH64("a", 0) = d24ec4f1a98c6e5b
    assert codec.checksum(b"") == 0xEF46DB37 ^ 0x51D8E999
    assert codec.checksum(b"a") == 0xD24EC4F1 ^ 0xA98C6E5B
    assert codec.checksum(b"a", 1) != codec.checksum(b"a")


@given(st.binary(min_size=1, max_size=300), st.integers(0, 2**31), st.integers(1, 255))
def test_checksum_sees_one_changed_byte(data: bytes, place: int, change: int) -> None:
    other = bytearray(data)
    other[place % len(data)] ^= change
    assert codec.checksum(other) != codec.checksum(data)


# --- what a fault may call -----------------------------------------------------------------------------------


def calls_outside(file: str, wanted: str, through_pointers: str = "$^", never: str = "") -> tuple[set[str], set[str]]:
    """Walk the calls in the disassembly from `wanted`; what is reached, and what of it lies in other libraries.

    `never`: a function that is not called, whatever the code says.
    """
    code = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", file], check=True, capture_output=True, text=True
    ).stdout
    calls: dict[str, set[str]] = defaultdict(set)
    function = ""
    for line in code.splitlines():
        if header := re.match(r"[0-9a-f]+ <(.+)>:$", line):
            function = header[1]
        elif call := re.search(r"\b(?:call|j\w+)\s+[0-9a-f]+ <([^+>]+)", line):
            calls[function].add(call[1])
    calls[never].clear()
    todo = [f for f in calls if re.search(wanted, f)]
    assert todo
    todo += [f for f in calls if re.match(through_pointers, f)]
    reached: set[str] = set()
    while todo:
        if (function := todo.pop()) not in reached:
            reached.add(function)
            todo += calls[function]
    return reached, {f.removesuffix("@plt") for f in reached if f.endswith("@plt")}


@pytest.mark.skipif(not shutil.which("objdump"), reason="objdump (binutils) is missing")
def test_nothing_that_a_fault_calls_allocates() -> None:
    """A new blosc2 may bring back a malloc that no test run would notice."""
    reached, outside = calls_outside(
        codec.__file__,
        r"codec_codec_(encode|decompress|same_filled|checksum)$",
        r"(un)?shuffle\w*_(sse2|avx2|generic)$|bshuf_(trans_bit_byte|trans_byte_bitrow|shuffle_bit_eightelem)_",
        never="ZSTD_freeDDict",  # of a set of dictionaries, which nobody gives
    )
    assert {"LZ4_compress_fast_extState", "ZSTD_decompressBlock_internal"} <= reached
    # the last two come with Debian's hardening flags
    harmless = {"memcpy", "memmove", "memset", "memcmp", "lldiv", "__stack_chk_fail", "__memcpy_chk"}
    # weak, and nobody's unless somebody traces zstd
    harmless |= {"ZSTD_trace_decompress_begin", "ZSTD_trace_decompress_end"}
    assert outside <= harmless
    for file, functions in (
        (decimals.__file__, r"decimals_decimals_(split|head_bytes|join)$"),
        (choice.__file__, r"choice_codec_(choice_init|compress)$"),
    ):
        _, outside = calls_outside(file, functions)
        assert outside <= harmless
