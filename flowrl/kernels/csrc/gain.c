/* The gain of a layer's weights: g W h + b, see layers/gain.py. The gradients in its output times g are those that W and h
 * take; what they give for b is divided by g again.
 */
#pragma once
#include "elementary.c"

/* Rows of W h + b, but for the first `plain` ones, which have none; or, without a bias, of gradients. */
static void apply_gain(double g, Size plain, Size rows, Size n, Size lanes, REAL *block, const REAL *bias) {
    if (g == 1) return;
    REAL gain = (REAL)g;
    for (Size i = plain; i < rows; i++) {
        REAL *row = block + i * n, rest = bias ? (1 - gain) * bias[i] : 0;
        for (Size b = 0; b < lanes; b++) row[b] = gain * row[b] + rest;
    }
}

static void without_gain(double g, Size plain, Size rows, REAL *to_bias) {
    if (g == 1) return;
    for (Size i = plain; i < rows; i++) to_bias[i] /= (REAL)g;
}
