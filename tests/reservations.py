"""A storm on reserved mappings, in C: threads that commit, decommit, protect and touch, and know what must be there."""

from __future__ import annotations

# Each thread owns every THREADS-th run of pieces of one mapping that all share, and knows what each piece is and has:
# neighbours are split and joined all the time. Touchers know nothing but that a piece has its own bytes, or zeros.
STORM = """
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CLOSED, OPEN, HIDDEN, READABLE, FOREIGN };
#define PIECE 4096
#define RUN 24                                   /* pieces that one thread has in a row */

typedef struct { unsigned char *at; size_t pieces; int threads, turns, seed, file; volatile int stop; } game_t;
typedef struct { game_t *game; int number; } player_t;
typedef struct { uint64_t mark; int kind; } model_t;

static int wrong, caught_elsewhere;
static __thread sigjmp_buf back;
static __thread volatile int armed;
static __thread unsigned char *volatile expected;

static void on_signal(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (!armed) {
        signal(number, SIG_DFL);
        return;
    }
    if (number != SIGSEGV || info->si_code != SEGV_ACCERR || (unsigned char *)info->si_addr != expected)
        __atomic_fetch_add(&caught_elsewhere, 1, __ATOMIC_RELAXED);
    siglongjmp(back, 1);
}
void storm_signals(void)
{
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, 0);
}
/* 1: done; 0: SIGSEGV. */
static int touch(unsigned char *at, int write, uint64_t *value)
{
    expected = at;
    armed = 1;
    if (sigsetjmp(back, 1)) {
        armed = 0;
        return 0;
    }
    if (write)
        *(volatile uint64_t *)at = *value;
    else
        *value = *(volatile uint64_t *)at;
    armed = 0;
    return 1;
}
static void say(const char *what, size_t piece, int kind)
{
    fprintf(stderr, "storm: %s: piece %zu, kind %d, errno %d\\n", what, piece, kind, errno);
    __atomic_fetch_add(&wrong, 1, __ATOMIC_RELAXED);
}
static uint64_t word(uint64_t mark, int i) { return mark + (uint64_t)i * 0x10001; }
static void fill(unsigned char *at, uint64_t mark)
{
    for (int i = 0; i < PIECE / 8; i += 7)
        ((volatile uint64_t *)at)[i] = word(mark, i);
}
static int has(const unsigned char *at, uint64_t mark)
{
    for (int i = 0; i < PIECE / 8; i += 7)
        if (((volatile uint64_t *)at)[i] != (mark ? word(mark, i) : 0))
            return 0;
    return 1;
}
static void check(game_t *g, model_t *m, size_t piece)
{
    unsigned char *at = g->at + piece * PIECE;
    uint64_t value = 0;
    int kind = m[piece].kind;
    if (kind == CLOSED || kind == HIDDEN) {
        if (touch(at + 8, 0, &value) || touch(at + 16, 1, &value))
            say("a touch that must not be", piece, kind);
    } else if (kind == READABLE) {
        if (!has(at, m[piece].mark))
            say("wrong bytes", piece, kind);
        if (touch(at + 8, 1, &value))
            say("a write that must not be", piece, kind);
    } else if (kind == OPEN) {
        if (!has(at, m[piece].mark))
            say("wrong bytes", piece, kind);
    } else if (((volatile uint64_t *)at)[1] != 0x5A5A5A5A5A5A5A5AULL) {
        say("not the file", piece, kind);
    }
}
/* ENOMEM is an answer: as much is pinned as may be, or counted. Then the pieces are looked at one by one. */
static void *play(void *argument)
{
    player_t *player = argument;
    game_t *g = player->game;
    model_t *m = calloc(g->pieces, sizeof *m);
    unsigned seed = g->seed * 100 + player->number;
    size_t runs = g->pieces / RUN / g->threads;
    for (int turn = 0; turn < g->turns; turn++) {
        size_t first = (rand_r(&seed) % runs * g->threads + player->number) * RUN + rand_r(&seed) % RUN;
        size_t end = first + 1 + rand_r(&seed) % (RUN - first % RUN), i;
        unsigned char *at = g->at + first * PIECE;
        size_t n = (end - first) * PIECE;
        int what = rand_r(&seed) % 12, foreign = 0;
        for (i = first; i < end; i++) {
            check(g, m, i);
            foreign |= m[i].kind == FOREIGN;
        }
        if (foreign && what < 10)
            what = 6 + what % 3;                 /* mprotect() is the file's then: map over it */
        if (what < 3) {                          /* commit, or show */
            if (mprotect(at, n, PROT_READ | PROT_WRITE) == 0)
                for (i = first; i < end; i++)
                    m[i].kind = OPEN;
            else
                abort();
        } else if (what == 3 || what == 4) {     /* hide */
            if (mprotect(at, n, PROT_NONE) == 0) {
                for (i = first; i < end; i++)
                    if (m[i].kind != CLOSED)
                        m[i].kind = m[i].mark ? HIDDEN : CLOSED;
            } else
                abort();
        } else if (what == 5) {                  /* guard, one piece */
            if (mprotect(at, PIECE, PROT_READ) == 0)
                m[first].kind = READABLE;
            else if (errno != ENOMEM)
                abort();
        } else if (what == 6 || what == 7) {     /* decommit, or commit anew */
            int protection = what == 6 ? PROT_NONE : PROT_READ | PROT_WRITE;
            if (mmap(at, n, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != at)
                abort();
            for (i = first; i < end; i++)
                m[i] = (model_t){0, what == 6 ? CLOSED : OPEN};
        } else if (what == 8) {                  /* a file */
            if (mmap(at, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, g->file, 0) != at)
                abort();
            for (i = first; i < end; i++)
                m[i] = (model_t){0, FOREIGN};
        } else if (!foreign) {                   /* empty */
            if (madvise(at, n, MADV_DONTNEED) != 0)
                abort();
            for (i = first; i < end; i++) {
                m[i].mark = 0;
                if (m[i].kind == HIDDEN)
                    m[i].kind = CLOSED;
            }
        }
        for (i = first; i < end; i++)
            if (m[i].kind == OPEN && rand_r(&seed) % 4) {
                m[i].mark = ((uint64_t)(i + 1) << 40) | ((uint64_t)turn << 8);
                fill(g->at + i * PIECE, m[i].mark);
            }
        for (i = first; i < end; i++)
            check(g, m, i);
    }
    for (size_t i = 0; i < g->pieces; i++)
        if (i / RUN % g->threads == (size_t)player->number)
            check(g, m, i);
    free(m);
    return 0;
}
/* Whatever is there is the piece's own, or zeros; whoever may not look gets SIGSEGV. Reads only. */
static void look(game_t *g, size_t piece)
{
    uint64_t value = 0;
    unsigned char *at = g->at + piece * PIECE;
    if (touch(at, 0, &value) && value && value != 0x5A5A5A5A5A5A5A5AULL && value >> 40 != piece + 1)
        say("another's bytes", piece, -1);
}
static void *watch(void *argument)
{
    player_t *player = argument;
    unsigned seed = player->number;
    while (!player->game->stop)
        look(player->game, rand_r(&seed) % player->game->pieces);
    return 0;
}
void storm_sweep(unsigned char *at, size_t n)
{
    game_t g = {.at = at, .pieces = n / PIECE};
    for (size_t piece = 0; piece < g.pieces; piece++)
        look(&g, piece);
}
int storm(unsigned char *at, size_t n, int threads, int watchers, int turns, int seed, int file)
{
    game_t g = {at, n / PIECE, threads, turns, seed, file, 0};
    pthread_t all[32];
    player_t players[32];
    for (int i = 0; i < threads + watchers; i++) {
        players[i] = (player_t){&g, i};
        pthread_create(&all[i], 0, i < threads ? play : watch, &players[i]);
    }
    for (int i = 0; i < threads; i++)
        pthread_join(all[i], 0);
    g.stop = 1;
    for (int i = threads; i < threads + watchers; i++)
        pthread_join(all[i], 0);
    return wrong + caught_elsewhere;
}
int storm_wrong(void) { return wrong + caught_elsewhere; }
"""
