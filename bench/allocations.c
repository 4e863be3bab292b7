/* Counts what is asked of the allocator, by whichever thread and library. Preloaded (LD_PRELOAD) by allocations.py. */
#include <stddef.h>
#include <stdint.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static int64_t calls;

int64_t allocation_calls(void)
{
    return __atomic_load_n(&calls, __ATOMIC_SEQ_CST);
}

static void count(void)
{
    __atomic_fetch_add(&calls, 1, __ATOMIC_SEQ_CST);
}

void *malloc(size_t size)
{
    count();
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    count();
    return __libc_calloc(n, size);
}

void *realloc(void *old, size_t size)
{
    count();
    return __libc_realloc(old, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    count();
    return __libc_memalign(alignment, size);
}

int posix_memalign(void **to, size_t alignment, size_t size)
{
    count();
    *to = __libc_memalign(alignment, size);
    return *to ? 0 : 12; /* ENOMEM */
}
