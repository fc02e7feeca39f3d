/* Dense layers over a batch, as couplings' small networks are made of: products of a matrix of weights with activations
 * (feature, batch), the batch contiguous, and their gradients.
 */
#include <string.h>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

typedef REAL Vector __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));

/* A tile is TILE rows times two vectors of the batch: more sums than hide a multiplication's latency, few enough to stay
 * in 16 registers. */
enum { WIDTH = VECTOR_BYTES / sizeof(REAL), PAIR = 2 * WIDTH, TILE = 6, MAX_WIDTH = 256 };

typedef struct {
    const REAL *entries;
    Size row, column; /* strides: a transposed matrix swaps them */
} Matrix;

/* sums[r] += sum over k of weights[r, k] x[k], x packed (depth, PAIR) */
static inline __attribute__((always_inline)) void tile(int rows, Size depth, Matrix weights, const REAL *x,
                                                       REAL (*sums)[PAIR]) {
    Vector sum[TILE][2];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < 2; v++) sum[r][v] = *(Vector *)(sums[r] + v * WIDTH);
    for (Size k = 0; k < depth; k++) {
        Vector x0 = *(const Vector *)(x + k * PAIR), x1 = *(const Vector *)(x + k * PAIR + WIDTH);
        for (int r = 0; r < rows; r++) {
            REAL w = weights.entries[r * weights.row + k * weights.column];
            sum[r][0] += w * x0;
            sum[r][1] += w * x1;
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < 2; v++) *(Vector *)(sums[r] + v * WIDTH) = sum[r][v];
}

/* A full block's copy has a fixed size, which compiles to a few moves. */
static inline void copy_lanes(REAL *to, const REAL *from, int lanes) {
    if (lanes == PAIR)
        memcpy(to, from, PAIR * sizeof(REAL));
    else
        memcpy(to, from, (size_t)lanes * sizeof(REAL));
}

/* out[to[i]] += sum over k of weights[i, k] x[from[k]]; from, to: row numbers, NULL for 0, 1, 2, ... */
static void add_dense(Size n, Size rows, Size depth, Matrix weights, const REAL *x, const Size *from, REAL *out,
                      const Size *to) {
    REAL packed[MAX_WIDTH * PAIR] = {0}, sums[TILE][PAIR] = {{0}};
    for (Size b = 0; b < n; b += PAIR) {
        int lanes = n - b < PAIR ? (int)(n - b) : PAIR;
        for (Size k = 0; k < depth; k++) copy_lanes(packed + k * PAIR, x + (from ? from[k] : k) * n + b, lanes);
        for (Size i = 0; i < rows; i += TILE) {
            int count = rows - i < TILE ? (int)(rows - i) : TILE;
            Matrix part = {weights.entries + i * weights.row, weights.row, weights.column};
            for (int r = 0; r < count; r++) copy_lanes(sums[r], out + (to ? to[i + r] : i + r) * n + b, lanes);
            switch (count) { /* so that each is compiled with its number of rows known */
#define CASE(rows) case rows: tile(rows, depth, part, packed, sums); break
                CASE(TILE);
                CASE(5);
                CASE(4);
                CASE(3);
                CASE(2);
                CASE(1);
            }
            for (int r = 0; r < count; r++) copy_lanes(out + (to ? to[i + r] : i + r) * n + b, sums[r], lanes);
        }
    }
}

/* The gradient in the weights: to_weights[i, k] = sum over the batch of g[i] x[from[k]], row by row. */
static inline __attribute__((always_inline)) void weight_tile(int rows, int columns, Size n, const REAL *g,
                                                              const REAL *const *x, REAL *to_weights, Size depth) {
    Vector sum[TILE][2];
    memset(sum, 0, sizeof sum);
    Size b = 0;
    for (; b + WIDTH <= n; b += WIDTH)
        for (int r = 0; r < rows; r++) {
            Vector gradient = *(const Vector *)(g + r * n + b);
            for (int c = 0; c < columns; c++) sum[r][c] += gradient * *(const Vector *)(x[c] + b);
        }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) {
            REAL total = 0;
            for (int l = 0; l < WIDTH; l++) total += sum[r][c][l];
            for (Size rest = b; rest < n; rest++) total += g[r * n + rest] * x[c][rest];
            to_weights[r * depth + c] = total;
        }
}

