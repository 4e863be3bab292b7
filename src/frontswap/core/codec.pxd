# The page codec: how the bytes of one page are made smaller and whole again.
#
# All of it is async-signal-safe (it runs inside a fault): no malloc, no lock, at most 7 KiB of stack.
# Element sizes are powers of two up to 16, pages powers of two from 4 KiB to 2 MiB.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from * nogil:
    """
    #include <stddef.h>
    #include <stdint.h>

    #define CPU_HAS_AVX2() __builtin_cpu_supports("avx2")
    #define CPU_HAS_AVX512() (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"))

    int LZ4_sizeofState(void);
    int LZ4_compress_fast_extState(void *state, const char *src, char *dst, int n, int cap, int acceleration);
    int LZ4_decompress_safe(const char *src, char *dst, int n, int cap);
    unsigned long long ZSTD_XXH64(const void *src, size_t n, unsigned long long seed);
    int32_t blosc2_shuffle(int32_t typesize, int32_t n, const void *src, void *dst);
    int32_t blosc2_unshuffle(int32_t typesize, int32_t n, const void *src, void *dst);

    /* zstd.h with ZSTD_STATIC_LINKING_ONLY, which the wheel does not have: contexts in memory that is there. */
    size_t ZSTD_estimateDCtxSize(void);
    void *ZSTD_initStaticDCtx(void *memory, size_t n);
    size_t ZSTD_decompressBegin(void *context);
    size_t ZSTD_nextSrcSizeToDecompress(void *context);
    size_t ZSTD_decompressContinue(void *context, void *dst, size_t cap, const void *src, size_t n);
    unsigned ZSTD_isError(size_t code);

    /* blosc2_bitshuffle() and its inverse call malloc. The kernels they are made of do not, and are
       global symbols of the (pinned) archive. */
    int64_t bshuf_trans_bit_byte_SSE(const void *in, void *out, size_t n, size_t typesize);
    int64_t bshuf_trans_bit_byte_AVX(const void *in, void *out, size_t n, size_t typesize);
    int64_t bshuf_trans_bit_byte_AVX512(const void *in, void *out, size_t n, size_t typesize);
    int64_t bshuf_trans_byte_bitrow_SSE(const void *in, void *out, size_t n, size_t typesize);
    int64_t bshuf_trans_byte_bitrow_AVX(const void *in, void *out, size_t n, size_t typesize);
    int64_t bshuf_shuffle_bit_eightelem_SSE(const void *in, void *out, size_t n, size_t typesize);
    int64_t bshuf_shuffle_bit_eightelem_AVX(const void *in, void *out, size_t n, size_t typesize);
    int64_t bshuf_shuffle_bit_eightelem_AVX512(const void *in, void *out, size_t n, size_t typesize);
    """
    int LZ4_sizeofState()
    int LZ4_compress_fast_extState(void *state, const char *src, char *dst, int n, int cap, int acceleration)
    int LZ4_decompress_safe(const char *src, char *dst, int n, int cap)
    uint64_t ZSTD_XXH64(const void *src, size_t n, uint64_t seed)
    size_t ZSTD_estimateDCtxSize()
    void *ZSTD_initStaticDCtx(void *memory, size_t n)
    size_t ZSTD_decompressBegin(void *context)
    size_t ZSTD_nextSrcSizeToDecompress(void *context)
    size_t ZSTD_decompressContinue(void *context, void *dst, size_t cap, const void *src, size_t n)
    bint ZSTD_isError(size_t code)
    int32_t blosc2_shuffle(int32_t typesize, int32_t n, const void *src, void *dst)
    int32_t blosc2_unshuffle(int32_t typesize, int32_t n, const void *src, void *dst)
    bint CPU_HAS_AVX2()
    bint CPU_HAS_AVX512()
    int64_t bshuf_trans_bit_byte_SSE(const void *src, void *dst, size_t n, size_t typesize)
    int64_t bshuf_trans_bit_byte_AVX(const void *src, void *dst, size_t n, size_t typesize)
    int64_t bshuf_trans_bit_byte_AVX512(const void *src, void *dst, size_t n, size_t typesize)
    int64_t bshuf_trans_byte_bitrow_SSE(const void *src, void *dst, size_t n, size_t typesize)
    int64_t bshuf_trans_byte_bitrow_AVX(const void *src, void *dst, size_t n, size_t typesize)
    int64_t bshuf_shuffle_bit_eightelem_SSE(const void *src, void *dst, size_t n, size_t typesize)
    int64_t bshuf_shuffle_bit_eightelem_AVX(const void *src, void *dst, size_t n, size_t typesize)
    int64_t bshuf_shuffle_bit_eightelem_AVX512(const void *src, void *dst, size_t n, size_t typesize)

