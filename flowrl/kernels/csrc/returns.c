/* Distributions of returns as a network's outputs give them, and how these learn: critics/heads.py. Arrays are (number,
 * batch), the batch contiguous: of each network what its head reads, (size, n), and its atoms, (atoms, n).
 */
#pragma once
#include "spline.c"
#include "stack.c"

enum { CATEGORICAL, FLOW }; /* heads */

typedef struct {
    int head;
    int bins, is_fixed;  /* of the spline; whether these are equally long in the return, so that nothing is read of them */
    Size atoms;
    double bound, limit; /* returns lie in [-bound, bound]; of the spline's raw numbers */
    const REAL *weights; /* of a flow's atoms in the actor's measure of risk, (atoms) */
} Returns;

/* Fixed return i, or the base's point for the midpoint of slice i of tau. */
static inline REAL fixed_return(const Returns *r, Size i) { return (REAL)(r->bound * (2.0 * (double)i / (double)(r->atoms - 1) - 1)); }
static inline REAL base_point(const Returns *r, Size i) { return (REAL)(r->bound * (2.0 * ((double)i + 0.5) / (double)r->atoms - 1)); }

/* The spline's widths and heights; where the raw numbers would lie if the heights were among them, for its slopes. */
static inline const REAL *constrain_returns(const Returns *r, Block *q, const REAL *raw, Size n, int lanes) {
    if (!r->is_fixed) {
        constrain(q, raw, n, 1, lanes, r->bins, (REAL)(1 / r->limit));
        return raw;
    }
    EACH_LANE q->total[0][l] = 0, q->total[1][l] = (REAL)r->bins;
    for (int i = 0; i < r->bins; i++) {
        Lanes x;
        gather(x, raw + i * n, 1, lanes);
        EACH_LANE q->p[i][l] = positive(x[l], (REAL)(1 / r->limit), &q->slope[i][l]);
        EACH_LANE q->total[0][l] += q->p[i][l];
        EACH_LANE q->p[r->bins + i][l] = 1;
    }
    return raw - r->bins * n;
}

static inline REAL power_of_e(REAL x) { return exponential(x < -80 ? -80 : x); } /* of x up to 0 */

/* The softmax of LANES samples; the logarithm of what normalises it. */
static inline void softmax(Size count, const REAL *raw, Size n, int lanes, REAL (*p)[LANES], REAL *log_total) {
    Lanes highest, total;
    for (Size i = 0; i < count; i++) gather(p[i], raw + i * n, 1, lanes);
    EACH_LANE highest[l] = p[0][l], total[l] = 0;
    for (Size i = 1; i < count; i++) EACH_LANE highest[l] = p[i][l] > highest[l] ? p[i][l] : highest[l];
    for (Size i = 0; i < count; i++) EACH_LANE {
        p[i][l] = power_of_e(p[i][l] - highest[l]);
        total[l] += p[i][l];
    }
    for (Size i = 0; i < count; i++) EACH_LANE p[i][l] /= total[l];
    EACH_LANE log_total[l] = highest[l] + logarithm(total[l]);
}

enum { MAX_ATOMS = 256 };

/* Atoms and their weights, of LANES samples of one network; their mean. */
static void atoms_of(const Returns *r, const REAL *raw, Size n, int lanes, REAL (*values)[LANES], REAL (*weights)[LANES], REAL *mean) {
    EACH_LANE mean[l] = 0;
    if (r->head == CATEGORICAL) {
        Lanes log_total;
        softmax(r->atoms, raw, n, lanes, weights, log_total);
        for (Size i = 0; i < r->atoms; i++) EACH_LANE values[i][l] = fixed_return(r, i);
    } else {
        Block q;
        raw = constrain_returns(r, &q, raw, n, lanes);
        for (Size i = 0; i < r->atoms; i++) {
            Lanes x, log_slope;
            EACH_LANE x[l] = base_point(r, i), weights[i][l] = 1 / (REAL)r->atoms;
            place(&q, raw, n, 1, lanes, x, r->bins, (REAL)r->bound, (REAL)(1 / r->limit), 0);
            image_of(&q, x, 0, values[i], log_slope);
        }
    }
    for (Size i = 0; i < r->atoms; i++) EACH_LANE mean[l] += weights[i][l] * values[i][l];
}

/* The gradients in a spline's raw numbers, gathered over many values. */
typedef struct {
    REAL sums[3 * MAX_BINS][LANES];
} KnotSums;

static inline void add_gradient(KnotSums *to, const Block *q, const Gradient *g, int bins) {
    for (int a = 0; a < 2; a++)
        for (int i = 0; i < bins; i++) EACH_LANE {
            REAL direct = (REAL)i < q->k[l] ? g->edge[a][l] : (REAL)i == q->k[l] ? g->bin[a][l] : 0;
            to->sums[a * bins + i][l] += direct - g->share[a][l];
        }
    for (int i = 0; i < bins - 1; i++)
        EACH_LANE to->sums[2 * bins + i][l] += (REAL)(i + 1) == q->k[l] ? g->d0[l] : (REAL)i == q->k[l] ? g->d1[l] : 0;
}

