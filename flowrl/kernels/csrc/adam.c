/* A step of Adam (Kingma and Ba 2015, algorithm 1) over the parameters of an optimiser, and of targets that follow them. */
#pragma once
#include <math.h>

#include "threads.c"

typedef struct {
    Size tensors;
    const Size *sizes; /* of each tensor */
    REAL *const *values, *const *gradients, *const *averages, *const *squares;
    float *const *steps;   /* so far, of each tensor */
    REAL *const *targets;  /* move to the values by a share of the distance; NULL for none */
    double rate, beta1, beta2, eps, decay, share;
    int maximize;
} Adam;

enum { CHUNK = 1 << 13 };

static inline Size chunks(Size size) { return (size + CHUNK - 1) / CHUNK; }

static void adam_chunk(const void *job, Size number) {
    const Adam *a = job;
    Size t = 0;
    for (; number >= chunks(a->sizes[t]); t++) number -= chunks(a->sizes[t]);
    Size first = number * CHUNK, last = a->sizes[t] - first < CHUNK ? a->sizes[t] : first + CHUNK;
    double step = *a->steps[t];
    REAL sign = a->maximize ? -1 : 1, decay = (REAL)a->decay, beta1 = (REAL)a->beta1, beta2 = (REAL)a->beta2;
    REAL rest1 = (REAL)(1 - a->beta1), rest2 = (REAL)(1 - a->beta2), eps = (REAL)a->eps, share = (REAL)a->share;
    REAL rate = (REAL)(a->rate / (1 - pow(a->beta1, step)));
    REAL unbias = (REAL)(1 / sqrt(1 - pow(a->beta2, step)));
    REAL *values = a->values[t], *average = a->averages[t], *square = a->squares[t];
    const REAL *gradient = a->gradients[t];
#pragma omp simd
    for (Size i = first; i < last; i++) {
        REAL g = sign * gradient[i] + decay * values[i];
        average[i] = beta1 * average[i] + rest1 * g;
        square[i] = beta2 * square[i] + rest2 * g * g;
        values[i] -= rate * average[i] / (ROOT(square[i]) * unbias + eps);
    }
    if (a->targets) {
        REAL *target = a->targets[t];
#pragma omp simd
        for (Size i = first; i < last; i++) target[i] += share * (values[i] - target[i]);
    }
}

static void adam_step(Size threads, const Adam *a) {
    Size tasks = 0;
    for (Size t = 0; t < a->tensors; t++) {
        *a->steps[t] += 1;
        tasks += chunks(a->sizes[t]);
    }
    share(adam_chunk, a, tasks, threads);
}

/* Of all gradients together; infinite, too, where squares overflow: Adam's averages of them would never recover. */
static double gradient_norm(const Adam *a) {
    double square = 0;
    for (Size t = 0; t < a->tensors; t++) {
        const REAL *g = a->gradients[t];
        for (Size first = 0; first < a->sizes[t]; first += CHUNK) { /* chunks, lest float32 sums round */
            Size last = a->sizes[t] - first < CHUNK ? a->sizes[t] : first + CHUNK;
            REAL sum = 0;
#pragma omp simd reduction(+ : sum)
            for (Size i = first; i < last; i++) sum += g[i] * g[i];
            square += sum;
        }
    }
    return sqrt(square);
}

/* A step, unless the gradients are not finite, by which every parameter would be lost; whether it was taken. */
static int descend(Size threads, const Adam *a) {
    if (!isfinite(gradient_norm(a))) return 0;
    adam_step(threads, a);
    return 1;
}

/* Scales gradients of a norm so that it is at most the limit, as torch.nn.utils.clip_grad_norm_ does. */
static void clip_gradients(const Adam *a, double norm, double limit) {
    REAL factor = (REAL)(limit / (norm + 1e-6));
    if (factor >= 1) return;
    for (Size t = 0; t < a->tensors; t++)
#pragma omp simd
        for (Size i = 0; i < a->sizes[t]; i++) a->gradients[t][i] *= factor;
}
