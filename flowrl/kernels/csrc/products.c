/* Products of a matrix of weights with activations (feature, batch), the batch contiguous, and their gradients. */
#pragma once
#include "matrix_unit.c"

/* A tile is TILE rows times up to VECTORS vectors of the batch: more sums than hide a multiplication's latency, few enough to
 * stay in registers with one row of activations. */
#if defined(__AVX512F__)
enum { VECTORS = 4, LANE_BLOCK = 128 }; /* 32 registers */
#else
enum { VECTORS = 2, LANE_BLOCK = 256 }; /* 16 registers */
#endif
enum { SPAN = VECTORS * WIDTH, TILE = 6 };

/* Activations are packed BLOCK rows (where the sums go over the batch: LANE_BLOCK of its columns) at a time, which stay in
 * the nearest caches. Packing is not worth it for FEW rows of weights; in pairs, PAIRED rows of these are packed at a time. */
enum { BLOCK = 256, FEW = 4 * TILE, PAIRED = 16 * TILE };
_Static_assert(PAIRED % SUM_ROWS == 0 && BLOCK / 2 % PAIR_BLOCK == 0 && LANE_BLOCK / 2 % PAIR_BLOCK == 0, "whole tiles");

/* An activation function, or the slope of one at the output that lies beside: what a sum goes through at the end. */
typedef enum { LINEAR, RELU, TANH, RELU_SLOPE, TANH_SLOPE } End;

/* Where the rows of a tile lie. */
typedef struct {
    const REAL *base[TILE], *beside[TILE];
    REAL *out[TILE];
} Rows;

/* out[r] = end(start + sum over k of weights[r, k] x[k]), x's rows x_n apart; start: bias[r], or base[r] if no bias; in_pairs:
 * of weights and x that are packed so, depth pairs */
static inline __attribute__((always_inline)) void tile(int in_pairs, int rows, int vectors, Size depth, Matrix weights,
                                                       const REAL *x, Size x_n, const REAL *bias, End end, const Rows *at) {
    Vector sum[TILE][VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) {
            __builtin_prefetch(at->out[r] + v * WIDTH, 1);
            if (at->beside[r]) __builtin_prefetch(at->beside[r] + v * WIDTH);
        }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            if (bias)
                sum[r][v] = bias[r] - (Vector){0};
            else
                sum[r][v] = *(const Vector *)(at->base[r] + v * WIDTH);
    for (Size k = 0; k < depth; k++) {
        Vector row[VECTORS];
        __builtin_prefetch(weights.entries + (k + 8) * weights.column); /* far apart in a transposed matrix */
        for (int v = 0; v < vectors; v++) row[v] = *(const Vector *)(x + k * x_n + v * WIDTH);
        for (int r = 0; r < rows; r++) {
            const REAL *entry = weights.entries + r * weights.row + k * weights.column;
            if (in_pairs) {
                Vector w = pair_everywhere(entry);
                for (int v = 0; v < vectors; v++) sum[r][v] = add_pairs(sum[r][v], row[v], w);
            } else {
                Vector w = *entry - (Vector){0};
                for (int v = 0; v < vectors; v++) sum[r][v] += w * row[v];
            }
        }
    }
#define EACH_SUM(result)                                                   \
    for (int r = 0; r < rows; r++)                                         \
        for (int v = 0; v < vectors; v++) {                                \
            Vector s = sum[r][v];                                          \
            *(Vector *)(at->out[r] + v * WIDTH) = result;                  \
        }                                                                  \
    break
#define BESIDE (*(const Vector *)(at->beside[r] + v * WIDTH))
    switch (end) {
        case RELU: EACH_SUM((Vector)((Mask)s & ~(s < 0))); /* NaN stays NaN */
        case RELU_SLOPE: EACH_SUM((Vector)((Mask)s & ~(BESIDE <= 0)));
        case TANH_SLOPE: EACH_SUM(s * (1 - BESIDE * BESIDE));
        default: EACH_SUM(s);
    }
    if (end == TANH)
        for (int r = 0; r < rows; r++) {
            REAL unused, *out = at->out[r];
#pragma omp simd private(unused)
            for (int l = 0; l < vectors * WIDTH; l++) out[l] = tangent(out[l], &unused);
        }
}

/* Each is compiled with its numbers known. */
#define CASE(in_pairs, rows, vectors) \
    case (vectors - 1) * TILE + rows: \
        tile(in_pairs, rows, vectors, depth, weights, x, x_n, bias, end, at); break;
