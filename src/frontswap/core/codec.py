"""The page codec: LZ4, alone or behind a shuffle of the bytes or the bits of each element; zstd in the place of LZ4
for what has been cold for long (dense.py).

float64 with few decimals become whole numbers first (decimals.py).

What may enter: bytes to fewer bytes and back, and the choice between the ways to do it. What may not:
where the bytes are kept. Nothing in here allocates, locks or fails half-way; ``codec.pxd`` is the contract.
(The wrappers for Python at the end do allocate; no fault comes near them.)
"""

import cython
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython.cimports.frontswap.core.decimals import decimals_head_bytes, decimals_join, decimals_split
from cython.cimports.libc.stdint import int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import free, malloc
from cython.cimports.libc.string import memcmp, memcpy, memset

RAW = CODEC_RAW
LZ4 = CODEC_LZ4
SHUFFLE = CODEC_SHUFFLE
BITSHUFFLE = CODEC_BITSHUFFLE
DECIMALS = CODEC_DECIMALS
ZSTD = CODEC_ZSTD

# Chosen once, at the end of this file: a fault must not find them unset.
trans_bit_byte = cython.declare(bit_kernel, bshuf_trans_bit_byte_SSE)
trans_byte_bitrow = cython.declare(bit_kernel, bshuf_trans_byte_bitrow_SSE)
shuffle_bit_eightelem = cython.declare(bit_kernel, bshuf_shuffle_bit_eightelem_SSE)


