/* Work shared out over torch's own OpenMP threads: those of another pool would fight with them over the cores. */
#pragma once
#include "elementary.c"

#ifdef __linux__ /* from whatever library torch has loaded, if any: then these are no null pointers */
extern void GOMP_parallel(void (*)(void *), void *, unsigned, unsigned) __attribute__((weak));
extern int omp_get_thread_num(void) __attribute__((weak));
extern int omp_get_num_threads(void) __attribute__((weak));
#define HAS_THREADS (GOMP_parallel && omp_get_thread_num && omp_get_num_threads)
#endif

typedef void Part(void *job, Size part, Size parts); /* one part of a job, the others of which run beside it */

typedef struct {
    Part *part;
    void *job;
} Shared;

#ifdef HAS_THREADS
static void take_part(void *shared) {
    Shared *s = shared;
    s->part(s->job, omp_get_thread_num(), omp_get_num_threads());
}
#endif

static void share(Part *part, void *job, Size threads) {
#ifdef HAS_THREADS
    if (threads > 1 && HAS_THREADS) {
        GOMP_parallel(take_part, &(Shared){part, job}, (unsigned)threads, 0);
        return;
    }
#endif
    part(job, 0, 1);
}

/* Columns are shared out in blocks, so that vectors stay whole. */
enum { COLUMNS = 64 };

static inline Size blocks(Size n) { return (n + COLUMNS - 1) / COLUMNS; }

/* How many of the batch's columns a part has, and the first of them. */
static inline Size lanes_of(Size n, Size part, Size parts, Size *first) {
    Size end = blocks(n) * (part + 1) / parts * COLUMNS;
    *first = blocks(n) * part / parts * COLUMNS;
    return (end < n ? end : n) - *first;
}
