"""The page codec: LZ4, alone or behind a shuffle of the bytes or the bits of each element; zstd in the place of LZ4
for what has been cold for long (dense.py).

float64 with few decimals become whole numbers first (decimals.py). Where most elements are the same one the others are
kept, and where they are (sparse.py).

What may enter: bytes to fewer bytes and back. What may not: which of the ways (choice.py), and where the bytes are
kept. Nothing in here allocates, locks or fails half-way; ``codec.pxd`` is the contract.
(The wrappers for Python at the end do allocate; no fault comes near them.)
"""

import cython
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython.cimports.frontswap.core.decimals import decimals_head_bytes, decimals_join, decimals_split
from cython.cimports.frontswap.core.sparse import sparse_join, sparse_split
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import free, malloc
from cython.cimports.libc.string import memcmp, memcpy

RAW = CODEC_RAW
LZ4 = CODEC_LZ4
SHUFFLE = CODEC_SHUFFLE
BITSHUFFLE = CODEC_BITSHUFFLE
DECIMALS = CODEC_DECIMALS
SPARSE = CODEC_SPARSE
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


def codec_encode(codec, state, src, n, tmp, dst, cap):
    kind: uint8_t = codec & 15
    typesize: uint32_t = cython.cast(uint32_t, 1) << (codec >> 4)
    plain: cython.pointer[cython.const[uint8_t]] = src
    acceleration: cython.int = 1
    head: uint32_t = 0
    if kind == CODEC_SPARSE:
        return sparse_split(typesize, src, n, tmp, dst, cap)
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
    if not page_is_valid(page) or typesize > 16 or n > page or kind > CODEC_SPARSE:
        return -1
    if kind == CODEC_RAW:
        if n != page or codec & CODEC_ZSTD:
            return -1
        memcpy(dst, src, page)
        return 0
    if kind == CODEC_SPARSE:
        return -1 if codec & CODEC_ZSTD else sparse_join(typesize, src, n, dst, page)
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


# --- for Python ----------------------------------------------------------------------------------------------


def check_page(n):
    if n > LARGEST_PAGE or not page_is_valid(n):
        raise ValueError(f"a page has a power of two from {SMALLEST_PAGE} to {LARGEST_PAGE} bytes, not {n}")
    return n


def check_typesize(typesize):
    if typesize not in (1, 2, 4, 8, 16):
        raise ValueError(f"typesize is 1, 2, 4, 8 or 16, not {typesize}")
    return typesize.bit_length() - 1


def compress(data: cython.const[uint8_t][::1], typesize: cython.int = 1, kind: cython.int = CODEC_BITSHUFFLE):
    """Return (codec, record) of a page; the page itself with codec RAW when it does not shrink."""
    n: uint32_t = check_page(data.shape[0])
    if not CODEC_LZ4 <= kind <= CODEC_SPARSE:
        raise ValueError(f"kind is one of LZ4, SHUFFLE, BITSHUFFLE, DECIMALS, SPARSE ({LZ4} to {SPARSE}), not {kind}")
    if kind == CODEC_DECIMALS and typesize != 8:
        raise ValueError(f"DECIMALS are float64: typesize is 8, not {typesize}")
    if kind == CODEC_SPARSE and typesize not in (4, 8):
        raise ValueError(f"SPARSE has elements of 4 or 8 bytes, not {typesize}")
    codec: uint8_t = kind | check_typesize(typesize) << 4
    state: cython.p_void = malloc(codec_state_bytes() + 2 * n)
    if state == cython.NULL:
        raise MemoryError
    tmp: cython.pointer[uint8_t] = cython.cast(cython.pointer[uint8_t], state) + codec_state_bytes()
    length: uint32_t
    try:
        with cython.nogil:
            length = codec_encode(codec, state, cython.address(data[0]), n, tmp, tmp + n, n - 1)
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
