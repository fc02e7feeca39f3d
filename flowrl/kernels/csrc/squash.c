/* The tanh squash: a = tanh u and log|det| = sum 2 (log 2 - |u| - log(1 + exp(-2 |u|))). */
#pragma once
#include "elementary.c"

/* Of one feature; its log-slopes are added to ladj. */
static void squash(Size lanes, const REAL *u, REAL *a, REAL *ladj) {
#pragma omp simd
    for (Size l = 0; l < lanes; l++) {
        REAL log_slope;
        a[l] = tangent(u[l], &log_slope);
        ladj[l] += log_slope;
    }
}

/* g: the gradient in a at first, in u at the end: g (1 - a^2) - 2 a to_ladj. */
static void squash_gradient(Size lanes, const REAL *a, const REAL *to_ladj, REAL *g) {
#pragma omp simd
    for (Size l = 0; l < lanes; l++) g[l] = g[l] * (1 - a[l] * a[l]) - 2 * a[l] * to_ladj[l];
}

/* Of an action that is emitted before the squash and has the density after it: the log-slopes alone, and the gradient. */
static void squash_later(Size lanes, const REAL *u, REAL *ladj) {
#pragma omp simd
    for (Size l = 0; l < lanes; l++) {
        REAL log_slope;
        tangent(u[l], &log_slope);
        ladj[l] += log_slope;
    }
}

static void squash_later_gradient(Size lanes, const REAL *u, const REAL *to_ladj, REAL *g) {
#pragma omp simd
    for (Size l = 0; l < lanes; l++) {
        REAL unused;
        g[l] -= 2 * tangent(u[l], &unused) * to_ladj[l];
    }
}