static void weight_gradient(Size n, Size rows, Size depth, const REAL *g, const REAL *x, const Size *from,
                            REAL *to_weights) {
    for (Size i = 0; i < rows; i += TILE)
        for (Size k = 0; k < depth; k += 2) {
            const REAL *columns[2];
            for (Size c = k; c < k + 2 && c < depth; c++) columns[c - k] = x + (from ? from[c] : c) * n;
            REAL *out = to_weights + i * depth + k;
            int whole = rows - i >= TILE && depth - k >= 2;
            if (whole)
                weight_tile(TILE, 2, n, g + i * n, columns, out, depth);
            else
                for (Size r = i; r < i + TILE && r < rows; r++)
                    for (Size c = k; c < k + 2 && c < depth; c++)
                        weight_tile(1, 1, n, g + r * n, columns + (c - k), to_weights + r * depth + c, depth);
        }
}

static void bias_gradient(Size n, Size rows, const REAL *g, REAL *to_bias) {
    for (Size i = 0; i < rows; i++) {
        const REAL *row = g + i * n;
        REAL total = 0;
#pragma omp simd reduction(+ : total)
        for (Size l = 0; l < n; l++) total += row[l];
        to_bias[i] = total;
    }
}

/* A network of two layers or more. Its weights: every layer's matrix, each followed by its bias but the first, whose place
 * the context takes. */
typedef struct {
    Size inputs, depth;
    const Size *widths; /* of the layers' outputs, (depth) */
    const Size *from;   /* the inputs' rows */
} Network;

static inline Size width_before(const Network *net, Size layer) { return layer ? net->widths[layer - 1] : net->inputs; }

/* W_n relu(... relu(W_1 x + context) ...) + b_n; outputs: of all layers, one after the other, (widths, batch). */
static void network_forward(Size n, const Network *net, const REAL *const *weights, const REAL *context, const REAL *x,
                            REAL *outputs) {
    for (Size layer = 0; layer < net->depth; layer++) {
        Size width = net->widths[layer], before = width_before(net, layer);
        Matrix matrix = {weights[layer ? 2 * layer - 1 : 0], before, 1};
        if (layer == 0)
            memcpy(outputs, context, (size_t)(width * n) * sizeof(REAL));
        else
            for (Size i = 0; i < width; i++)
                for (Size l = 0; l < n; l++) outputs[i * n + l] = weights[2 * layer][i];
        add_dense(n, width, before, matrix, x, layer ? NULL : net->from, outputs, NULL);
        if (layer < net->depth - 1)
            for (Size l = 0; l < width * n; l++) outputs[l] = outputs[l] < 0 ? 0 : outputs[l]; /* NaN stays NaN */
        x = outputs;
        outputs += width * n;
    }
}

/* g: the gradient in the last layer's output, overwritten; scratch: as wide as the widest layer. Adds the gradient in the
 * inputs to to_x, in its rows net->from, and writes those in the context and the weights. */
static void network_backward(Size n, const Network *net, const REAL *const *weights, const REAL *x, const REAL *outputs,
                             REAL *g, REAL *scratch, REAL *to_x, REAL *to_context, REAL *const *to_weights) {
    Size start = 0; /* of a layer's outputs */
    for (Size layer = 0; layer < net->depth - 1; layer++) start += net->widths[layer] * n;
    for (Size layer = net->depth - 1; layer > 0; layer--) {
        Size width = net->widths[layer], before = net->widths[layer - 1];
        start -= before * n;
        const REAL *h = outputs + start;
        weight_gradient(n, width, before, g, h, NULL, to_weights[2 * layer - 1]);
        bias_gradient(n, width, g, to_weights[2 * layer]);
        REAL *to_h = layer == 1 ? to_context : scratch;
        memset(to_h, 0, (size_t)(before * n) * sizeof(REAL));
        add_dense(n, before, width, (Matrix){weights[2 * layer - 1], 1, before}, g, NULL, to_h, NULL);
        for (Size l = 0; l < before * n; l++) to_h[l] = h[l] > 0 ? to_h[l] : 0;
        scratch = g;
        g = to_h;
    }
    weight_gradient(n, net->widths[0], net->inputs, g, x, net->from, to_weights[0]);
    add_dense(n, net->inputs, net->widths[0], (Matrix){weights[0], 1, net->inputs}, g, NULL, to_x, net->from);
}
