/* The inner loops of the benchmark, the same machine code for every subject. Python's own cost per element
 * (0.1 us and more) would hide what is measured here. Built by native.py into a temporary folder. */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

enum { LANES = 8, PIECE = 1 << 20 };

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* In pieces, as a program that reads its input does it: one memcpy of everything would take glibc's path for
 * huge copies, which goes through four pages at a time. */
void fill(char *to, const char *from, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += PIECE)
        memcpy(to + at, from + at, bytes - at < PIECE ? bytes - at : PIECE);
}

/* Reads all words. The sum depends on their order (Fletcher, eight lanes), so that a page in another page's
 * place is a wrong sum too. `words` is a multiple of LANES. */
uint64_t scan(const uint64_t *words, size_t count)
{
    uint64_t plain[LANES] = {0}, ordered[LANES] = {0}, sum = 0;
    for (size_t at = 0; at < count; at += LANES)
        for (int lane = 0; lane < LANES; lane++) {
            plain[lane] += words[at + lane];
            ordered[lane] += plain[lane];
        }
    for (int lane = 0; lane < LANES; lane++)
        sum = (sum * 0x9E3779B97F4A7C15u) ^ ordered[lane] ^ (plain[lane] << 1);
    return sum;
}

/* Sum and exclusive or do not depend on the order: what a sort must keep. */
void mix(const uint64_t *words, size_t count, uint64_t *sum_and_xor)
{
    uint64_t sum = 0, xor = 0;
    for (size_t at = 0; at < count; at++) {
        sum += words[at];
        xor ^= words[at];
    }
    sum_and_xor[0] = sum;
    sum_and_xor[1] = xor;
}

/* First place that is out of order, or -1. */
int64_t unsorted(const double *values, size_t count)
{
    for (size_t at = 1; at < count; at++)
        if (values[at] < values[at - 1])
            return (int64_t)at;
    return -1;
}

int64_t unsorted_words(const uint64_t *values, size_t count)
{
    for (size_t at = 1; at < count; at++)
        if (values[at] < values[at - 1])
            return (int64_t)at;
    return -1;
}

/* Reads and writes every word: the same bits flipped everywhere change no compressor's result. */
void rmw(uint64_t *words, size_t count, uint64_t flip)
{
    for (size_t at = 0; at < count; at++)
        words[at] ^= flip;
}

/* One word at each place, each access timed; with flip != 0 it is changed. Stops at the deadline (0: none).
 * Returns how many were done. */
size_t touch(volatile uint64_t *words, const uint64_t *places, size_t count, uint64_t flip, uint64_t seconds,
             uint64_t *nanoseconds, uint64_t *sum)
{
    uint64_t deadline = seconds ? now() + seconds * 1000000000u : UINT64_MAX, total = 0;
    size_t done;
    for (done = 0; done < count; done++) {
        uint64_t before = now(), after;
        if (before >= deadline)
            break;
        if (flip)
            words[places[done]] ^= flip;
        else
            total += words[places[done]];
        after = now();
        nanoseconds[done] = after - before;
    }
    *sum = total;
    return done;
}

/* First word of `words` that is not that of `expected`, flipped; or -1. */
int64_t differ(const uint64_t *words, const uint64_t *expected, size_t count, uint64_t flip)
{
    for (size_t at = 0; at < count; at++)
        if (words[at] != (expected[at] ^ flip))
            return (int64_t)at;
    return -1;
}
