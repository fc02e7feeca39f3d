/* The rational-quadratic spline of transforms/spline.py, value and log-slope, and its gradient, each in one pass.
 *
 * Compiled once for float and once for double (REAL). All arrays are strided (p: parameter, f: feature, b: batch);
 * the loops run over LANES points of the batch at once, so that the compiler can use the processor's vectors.
 * Equation numbers are those of Durkan et al. 2019, Neural Spline Flows.
 */
#pragma once
#include "elementary.c"

enum { LANES = 32, MAX_BINS = 64 };

#define EACH_LANE _Pragma("omp simd") for (int l = 0; l < LANES; l++)
typedef REAL Lanes[LANES];

/* One parameter made positive: exp(raw / sqrt(1 + (raw / limit)^2)); slope is d log(positive) / d raw. */
static inline REAL positive(REAL raw, REAL over_limit, REAL *slope) {
    REAL scaled = raw * over_limit;
    REAL shrink = 1 / ROOT(1 + scaled * scaled);
    *slope = shrink * shrink * shrink;
    return exponential(raw * shrink);
}

/* LANES numbers of the batch; past its end, the first of them again. */
static inline void gather(REAL *out, const REAL *in, Size stride, int lanes) {
    if (lanes == LANES && stride == 1)
        memcpy(out, in, sizeof(Lanes));
    else
        for (int l = 0; l < LANES; l++) out[l] = in[l < lanes ? l * stride : 0];
}

/* Constrained widths and heights of a block of points, and the bin that each point lies in. */
typedef struct {
    REAL p[2 * MAX_BINS][LANES];     /* positive widths, then heights */
    REAL slope[2 * MAX_BINS][LANES]; /* d log p / d raw */
    REAL total[2][LANES];
    REAL below[2][LANES]; /* share of the widths and of the heights below the bin */
    Lanes k, x0, x1, y0, y1, d0, d1, slope0, slope1; /* slope0, slope1: d log d0 / d raw and the same of d1 */
    Lanes s, xi, rest, denominator, rise, numerator, inside;
} Block;

static inline void constrain(Block *q, const REAL *raw, Size raw_p, Size raw_b, int lanes, int bins, REAL over_limit) {
    EACH_LANE q->total[0][l] = q->total[1][l] = 0;
    for (int i = 0; i < 2 * bins; i++) {
        Lanes r;
        gather(r, raw + i * raw_p, raw_b, lanes);
        EACH_LANE q->p[i][l] = positive(r[l], over_limit, &q->slope[i][l]);
        EACH_LANE q->total[i >= bins][l] += q->p[i][l];
    }
}

/* Eq. 4 to 8 in the bins that were found. */
static inline void within_bins(Block *q, const REAL *clipped, int inverse) {
    EACH_LANE {
        REAL width = q->x1[l] - q->x0[l], height = q->y1[l] - q->y0[l];
        REAL s = height / width, d0 = q->d0[l], d1 = q->d1[l], xi, w = 0;
        if (inverse) { /* eq. 6 to 8 in the form that cannot cancel: see evaluate_in_bin in transforms/spline.py */
            w = (clipped[l] - q->y0[l]) / height;
            REAL t = d0 - (d0 + d1) * w, sw = 2 * s * w;
            xi = sw / (t + sw + ROOT(t * t + 2 * s * sw * (1 - w)));
        } else {
            xi = (clipped[l] - q->x0[l]) / width;
        }
        REAL rest = 1 - xi, start = s * xi + d0 * rest;
        q->s[l] = s;
        q->xi[l] = xi;
        q->rest[l] = rest;
        q->denominator[l] = s + (d0 + d1 - 2 * s) * (xi * rest);
        q->rise[l] = inverse ? w : xi * start / q->denominator[l]; /* eq. 4: (y - y_k) / h */
        q->numerator[l] = xi * (d1 * xi + s * rest) + rest * start; /* eq. 5: dy/dx = numerator (s / denominator)^2 */
    }
}