ctypedef int64_t (*bit_kernel)(const void *src, void *dst, size_t n, size_t typesize) noexcept nogil

# The codec byte of a record: kind | log2(element size) << 4; with CODEC_ZSTD it is zstd that packed what LZ4 does else.
cdef enum:
    CODEC_RAW = 0
    CODEC_LZ4 = 1
    CODEC_SHUFFLE = 2
    CODEC_BITSHUFFLE = 3
    CODEC_DECIMALS = 4        # float64 as whole numbers of 4 bytes, then as CODEC_BITSHUFFLE
    CODEC_SPARSE = 5          # elements of 4 or 8 bytes most of which are the same one
    CODEC_KIND = 7
    CODEC_ZSTD = 8            # dense.py
    CODEC_PACK = 128          # several pages in one record: packs.py

cdef enum:
    SMALLEST_PAGE = 4096
    LARGEST_PAGE = 2097152
    TILE = 4096             # bytes that a bit shuffle takes at a time: two of them fit in the L1 cache

# What `state` must have room for, aligned to 64. What is in it between two calls does not matter, but for its last
# part, of codec_decoder_bytes(): zeros at first, touched only where a record of zstd is decompressed, kept from then on.
cdef size_t codec_state_bytes() noexcept nogil
cdef size_t codec_decoder_bytes() noexcept nogil

# The record's length (at most cap), or 0: it does not fit. Needs n bytes of tmp.
cdef uint32_t codec_encode(uint8_t codec, void *state, const uint8_t *src, uint32_t n, uint8_t *tmp, uint8_t *dst,
                           uint32_t cap) noexcept nogil

# 0, or -1: the record is malformed and dst is garbage. Needs page bytes of tmp.
cdef int codec_decompress(uint8_t codec, void *state, const uint8_t *src, uint32_t n, uint8_t *tmp, uint8_t *dst,
                          uint32_t page) noexcept nogil

# Are all 8-byte words of the page the same one?
cdef bint codec_same_filled(const uint8_t *src, uint32_t n, uint64_t *value) noexcept nogil

cdef uint32_t codec_checksum(const uint8_t *src, size_t n, uint64_t seed) noexcept nogil

cdef bint page_is_valid(uint32_t page) noexcept nogil
# For Python: `n`, or a ValueError.
cdef uint32_t check_page(Py_ssize_t n) except 0
# The logarithm of an element's size, or a ValueError.
cdef int check_typesize(int typesize) except -1
# LZ4's or zstd's part of a record: exactly `size` bytes, or False. `state` may be NULL for LZ4.
cdef bint unpack(uint8_t codec, void *state, const uint8_t *src, uint32_t n, uint8_t *dst, uint32_t size) noexcept nogil
# The inverse of a bit shuffle. Needs two tiles of scratch.
cdef void bit_unshuffle(
    uint32_t typesize, uint32_t n, const uint8_t *src, uint8_t *dst, uint8_t *scratch) noexcept nogil
cdef void byte_shuffle(uint32_t typesize, uint32_t n, const uint8_t *src, uint8_t *dst) noexcept nogil