#define CASES(in_pairs, vectors)                                                                                \
    CASE(in_pairs, 1, vectors) CASE(in_pairs, 2, vectors) CASE(in_pairs, 3, vectors) CASE(in_pairs, 4, vectors) \
    CASE(in_pairs, 5, vectors) CASE(in_pairs, TILE, vectors)
#ifdef __AVX512F__
#define ALL_CASES(in_pairs) CASES(in_pairs, 1) CASES(in_pairs, 2) CASES(in_pairs, 3) CASES(in_pairs, 4)
#else
#define ALL_CASES(in_pairs) CASES(in_pairs, 1) CASES(in_pairs, 2)
#endif

static void tile_of(int rows, int vectors, Size depth, Matrix weights, const REAL *x, Size x_n, const REAL *bias, End end,
                    const Rows *at) {
    switch ((vectors - 1) * TILE + rows) { ALL_CASES(0) }
}

/* As tile_of, of what is packed in pairs, depth of them. */
static void tile_of_pairs(int rows, int vectors, Size depth, Matrix weights, const REAL *x, Size x_n, const REAL *bias,
                          End end, const Rows *at) {
#ifdef SINGLE
    switch ((vectors - 1) * TILE + rows) { ALL_CASES(1) }
#endif
}

static inline void copy_lanes(REAL *to, const REAL *from, int lanes) {
    if (lanes == SPAN) /* a fixed size, which compiles to a few moves */
        memcpy(to, from, SPAN * sizeof(REAL));
    else
        memcpy(to, from, (size_t)lanes * sizeof(REAL));
}

static const REAL zeros[TILE];

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
    int rounded; /* whether the factors are rounded to bfloat16: of float, from and to NULL, n above one */
} Product;

/* out[i] = sum over l of matrix[from[i], l] x[l], rows matrix_n apart; x NULL: of ones. The sums' lanes are added up for many
 * rows at once. */
static inline void dots(Size rows, Size depth, const REAL *matrix, Size matrix_n, const Size *from, const REAL *x,
                        REAL *out) {
    Size whole = depth / WIDTH * WIDTH;
    Vector end = {0}; /* of x, as far as no whole vector has it */
    for (Size l = whole; l < depth; l++) end[l - depth + WIDTH] = x ? x[l] : 1;
    for (Size i = 0; i < rows; i += WIDTH) {
        Vector sums[WIDTH], transposed[WIDTH], total = {0};
        const REAL *at[WIDTH];
        for (int r = 0; r < WIDTH; r++) {
            Size number = smaller(i + r, rows - 1);
            const REAL *row = matrix + (from ? from[number] : number) * matrix_n;
            Vector sum = {0};
            for (Size l = 0; l < whole; l += WIDTH) {
                Vector part = *(const Vector *)(row + l);
                if (x) part *= *(const Vector *)(x + l);
                sum += part;
            }
            if (whole && whole < depth)
                sum += *(const Vector *)(row + depth - WIDTH) * end;
            else
                for (Size l = whole; l < depth; l++) sum[l] += x ? row[l] * x[l] : row[l];
            sums[r] = sum;
            at[r] = (const REAL *)&sums[r];
        }
        transpose_rows(at, WIDTH, (REAL *)transposed, WIDTH);
        for (int r = 0; r < WIDTH; r++) total += transposed[r];
        memcpy(out + i, &total, (size_t)smaller(rows - i, WIDTH) * sizeof(REAL));
    }
}

/* A batch of one: each sum goes along a row of the weights, which comes from far away when a policy acts now and then. */
static void multiply_one(const Product *p) {
    REAL chosen[p->from ? p->depth : 1];
    for (Size k = 0; p->from && k < p->depth; k++) chosen[k] = p->x[p->from[k]];
    REAL sums[p->rows];
    dots(p->rows, p->depth, p->weights.entries, p->weights.row, NULL, p->from ? chosen : p->x, sums);
    for (Size i = 0; i < p->rows; i++) {
        REAL unused, sum = sums[i] + (p->base ? p->base[i] : p->bias ? p->bias[i] : 0);
        p->out[i] = p->end == TANH ? tangent(sum, &unused) : p->end == RELU && sum < 0 ? 0 : sum;
    }
}

/* What sums by matrices begin with: their rows of out as they are, or each row's bias. */
static void begin_sums(Size rows, const REAL *out, Size n, int lanes, const REAL *bias, REAL (*sums)[SPAN]) {
    for (Size r = 0; r < rows; r++)
        if (out)
            copy_lanes(sums[r], out + r * n, lanes);
        else
            for (int l = 0; l < SPAN; l++) sums[r][l] = bias ? bias[r] : 0;
}