static inline void write_gradient(const Returns *r, const KnotSums *from, const Block *q, REAL *to_raw, Size n, int lanes) {
    int bins = r->bins, read = r->is_fixed ? bins : 2 * bins; /* widths, and heights where they are free */
    for (int i = 0; i < read; i++)
        for (int l = 0; l < lanes; l++) to_raw[i * n + l] = from->sums[i][l] * q->p[i][l] * q->slope[i][l];
    for (int i = 0; i < bins - 1; i++)
        for (int l = 0; l < lanes; l++) to_raw[(read + i) * n + l] = from->sums[2 * bins + i][l];
}

/* The loss of LANES samples of one network for target atoms (flow) or weights of the fixed returns (categorical), either
 * (atoms, n); the gradient of it times `scale`. */
static void learn_returns(const Returns *r, const REAL *raw, Size n, int lanes, const REAL *target, REAL scale, REAL *loss, REAL *to_raw) {
    EACH_LANE loss[l] = 0;
    if (r->head == CATEGORICAL) { /* cross-entropy: log sum exp - sum of t raw */
        REAL p[MAX_ATOMS][LANES];
        Lanes log_total;
        softmax(r->atoms, raw, n, lanes, p, log_total);
        for (Size i = 0; i < r->atoms; i++) {
            Lanes t, x;
            gather(t, target + i * n, 1, lanes);
            gather(x, raw + i * n, 1, lanes);
            EACH_LANE loss[l] += t[l] * (log_total[l] - x[l]);
            for (int l = 0; l < lanes; l++) to_raw[i * n + l] = scale * (p[i][l] - t[l]);
        }
        return;
    }
    Block q; /* the mean of -log p(y) = log dz/dtau = log slope + log 2 B */
    KnotSums sums = {0};
    REAL share = 1 / (REAL)r->atoms, over_limit = (REAL)(1 / r->limit), bound = (REAL)r->bound;
    Lanes none = {0}, to_ladj;
    EACH_LANE to_ladj[l] = share * scale;
    raw = constrain_returns(r, &q, raw, n, lanes);
    for (Size i = 0; i < r->atoms; i++) {
        Lanes y, x, log_slope;
        Gradient g;
        gather(y, target + i * n, 1, lanes);
        place(&q, raw, n, 1, lanes, y, r->bins, bound, over_limit, 1);
        image_of(&q, y, 1, x, log_slope);
        differentiate(&q, none, to_ladj, r->bins, bound, 1, &g);
        add_gradient(&sums, &q, &g, r->bins);
        EACH_LANE loss[l] += share * (log_slope[l] + (x[l] - x[l])); /* NaN shows */
    }
    REAL log_length = (REAL)log(2 * r->bound);
    EACH_LANE loss[l] += log_length;
    write_gradient(r, &sums, &q, to_raw, n, lanes);
}

/* Where the actor goes: the measure of LANES samples of one network, and the gradient in what the head reads of it times
 * `scale`, one of each sample. */
static void measure_returns(const Returns *r, const REAL *raw, Size n, int lanes, const REAL *scale, REAL *value, REAL *to_raw) {
    EACH_LANE value[l] = 0;
    if (r->head == CATEGORICAL) { /* sum of p z, whose gradient is p (z - mean) */
        REAL p[MAX_ATOMS][LANES];
        Lanes log_total;
        softmax(r->atoms, raw, n, lanes, p, log_total);
        for (Size i = 0; i < r->atoms; i++) EACH_LANE value[l] += p[i][l] * fixed_return(r, i);
        if (to_raw)
            for (Size i = 0; i < r->atoms; i++)
                for (int l = 0; l < lanes; l++) to_raw[i * n + l] = scale[l] * p[i][l] * (fixed_return(r, i) - value[l]);
        return;
    }
    Block q;
    KnotSums sums = {0};
    REAL over_limit = (REAL)(1 / r->limit), bound = (REAL)r->bound;
    Lanes none = {0};
    raw = constrain_returns(r, &q, raw, n, lanes);
    for (Size i = 0; i < r->atoms; i++) {
        Lanes x, z, log_slope, to_image;
        REAL weight = r->weights[i];
        EACH_LANE x[l] = base_point(r, i);
        place(&q, raw, n, 1, lanes, x, r->bins, bound, over_limit, 0);
        image_of(&q, x, 0, z, log_slope);
        EACH_LANE value[l] += weight * z[l];
        if (!to_raw) continue;
        EACH_LANE to_image[l] = weight * scale[l];
        Gradient g;
        differentiate(&q, to_image, none, r->bins, bound, 0, &g);
        add_gradient(&sums, &q, &g, r->bins);
    }
    if (to_raw) write_gradient(r, &sums, &q, to_raw, n, lanes);
}