/* The bins of values, once widths and heights are constrained. */
static inline void place(Block *q, const REAL *raw, Size raw_p, Size raw_b, int lanes, const REAL *value, int bins,
                         REAL bound, REAL over_limit, int inverse) {
    Lanes clipped, scale_x, scale_y, sum_x, sum_y, low_x, low_y, raw_low, raw0, raw1;
    EACH_LANE {
        clipped[l] = value[l] < -bound ? -bound : value[l] > bound ? bound : value[l];
        q->inside[l] = value[l] > -bound && value[l] < bound;
        scale_x[l] = 2 * bound / q->total[0][l];
        scale_y[l] = 2 * bound / q->total[1][l];
        sum_x[l] = sum_y[l] = raw_low[l] = 0;
        low_x[l] = low_y[l] = -bound;
        q->k[l] = q->x0[l] = q->x1[l] = q->y0[l] = q->y1[l] = raw0[l] = raw1[l] = 0;
        q->below[0][l] = q->below[1][l] = 0;
    }
    const REAL *low = inverse ? low_y : low_x;
    for (int k = 0; k < bins; k++) {
        Lanes raw_high = {0}, high_x, high_y, here; /* slope 1, that is raw 0, at both ends */
        if (k < bins - 1) gather(raw_high, raw + (2 * bins + k) * raw_p, raw_b, lanes);
        EACH_LANE here[l] = clipped[l] >= low[l];
        /* Selection by multiplication: exact, and unlike a masked store it is fast on every processor. */
#define SELECT(old, new) EACH_LANE old[l] = here[l] * new[l] + (1 - here[l]) * old[l]
        EACH_LANE q->k[l] += k > 0 ? here[l] : 0;
        SELECT(q->x0, low_x);
        SELECT(q->y0, low_y);
        SELECT(q->below[0], sum_x);
        SELECT(q->below[1], sum_y);
        SELECT(raw0, raw_low);
        SELECT(raw1, raw_high);
        EACH_LANE {
            sum_x[l] += q->p[k][l];
            sum_y[l] += q->p[bins + k][l];
            high_x[l] = sum_x[l] * scale_x[l] - bound;
            high_y[l] = sum_y[l] * scale_y[l] - bound;
        }
        if (k == bins - 1) EACH_LANE high_x[l] = high_y[l] = bound;
        SELECT(q->x1, high_x);
        SELECT(q->y1, high_y);
        EACH_LANE {
            low_x[l] = high_x[l];
            low_y[l] = high_y[l];
            raw_low[l] = raw_high[l];
        }
    }
    EACH_LANE q->d0[l] = positive(raw0[l], over_limit, &q->slope0[l]);
    EACH_LANE q->d1[l] = positive(raw1[l], over_limit, &q->slope1[l]);
    within_bins(q, clipped, inverse);
}

static inline void locate(Block *q, const REAL *raw, Size raw_p, Size raw_b, int lanes, const REAL *value, int bins,
                          REAL bound, REAL over_limit, int inverse) {
    constrain(q, raw, raw_p, raw_b, lanes, bins, over_limit);
    place(q, raw, raw_p, raw_b, lanes, value, bins, bound, over_limit, inverse);
}

/* The spline's image and log dy/dx at the values that were placed. */
static inline void image_of(const Block *q, const REAL *value, int inverse, REAL *out, REAL *log_slope) {
    EACH_LANE {
        REAL ratio = q->s[l] / q->denominator[l];
        REAL slope = q->numerator[l] * ratio * ratio;
        REAL spline = inverse ? q->x0[l] + (q->x1[l] - q->x0[l]) * q->xi[l]
                              : q->y0[l] + (q->y1[l] - q->y0[l]) * q->rise[l];
        /* Not "inside ? spline : value": a parameter that is NaN shows wherever the value lies. */
        out[l] = q->inside[l] != 0 ? spline : value[l] + (spline - spline);
        log_slope[l] = q->inside[l] * logarithm(slope);
    }
}

/* Gradients at the values that were placed: in these, and in what the knots beside them are made of. */
typedef struct {
    Lanes value, edge[2], bin[2], share[2], d0, d1;
} Gradient;

static inline void differentiate(const Block *q, const REAL *from_image, const REAL *from_ladj, int bins, REAL bound,
                                 int inverse, Gradient *to) {
    EACH_LANE {
        REAL in = q->inside[l], g = from_image[l], g_in = in * g, g_log = in * from_ladj[l];
        REAL width = q->x1[l] - q->x0[l], height = q->y1[l] - q->y0[l];
        REAL s = q->s[l], d0 = q->d0[l], d1 = q->d1[l], xi = q->xi[l], rest = q->rest[l];
        REAL across = xi * rest, tilt = rest - xi, over = 1 / q->denominator[l], ratio = s * over;
        REAL dy_dxi = q->numerator[l] * ratio * ratio * width;
        /* log slope = 2 log s - 2 log D + log M, D the denominator and M the numerator */
        REAL to_m = g_log / q->numerator[l], to_d = -2 * g_log * over;
        REAL to_xi = to_d * (d0 + d1 - 2 * s) * tilt + 2 * to_m * (d1 * xi + s * tilt - d0 * rest);
        REAL to_y, to_width, to_x0;
        if (inverse) { /* x = x_k + w xi, and xi solves y = y_k + h F(xi): the implicit function theorem */
            to->value[l] = (to_xi + g_in * width) / dy_dxi;
            to_y = -to->value[l];
            to_width = g_in * xi;
            to_x0 = g_in;
        } else { /* y = y_k + h F(xi), xi = (x - x_k) / w */
            to->value[l] = (to_xi + g_in * dy_dxi) / width;
            to_y = g_in;
            to_width = -xi * to->value[l];
            to_x0 = -to->value[l];
        }
        /* dF/ds = (xi^2 - F (1 - 2 across)) / D, dF/dd0 = across (1 - F) / D, dF/dd1 = -across F / D */
        REAL to_f = to_y * height * over, common = to_d - to_f * q->rise[l];
        REAL to_s = to_f * xi * xi + common * (1 - 2 * across) + 2 * (to_m * across + g_log / s);
        REAL to_height = to_y * q->rise[l] + to_s / width;
        to_width -= to_s * ratio * q->denominator[l] / width;
        to->d1[l] = common * across + to_m * xi * xi;
        to->d0[l] = (common + to_f) * across + to_m * rest * rest;
        to->value[l] += g - g_in;
        /* x_k = 2 B C_k / C_K - B and w = 2 B p_k / C_K, C the cumulative sums of the positive numbers p */
        REAL scale_x = 2 * bound / q->total[0][l], scale_y = 2 * bound / q->total[1][l];
        int k = (int)q->k[l];
        to->edge[0][l] = to_x0 * scale_x;
        to->bin[0][l] = to_width * scale_x;
        to->share[0][l] = (to->edge[0][l] * q->below[0][l] + to->bin[0][l] * width / scale_x) / q->total[0][l];
        to->edge[1][l] = to_y * scale_y;
        to->bin[1][l] = to_height * scale_y;
        to->share[1][l] = (to->edge[1][l] * q->below[1][l] + to->bin[1][l] * height / scale_y) / q->total[1][l];
        to->d0[l] *= k > 0 ? q->d0[l] * q->slope0[l] : 0;
        to->d1[l] *= k < bins - 1 ? q->d1[l] * q->slope1[l] : 0;
    }
}

