/* The tanh squash; and a whole flow, forward or backward in one pass: splines and shears whose parameters come from the
 * state, couplings with a small network of their own, and at the end a mean and a scale. The flow's arrays are (feature or
 * parameter, batch), the batch contiguous.
 */
#include "spline.c"

#include "network.c"

enum { SPLINE, SHEAR, GAUSSIAN, AFFINE_COUPLING, SPLINE_COUPLING };

typedef struct {
    Size kind;
    Size offset;  /* the step's first row of the parameters */
    Size option;  /* SPLINE, SPLINE_COUPLING: the number of bins; SHEAR: whether upper triangular */
    double bound; /* SPLINE, SPLINE_COUPLING: it acts on [-bound, bound]; AFFINE_COUPLING: of the log-scale */
    Size kept;    /* a coupling's features that condition; the rest moves */
    const Size *order; /* its features, those that condition first */
    Size depth;        /* its network's layers */
    const Size *widths;
    Size weights; /* its network's first matrix among all of the flow's */
    Size outputs; /* its network's first row among the outputs of all networks */
} Step;

/* Row of the shear's entry (i, j) in numpy's order of tril (upper: triu) without the diagonal. */
static inline Size entry(Size i, Size j, Size features, int upper) {
    return upper ? i * (features - 1) - i * (i - 1) / 2 + j - i - 1 : i * (i - 1) / 2 + j;
}

static inline void add_product(REAL *out, REAL sign, const REAL *a, const REAL *b, Size n) {
#pragma omp simd
    for (Size l = 0; l < n; l++) out[l] += sign * a[l] * b[l];
}

/* out = x + N x (inverse: solves out + N out = x), N strictly triangular; transposed: the same with N^T. */
static void shear(REAL *out, const REAL *x, const REAL *entries, Size features, Size n, int upper, int inverse,
                  int transposed) {
    memcpy(out, x, (size_t)(features * n) * sizeof(REAL));
    const REAL *source = inverse ? out : x;
    int ascending = upper == transposed; /* row i of a lower triangle needs the rows before it */
    for (Size step = 0; step < features; step++) {
        Size i = ascending ? step : features - 1 - step;
        for (Size j = ascending ? 0 : i + 1; j < (ascending ? i : features); j++) {
            Size row = transposed ? entry(j, i, features, upper) : entry(i, j, features, upper);
            add_product(out + i * n, inverse ? -1 : 1, entries + row * n, source + j * n, n);
        }
    }
}

/* The log-std itself within [low, high] and at most one unit beyond, smoothly (soft_clamp of flow.py); its slope. */
static inline REAL soft_clamp(REAL x, REAL low, REAL high, REAL *slope) {
    REAL inside = x < low ? low : x > high ? high : x;
    REAL beyond = x - inside;
    *slope = 1;
    if (beyond == 0) return inside;
    REAL t = (REAL)tanh((double)beyond);
    *slope = 1 - t * t;
    return inside + t;
}

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

static inline Network network_of(const Step *step) {
    return (Network){step->kept, step->depth, step->widths, step->order};
}

/* y_f = shift + x_f exp(bound tanh(s / bound)) of the feature f, (shift, s) its rows of raw */
static void affine_forward(Size n, REAL bound, int inverse, const REAL *raw, const REAL *x, REAL *y, REAL *ladj) {
#pragma omp simd
    for (Size l = 0; l < n; l++) {
        REAL unused, s = bound * tangent(raw[n + l] / bound, &unused);
        y[l] = inverse ? (x[l] - raw[l]) * exponential(-s) : raw[l] + x[l] * exponential(s);
        ladj[l] += s;
    }
}

/* g: the gradient in y at first, in x at the end. */
static void affine_backward(Size n, REAL bound, int inverse, const REAL *raw, const REAL *x, const REAL *y,
                            const REAL *to_ladj, REAL *g, REAL *to_raw) {
#pragma omp simd
    for (Size l = 0; l < n; l++) {
        REAL unused, t = tangent(raw[n + l] / bound, &unused), s = bound * t;
        REAL scaled = g[l] * exponential(inverse ? -s : s);
        to_raw[l] = inverse ? -scaled : g[l];
        to_raw[n + l] = ((inverse ? -g[l] * y[l] : scaled * x[l]) + to_ladj[l]) * (1 - t * t);
        g[l] = scaled;
    }
}

