/* Vectors of numbers of a batch. */
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

enum { WIDTH = VECTOR_BYTES / sizeof(REAL) };

typedef __typeof__((Vector){0} < 0) Mask; /* all bits of a lane or none */

typedef struct {
    const REAL *entries;
    Size row, column; /* strides: a transposed matrix swaps them */
} Matrix;

static inline Size smaller(Size a, Size b) { return a < b ? a : b; }

/* The first lanes of a vector. */
static inline Vector lanes_of(const REAL *from, Size lanes) {
    if (lanes == WIDTH) return *(const Vector *)from; /* compilers may copy it in halves, and then wait for both */
    Vector v = {0};
    memcpy(&v, from, (size_t)lanes * sizeof(REAL));
    return v;
}

static inline void put_lanes(REAL *to, Vector v, Size lanes) {
    if (lanes == WIDTH)
        *(Vector *)to = v;
    else
        memcpy(to, &v, (size_t)lanes * sizeof(REAL));
}

/* Lanes of a, then of b, by number. */
static inline Vector shuffled(Vector a, Vector b, Mask lanes) {
#ifdef __clang__
    Vector out;
    for (int l = 0; l < WIDTH; l++) out[l] = lanes[l] < WIDTH ? a[lanes[l]] : b[lanes[l] - WIDTH];
    return out;
#else
    return __builtin_shuffle(a, b, lanes);
#endif
}

/* out[l, i] = rows[i][l], out's rows out_n apart: a square of vectors whose first half is interleaved with the second, as often
 * as halves a vector to one lane, is transposed. */
static inline void transpose_rows(const REAL *const rows[WIDTH], Size lanes, REAL *out, Size out_n) {
    Mask low, high;
    for (int l = 0; l < WIDTH; l++) low[l] = l / 2 + l % 2 * WIDTH, high[l] = low[l] + WIDTH / 2;
    Size first = 0;
    for (; first + WIDTH <= lanes; first += WIDTH) {
        Vector squares[2][WIDTH];
        int now = 0;
        for (int i = 0; i < WIDTH; i++) squares[0][i] = *(const Vector *)(rows[i] + first);
        for (int size = 1; size < WIDTH; size *= 2, now = !now)
            for (int i = 0; i < WIDTH / 2; i++) {
                Vector a = squares[now][i], b = squares[now][i + WIDTH / 2];
                squares[!now][2 * i] = shuffled(a, b, low);
                squares[!now][2 * i + 1] = shuffled(a, b, high);
            }
        for (int i = 0; i < WIDTH; i++) *(Vector *)(out + (first + i) * out_n) = squares[now][i];
    }
    for (Size l = first; l < lanes; l++)
        for (int i = 0; i < WIDTH; i++) out[l * out_n + i] = rows[i][l];
}
