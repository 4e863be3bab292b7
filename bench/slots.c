/* What the hooks are compared with: writing pages to their slots, and nothing else. Built by slots.py. */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <unistd.h>

/* One pwrite for each page, at the offset of its slot. 0 or an errno. */
int write_pages(int fd, const char *data, size_t page, const uint32_t *offsets, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        ssize_t done = pwrite(fd, data + i * page, page, (off_t)offsets[i] * (off_t)page);
        if (done != (ssize_t)page)
            return done < 0 ? errno : EIO;
    }
    return 0;
}

/* What two threads that share nothing get of this machine: a dependent chain of multiplications. */
uint64_t spin(uint64_t turns)
{
    uint64_t x = 1;
    while (turns--)
        x = (x ^ (x >> 31)) * 0x9E3779B97F4A7C15u + turns;
    return x;
}
