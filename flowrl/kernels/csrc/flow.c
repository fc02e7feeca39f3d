/* A whole flow, forward or backward in one pass: splines and shears whose parameters come from the state, couplings with a
 * small network of their own, a mean and a scale, and a squash where actions are sampled. Arrays are (feature or parameter, batch), the batch
 * contiguous: rows lie n apart, and a function works on their first lanes. A later part of the batch is the same arrays from
 * its first column on.
 */
#pragma once
#include "network.c"
#include "spline.c"
#include "squash.c"
#include "threads.c"
#include <stdlib.h>

enum StepKind { SPLINE, SHEAR, GAUSSIAN, AFFINE_COUPLING, SPLINE_COUPLING, SQUASH, LOW_RANK_SHEAR };
enum { MAX_RANK = 64 };

typedef struct {
    Size kind;
    Size offset;  /* the step's first row of the parameters */
    Size option;  /* SPLINE, SPLINE_COUPLING: the number of bins; SHEAR: whether upper triangular; LOW_RANK_SHEAR: its
                     rank, negative if upper triangular; SQUASH: whether later */
    double bound; /* SPLINE, SPLINE_COUPLING: it acts on [-bound, bound]; AFFINE_COUPLING: of the log-scale */
    Size kept;    /* a coupling's features that condition; the rest moves */
    const Size *order; /* its features, those that condition first */
    Size depth;        /* its network's layers */
    const Size *widths;
    Size weights; /* its network's first matrix among all of the flow's */
    Size outputs; /* its network's first row among the outputs of all networks */
    double gain;  /* of its network's last weights */
} Step;

/* Row of the shear's entry (i, j) in numpy's order of tril (upper: triu) without the diagonal. */
static inline Size entry(Size i, Size j, Size features, int upper) {
    return upper ? i * (features - 1) - i * (i - 1) / 2 + j - i - 1 : i * (i - 1) / 2 + j;
}

static inline void add_product(REAL *out, REAL sign, const REAL *a, const REAL *b, Size lanes) {
#pragma omp simd
    for (Size l = 0; l < lanes; l++) out[l] += sign * a[l] * b[l];
}

/* Rows lie n apart, those of to to_n. */
static inline void move_rows(REAL *to, Size to_n, const REAL *from, Size n, Size rows, Size lanes) {
    for (Size r = 0; r < rows; r++) memcpy(to + r * to_n, from + r * n, (size_t)lanes * sizeof(REAL));
}

static inline void copy_rows(REAL *to, const REAL *from, Size rows, Size n, Size lanes) {
    move_rows(to, n, from, n, rows, lanes);
}

/* out = x + N x (inverse: solves out + N out = x), N strictly triangular; transposed: the same with N^T. */
static void shear(REAL *out, const REAL *x, const REAL *entries, Size features, Size n, Size lanes, int upper,
                  int inverse, int transposed) {
    copy_rows(out, x, features, n, lanes);
    const REAL *source = inverse ? out : x;
    int ascending = upper == transposed; /* row i of a lower triangle needs the rows before it */
    for (Size step = 0; step < features; step++) {
        Size i = ascending ? step : features - 1 - step;
        for (Size j = ascending ? 0 : i + 1; j < (ascending ? i : features); j++) {
            Size row = transposed ? entry(j, i, features, upper) : entry(i, j, features, upper);
            add_product(out + i * n, inverse ? -1 : 1, entries + row * n, source + j * n, lanes);
        }
    }
}

/* Sums over the features gone through so far, one for each of the rank. */
typedef REAL Sums[MAX_RANK][COLUMNS];

static inline void clear_sums(Sums s, Size rank) { memset(s, 0, (size_t)rank * sizeof *s); }

/* The strictly triangular matrix of rank r, N_ij = u_i . v_j: out = x + N x, or solves out + N out = x. u and v: (features,
 * rank, n). */
static void low_rank_shear(REAL *out, const REAL *x, const REAL *u, const REAL *v, Size features, Size rank, Size n,
                           Size lanes, int upper, int inverse) {
    Sums s;
    clear_sums(s, rank);
    for (Size step = 0; step < features; step++) {
        Size i = upper ? features - 1 - step : step;
        memcpy(out + i * n, x + i * n, (size_t)lanes * sizeof(REAL));
        for (Size k = 0; k < rank; k++) add_product(out + i * n, inverse ? -1 : 1, u + (i * rank + k) * n, s[k], lanes);
        for (Size k = 0; k < rank; k++) add_product(s[k], 1, v + (i * rank + k) * n, (inverse ? out : x) + i * n, lanes);
    }
}

