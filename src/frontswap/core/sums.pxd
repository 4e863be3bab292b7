# Sums of pages, to see whether one has changed in a moment. Not for records: nobody keeps one.

from frontswap.core.uapi cimport uint32_t, uint64_t

cdef extern from * nogil:
    """
    #include <immintrin.h>
    #include <stdint.h>
    #include <string.h>

    /* As XXH3 does it, nearly as fast as a copy: in each lane the products of the halves of its words, and its
       neighbour's words, so that one word that changes always shows; with other keys from row to row, and turned, so that
       two that change places do. */
    #define FS_LANES 16
    static const uint64_t fs_keys[FS_LANES] = {
        0xbe4ba423396cfeb8u, 0x1cad21f72c81017cu, 0xdb979083e96dd4deu, 0x1f67b3b7a4a44072u,
        0x78e5c0cc4ee679cbu, 0x2172ffcc7dd05a82u, 0x8e2443f7744608b8u, 0x4c263a81e69035e0u,
        0xcb00c391bb52283cu, 0xa32e531b8b65d088u, 0x4ef90da297486471u, 0xd8acdea946ef1938u,
        0x3f349ce33f76faa8u, 0x1d4f0bc7c7bbdcf9u, 0x3159b4cd4be0518au, 0x647378d9c97e9fc8u};

    #define FS_STEP 0x9e3779b97f4a7c15

    static inline void fs_rows_sse2(const void *page, uint32_t n, uint64_t *lanes) {
        const __m128i step = _mm_set1_epi64x((long long)FS_STEP);
        __m128i a[8], k[8];
        for (int j = 0; j < 8; j++) a[j] = k[j] = _mm_loadu_si128((const __m128i *)fs_keys + j);
        for (const __m128i *p = (const __m128i *)page, *end = p + n / 16; p < end; p += 8)
            for (int j = 0; j < 8; j++) {
                __m128i w = _mm_loadu_si128(p + j), x = _mm_xor_si128(w, k[j]);
                a[j] = _mm_or_si128(_mm_slli_epi64(a[j], 23), _mm_srli_epi64(a[j], 41));
                a[j] = _mm_add_epi64(a[j], _mm_mul_epu32(x, _mm_srli_epi64(x, 32)));
                a[j] = _mm_add_epi64(a[j], _mm_shuffle_epi32(w, 0x4e));
                k[j] = _mm_add_epi64(k[j], step);
            }
        memcpy(lanes, a, sizeof a);
    }
    __attribute__((target("avx2"))) static inline void fs_rows_avx2(const void *page, uint32_t n, uint64_t *lanes) {
        const __m256i step = _mm256_set1_epi64x((long long)FS_STEP);
        __m256i a[4], k[4];
        for (int j = 0; j < 4; j++) a[j] = k[j] = _mm256_loadu_si256((const __m256i *)fs_keys + j);
        for (const __m256i *p = (const __m256i *)page, *end = p + n / 32; p < end; p += 4)
            for (int j = 0; j < 4; j++) {
                __m256i w = _mm256_loadu_si256(p + j), x = _mm256_xor_si256(w, k[j]);
                a[j] = _mm256_or_si256(_mm256_slli_epi64(a[j], 23), _mm256_srli_epi64(a[j], 41));
                a[j] = _mm256_add_epi64(a[j], _mm256_mul_epu32(x, _mm256_srli_epi64(x, 32)));
                a[j] = _mm256_add_epi64(a[j], _mm256_shuffle_epi32(w, 0x4e));
                k[j] = _mm256_add_epi64(k[j], step);
            }
        memcpy(lanes, a, sizeof a);
    }
    static inline void fs_page_sum(const void *page, uint32_t n, uint64_t *sum) {
        uint64_t lanes[FS_LANES];
        if (__builtin_cpu_supports("avx2")) fs_rows_avx2(page, n, lanes);
        else fs_rows_sse2(page, n, lanes);
        sum[0] = n;
        sum[1] = ~(uint64_t)n;
        for (int j = 0; j < FS_LANES; j++) {
            sum[0] = (sum[0] ^ lanes[j]) * 0x9e3779b185ebca87u;
            sum[0] ^= sum[0] >> 29;
            sum[1] = (sum[1] + lanes[j]) * 0xc2b2ae3d27d4eb4fu;
            sum[1] ^= sum[1] >> 31;
        }
    }
    """
    void page_sum "fs_page_sum"(const void *page, uint32_t n, uint64_t *sum)  # n: a multiple of 128
