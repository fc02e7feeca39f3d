/* Elementary functions that the compiler turns into vector instructions, in float; the C library's in double. */
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef int64_t Size;

#ifdef SINGLE
/* exp on [-87, 87] and log of normal positive numbers, to a unit or two in the last place; NaN stays NaN. */
static inline float exponential(float x) {
    float n = rintf(x * 1.44269504f);
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f; /* log 2 in two parts */
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

static inline float logarithm(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    int32_t exponent = (bits - 0x3f3504f3) >> 23; /* so that the mantissa lies in [sqrt(1/2), sqrt(2)) */
    int32_t mantissa_bits = bits - (exponent << 23);
    float m;
    memcpy(&m, &mantissa_bits, sizeof m);
    float r = m - 1.0f, z = r * r;
    float p = 7.0376836292e-2f;
    p = p * r - 1.1514610310e-1f;
    p = p * r + 1.1676998740e-1f;
    p = p * r - 1.2420140846e-1f;
    p = p * r + 1.4249322787e-1f;
    p = p * r - 1.6668057665e-1f;
    p = p * r + 2.0000714765e-1f;
    p = p * r - 2.4999993993e-1f;
    p = p * r + 3.3333331174e-1f;
    float n = (float)exponent;
    return (p * r * z - n * 2.12194440e-4f - 0.5f * z) + r + n * 0.693359375f + (x - x);
}
#define ROOT sqrtf
#else
#define exponential exp
#define logarithm log
#define ROOT sqrt
#endif

/* tanh and log(1 - tanh^2) */
static inline REAL tangent(REAL x, REAL *log_slope) {
#ifdef SINGLE
    REAL size = x < 0 ? -x : x, clipped = size < 40 ? size : 40, square = clipped * clipped;
    REAL t = exponential(-2 * clipped); /* nothing is left of it beyond */
    REAL large = (1 - t) / (1 + t), near = size < (REAL)0.25;
    REAL small = clipped * (1 + square * (-0.333333333f + square * (0.133333333f + square * (-0.0539682540f +
                 square * 0.0218694885f)))); /* where 1 - t cancels: the series */
    REAL value = near * small + (1 - near) * large;
    *log_slope = 2 * (0.693147181f - size - logarithm(1 + t));
    return x != x ? x : x < 0 ? -value : value;
#else
    *log_slope = 2 * (0.693147180559945309 - fabs(x) - log1p(exp(-2 * fabs(x))));
    return tanh(x);
#endif
}
