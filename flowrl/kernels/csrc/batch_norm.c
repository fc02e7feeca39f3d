/* Batch renormalisation (Ioffe 2017) with the activation that follows, and its gradients: networks/batch_renorm.py. */
#pragma once
#include "layers.c"

static const double MOMENTUM = 0.01, WARM_UP = 100000, MAX_RATIO = 3, MAX_SHIFT = 5;

static inline Renormed *renormed(const Stack *s, const Layer *at, Size row) { return s->renormed + at->outputs / s->n + row; }

static inline REAL activated(const Stack *s, REAL y) {
    REAL unused;
    return s->is_tanh ? tangent(y, &unused) : y < 0 ? 0 : y; /* NaN stays NaN */
}

static inline REAL clipped_to(REAL x, double low, double high) { return x < low ? (REAL)low : x > high ? (REAL)high : x; }

/* A row by the moments of its batch, corrected towards the running ones, which follow. */
static void normalize_row(const Stack *s, const Layer *at, Size row) {
    REAL *const *running = s->moments + at->moments;
    REAL *z = s->outputs + at->outputs + row * s->n, *kept = s->normed + at->outputs + row * s->n;
    REAL *running_mean = running[0] + row, *running_variance = running[1] + row;
    REAL scale = s->weights[at->scale][row], shift = s->weights[at->scale + 1][row];
    REAL base = z[0], mean = 0, variance = 0; /* sums of small numbers round less */
#pragma omp simd reduction(+ : mean)
    for (Size b = 0; b < s->lanes; b++) mean += z[b] - base;
    mean = mean / (REAL)s->lanes + base;
#pragma omp simd reduction(+ : variance)
    for (Size b = 0; b < s->lanes; b++) variance += (z[b] - mean) * (z[b] - mean);
    variance /= (REAL)s->lanes;
    Renormed found = {ROOT(variance + (REAL)s->epsilon), 1, 0};
    if (*running[2] >= WARM_UP) {
        REAL deviation = ROOT(*running_variance + (REAL)s->epsilon);
        found.ratio = clipped_to(found.deviation / deviation, 1 / MAX_RATIO, MAX_RATIO);
        found.shift = clipped_to((mean - *running_mean) / deviation, -MAX_SHIFT, MAX_SHIFT);
    }
    if (isfinite(mean) && isfinite(variance)) { /* or the running ones would never be again */
        *running_mean += (REAL)MOMENTUM * (mean - *running_mean);
        *running_variance += (REAL)MOMENTUM * (variance - *running_variance);
    }
    *renormed(s, at, row) = found;
    REAL factor = found.ratio / found.deviation;
#pragma omp simd
    for (Size b = 0; b < s->lanes; b++) {
        kept[b] = (z[b] - mean) * factor + found.shift;
        z[b] = kept[b] * scale + shift;
    }
    for (Size b = 0; b < s->lanes; b++) z[b] = activated(s, z[b]);
}

/* The gradients after a row's scale and shift become those before the norm: with h the row less its mean in deviations,
 * (g - mean g - h mean(g h)) ratio / deviation, g those times the scale. */
static void normalize_row_backward(const Stack *s, const Layer *at, Size row) {
    REAL *g = s->gradients + at->outputs + row * s->n, *kept = s->to_normed + at->outputs + row * s->n;
    const REAL *normed = s->normed + at->outputs + row * s->n;
    const Renormed *found = renormed(s, at, row);
    REAL scale = s->weights[at->scale][row], share = scale / (REAL)s->lanes, factor = found->ratio / found->deviation;
    REAL shift = found->shift, over_ratio = 1 / found->ratio, mean = 0, along = 0;
#pragma omp simd reduction(+ : mean, along)
    for (Size b = 0; b < s->lanes; b++) {
        mean += share * g[b];
        along += share * g[b] * (normed[b] - shift) * over_ratio;
    }
#pragma omp simd
    for (Size b = 0; b < s->lanes; b++) {
        REAL h = (normed[b] - shift) * over_ratio;
        kept[b] = g[b];
        g[b] = (g[b] * scale - mean - h * along) * factor;
    }
}

/* By what running moments multiply a row. */
static inline REAL running_factor(const Stack *s, const Layer *at, Size row) {
    return s->weights[at->scale][row] / ROOT(s->moments[at->moments + 1][row] + (REAL)s->epsilon);
}

/* By the running moments, which stay: each column for itself. */
static void normalize_by_running(const Stack *s, const Layer *at, Size first, Size lanes) {
    const REAL *mean = s->moments[at->moments], *shift = s->weights[at->scale + 1];
    for (Size i = 0; i < at->width; i++) {
        REAL *z = s->outputs + at->outputs + i * s->n + first, factor = running_factor(s, at, i);
        for (Size b = 0; b < lanes; b++) z[b] = activated(s, (z[b] - mean[i]) * factor + shift[i]);
    }
}

static void normalize_by_running_backward(const Stack *s, const Layer *at, Size first, Size lanes) {
    for (Size i = 0; i < at->width; i++) {
        REAL *g = s->gradients + at->outputs + i * s->n + first, factor = running_factor(s, at, i);
        for (Size b = 0; b < lanes; b++) g[b] *= factor;
    }
}
