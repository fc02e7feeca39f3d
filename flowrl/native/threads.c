/* Work shared out over torch's own OpenMP threads: those of another pool would fight with them over the cores. */
#pragma once
#include "elementary.c"

#ifdef __linux__ /* from whatever library torch has loaded, if any: then this is no null pointer */
extern void GOMP_parallel(void (*)(void *), void *, unsigned, unsigned) __attribute__((weak));
#define HAS_THREADS 1
#else
#define HAS_THREADS 0
#endif

typedef void Task(const void *job, Size number); /* one of a job's, which may run in any order and side by side */

typedef struct {
    Task *task;
    const void *job;
    Size count, next;
} Tasks;

/* A thread that is slowed down takes fewer. */
static void take_tasks(void *tasks) {
    Tasks *t = tasks;
    for (Size number; (number = __atomic_fetch_add(&t->next, 1, __ATOMIC_RELAXED)) < t->count;) t->task(t->job, number);
}

static void share(Task *task, const void *job, Size count, Size threads) {
    Tasks tasks = {task, job, count, 0};
#if HAS_THREADS
    if (threads > 1 && count > 1 && GOMP_parallel) {
        GOMP_parallel(take_tasks, &tasks, (unsigned)(threads < count ? threads : count), 0);
        return;
    }
#endif
    take_tasks(&tasks);
}

/* A batch is shared out in blocks of columns, in which vectors stay whole. */
enum { COLUMNS = 64 };

static inline Size blocks(Size n) { return (n + COLUMNS - 1) / COLUMNS; }

static inline Size columns_of(Size n, Size block) { return n - block * COLUMNS < COLUMNS ? n - block * COLUMNS : COLUMNS; }