# --- bit shuffle ---------------------------------------------------------------------------------------------
#
# Bit k of every element side by side, the highest k first. That is bitshuffle's format upside down: the high
# bits of numbers are often the same everywhere, and a page that ends in one long match sends LZ4's decoder into
# its careful loop, at 1.5 GB/s. Counters also compress several times better this way round.


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def copy_part(dst: cython.pointer[uint8_t], src: cython.pointer[cython.const[uint8_t]], n: uint32_t) -> cython.void:
    """Copy a tile's part of one bit row: 32 to 512 bytes, for which gcc makes a memcpy a slow ``rep movsq``."""
    i: uint32_t
    for i in range(n // 32):
        memcpy(dst + 32 * i, src + 32 * i, 32)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def bit_shuffle(
    typesize: uint32_t,
    n: uint32_t,
    src: cython.pointer[cython.const[uint8_t]],
    dst: cython.pointer[uint8_t],
    scratch: cython.pointer[uint8_t],
) -> cython.void:
    """Tile by tile, so that all but the result stays in the L1 cache. Needs two tiles of scratch."""
    rows: uint32_t = 8 * typesize
    size: uint32_t = min(n, cython.cast(uint32_t, TILE))
    part: uint32_t = size // rows
    bits: cython.pointer[uint8_t] = scratch + TILE
    tile: uint32_t
    byte: uint32_t
    bit: uint32_t
    for tile in range(n // size):
        plain: cython.pointer[cython.const[uint8_t]] = src + tile * size
        if typesize > 1:
            blosc2_shuffle(typesize, size, plain, scratch)
            plain = scratch
        trans_bit_byte(plain, bits, size // typesize, typesize)
        for bit in range(8):
            for byte in range(typesize):
                copy_part(
                    dst + (rows - 1 - byte * 8 - bit) * (n // rows) + tile * part,
                    bits + (bit * typesize + byte) * part,
                    part,
                )


def bit_unshuffle(typesize, n, src, dst, scratch):
    rows: uint32_t = 8 * typesize
    size: uint32_t = min(n, cython.cast(uint32_t, TILE))
    part: uint32_t = size // rows
    tile: uint32_t
    row: uint32_t
    for tile in range(n // size):
        out: cython.pointer[uint8_t] = dst + tile * size
        # until the end of the turn the tile's place in dst is the second scratch
        for row in range(rows):
            copy_part(out + row * part, src + (rows - 1 - row) * (n // rows) + tile * part, part)
        trans_byte_bitrow(out, scratch, size // typesize, typesize)
        if typesize == 1:
            # shuffle_bit_eightelem has no vector code for single bytes; this way round is twice as fast
            trans_bit_byte(scratch, out, size, 1)
            trans_byte_bitrow(out, scratch, size, 1)
            memcpy(out, scratch, size)
        else:
            shuffle_bit_eightelem(scratch, out, size // typesize, typesize)


def byte_shuffle(typesize, n, src, dst):
    """c-blosc2's, as it has been chosen here."""
    blosc2_shuffle(typesize, n, src, dst)


# --- one page, one codec -------------------------------------------------------------------------------------


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def lz4_state_bytes() -> cython.size_t:
    # What follows it, the scratch of a bit shuffle, lies half a page from where tiles do: a load of an address that
    # has the low 12 bits of a store just made waits for it.
    return (cython.cast(cython.size_t, LZ4_sizeofState()) + TILE // 2 - 1) // TILE * TILE + TILE // 2


def codec_state_bytes():
    return lz4_state_bytes() + 2 * TILE + codec_decoder_bytes()


def codec_decoder_bytes():
    # The context's address, and the context.
    return (ZSTD_estimateDCtxSize() + 127) // 64 * 64


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def decoder_place(state: cython.p_void) -> cython.pp_void:
    """Where the address of zstd's context is, once there is one."""
    return cython.cast(
        cython.pp_void, cython.cast(cython.pointer[uint8_t], state) + codec_state_bytes() - codec_decoder_bytes()
    )


def unpack(codec, state, src, n, dst, size):
    """LZ4's or zstd's part of codec_decompress(): exactly `size` bytes, or False."""
    if codec & CODEC_ZSTD:
        return unpack_zstd(decoder_place(state), src, n, dst, size)
    return LZ4_decompress_safe(
        cython.cast(cython.pointer[cython.const[cython.char]], src), cython.cast(cython.p_char, dst), n, size
    ) == cython.cast(cython.int, size)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def unpack_zstd(
    decoder: cython.pp_void,
    src: cython.pointer[cython.const[uint8_t]],
    n: uint32_t,
    dst: cython.pointer[uint8_t],
    size: uint32_t,
) -> cython.bint:
    """Block by block: ZSTD_decompressDCtx() also knows formats of before 1.0, for which it calls malloc."""
    done: uint32_t = 0
    wants: cython.size_t
    got: cython.size_t
    if decoder[0] == cython.NULL:
        # Once only: it asks the processor what it can (CPUID), which a virtual machine answers in 20 us.
        decoder[0] = ZSTD_initStaticDCtx(cython.cast(cython.pointer[uint8_t], decoder) + 64, codec_decoder_bytes() - 64)
    ZSTD_decompressBegin(decoder[0])
    while True:
        wants = ZSTD_nextSrcSizeToDecompress(decoder[0])
        if wants == 0:
            return n == 0 and done == size
        if wants > n:
            return False
        got = ZSTD_decompressContinue(decoder[0], dst + done, size - done, src, wants)
        if ZSTD_isError(got):
            return False
        src += wants
        n -= cython.cast(uint32_t, wants)
        done += cython.cast(uint32_t, got)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def encode(
    codec: uint8_t,
    state: cython.p_void,
    src: cython.pointer[cython.const[uint8_t]],
    n: uint32_t,
    tmp: cython.pointer[uint8_t],
    dst: cython.pointer[uint8_t],
    cap: uint32_t,
) -> uint32_t:
    """Length of the record in dst, 0 when it does not fit in cap."""
    kind: uint8_t = codec & 15
    typesize: uint32_t = cython.cast(uint32_t, 1) << (codec >> 4)
    plain: cython.pointer[cython.const[uint8_t]] = src
    acceleration: cython.int = 1
    head: uint32_t = 0
    if kind == CODEC_DECIMALS:
        head = decimals_split(src, n, tmp, dst, cap)
        if head == 0:
            return 0
        n //= 2
        bit_shuffle(4, n, tmp, tmp + n, cython.cast(cython.pointer[uint8_t], state) + lz4_state_bytes())
        plain = tmp + n
        acceleration = 4
    elif kind == CODEC_SHUFFLE:
        blosc2_shuffle(typesize, n, src, tmp)
        plain = tmp
    elif kind == CODEC_BITSHUFFLE:
        bit_shuffle(typesize, n, src, tmp, cython.cast(cython.pointer[uint8_t], state) + lz4_state_bytes())
        plain = tmp
        # rows of bits either match over their length or not at all: looking less often costs under 1% of
        # the size and gives 5% (64 KiB) to 10% (4 KiB) of the time; plain text would lose 8% of the size
        acceleration = 4
    length: uint32_t = LZ4_compress_fast_extState(
        state,
        cython.cast(cython.pointer[cython.const[cython.char]], plain),
        cython.cast(cython.p_char, dst + head),
        n,
        cap - head,
        acceleration,
    )
    return head + length if length else 0


def codec_decompress(codec, state, src, n, tmp, dst, page):
    kind: uint8_t = codec & CODEC_KIND
    typesize: uint32_t = cython.cast(uint32_t, 1) << (codec >> 4)
    if not page_is_valid(page) or typesize > 16 or n > page or kind > CODEC_DECIMALS:
        return -1
    if kind == CODEC_RAW:
        if n != page or codec & CODEC_ZSTD:
            return -1
        memcpy(dst, src, page)
        return 0
    plain: cython.pointer[uint8_t] = dst if kind == CODEC_LZ4 else tmp
    # not on the stack: it may be one of 16 KiB
    scratch: cython.pointer[uint8_t] = cython.cast(cython.pointer[uint8_t], state) + lz4_state_bytes()
    head: uint32_t = 0
    packed: uint32_t = page
    if kind == CODEC_DECIMALS:
        head = decimals_head_bytes(src, n, page)
        packed = page // 2
        if head == 0 or typesize != 8:
            return -1
    if head >= n or not unpack(codec, state, src + head, n - head, plain, packed):
        return -1
    if kind == CODEC_SHUFFLE:
        blosc2_unshuffle(typesize, page, tmp, dst)
    elif kind == CODEC_BITSHUFFLE:
        bit_unshuffle(typesize, page, tmp, dst, scratch)
    elif kind == CODEC_DECIMALS:
        bit_unshuffle(4, packed, tmp, tmp + packed, scratch)
        return decimals_join(src, tmp + packed, dst, page)
    return 0


def page_is_valid(page):
    return page >= SMALLEST_PAGE and page <= LARGEST_PAGE and page & (page - 1) == 0


def codec_same_filled(src, n, value):
    memcpy(value, src, 8)
    # equal to itself moved by one word: all words are the first one; memcmp ends at the first difference
    return memcmp(src, src + 8, n - 8) == 0


def codec_checksum(src, n, seed):
    h: uint64_t = ZSTD_XXH64(src, n, seed)
    return cython.cast(uint32_t, h ^ (h >> 32))


# --- the choice ----------------------------------------------------------------------------------------------
#
# A normal page costs one shuffle and one LZ4 pass with the candidate in use. Now and then a piece of the page is
# compressed with the others too. The smallest wins; what is as small is decided by speed.


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def candidate(i: cython.int) -> uint8_t:
    """The codec byte of candidate i."""
    if i == 0:
        return CODEC_LZ4
    if i <= 4:
        return CODEC_SHUFFLE | i << 4
    if i == DECIMALS_CANDIDATE:
        return CODEC_DECIMALS | 3 << 4
    return CODEC_BITSHUFFLE | (i - BITSHUFFLES) << 4


def codec_choice_init(c, typesize, fixed_kind):
    memset(c, 0, cython.sizeof(codec_choice))
    known: cython.bint = typesize == 1 or typesize == 2 or typesize == 4 or typesize == 8 or typesize == 16
    i: cython.int
    for i in range(CANDIDATES - 1, -1, -1):
        codec: uint8_t = candidate(i)
        kind: cython.int = codec & 15
        if fixed_kind >= 0 and kind != fixed_kind:
            continue
        if known and kind != CODEC_LZ4 and 1 << (codec >> 4) != typesize:
            continue
        c.candidates |= 1 << i
        c.best = i


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def measure(
    c: cython.pointer[codec_choice],
    i: cython.int,
    state: cython.p_void,
    src: cython.pointer[cython.const[uint8_t]],
    n: uint32_t,
    tmp: cython.pointer[uint8_t],
    dst: cython.pointer[uint8_t],
    cap: uint32_t,
) -> cython.bint:
    """Compress a sample with candidate i. True when its size is far from what it used to be."""
    length: uint32_t = encode(candidate(i), state, src, n, tmp, dst, cap)
    now: int32_t = SAMPLE_UNIT
    if i == 0:
        c.rushes = length != 0 and matches_are_few(dst, length, n // FEW)
    if 0 < length < n:
        now = cython.cast(int32_t, cython.cast(uint64_t, length) * SAMPLE_UNIT // n)
    before: int32_t = c.size[i]
    jumped: cython.bint = before == 0 or now > before + SAMPLE_UNIT // 8 or now < before - SAMPLE_UNIT // 8
    c.size[i] = cython.cast(uint16_t, now if jumped else (before + now) // 2)
    return jumped


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def matches_are_few(record: cython.pointer[cython.const[uint8_t]], n: uint32_t, most: uint32_t) -> cython.bint:
    """Has LZ4 found no more than `most` matches?

    Source: https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md
    """
    at: uint32_t = 0
    token: uint32_t
    length: uint32_t
    while True:
        token = record[at]
        at += 1
        length = token >> 4
        if length == 15:
            while at < n and record[at] == 255:
                length += 255
                at += 1
            length += record[at] if at < n else 0
            at += 1
        at += length + 2
        if at >= n:
            return True  # the last ones are literals
        if most == 0:
            return False
        most -= 1
        if token & 15 == 15:
            while at < n and record[at] == 255:
                at += 1
            at += 1
            if at >= n:
                return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def cheapest(c: cython.pointer[codec_choice], but: cython.int) -> cython.int:
    """The best candidate by what samples have shown, `but` that one."""
    i: cython.int
    best: cython.int = c.best
    least: uint32_t = 0xFFFFFFFF
    for i in range(CANDIDATES):
        size: uint32_t = c.size[i]
        if size == 0 or i == but:
            continue
        # as fast as they come: LZ4 where it rushes; shuffle; LZ4 where there is little left to write; bit shuffle; LZ4
        weight: uint32_t = 66 if i >= BITSHUFFLES else 64
        if i == 0:
            weight = 56 if c.rushes else 68 if size > SAMPLE_UNIT // 4 else 64
        cost: uint32_t = size * weight
        if cost < least:
            least = cost
            best = i
    return best


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def sample(
    c: cython.pointer[codec_choice],
    page: uint32_t,
    state: cython.p_void,
    src: cython.pointer[cython.const[uint8_t]],
    n: uint32_t,
    tmp: cython.pointer[uint8_t],
    dst: cython.pointer[uint8_t],
    cap: uint32_t,
) -> cython.void:
    """Compare the candidates on a piece of this page and choose."""
    piece: uint32_t = min(n, cython.cast(uint32_t, SAMPLE))
    src += (page * cython.cast(uint32_t, 0x9E3779B1) >> 16) * piece & (n - 1)  # pieces from all over the page
    cap = min(cap, piece)
    best: cython.int = c.best
    all_of_them: cython.bint = measure(c, best, state, src, piece, tmp, dst, cap)
    turn: uint32_t = page // SAMPLE_EVERY % 3
    i: cython.int
    for i in range(CANDIDATES):
        if i != best and c.candidates >> i & 1 and (all_of_them or cython.cast(uint32_t, i) % 3 == turn):
            measure(c, i, state, src, piece, tmp, dst, cap)
    c.best = cython.cast(uint8_t, cheapest(c, CANDIDATES))


def codec_compress(c, state, src, n, tmp, dst, cap, codec):
    page: uint32_t = c.pages
    misses: uint8_t = c.misses
    c.pages = page + 1
    if c.candidates == 0 or (misses >= MISSES_MANY and page % TRY_EVERY != 0):
        return 0
    if page & (page - 1) == 0 or page % SAMPLE_EVERY == 0 or misses == MISSES_LOOK or misses >= MISSES_MANY:
        sample(c, page, state, src, n, tmp, dst, cap)
        if misses >= MISSES_MANY and c.size[c.best] == SAMPLE_UNIT:
            return 0
    best: cython.int = c.best
    codec[0] = candidate(best)
    length: uint32_t = encode(codec[0], state, src, n, tmp, dst, cap)
    if length == 0 and best == DECIMALS_CANDIDATE:
        # Found out early. It says that these are other numbers, not that nothing makes them smaller.
        codec[0] = candidate(cheapest(c, best))
        length = encode(codec[0], state, src, n, tmp, dst, cap)
        if length and misses < MISSES_LOOK:
            c.misses = misses + 1
            return length
    if length:
        c.misses = 0
    elif misses < MISSES_MANY:
        c.misses = misses + 1
    return length


# --- for Python ----------------------------------------------------------------------------------------------


def check_page(n):
    if n > LARGEST_PAGE or not page_is_valid(n):
        raise ValueError(f"a page has a power of two from {SMALLEST_PAGE} to {LARGEST_PAGE} bytes, not {n}")
    return n


@cython.cfunc
def check_typesize(typesize: cython.int) -> cython.int:
    if typesize not in (1, 2, 4, 8, 16):
        raise ValueError(f"typesize is 1, 2, 4, 8 or 16, not {typesize}")
    return typesize.bit_length() - 1


@cython.cclass
class Chooser:
    """One array's choice of codec: give it the pages in the order in which they are stored."""

    choice: codec_choice

    def __init__(self, typesize: cython.int = 0, kind: cython.int = -1):
        if typesize:
            check_typesize(typesize)
        codec_choice_init(cython.address(self.choice), typesize, kind)

    @property
    def codec(self) -> int:
        """The codec byte in use."""
        return candidate(self.choice.best)

    def compress(self, data: cython.const[uint8_t][::1], cap: cython.int = -1):
        """Return (codec, record), or None for a page that does not fit in cap bytes."""
        n: uint32_t = check_page(data.shape[0])
        limit: uint32_t = n - 1 if cap < 0 else cap
        state: cython.p_void = malloc(codec_state_bytes() + n + limit)
        if state == cython.NULL:
            raise MemoryError
        tmp: cython.pointer[uint8_t] = cython.cast(cython.pointer[uint8_t], state) + codec_state_bytes()
        dst: cython.pointer[uint8_t] = tmp + n
        codec: uint8_t = 0
        length: uint32_t
        try:
            with cython.nogil:
                length = codec_compress(
                    cython.address(self.choice),
                    state,
                    cython.address(data[0]),
                    n,
                    tmp,
                    dst,
                    limit,
                    cython.address(codec),
                )
            return (codec, PyBytes_FromStringAndSize(cython.cast(cython.p_char, dst), length)) if length else None
        finally:
            free(state)


def compress(data: cython.const[uint8_t][::1], typesize: cython.int = 1, kind: cython.int = CODEC_BITSHUFFLE):
    """Return (codec, record) of a page; the page itself with codec RAW when it does not shrink."""
    n: uint32_t = check_page(data.shape[0])
    if not CODEC_LZ4 <= kind <= CODEC_DECIMALS:
        raise ValueError(f"kind is one of LZ4, SHUFFLE, BITSHUFFLE and DECIMALS ({LZ4} to {DECIMALS}), not {kind}")
    if kind == CODEC_DECIMALS and typesize != 8:
        raise ValueError(f"DECIMALS are float64: typesize is 8, not {typesize}")
    codec: uint8_t = kind | check_typesize(typesize) << 4
    state: cython.p_void = malloc(codec_state_bytes() + 2 * n)
    if state == cython.NULL:
        raise MemoryError
    tmp: cython.pointer[uint8_t] = cython.cast(cython.pointer[uint8_t], state) + codec_state_bytes()
    length: uint32_t
    try:
        with cython.nogil:
            length = encode(codec, state, cython.address(data[0]), n, tmp, tmp + n, n - 1)
        if length:
            return codec, PyBytes_FromStringAndSize(cython.cast(cython.p_char, tmp + n), length)
        return RAW, bytes(data)
    finally:
        free(state)


def decompress(codec: cython.int, data: cython.const[uint8_t][::1], page: cython.Py_ssize_t):
    """Return the page of a record. A malformed record is a ValueError."""
    size: uint32_t = check_page(page)
    n: cython.Py_ssize_t = data.shape[0]
    failed: cython.int = -1
    out: bytes = PyBytes_FromStringAndSize(cython.NULL, size)
    dst: cython.pointer[uint8_t] = cython.cast(cython.pointer[uint8_t], PyBytes_AS_STRING(out))
    state: cython.p_void = malloc(codec_state_bytes() + size)
    if state == cython.NULL:
        raise MemoryError
    decoder_place(state)[0] = cython.NULL
    tmp: cython.pointer[uint8_t] = cython.cast(cython.pointer[uint8_t], state) + codec_state_bytes()
    if 0 < n <= size and 0 <= codec < 256:
        with cython.nogil:
            failed = codec_decompress(codec, state, cython.address(data[0]), n, tmp, dst, size)
    free(state)
    if failed:
        raise ValueError(f"malformed record: codec {codec}, {n} bytes, for a page of {size}")
    return out


def same_filled(data: cython.const[uint8_t][::1]):
    """Return the 8-byte word that all words of the page are, or None."""
    n: uint32_t = check_page(data.shape[0])
    value: uint64_t = 0
    return value if codec_same_filled(cython.address(data[0]), n, cython.address(value)) else None


def checksum(data: cython.const[uint8_t][::1], seed: uint64_t = 0):
    """Return the 32-bit checksum of a record."""
    return codec_checksum(cython.address(data[0]) if data.shape[0] else cython.NULL, data.shape[0], seed)


if CPU_HAS_AVX2():
    trans_bit_byte = bshuf_trans_bit_byte_AVX
    trans_byte_bitrow = bshuf_trans_byte_bitrow_AVX
    shuffle_bit_eightelem = bshuf_shuffle_bit_eightelem_AVX
if CPU_HAS_AVX512():
    trans_bit_byte = bshuf_trans_bit_byte_AVX512
    shuffle_bit_eightelem = bshuf_shuffle_bit_eightelem_AVX512
# c-blosc2 chooses its shuffles at the first call, with getenv: have that behind us
compress(bytes(SMALLEST_PAGE), 8, CODEC_SHUFFLE)