/* Of the batch's first lanes; of a later part, from arrays that begin there. */
static void multiply(const Product *p, Size count) {
    if (p->n == 1 && p->weights.column == 1 && !p->to && !p->beside) {
        multiply_one(p);
        return;
    }
    REAL packed[BLOCK * SPAN] __attribute__((aligned(64))), paired[PAIRED * BLOCK / 2] __attribute__((aligned(64)));
    REAL copies[3][TILE][SPAN] = {{{0}}}; /* of rows that end within a vector */
    int by_matrices = p->rounded && has_matrix_unit();
    REAL sums[PAIRED][SPAN] __attribute__((aligned(64)));
    for (Size b = 0; b < count; b += SPAN) {
        int lanes = (int)smaller(count - b, SPAN), vectors = (lanes + WIDTH - 1) / WIDTH, whole = lanes == vectors * WIDTH;
        if (!whole && !p->rounded) memset(packed, 0, (size_t)(smaller(p->depth, BLOCK) * vectors * WIDTH) * sizeof(REAL));
        for (Size start = 0; start == 0 || start < p->depth; start += BLOCK) {
            Size depth = smaller(p->depth - start, BLOCK);
            const REAL *base = start ? p->out : p->base;
            End end = start + depth < p->depth ? LINEAR : p->end;
            const REAL *x = p->x + start * p->n + b;
            Size x_n = p->n;
            if (p->rounded) {
                x_n = vectors * WIDTH;
                for (Size k = 0; k < depth; k += 2)
                    pack_two_rows(x + k * p->n, k + 1 < depth ? x + (k + 1) * p->n : NULL, lanes, packed + k / 2 * x_n);
                if (by_matrices) clear_after((depth + 1) / 2, x_n, packed);
                x = packed;
            } else if (!whole || p->from || p->rows > FEW) {
                x_n = vectors * WIDTH;
                for (Size k = 0; k < depth; k++)
                    copy_lanes(packed + k * x_n, p->x + (p->from ? p->from[start + k] : start + k) * p->n + b, lanes);
                x = packed;
            }
            Matrix pairs = {0};
            for (Size i = 0; i < p->rows; i += TILE) {
                int rows = (int)smaller(p->rows - i, TILE);
                Rows at;
                for (int r = 0; r < rows; r++) {
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
                const REAL *bias = base ? NULL : p->bias ? p->bias + i : zeros;
                if (by_matrices) {
                    if (i % PAIRED == 0) {
                        Size some = smaller(p->rows - i, PAIRED);
                        begin_sums(some, base ? base + i * p->n + b : NULL, p->n, lanes, p->bias ? p->bias + i : NULL, sums);
                        pairs = pack_by_rows(weights, some, depth, paired);
                        add_products(some, vectors, pairs.row, pairs.entries, pairs.row, x, x_n, sums[0], SPAN);
                    }
                    for (int r = 0; r < rows; r++) at.base[r] = sums[i % PAIRED + r];
                    tile_of(rows, vectors, 0, weights, x, x_n, NULL, end, &at);
                } else if (p->rounded) {
                    if (i % PAIRED == 0) pairs = pack_weights(weights, smaller(p->rows - i, PAIRED), depth, paired, PAIRED);
                    weights = (Matrix){pairs.entries + i % PAIRED * pairs.row, pairs.row, pairs.column};
                    tile_of_pairs(rows, vectors, (depth + 1) / 2, weights, x, x_n, bias, end, &at);
                } else {
                    tile_of(rows, vectors, depth, weights, x, x_n, bias, end, &at);
                }
                if (!whole)
                    for (int r = 0; r < rows; r++)
                        copy_lanes(p->out + (p->to ? p->to[i + r] : i + r) * p->n + b, at.out[r], lanes);
            }
        }
    }
}

/* Some columns of the gradient in the weights over up to LANE_BLOCK lanes, by matrices: x is packed in pairs along the lanes, its
 * columns side by side as far as vectors reach. goes_on: out holds the sum over earlier lanes. */
static void gradient_by_matrices(Size rows, Size lanes, const REAL *g, Size n, REAL *x, int columns, int goes_on, REAL *out,
                                 Size depth) {
    REAL paired[PAIRED][LANE_BLOCK / 2] __attribute__((aligned(64))), sums[PAIRED][SPAN] __attribute__((aligned(64)));
    Size pairs = (lanes + 1) / 2, vectors = (columns + WIDTH - 1) / WIDTH, x_n = vectors * WIDTH;
    clear_after(pairs, x_n, x);
    for (Size i = 0; i < rows; i += PAIRED) {
        Size some = smaller(rows - i, PAIRED);
        REAL *at = out + i * depth;
        for (Size r = 0; r < some; r++) pack_row(g + (i + r) * n, lanes, paired[r]);
        begin_sums(some, goes_on ? at : NULL, depth, columns, NULL, sums);
        add_products(some, vectors, pairs, paired[0], LANE_BLOCK / 2, x, x_n, sums[0], SPAN);
        for (Size r = 0; r < some; r++) copy_lanes(at + r * depth, sums[r], columns);
    }
}

/* The gradient in the weights: to_weights[i, k] = sum over the lanes of g[i] x[from[k]], for k from first to last; rows of
 * g and x lie n apart, those of to_weights depth. rounded: g and x to bfloat16, where there is more than one row. */
static void weight_gradient(int rounded, Size n, Size lanes, Size rows, const REAL *g, const REAL *x, const Size *from,
                            Size first, Size last, REAL *to_weights, Size depth) {
    REAL packed[LANE_BLOCK * SPAN] __attribute__((aligned(64)));
    REAL copies[TILE][SPAN] = {{0}}; /* of rows that end within a vector */
    REAL pairs[(int)WIDTH > (int)TILE ? WIDTH : TILE][LANE_BLOCK / 2] __attribute__((aligned(64)));
    int by_matrices = rounded && has_matrix_unit();
    if (rows == 1) {
        dots(last - first, lanes, from ? x : x + first * n, n, from ? from + first : NULL, g, to_weights + first);
        return;
    }
    for (Size k = first; k < last; k += SPAN) {
        int columns = (int)smaller(last - k, SPAN), vectors = (columns + WIDTH - 1) / WIDTH, width = vectors * WIDTH;
        int whole = columns == width;
        for (Size start = 0; start < lanes; start += LANE_BLOCK) {
            Size some = smaller(lanes - start, LANE_BLOCK);
            for (int c = 0; c < width; c += WIDTH) { /* the weights' columns side by side; past the end, the last again */
                const REAL *columns_of_x[WIDTH];
                for (int i = 0; i < WIDTH; i++) {
                    Size column = smaller(k + c + i, last - 1);
                    columns_of_x[i] = x + (from ? from[column] : column) * n + start;
                }
                for (int i = 0; rounded && i < WIDTH; i++) {
                    pack_row(columns_of_x[i], some, pairs[i]);
                    columns_of_x[i] = pairs[i];
                }
                transpose_rows(columns_of_x, rounded ? (some + 1) / 2 : some, packed + c, width);
            }
            if (by_matrices) {
                gradient_by_matrices(rows, some, g + start, n, packed, columns, start > 0, to_weights + k, depth);
                continue;
            }
            for (Size i = 0; i < rows; i += TILE) {
                int count = (int)smaller(rows - i, TILE);
                Rows at = {{NULL}, {NULL}, {NULL}};
                for (int r = 0; r < count; r++) {
                    at.out[r] = whole ? to_weights + (i + r) * depth + k : copies[r];
                    at.base[r] = at.out[r];
                    if (!whole && start) copy_lanes(copies[r], to_weights + (i + r) * depth + k, columns);
                }
                const REAL *bias = start ? NULL : zeros;
                if (rounded) {
                    for (int r = 0; r < count; r++) pack_row(g + (i + r) * n + start, some, pairs[r]);
                    Matrix paired = {pairs[0], LANE_BLOCK / 2, 1};
                    tile_of_pairs(count, vectors, (some + 1) / 2, paired, packed, width, bias, LINEAR, &at);
                } else {
                    tile_of(count, vectors, some, (Matrix){g + i * n + start, n, 1}, packed, width, bias, LINEAR, &at);
                }
                if (!whole)
                    for (int r = 0; r < count; r++) copy_lanes(to_weights + (i + r) * depth + k, copies[r], columns);
            }
        }
    }
}

/* A task of the gradients in a layer's weights: one panel of their columns; the first of them gives that in the bias too. */
static inline Size panels(Size depth) { return (depth + SPAN - 1) / SPAN; }

static void panel_gradient(int rounded, Size n, Size lanes, Size rows, Size depth, const REAL *g, const REAL *x,
                           const Size *from, Size panel, REAL *to_weights, REAL *to_bias) {
    Size last = smaller((panel + 1) * SPAN, depth);
    weight_gradient(rounded, n, lanes, rows, g, x, from, panel * SPAN, last, to_weights, depth);
    if (panel == 0 && to_bias) dots(rows, lanes, g, n, NULL, NULL, to_bias);
}
