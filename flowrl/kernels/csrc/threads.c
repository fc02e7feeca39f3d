/* Work shared out over torch's own OpenMP threads: those of another pool would fight with them over the cores. */
#pragma once
#include "elementary.c"

#ifdef __linux__ /* from whatever library torch has loaded, if any: then they are no null pointers */
extern void GOMP_parallel(void (*)(void *), void *, unsigned, unsigned) __attribute__((weak));
extern int omp_get_thread_num(void) __attribute__((weak));
#define HAS_THREADS 1
#else
#define HAS_THREADS 0
static inline int omp_get_thread_num(void) { return 0; }
#endif

enum { MAX_THREADS = 256 };

typedef void Task(const void *job, Size number); /* one of a job's, which may run in any order and side by side */

typedef struct {
    Task *task;
    const void *job;
    Size count, threads;
    Size *taken; /* of each thread's part */
} Tasks;

static inline Size part(const Tasks *t, Size thread) { return thread * t->count / t->threads; }

/* A thread has the same part of the tasks every time, so that its cache still holds what it has worked with; then it takes
 * from the parts of those that are behind. */
static void take_tasks(void *tasks) {
    Tasks *t = tasks;
    Size own = t->threads > 1 ? omp_get_thread_num() : 0;
    for (Size i = 0; i < t->threads; i++) {
        Size thread = (own + i) % t->threads, first = part(t, thread), count = part(t, thread + 1) - first;
        for (Size n; (n = __atomic_fetch_add(t->taken + thread, 1, __ATOMIC_RELAXED)) < count;) t->task(t->job, first + n);
    }
}

static void share(Task *task, const void *job, Size count, Size threads) {
    Size taken[MAX_THREADS];
    Tasks tasks = {task, job, count, 1, taken};
#if HAS_THREADS
    if (threads > 1 && count > 1 && GOMP_parallel && omp_get_thread_num) {
        tasks.threads = threads < count ? threads : count;
        if (tasks.threads > MAX_THREADS) tasks.threads = MAX_THREADS;
        memset(taken, 0, (size_t)tasks.threads * sizeof *taken);
        GOMP_parallel(take_tasks, &tasks, (unsigned)tasks.threads, 0);
        return;
    }
#endif
    taken[0] = 0;
    take_tasks(&tasks);
}

/* A batch is shared out in blocks of columns, in which vectors stay whole. */
enum { COLUMNS = 64 };

static inline Size blocks(Size n) { return (n + COLUMNS - 1) / COLUMNS; }

static inline Size columns_of(Size n, Size block) { return n - block * COLUMNS < COLUMNS ? n - block * COLUMNS : COLUMNS; }