/* g: the gradient in the output; out: that in the input; x: the vector that N multiplies, the input of the shear or the
 * output of its inverse. With T_j = sum of g_i u_i over the i that N takes from j, and s_i the sums of above: dL/dx_j = g_j +
 * v_j . T_j, dL/dv_j = x_j T_j, dL/du_i = g_i s_i; of the inverse all with a minus, and with the solved gradients for g. */
static void low_rank_shear_backward(REAL *out, const REAL *g, const REAL *x, const REAL *u, const REAL *v, REAL *to_u,
                                    Size features, Size rank, Size n, Size lanes, int upper, int inverse) {
    const REAL *given = inverse ? out : g;
    REAL *to_v = to_u + features * rank * n, sign = inverse ? -1 : 1;
    Sums s;
    clear_sums(s, rank);
    low_rank_shear(out, g, v, u, features, rank, n, lanes, !upper, inverse); /* N^T */
    for (Size row = 0; row < 2 * features * rank; row++) memset(to_u + row * n, 0, (size_t)lanes * sizeof(REAL));
    for (Size step = 0; step < features; step++) {
        Size j = upper ? step : features - 1 - step;
        for (Size k = 0; k < rank; k++) {
            add_product(to_v + (j * rank + k) * n, sign, x + j * n, s[k], lanes);
            add_product(s[k], 1, u + (j * rank + k) * n, given + j * n, lanes);
        }
    }
    clear_sums(s, rank);
    for (Size step = 0; step < features; step++) {
        Size i = upper ? features - 1 - step : step;
        for (Size k = 0; k < rank; k++) {
            add_product(to_u + (i * rank + k) * n, sign, given + i * n, s[k], lanes);
            add_product(s[k], 1, v + (i * rank + k) * n, x + i * n, lanes);
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

static inline Network network_of(const Step *step) {
    return (Network){step->kept, step->depth, step->widths, step->order, step->gain};
}

/* y_f = shift + x_f exp(bound tanh(s / bound)) of the feature f, (shift, s) its rows of raw */
static void affine_forward(Size n, Size lanes, REAL bound, int inverse, const REAL *raw, const REAL *x, REAL *y,
                           REAL *ladj) {
#pragma omp simd
    for (Size l = 0; l < lanes; l++) {
        REAL unused, s = bound * tangent(raw[n + l] / bound, &unused);
        y[l] = inverse ? (x[l] - raw[l]) * exponential(-s) : raw[l] + x[l] * exponential(s);
        ladj[l] += s;
    }
}

/* g: the gradient in y at first, in x at the end. */
static void affine_backward(Size n, Size lanes, REAL bound, int inverse, const REAL *raw, const REAL *x, const REAL *y,
                            const REAL *to_ladj, REAL *g, REAL *to_raw) {
#pragma omp simd
    for (Size l = 0; l < lanes; l++) {
        REAL unused, t = tangent(raw[n + l] / bound, &unused), s = bound * t;
        REAL scaled = g[l] * exponential(inverse ? -s : s);
        to_raw[l] = inverse ? -scaled : g[l];
        to_raw[n + l] = ((inverse ? -g[l] * y[l] : scaled * x[l]) + to_ladj[l]) * (1 - t * t);
        g[l] = scaled;
    }
}

static void copy_kept(const Step *step, REAL *y, const REAL *x, Size n, Size lanes) {
    for (Size i = 0; i < step->kept; i++)
        memcpy(y + step->order[i] * n, x + step->order[i] * n, (size_t)lanes * sizeof(REAL));
}

static void coupling_forward(Size n, Size lanes, Size features, const Step *step, double limit, int inverse,
                             const REAL *context, const REAL *const *weights, const REAL *x, REAL *outputs, REAL *y,
                             REAL *ladj) {
    Network net = network_of(step);
    network_forward(n, lanes, &net, weights, context, x, outputs);
    Size rows = net.widths[net.depth - 1] / (features - net.inputs);
    outputs += last_layer(&net) * n;
    copy_kept(step, y, x, n, lanes);
    Size moved = features - step->kept;
    const Size *order = step->order + step->kept;
    if (n == 1 && step->kind == SPLINE_COUPLING) { /* acting: the features side by side, as a batch is otherwise */
        REAL in[moved], out[moved], log_slopes[moved];
        memset(log_slopes, 0, sizeof log_slopes);
        for (Size i = 0; i < moved; i++) in[i] = x[order[i]];
        spline_forward(moved, 1, (int)step->option, step->bound, limit, inverse, outputs, 1, 0, rows, in, 0, 1, out, 0,
                       log_slopes);
        for (Size i = 0; i < moved; i++) y[order[i]] = out[i], ladj[0] += log_slopes[i];
        return;
    }
    for (Size i = 0; i < moved; i++) {
        Size f = order[i] * n;
        const REAL *raw = outputs + i * rows * n;
        if (step->kind == AFFINE_COUPLING)
            affine_forward(n, lanes, (REAL)step->bound, inverse, raw, x + f, y + f, ladj);
        else
            spline_forward(lanes, 1, (int)step->option, step->bound, limit, inverse, raw, n, 0, 1, x + f, n, 1, y + f, n,
                           ladj);
    }
}

static void coupling_backward(Size n, Size lanes, Size features, const Step *step, double limit, int inverse,
                              const REAL *const *weights, const REAL *x, const REAL *outputs, const REAL *y,
                              const REAL *to_ladj, REAL *to_state, REAL *to_context, REAL *gradients) {
    Network net = network_of(step);
    Size rows = net.widths[net.depth - 1] / (features - net.inputs), last = last_layer(&net) * n;
    for (Size i = step->kept; i < features; i++) {
        Size f = step->order[i] * n, at = last + (i - step->kept) * rows * n;
        if (step->kind == AFFINE_COUPLING)
            affine_backward(n, lanes, (REAL)step->bound, inverse, outputs + at, x + f, y + f, to_ladj, to_state + f,
                            gradients + at);
        else
            spline_backward(lanes, 1, (int)step->option, step->bound, limit, inverse, outputs + at, n, 0, 1, x + f, n, 1,
                            to_state + f, n, 1, to_ladj, 1, to_state + f, n, gradients + at, n, 0, 1);
    }
    network_backward(n, lanes, &net, weights, outputs, gradients, to_state);
    copy_rows(to_context, gradients, net.widths[0], n, lanes);
}

typedef struct {
    Size n, lanes; /* rows lie n apart, and the first lanes count */
    Size features, count;
    const Step *steps;
    double limit;     /* of a spline's raw parameters */
    double low, high; /* of the log-stds */
    int inverse;
    const REAL *parameters;
    const REAL *const *weights;
    REAL *states;  /* the input and the output of every step in the order they are gone through, (steps + 1, features, n);
                      the input is filled in by the caller */
    REAL *outputs; /* of all layers of all networks */
    int density;   /* whether ladj shall become log N(z; 0, I) - log|det| */
    REAL *ladj;    /* at the end the sum of the forward log-determinants */
    const REAL *to_ladj; /* the gradient in the log-determinant: in the density minus this */
    REAL *to_state;      /* the gradient in the output at first, in the input at the end, (features, n) */
    REAL *scratch;       /* (features or 2, n) */
    REAL *gradients;     /* in the outputs of all layers of all networks, before their activations */
    REAL *to_parameters;
    REAL *const *to_weights;
} Flow;

/* log|det| becomes log N(z; 0, I) - log|det|. */
static void to_density(Size n, Size lanes, Size features, const REAL *z, REAL *ladj) {
    const REAL half_log_two_pi = (REAL)0.918938533204672742;
    for (Size l = 0; l < lanes; l++) ladj[l] = -ladj[l] - (REAL)features * half_log_two_pi;
    for (Size f = 0; f < features; f++)
        for (Size l = 0; l < lanes; l++) ladj[l] -= (REAL)0.5 * z[f * n + l] * z[f * n + l];
}

/* The gradient of log N(z; 0, I), which has the log-determinant's with the opposite sign. */
static void from_density(Size n, Size lanes, Size features, const REAL *z, const REAL *to_ladj, REAL *to_z) {
    for (Size f = 0; f < features; f++) add_product(to_z + f * n, 1, z + f * n, to_ladj, lanes);
}

static void forward_block(const void *job, Size block) {
    const Flow *flow = job;
    Size n = flow->n, features = flow->features, first = block * COLUMNS, lanes = columns_of(flow->lanes, block);
    int inverse = flow->inverse;
    REAL *ladj = flow->ladj + first;
    for (Size at = 0; at < flow->count; at++) {
        const Step *step = flow->steps + (inverse ? flow->count - 1 - at : at);
        const REAL *x = flow->states + at * features * n + first, *raw = flow->parameters + step->offset * n + first;
        REAL *y = flow->states + (at + 1) * features * n + first;
        if (step->kind == SPLINE) {
            Size rows = 3 * step->option - 1;
            if (n == 1) { /* acting: the features side by side, as a batch is otherwise */
                REAL log_slopes[features];
                memset(log_slopes, 0, sizeof log_slopes);
                spline_forward(features, 1, (int)step->option, step->bound, flow->limit, inverse, raw, 1, 0, rows, x, 0, 1,
                               y, 0, log_slopes);
                for (Size f = 0; f < features; f++) ladj[0] += log_slopes[f];
            } else {
                spline_forward(lanes, features, (int)step->option, step->bound, flow->limit, inverse, raw, n, rows * n, 1, x,
                               n, 1, y, n, ladj);
            }
        } else if (step->kind == SHEAR) {
            shear(y, x, raw, features, n, lanes, (int)step->option, inverse, 0);
        } else if (step->kind == LOW_RANK_SHEAR) {
            Size rank = labs(step->option);
            low_rank_shear(y, x, raw, raw + features * rank * n, features, rank, n, lanes, step->option < 0, inverse);
        } else if (step->kind == SQUASH) {
            for (Size f = 0; f < features; f++) {
                if (step->option) {
                    memcpy(y + f * n, x + f * n, (size_t)lanes * sizeof(REAL));
                    squash_later(lanes, x + f * n, ladj);
                } else { /* only ever forward */
                    squash(lanes, x + f * n, y + f * n, ladj);
                }
            }
        } else if (step->kind != GAUSSIAN) {
            coupling_forward(n, lanes, features, step, flow->limit, inverse, raw, flow->weights + step->weights, x,
                             flow->outputs + step->outputs * n + first, y, ladj);
        } else {
            for (Size f = 0; f < features; f++) {
                const REAL *mean = raw + f * n, *log_std = raw + (features + f) * n;
                REAL *s = y + f * n, slope; /* log-stds first, since a call of tanh would stop the vectors below */
                for (Size l = 0; l < lanes; l++)
                    s[l] = soft_clamp(log_std[l], (REAL)flow->low, (REAL)flow->high, &slope);
#pragma omp simd
                for (Size l = 0; l < lanes; l++) {
                    ladj[l] += s[l];
                    s[l] = inverse ? (x[f * n + l] - mean[l]) * exponential(-s[l])
                                   : mean[l] + x[f * n + l] * exponential(s[l]);
                }
            }
        }
    }
    if (flow->density)
        to_density(n, lanes, features, flow->states + (inverse ? flow->count : 0) * features * n + first, ladj);
}

static void backward_block(const void *job, Size block) {
    const Flow *flow = job;
    Size n = flow->n, features = flow->features, first = block * COLUMNS, lanes = columns_of(flow->lanes, block);
    int inverse = flow->inverse;
    const REAL *to_ladj = flow->to_ladj + first;
    REAL *to_state = flow->to_state + first, *scratch = flow->scratch + first;
    const REAL *z = flow->states + (inverse ? flow->count : 0) * features * n + first;
    if (flow->density && inverse) from_density(n, lanes, features, z, to_ladj, to_state);
    for (Size at = flow->count - 1; at >= 0; at--) {
        const Step *step = flow->steps + (inverse ? flow->count - 1 - at : at);
        const REAL *x = flow->states + at * features * n + first, *y = x + features * n;
        const REAL *raw = flow->parameters + step->offset * n + first;
        REAL *to_raw = flow->to_parameters + step->offset * n + first;
        if (step->kind == SPLINE) {
            Size rows = 3 * step->option - 1;
            spline_backward(lanes, features, (int)step->option, step->bound, flow->limit, inverse, raw, n, rows * n, 1, x, n,
                            1, to_state, n, 1, to_ladj, 1, scratch, n, to_raw, n, rows * n, 1);
            copy_rows(to_state, scratch, features, n, lanes);
        } else if (step->kind == SHEAR) {
            int upper = (int)step->option;
            shear(scratch, to_state, raw, features, n, lanes, upper, inverse, 1);
            /* y = x + N x: dL/dN_ij = g_i x_j. Its inverse: minus the gradient in the input i times the output j. */
            const REAL *left = inverse ? scratch : to_state, *right = inverse ? y : x;
            for (Size i = 0; i < features; i++)
                for (Size j = upper ? i + 1 : 0; j < (upper ? features : i); j++) {
                    REAL *to_entry = to_raw + entry(i, j, features, upper) * n;
                    memset(to_entry, 0, (size_t)lanes * sizeof(REAL));
                    add_product(to_entry, inverse ? -1 : 1, left + i * n, right + j * n, lanes);
                }
            copy_rows(to_state, scratch, features, n, lanes);
        } else if (step->kind == LOW_RANK_SHEAR) {
            Size rank = labs(step->option);
            low_rank_shear_backward(scratch, to_state, inverse ? y : x, raw, raw + features * rank * n, to_raw, features,
                                    rank, n, lanes, step->option < 0, inverse);
            copy_rows(to_state, scratch, features, n, lanes);
        } else if (step->kind == SQUASH) {
            for (Size f = 0; f < features; f++)
                (step->option ? squash_later_gradient : squash_gradient)(lanes, y + f * n, to_ladj, to_state + f * n);
        } else if (step->kind != GAUSSIAN) {
            Size outputs = step->outputs * n + first;
            coupling_backward(n, lanes, features, step, flow->limit, inverse, flow->weights + step->weights, x,
                              flow->outputs + outputs, y, to_ladj, to_state, to_raw, flow->gradients + outputs);
        } else {
            for (Size f = 0; f < features; f++) {
                const REAL *log_std = raw + (features + f) * n, *in = x + f * n, *out = y + f * n;
                REAL *g = to_state + f * n, *to_mean = to_raw + f * n, *to_log_std = to_raw + (features + f) * n;
                REAL *s = scratch, *slope = scratch + n;
                for (Size l = 0; l < lanes; l++)
                    s[l] = soft_clamp(log_std[l], (REAL)flow->low, (REAL)flow->high, slope + l);
#pragma omp simd
                for (Size l = 0; l < lanes; l++) {
                    REAL scaled = g[l] * exponential(inverse ? -s[l] : s[l]);
                    to_mean[l] = inverse ? -scaled : g[l];
                    to_log_std[l] = ((inverse ? -g[l] * out[l] : scaled * in[l]) + to_ladj[l]) * slope[l];
                    g[l] = scaled;
                }
            }
        }
    }
    if (flow->density && !inverse) from_density(n, lanes, features, z, to_ladj, to_state);
}

static inline int has_network(const Step *step) { return step->kind == AFFINE_COUPLING || step->kind == SPLINE_COUPLING; }

/* One panel of the gradients in the networks' weights, once those in their outputs are there for the whole batch. */
static void weights_panel(const void *job, Size panel) {
    const Flow *flow = job;
    for (Size at = 0; at < flow->count; at++) {
        const Step *step = flow->steps + (flow->inverse ? flow->count - 1 - at : at);
        if (!has_network(step)) continue;
        Network net = network_of(step);
        if (panel < network_panels(&net)) {
            Size outputs = step->outputs * flow->n;
            network_panel(flow->n, flow->lanes, &net, panel, flow->states + at * flow->features * flow->n,
                          flow->outputs + outputs, flow->gradients + outputs, flow->to_weights + step->weights);
            return;
        }
        panel -= network_panels(&net);
    }
}

void flow_forward(Size threads, const Flow *flow) {
    memset(flow->ladj, 0, (size_t)flow->lanes * sizeof(REAL));
    share(forward_block, flow, blocks(flow->lanes), threads);
}

void flow_backward(Size threads, const Flow *flow) {
    share(backward_block, flow, blocks(flow->lanes), threads);
    Size tasks = 0;
    for (const Step *step = flow->steps; step < flow->steps + flow->count; step++) {
        Network net = network_of(step);
        tasks += has_network(step) ? network_panels(&net) : 0;
    }
    share(weights_panel, flow, tasks, threads);
}