static void coupling_forward(Size n, Size features, const Step *step, double limit, int inverse, const REAL *context,
                             const REAL *const *weights, const REAL *x, REAL *outputs, REAL *y, REAL *ladj) {
    Network net = network_of(step);
    network_forward(n, &net, weights, context, x, outputs);
    Size moved = features - step->kept, rows = step->widths[step->depth - 1] / moved;
    for (Size l = 0; l < step->depth - 1; l++) outputs += step->widths[l] * n;
    for (Size i = 0; i < features; i++) {
        Size f = step->order[i] * n;
        const REAL *raw = outputs + (i - step->kept) * rows * n;
        if (i < step->kept)
            memcpy(y + f, x + f, (size_t)n * sizeof(REAL));
        else if (step->kind == AFFINE_COUPLING)
            affine_forward(n, (REAL)step->bound, inverse, raw, x + f, y + f, ladj);
        else
            spline_forward(n, 1, (int)step->option, step->bound, limit, inverse, raw, n, 0, 1, x + f, n, 1, y + f, n, ladj);
    }
}

/* scratch: twice as wide as the network's widest layer. */
static void coupling_backward(Size n, Size features, const Step *step, double limit, int inverse,
                              const REAL *const *weights, const REAL *x, const REAL *outputs, const REAL *y,
                              const REAL *to_ladj, REAL *to_state, REAL *scratch, REAL *to_context,
                              REAL *const *to_weights) {
    Network net = network_of(step);
    Size moved = features - step->kept, rows = step->widths[step->depth - 1] / moved, widest = 0;
    const REAL *last = outputs;
    for (Size l = 0; l < step->depth; l++) {
        if (l < step->depth - 1) last += step->widths[l] * n;
        widest = widest < step->widths[l] ? step->widths[l] : widest;
    }
    for (Size i = step->kept; i < features; i++) {
        Size f = step->order[i] * n, at = (i - step->kept) * rows * n;
        if (step->kind == AFFINE_COUPLING)
            affine_backward(n, (REAL)step->bound, inverse, last + at, x + f, y + f, to_ladj, to_state + f, scratch + at);
        else
            spline_backward(n, 1, (int)step->option, step->bound, limit, inverse, last + at, n, 0, 1, x + f, n, 1,
                            to_state + f, n, 1, to_ladj, 1, to_state + f, scratch + at, n, 0, 1);
    }
    network_backward(n, &net, weights, x, outputs, scratch, scratch + widest * n, to_state, to_context, to_weights);
}

/* states: the input and the output of every step in the order they are gone through, (steps + 1, features, batch), the
 * first of them filled in by the caller. ladj: zero at the start; at the end the sum of the forward log-determinants.
 * outputs: of all layers of all networks. */
void flow_forward(Size n, Size features, Size count, const Step *steps, double limit, double low,
                  double high, int inverse, const REAL *parameters, const REAL *const *weights, REAL *states, REAL *outputs,
                  REAL *ladj) {
    for (Size at = 0; at < count; at++) {
        const Step *step = steps + (inverse ? count - 1 - at : at);
        const REAL *x = states + at * features * n, *raw = parameters + step->offset * n;
        REAL *y = states + (at + 1) * features * n;
        if (step->kind == SPLINE) {
            Size rows = 3 * step->option - 1;
            if (n == 1) { /* acting: the features side by side, as a batch is otherwise */
                REAL log_slopes[features];
                memset(log_slopes, 0, sizeof log_slopes);
                spline_forward(features, 1, (int)step->option, step->bound, limit, inverse, raw, 1, 0, rows, x, 0, 1, y, 0,
                               log_slopes);
                for (Size f = 0; f < features; f++) ladj[0] += log_slopes[f];
            } else {
                spline_forward(n, features, (int)step->option, step->bound, limit, inverse, raw, n, rows * n, 1, x, n, 1, y,
                               n, ladj);
            }
        } else if (step->kind == SHEAR) {
            shear(y, x, raw, features, n, (int)step->option, inverse, 0);
        } else if (step->kind != GAUSSIAN) {
            coupling_forward(n, features, step, limit, inverse, raw, weights + step->weights, x, outputs + step->outputs * n,
                             y, ladj);
        } else {
            for (Size f = 0; f < features; f++) {
                const REAL *mean = raw + f * n, *log_std = raw + (features + f) * n;
                REAL *s = y + f * n, slope; /* log-stds first, since a call of tanh would stop the vectors below */
                for (Size l = 0; l < n; l++) s[l] = soft_clamp(log_std[l], (REAL)low, (REAL)high, &slope);
#pragma omp simd
                for (Size l = 0; l < n; l++) {
                    ladj[l] += s[l];
                    s[l] = inverse ? (x[f * n + l] - mean[l]) * exponential(-s[l])
                                   : mean[l] + x[f * n + l] * exponential(s[l]);
                }
            }
        }
    }
}

