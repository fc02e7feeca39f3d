/* Distributions of returns as a network's outputs give them, and how these learn: critics/heads.py. Arrays are (number,
 * batch), the batch contiguous: of each network what its head reads, (size, n), and its atoms, (atoms, n).
 */
#pragma once
#include "spline.c"
#include "stack.c"

enum Head { CATEGORICAL, FLOW, SCALAR }; /* the last has one atom, the mean */

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

/* A block of splines, constrained once for the many values that are placed in each. */
typedef struct {
    Block q;
    REAL knots[2][MAX_BINS + 1][LANES]; /* base points and returns */
    REAL below[2][MAX_BINS + 1][LANES]; /* share of the widths and of the heights below each knot */
    REAL d[MAX_BINS + 1][LANES], slope[MAX_BINS + 1][LANES]; /* slopes there, and d log d / d raw */
} Splines;

static void prepare(const Returns *r, Splines *s, const REAL *raw, Size n, int lanes) {
    int bins = r->bins, read = r->is_fixed ? bins : 2 * bins;
    REAL over_limit = (REAL)(1 / r->limit), bound = (REAL)r->bound;
    Block *q = &s->q;
    EACH_LANE q->total[0][l] = q->total[1][l] = 0;
    for (int i = 0; i < 2 * bins; i++) {
        Lanes x = {0};
        if (i < read) gather(x, raw + i * n, 1, lanes);
        EACH_LANE q->p[i][l] = positive(x[l], over_limit, &q->slope[i][l]);
        EACH_LANE {
            s->below[i >= bins][i % bins][l] = q->total[i >= bins][l];
            q->total[i >= bins][l] += q->p[i][l];
        }
    }
    for (int a = 0; a < 2; a++)
        for (int i = 0; i <= bins; i++) EACH_LANE {
            REAL scale = 2 * bound / q->total[a][l];
            s->knots[a][i][l] = i == bins ? bound : s->below[a][i][l] * scale - bound;
        }
    for (int i = 0; i <= bins; i++) {
        Lanes x = {0}; /* slope 1, that is raw 0, at both ends */
        if (i > 0 && i < bins) gather(x, raw + (read + i - 1) * n, 1, lanes);
        EACH_LANE s->d[i][l] = positive(x[l], over_limit, &s->slope[i][l]);
    }
}

/* As place() of spline.c, of values in [-bound, bound]. */
static inline void find(const Returns *r, Splines *s, const REAL *value, int inverse) {
    Block *q = &s->q;
    Lanes clipped;
    EACH_LANE {
        REAL bound = (REAL)r->bound;
        clipped[l] = value[l] < -bound ? -bound : value[l] > bound ? bound : value[l];
        q->inside[l] = value[l] > -bound && value[l] < bound;
        q->k[l] = 0;
    }
    for (int i = 1; i < r->bins; i++) EACH_LANE q->k[l] += clipped[l] >= s->knots[inverse][i][l];
    for (int l = 0; l < LANES; l++) {
        int k = (int)q->k[l];
        q->x0[l] = s->knots[0][k][l], q->x1[l] = s->knots[0][k + 1][l];
        q->y0[l] = s->knots[1][k][l], q->y1[l] = s->knots[1][k + 1][l];
        q->d0[l] = s->d[k][l], q->d1[l] = s->d[k + 1][l];
        q->slope0[l] = s->slope[k][l], q->slope1[l] = s->slope[k + 1][l];
        q->below[0][l] = s->below[0][k][l], q->below[1][l] = s->below[1][k][l];
    }
    within_bins(q, clipped, inverse);
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
    } else if (r->head == SCALAR) {
        gather(values[0], raw, 1, lanes);
        EACH_LANE weights[0][l] = 1;
    } else {
        Splines s;
        prepare(r, &s, raw, n, lanes);
        for (Size i = 0; i < r->atoms; i++) {
            Lanes x, log_slope;
            EACH_LANE x[l] = base_point(r, i), weights[i][l] = 1 / (REAL)r->atoms;
            find(r, &s, x, 0);
            image_of(&s.q, x, 0, values[i], log_slope);
        }
    }
    for (Size i = 0; i < r->atoms; i++) EACH_LANE mean[l] += weights[i][l] * values[i][l];
}

/* The gradients of many values in the knots: at each place the part that all bins below it share, and the bin's own. */
typedef struct {
    REAL edge[2][MAX_BINS][LANES], bin[2][MAX_BINS][LANES], share[2][LANES], d[MAX_BINS + 1][LANES];
} KnotSums;

