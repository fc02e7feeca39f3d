/* A step of Adam (Kingma and Ba 2015, algorithm 1) over parameters that lie end to end, and of a target that follows them. */
#pragma once
#include <math.h>

#include "threads.c"

typedef struct {
    Size size;
    REAL *values, *average, *square;
    REAL *gradient;
    float *count; /* of the steps so far */
    REAL *target; /* moves to the values by a share of the distance; NULL for none */
    double rate, beta1, beta2, eps, decay, share;
    int maximize;
} Adam;

enum { CHUNK = 1 << 13 };

static void adam_chunk(const void *job, Size number) {
    const Adam *a = job;
    Size first = number * CHUNK, last = a->size - first < CHUNK ? a->size : first + CHUNK;
    double count = *a->count;
    REAL sign = a->maximize ? -1 : 1, decay = (REAL)a->decay, beta1 = (REAL)a->beta1, beta2 = (REAL)a->beta2;
    REAL rest1 = (REAL)(1 - a->beta1), rest2 = (REAL)(1 - a->beta2), eps = (REAL)a->eps, share = (REAL)a->share;
    REAL rate = (REAL)(a->rate / (1 - pow(a->beta1, count)));
    REAL unbias = (REAL)(1 / sqrt(1 - pow(a->beta2, count)));
    REAL *values = a->values, *average = a->average, *square = a->square, *target = a->target;
    const REAL *gradient = a->gradient;
#pragma omp simd
    for (Size i = first; i < last; i++) {
        REAL g = sign * gradient[i] + decay * values[i];
        average[i] = beta1 * average[i] + rest1 * g;
        square[i] = beta2 * square[i] + rest2 * g * g;
        values[i] -= rate * average[i] / (ROOT(square[i]) * unbias + eps);
    }
    if (target)
#pragma omp simd
        for (Size i = first; i < last; i++) target[i] += share * (values[i] - target[i]);
}

static void adam_step(Size threads, const Adam *adam) {
    *adam->count += 1;
    share(adam_chunk, adam, (adam->size + CHUNK - 1) / CHUNK, threads);
}