/* to_state: the gradient in the output at first, in the input at the end (features, batch); scratch: as large, and twice
 * as wide as the networks' widest layer. */
void flow_backward(Size n, Size features, Size count, const Step *steps, double limit, double low,
                   double high, int inverse, const REAL *parameters, const REAL *const *weights,
                   const REAL *states, const REAL *outputs, const REAL *to_ladj, REAL *to_state, REAL *scratch,
                   REAL *to_parameters, REAL *const *to_weights) {
    for (Size at = count - 1; at >= 0; at--) {
        const Step *step = steps + (inverse ? count - 1 - at : at);
        const REAL *x = states + at * features * n, *y = x + features * n, *raw = parameters + step->offset * n;
        REAL *to_raw = to_parameters + step->offset * n;
        if (step->kind == SPLINE) {
            Size rows = 3 * step->option - 1;
            spline_backward(n, features, (int)step->option, step->bound, limit, inverse, raw, n, rows * n, 1, x, n, 1,
                            to_state, n, 1, to_ladj, 1, scratch, to_raw, n, rows * n, 1);
            memcpy(to_state, scratch, (size_t)(features * n) * sizeof(REAL));
        } else if (step->kind == SHEAR) {
            int upper = (int)step->option;
            shear(scratch, to_state, raw, features, n, upper, inverse, 1);
            /* y = x + N x: dL/dN_ij = g_i x_j. Its inverse: minus the gradient in the input i times the output j. */
            const REAL *left = inverse ? scratch : to_state, *right = inverse ? y : x;
            memset(to_raw, 0, (size_t)(features * (features - 1) / 2 * n) * sizeof(REAL));
            for (Size i = 0; i < features; i++)
                for (Size j = upper ? i + 1 : 0; j < (upper ? features : i); j++)
                    add_product(to_raw + entry(i, j, features, upper) * n, inverse ? -1 : 1, left + i * n,
                                right + j * n, n);
            memcpy(to_state, scratch, (size_t)(features * n) * sizeof(REAL));
        } else if (step->kind != GAUSSIAN) {
            coupling_backward(n, features, step, limit, inverse, weights + step->weights, x, outputs + step->outputs * n, y,
                              to_ladj, to_state, scratch, to_raw, to_weights + step->weights);
        } else {
            for (Size f = 0; f < features; f++) {
                const REAL *log_std = raw + (features + f) * n, *in = x + f * n, *out = y + f * n;
                REAL *g = to_state + f * n, *to_mean = to_raw + f * n, *to_log_std = to_raw + (features + f) * n;
                REAL *s = scratch, *slope = scratch + n; /* features >= 2, or the caller gives two rows */
                for (Size l = 0; l < n; l++) s[l] = soft_clamp(log_std[l], (REAL)low, (REAL)high, slope + l);
#pragma omp simd
                for (Size l = 0; l < n; l++) {
                    REAL scaled = g[l] * exponential(inverse ? -s[l] : s[l]);
                    to_mean[l] = inverse ? -scaled : g[l];
                    to_log_std[l] = ((inverse ? -g[l] * out[l] : scaled * in[l]) + to_ladj[l]) * slope[l];
                    g[l] = scaled;
                }
            }
        }
    }
}

/* a = tanh u and log|det| = sum 2 (log 2 - |u| - log(1 + exp(-2 |u|))); a is (feature, batch), ladj zero at the start. */
void tanh_forward(Size n, Size features, const REAL *u, Size u_f, Size u_b, REAL *a, REAL *ladj) {
    for (Size f = 0; f < features; f++)
        for (Size b = 0; b < n; b += LANES) {
            int lanes = n - b < LANES ? (int)(n - b) : LANES;
            Lanes x, y, log_slope;
            gather(x, u + f * u_f + b * u_b, u_b, lanes);
            EACH_LANE y[l] = tangent(x[l], &log_slope[l]);
            for (int l = 0; l < lanes; l++) {
                a[f * n + b + l] = y[l];
                ladj[b + l] += log_slope[l];
            }
        }
}

/* The gradient in u: to_a (1 - a^2) - 2 a to_ladj. */
void tanh_backward(Size n, Size features, const REAL *a, const REAL *to_a, Size to_a_f, Size to_a_b,
                   const REAL *to_ladj, Size to_ladj_b, REAL *to_u) {
    for (Size f = 0; f < features; f++)
        for (Size b = 0; b < n; b++) {
            REAL y = a[f * n + b];
            to_u[f * n + b] = to_a[f * to_a_f + b * to_a_b] * (1 - y * y) - 2 * y * to_ladj[b * to_ladj_b];
        }
}
