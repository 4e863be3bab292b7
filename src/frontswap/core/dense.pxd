# A record of a page made anew, denser: zstd in the place of LZ4. For one thread of its own (recompress.py), not for faults.

from libc.stdint cimport uint8_t, uint32_t

cdef extern from * nogil:
    """
    #include <stddef.h>

    /* zstd.h with ZSTD_STATIC_LINKING_ONLY, which the wheel does not have: contexts in memory that is there. */
    typedef struct { unsigned numbers[6]; int strategy; } fs_zstd_compression;
    typedef struct { fs_zstd_compression compression; int size, checksum, no_dictionary; } fs_zstd_parameters;
    fs_zstd_compression ZSTD_getCParams(int level, unsigned long long n, size_t dictionary);
    fs_zstd_parameters ZSTD_getParams(int level, unsigned long long n, size_t dictionary);
    size_t ZSTD_estimateCCtxSize_usingCParams(fs_zstd_compression parameters);
    void *ZSTD_initStaticCCtx(void *memory, size_t n);
    size_t ZSTD_compressBegin_advanced(void *context, const void *dictionary, size_t length,
                                       fs_zstd_parameters parameters, unsigned long long n);
    size_t ZSTD_compressContinue(void *context, void *dst, size_t cap, const void *src, size_t n);
    size_t ZSTD_compressEnd(void *context, void *dst, size_t cap, const void *src, size_t n);
    unsigned ZSTD_isError(size_t code);
    /* A context's size depends on what it compresses: parameters are chosen by that, too. */
    static inline size_t fs_zstd_bytes(int level, size_t most) {
        size_t bytes = 0;
        for (size_t n = 2048; n <= most; n *= 2) {
            size_t one = ZSTD_estimateCCtxSize_usingCParams(ZSTD_getCParams(level, n, 0));
            if (one > bytes) bytes = one;
        }
        return bytes;
    }
    static inline size_t fs_zstd_begin(void *context, int level, size_t n) {
        return ZSTD_compressBegin_advanced(context, NULL, 0, ZSTD_getParams(level, n, 0), n);
    }
    """
    size_t zstd_bytes "fs_zstd_bytes"(int level, size_t most)
    size_t zstd_begin "fs_zstd_begin"(void *context, int level, size_t n)
    void *ZSTD_initStaticCCtx(void *memory, size_t n)
    size_t ZSTD_compressContinue(void *context, void *dst, size_t cap, const void *src, size_t n)
    size_t ZSTD_compressEnd(void *context, void *dst, size_t cap, const void *src, size_t n)
    bint ZSTD_isError(size_t code)

# The record's length (at most cap) and `*made`, its codec byte; or 0: there is none that is as small, or it is
# malformed. `encoder`: dense_encoder_init() of memory for such pages. Needs page bytes of tmp, and of dst whatever cap is.
cdef uint32_t densify_record(uint8_t codec, void *encoder, const uint8_t *src, uint32_t n, uint8_t *tmp, uint8_t *dst,
                             uint32_t cap, uint32_t page, uint8_t *made) noexcept nogil
cdef size_t dense_encoder_bytes(uint32_t page) noexcept nogil
cdef void *dense_encoder_init(void *memory, uint32_t page) noexcept nogil

cdef uint32_t frame(void *encoder, uint32_t part, const uint8_t *src, uint32_t n, uint8_t *dst, uint32_t cap) noexcept nogil
