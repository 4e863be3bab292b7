"""A record of a page made anew, denser: zstd in the place of LZ4.

What a transform has made of the page is packed as it is. Or, of what was shuffled bit by bit, its bytes are shuffled,
and each plane of them is a block of zstd's with statistics of its own: the exponents of floats have few values, and
their mantissas are noise, which is then stored as it is. (As one block each byte would get the code of their mixture.)
Of walks of float32 a fifth goes that way, of bfloat16 a fifteenth, for which nothing else does anything. Whichever is
smaller.
"""

import cython
from cython.cimports.cpython.bytes import PyBytes_FromStringAndSize
from cython.cimports.frontswap.core.codec import (
    CODEC_BITSHUFFLE,
    CODEC_DECIMALS,
    CODEC_KIND,
    CODEC_LZ4,
    CODEC_RAW,
    CODEC_SHUFFLE,
    CODEC_SPARSE,
    CODEC_ZSTD,
    TILE,
    bit_unshuffle,
    byte_shuffle,
    check_page,
    page_is_valid,
    unpack,
)
from cython.cimports.frontswap.core.decimals import decimals_head_bytes
from cython.cimports.frontswap.core.sparse import sparse_join
from cython.cimports.libc.stdint import uint8_t, uint32_t
from cython.cimports.libc.stdlib import free, malloc
from cython.cimports.libc.string import memcpy

LEVEL = cython.declare(cython.int, 3)


def dense_encoder_bytes(page):
    # The scratch of a bit shuffle is before the context.
    return 2 * TILE + (zstd_bytes(LEVEL, page) + 63) // 64 * 64


def dense_encoder_init(memory, page):
    return ZSTD_initStaticCCtx(
        cython.cast(cython.pointer(uint8_t), memory) + 2 * TILE, dense_encoder_bytes(page) - 2 * TILE
    )


def frame(encoder, part, src, n, dst, cap):
    """The length of a frame in dst with blocks that end with each `part` bytes; 0: it does not fit."""
    done: cython.size_t = 0
    got: cython.size_t = zstd_begin(encoder, LEVEL, n)
    at: uint32_t = 0
    while not ZSTD_isError(got):
        if at + part >= n:
            got = ZSTD_compressEnd(encoder, dst + done, cap - done, src + at, n - at)
            return 0 if ZSTD_isError(got) else cython.cast(uint32_t, done + got)
        got = ZSTD_compressContinue(encoder, dst + done, cap - done, src + at, part)
        if not ZSTD_isError(got):
            done += got
        at += part
    return 0


def densify_record(codec, encoder, src, n, tmp, dst, cap, page, made):
    kind: uint8_t = codec & CODEC_KIND
    typesize: uint32_t = cython.cast(uint32_t, 1) << (codec >> 4)
    head: uint32_t = 0
    packed: uint32_t = page
    length: uint32_t
    planes: uint32_t
    if (
        not page_is_valid(page)
        or n > page
        or codec & CODEC_ZSTD
        or typesize > 16
        or not CODEC_RAW < kind <= CODEC_SPARSE
    ):
        return 0
    if kind == CODEC_DECIMALS:
        head = decimals_head_bytes(src, n, page)
        packed = page // 2
        if head == 0:
            return 0
    cap = min(cap, page)
    if kind == CODEC_SPARSE:
        made[0] = CODEC_LZ4 | CODEC_ZSTD
        return 0 if sparse_join(typesize, src, n, tmp, page) else frame(encoder, page, tmp, page, dst, cap)
    # LZ4 has no use for a state here.
    if head >= n or head >= cap or not unpack(codec, cython.NULL, src + head, n - head, tmp, packed):
        return 0
    made[0] = codec | CODEC_ZSTD
    if kind == CODEC_SHUFFLE:
        return frame(encoder, page // typesize, tmp, page, dst, cap)
    length = frame(encoder, packed, tmp, packed, dst + head, cap - head)
    if kind == CODEC_BITSHUFFLE and typesize > 1:
        bit_unshuffle(typesize, page, tmp, dst, cython.cast(cython.pointer(uint8_t), encoder) - 2 * TILE)
        byte_shuffle(typesize, page, dst, tmp)
        planes = frame(encoder, page // typesize, tmp, page, dst, length - 1 if length else cap)
        if planes:
            made[0] = CODEC_SHUFFLE | (codec & 0xF0) | CODEC_ZSTD
            return planes
        if length == 0 or not unpack(codec, cython.NULL, src, n, tmp, page):
            return 0
        return frame(encoder, page, tmp, page, dst, cap)
    if length == 0:
        return 0
    memcpy(dst, src, head)
    return head + length


def densify(codec: cython.int, data: cython.const[uint8_t][::1], page: cython.Py_ssize_t, cap: cython.int = -1):
    """Return (codec, record) of a record packed anew by zstd, or None where that does not fit in cap bytes."""
    size: uint32_t = check_page(page)
    n: uint32_t = data.shape[0]
    most: uint32_t = (n - 1 if cap < 0 else cap) if 0 < n <= size and 0 <= codec < 256 else 0
    length: uint32_t = 0
    made: uint8_t = 0
    memory: cython.p_void = malloc(dense_encoder_bytes(size) + 2 * size + 64)
    if memory == cython.NULL:
        raise MemoryError
    encoder: cython.pointer[uint8_t] = cython.cast(
        cython.pointer[uint8_t], (cython.cast(cython.size_t, memory) + 63) // 64 * 64
    )
    tmp: cython.pointer[uint8_t] = encoder + dense_encoder_bytes(size)
    try:
        if most:
            with cython.nogil:
                length = densify_record(
                    codec,
                    dense_encoder_init(encoder, size),
                    cython.address(data[0]),
                    n,
                    tmp,
                    tmp + size,
                    most,
                    size,
                    cython.address(made),
                )
        if length == 0:
            return None
        return made, PyBytes_FromStringAndSize(cython.cast(cython.p_char, tmp + size), length)
    finally:
        free(memory)
