/* Products of a matrix of weights with activations (feature, batch), the batch contiguous, and their gradients. */
#pragma once
#include "elementary.c"

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

typedef REAL Vector __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));

/* A tile is TILE rows times two vectors of the batch: more sums than hide a multiplication's latency, few enough to stay
 * in 16 registers. Its activations are packed BLOCK rows at a time, which stay in the first-level cache. */
enum { WIDTH = VECTOR_BYTES / sizeof(REAL), PAIR = 2 * WIDTH, TILE = 6, BLOCK = 256 };

typedef struct {
    const REAL *entries;
    Size row, column; /* strides: a transposed matrix swaps them */
} Matrix;

/* An activation function, or the slope of one at the output that lies beside: what a sum goes through at the end. */
typedef enum { LINEAR, RELU, TANH, RELU_SLOPE, TANH_SLOPE } End;

typedef __typeof__((Vector){0} < 0) Mask; /* all bits of a lane or none */

/* Where the rows of a tile lie. */
typedef struct {
    const REAL *base[TILE], *beside[TILE];
    REAL *out[TILE];
} Rows;

/* out[r] = end(start + sum over k of weights[r, k] x[k]), x packed (depth, PAIR); start: bias[r], or base[r] if no bias */
static inline __attribute__((always_inline)) void tile(int rows, Size depth, Matrix weights, const REAL *x, const REAL *bias,
                                                       End end, const Rows *at) {
    Vector sum[TILE][2];
    for (int r = 0; r < rows; r++) {
        __builtin_prefetch(at->out[r], 1);
        if (at->beside[r]) __builtin_prefetch(at->beside[r]);
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < 2; v++)
            if (bias)
                sum[r][v] = bias[r] - (Vector){0};
            else
                sum[r][v] = *(const Vector *)(at->base[r] + v * WIDTH);
    for (Size k = 0; k < depth; k++) {
        Vector x0 = *(const Vector *)(x + k * PAIR), x1 = *(const Vector *)(x + k * PAIR + WIDTH);
        for (int r = 0; r < rows; r++) {
            REAL w = weights.entries[r * weights.row + k * weights.column];
            sum[r][0] += w * x0;
            sum[r][1] += w * x1;
        }
    }
#define EACH_SUM(result)                                                   \
    for (int r = 0; r < rows; r++)                                         \
        for (int v = 0; v < 2; v++) {                                      \
            Vector s = sum[r][v];                                          \
            *(Vector *)(at->out[r] + v * WIDTH) = result;                  \
        }                                                                  \
    break
#define BESIDE (*(const Vector *)(at->beside[r] + v * WIDTH))
    switch (end) {
        case RELU: EACH_SUM((Vector)((Mask)s & ~(s < 0))); /* NaN stays NaN */
        case RELU_SLOPE: EACH_SUM((Vector)((Mask)s & (BESIDE > 0)));
        case TANH_SLOPE: EACH_SUM(s * (1 - BESIDE * BESIDE));
        default: EACH_SUM(s);
    }
    if (end == TANH)
        for (int r = 0; r < rows; r++) {
            REAL unused, *out = at->out[r];
#pragma omp simd private(unused)
            for (int l = 0; l < PAIR; l++) out[l] = tangent(out[l], &unused);
        }
}

static void tile_of(int rows, Size depth, Matrix weights, const REAL *x, const REAL *bias, End end, const Rows *at) {
    switch (rows) { /* so that each is compiled with its number of rows known */
#define CASE(rows) case rows: tile(rows, depth, weights, x, bias, end, at); break
        CASE(TILE);
        CASE(5);
        CASE(4);
        CASE(3);
        CASE(2);
        CASE(1);
    }
}

static inline void copy_lanes(REAL *to, const REAL *from, int lanes) {
    if (lanes == PAIR) /* a fixed size, which compiles to a few moves */
        memcpy(to, from, PAIR * sizeof(REAL));
    else
        memcpy(to, from, (size_t)lanes * sizeof(REAL));
}

static inline Size smaller(Size a, Size b) { return a < b ? a : b; }

static const REAL zeros[PAIR];

/* out[to[i]] = end(base[to[i]] + bias[i] + sum over k of weights[i, k] x[from[k]]), each row n apart. */
typedef struct {
    Size n, rows, depth;
    Matrix weights;
    const REAL *x;
    const Size *from; /* row numbers; NULL for 0, 1, 2, ... */
    const REAL *base; /* may be out; NULL for zero */
    const REAL *bias; /* (rows): one number for all of the batch; NULL for zero, as it must be where there is a base */
    End end;
    const REAL *beside; /* as out; for the slopes */
    REAL *out;
    const Size *to;
} Product;

static inline REAL dot(const REAL *a, const REAL *b, Size lanes) {
    REAL total = 0;
#pragma omp simd reduction(+ : total)
    for (Size l = 0; l < lanes; l++) total += a[l] * b[l];
    return total;
}

/* A batch of one: each sum goes along a row of the weights, which comes from far away when a policy acts now and then. */
static void multiply_one(const Product *p) {
    REAL chosen[p->from ? p->depth : 1];
    for (Size k = 0; p->from && k < p->depth; k++) chosen[k] = p->x[p->from[k]];
    const REAL *x = p->from ? chosen : p->x;
    for (Size i = 0; i < p->rows; i++) {
        REAL unused, sum = dot(p->weights.entries + i * p->weights.row, x, p->depth);
        sum += p->base ? p->base[i] : p->bias ? p->bias[i] : 0;
        p->out[i] = p->end == TANH ? tangent(sum, &unused) : p->end == RELU && sum < 0 ? 0 : sum;
    }
}