/* image and the sum over the features of log dy/dx, which is added to ladj. */
void spline_forward(Size batch, Size features, int bins, double bound_, double limit, int inverse,
                    const REAL *raw, Size raw_p, Size raw_f, Size raw_b, const REAL *value, Size value_f, Size value_b,
                    REAL *image, Size image_f, REAL *ladj) {
    REAL bound = (REAL)bound_, over_limit = (REAL)(1 / limit);
    Block q;
    for (Size f = 0; f < features; f++)
        for (Size b = 0; b < batch; b += LANES) {
            int lanes = batch - b < LANES ? (int)(batch - b) : LANES;
            Lanes v, out, log_slope;
            gather(v, value + f * value_f + b * value_b, value_b, lanes);
            locate(&q, raw + f * raw_f + b * raw_b, raw_p, raw_b, lanes, v, bins, bound, over_limit, inverse);
            image_of(&q, v, inverse, out, log_slope);
            for (int l = 0; l < lanes; l++) {
                image[f * image_f + b + l] = out[l];
                ladj[b + l] += log_slope[l];
            }
        }
}

/* Gradients in value and in raw, from those in image and in ladj. */
void spline_backward(Size batch, Size features, int bins, double bound_, double limit, int inverse,
                     const REAL *raw, Size raw_p, Size raw_f, Size raw_b, const REAL *value, Size value_f, Size value_b,
                     const REAL *to_image, Size image_f, Size image_b, const REAL *to_ladj, Size ladj_b,
                     REAL *to_value, Size to_value_f, REAL *to_raw, Size to_raw_p, Size to_raw_f, Size to_raw_b) {
    REAL bound = (REAL)bound_, over_limit = (REAL)(1 / limit);
    Block q;
    for (Size f = 0; f < features; f++)
        for (Size b = 0; b < batch; b += LANES) {
            int lanes = batch - b < LANES ? (int)(batch - b) : LANES;
            Lanes v, from_image, from_ladj;
            Gradient to;
            gather(v, value + f * value_f + b * value_b, value_b, lanes);
            locate(&q, raw + f * raw_f + b * raw_b, raw_p, raw_b, lanes, v, bins, bound, over_limit, inverse);
            gather(from_image, to_image + f * image_f + b * image_b, image_b, lanes);
            gather(from_ladj, to_ladj + b * ladj_b, ladj_b, lanes);
            differentiate(&q, from_image, from_ladj, bins, bound, inverse, &to);
            for (int a = 0; a < 2; a++)
                for (int i = 0; i < bins; i++) {
                    REAL *out = to_raw + (a * bins + i) * to_raw_p + f * to_raw_f + b * to_raw_b;
                    Lanes g;
                    EACH_LANE {
                        REAL direct = (REAL)i < q.k[l] ? to.edge[a][l] : (REAL)i == q.k[l] ? to.bin[a][l] : 0;
                        g[l] = (direct - to.share[a][l]) * q.p[a * bins + i][l] * q.slope[a * bins + i][l];
                    }
                    for (int l = 0; l < lanes; l++) out[l * to_raw_b] = g[l];
                }
            for (int i = 0; i < bins - 1; i++) {
                REAL *out = to_raw + (2 * bins + i) * to_raw_p + f * to_raw_f + b * to_raw_b;
                Lanes g;
                EACH_LANE g[l] = (REAL)(i + 1) == q.k[l] ? to.d0[l] : (REAL)i == q.k[l] ? to.d1[l] : 0;
                for (int l = 0; l < lanes; l++) out[l * to_raw_b] = g[l];
            }
            for (int l = 0; l < lanes; l++) to_value[f * to_value_f + b + l] = to.value[l];
        }
}