static inline void add_gradient(KnotSums *to, const Block *q, const Gradient *g, int axes) {
    for (int a = 0; a < axes; a++) EACH_LANE to->share[a][l] += g->share[a][l];
    for (int l = 0; l < LANES; l++) {
        int k = (int)q->k[l];
        for (int a = 0; a < axes; a++) to->edge[a][k][l] += g->edge[a][l], to->bin[a][k][l] += g->bin[a][l];
        to->d[k][l] += g->d0[l], to->d[k + 1][l] += g->d1[l];
    }
}

static inline void write_gradient(const Returns *r, const KnotSums *from, const Block *q, REAL *to_raw, Size n, int lanes) {
    int bins = r->bins, axes = r->is_fixed ? 1 : 2; /* widths, and heights where they are free */
    for (int a = 0; a < axes; a++) {
        Lanes above = {0}; /* what the bins above have given to all below them */
        for (int i = bins - 1; i >= 0; i--) {
            Lanes g;
            EACH_LANE g[l] = (above[l] + from->bin[a][i][l] - from->share[a][l]) * q->p[a * bins + i][l] * q->slope[a * bins + i][l];
            EACH_LANE above[l] += from->edge[a][i][l];
            memcpy(to_raw + (a * bins + i) * n, g, (size_t)lanes * sizeof(REAL));
        }
    }
    for (int i = 1; i < bins; i++) memcpy(to_raw + (axes * bins + i - 1) * n, from->d[i], (size_t)lanes * sizeof(REAL));
}

/* The loss of LANES samples of one network for target atoms (flow, scalar) or weights of the fixed returns (categorical),
 * either (atoms, n); the gradient of it times `scale`. */
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
    if (r->head == SCALAR) { /* (raw - y)^2 / 2 */
        Lanes x, y;
        gather(x, raw, 1, lanes);
        gather(y, target, 1, lanes);
        EACH_LANE loss[l] = (REAL)0.5 * (x[l] - y[l]) * (x[l] - y[l]);
        for (int l = 0; l < lanes; l++) to_raw[l] = scale * (x[l] - y[l]);
        return;
    }
    Splines s; /* the mean of -log p(y) = log dz/dtau = log slope + log 2 B */
    KnotSums sums = {0};
    REAL share = 1 / (REAL)r->atoms, bound = (REAL)r->bound;
    int axes = r->is_fixed ? 1 : 2;
    Lanes none = {0}, to_ladj;
    EACH_LANE to_ladj[l] = share * scale;
    prepare(r, &s, raw, n, lanes);
    for (Size i = 0; i < r->atoms; i++) {
        Lanes y, x, log_slope;
        Gradient g;
        gather(y, target + i * n, 1, lanes);
        find(r, &s, y, 1);
        image_of(&s.q, y, 1, x, log_slope);
        differentiate(&s.q, none, to_ladj, r->bins, bound, 1, &g);
        add_gradient(&sums, &s.q, &g, axes);
        EACH_LANE loss[l] += share * (log_slope[l] + (x[l] - x[l])); /* NaN shows */
    }
    REAL log_length = (REAL)log(2 * r->bound);
    EACH_LANE loss[l] += log_length;
    write_gradient(r, &sums, &s.q, to_raw, n, lanes);
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
    if (r->head == SCALAR) {
        gather(value, raw, 1, lanes);
        for (int l = 0; to_raw && l < lanes; l++) to_raw[l] = scale[l];
        return;
    }
    Splines s;
    KnotSums sums = {0};
    REAL bound = (REAL)r->bound;
    int axes = r->is_fixed ? 1 : 2;
    Lanes none = {0};
    prepare(r, &s, raw, n, lanes);
    for (Size i = 0; i < r->atoms; i++) {
        Lanes x, z, log_slope, to_image;
        REAL weight = r->weights[i];
        EACH_LANE x[l] = base_point(r, i);
        find(r, &s, x, 0);
        image_of(&s.q, x, 0, z, log_slope);
        EACH_LANE value[l] += weight * z[l];
        if (!to_raw) continue;
        EACH_LANE to_image[l] = weight * scale[l];
        Gradient g;
        differentiate(&s.q, to_image, none, r->bins, bound, 0, &g);
        add_gradient(&sums, &s.q, &g, axes);
    }
    if (to_raw) write_gradient(r, &sums, &s.q, to_raw, n, lanes);
}