/* Of the batch's first lanes; of a later part, from arrays that begin there. */
static void multiply(const Product *p, Size count) {
    if (p->n == 1 && p->weights.column == 1 && !p->to && !p->beside) {
        multiply_one(p);
        return;
    }
    REAL packed[BLOCK * PAIR] __attribute__((aligned(64)));
    REAL copies[3][TILE][PAIR] = {{{0}}}; /* of rows that end within a vector */
    for (Size b = 0; b < count; b += PAIR) {
        int lanes = (int)smaller(count - b, PAIR), whole = lanes == PAIR;
        if (!whole) memset(packed, 0, sizeof packed);
        for (Size start = 0; start == 0 || start < p->depth; start += BLOCK) {
            Size depth = smaller(p->depth - start, BLOCK);
            const REAL *base = start ? p->out : p->base;
            End end = start + depth < p->depth ? LINEAR : p->end;
            for (Size k = 0; k < depth; k++)
                copy_lanes(packed + k * PAIR, p->x + (p->from ? p->from[start + k] : start + k) * p->n + b, lanes);
            for (Size i = 0; i < p->rows; i += TILE) {
                int rows = (int)smaller(p->rows - i, TILE);
                Rows at;
                for (int r = 0; r < rows; r++) {
                    if (i + r < depth) __builtin_prefetch(p->x + (p->from ? p->from[start + i + r] : start + i + r) * p->n + b + PAIR);
                    Size row = (p->to ? p->to[i + r] : i + r) * p->n + b;
                    at.base[r] = base ? base + row : NULL;
                    at.beside[r] = p->beside ? p->beside + row : NULL;
                    at.out[r] = p->out + row;
                    if (!whole) {
                        if (base) copy_lanes(copies[0][r], at.base[r], lanes);
                        if (p->beside) copy_lanes(copies[1][r], at.beside[r], lanes);
                        at.base[r] = copies[0][r], at.beside[r] = copies[1][r], at.out[r] = copies[2][r];
                    }
                }
                Matrix weights = {p->weights.entries + i * p->weights.row + start * p->weights.column, p->weights.row,
                                  p->weights.column};
                tile_of(rows, depth, weights, packed, base ? NULL : p->bias ? p->bias + i : zeros, end, &at);
                if (!whole)
                    for (int r = 0; r < rows; r++)
                        copy_lanes(p->out + (p->to ? p->to[i + r] : i + r) * p->n + b, at.out[r], lanes);
            }
        }
    }
}

/* The gradient in the weights: to_weights[i, k] = sum over the lanes of g[i] x[from[k]], for k from first to last; rows of
 * g and x lie n apart, those of to_weights depth. */
static void weight_gradient(Size n, Size lanes, Size rows, const REAL *g, const REAL *x, const Size *from, Size first,
                            Size last, REAL *to_weights, Size depth) {
    REAL packed[BLOCK * PAIR] __attribute__((aligned(64)));
    REAL copies[TILE][PAIR] = {{0}}; /* of rows that end within a vector */
    if (rows == 1) {
        for (Size k = first; k < last; k++) to_weights[k] = dot(g, x + (from ? from[k] : k) * n, lanes);
        return;
    }
    for (Size k = first; k < last; k += PAIR) {
        int columns = (int)smaller(last - k, PAIR), whole = columns == PAIR;
        if (!whole) memset(packed, 0, sizeof packed);
        for (Size start = 0; start < lanes; start += BLOCK) {
            Size some = smaller(lanes - start, BLOCK);
            for (int c = 0; c < columns; c++) { /* transposed: the weights' columns side by side */
                const REAL *column = x + (from ? from[k + c] : k + c) * n + start;
                for (Size b = 0; b < some; b++) packed[b * PAIR + c] = column[b];
            }
            for (Size i = 0; i < rows; i += TILE) {
                int count = (int)smaller(rows - i, TILE);
                Rows at = {{NULL}, {NULL}, {NULL}};
                for (int r = 0; r < count; r++) {
                    at.out[r] = whole ? to_weights + (i + r) * depth + k : copies[r];
                    at.base[r] = at.out[r];
                    if (!whole && start) copy_lanes(copies[r], to_weights + (i + r) * depth + k, columns);
                }
                tile_of(count, some, (Matrix){g + i * n + start, n, 1}, packed, start ? NULL : zeros, LINEAR, &at);
                if (!whole)
                    for (int r = 0; r < count; r++) copy_lanes(to_weights + (i + r) * depth + k, copies[r], columns);
            }
        }
    }
}

static void bias_gradient(Size n, Size lanes, Size rows, const REAL *g, REAL *to_bias) {
    for (Size i = 0; i < rows; i++) {
        const REAL *row = g + i * n;
        REAL total = 0;
#pragma omp simd reduction(+ : total)
        for (Size l = 0; l < lanes; l++) total += row[l];
        to_bias[i] = total;
    }
}

/* A task of the gradients in a layer's weights: one panel of their columns; the first of them gives that in the bias too. */
static inline Size panels(Size depth) { return (depth + PAIR - 1) / PAIR; }

static void panel_gradient(Size n, Size lanes, Size rows, Size depth, const REAL *g, const REAL *x, const Size *from,
                           Size panel, REAL *to_weights, REAL *to_bias) {
    weight_gradient(n, lanes, rows, g, x, from, panel * PAIR, smaller((panel + 1) * PAIR, depth), to_weights, depth);
    if (panel == 0 && to_bias) bias_gradient(n, lanes, rows, g, to_bias);
}
