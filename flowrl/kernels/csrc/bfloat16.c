/* Products whose factors are rounded to bfloat16, eight bits of a number, and whose sums are of float. AMD's processors have an
 * instruction that multiplies twice as many at once. Where Intel's have a matrix unit, that does it (matrix_unit.c). Elsewhere
 * this is for tests alone.
 *
 * Two rounded numbers lie in the place of one float: in a pair. Sums over k go over k/2 pairs, so that the factors are packed
 * in pairs along k, whose last one has a zero where k is odd.
 */
#pragma once
#include "vectors.c"

#if defined(SINGLE) && defined(__AVX512BF16__)
#include <immintrin.h>

/* Lane by lane the sum of sum and of the products of x's pair and w's. */
static inline Vector add_pairs(Vector sum, Vector x, Vector w) {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w)); /* the intrinsic makes GCC 12 copy its sums */
    return sum;
}

static inline Vector pair_everywhere(const REAL *pair) { return (Vector)_mm512_set1_ps(*pair); }

/* The first lanes of a vector, the rest zero; lanes may be none, or more than there are. */
static inline Vector masked(const REAL *from, Size lanes) {
    return (Vector)_mm512_maskz_loadu_ps((__mmask16)(lanes >= WIDTH ? 0xffff : lanes > 0 ? (1 << lanes) - 1 : 0), from);
}

/* Pairs (x[2 l], x[2 l + 1]), x two vectors. */
static inline Vector pairs_along(Vector first, Vector second) {
    return (Vector)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
}

/* Pairs (low[l], high[l]). */
static inline Vector pairs_across(Vector low, Vector high) {
    static const uint16_t order[2 * WIDTH] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                              8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return (Vector)_mm512_permutexvar_epi16(_mm512_loadu_si512(order), (__m512i)pairs_along(low, high));
}
#else /* of double it is compiled, and never called */
static inline REAL of_bits(uint32_t bits) {
    REAL number = 0;
    memcpy(&number, &bits, sizeof bits);
    return number;
}

static inline uint32_t bits_of(REAL number) {
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    return bits;
}

static inline Vector add_pairs(Vector sum, Vector x, Vector w) {
    for (int l = 0; l < WIDTH; l++) {
        uint32_t a = bits_of(x[l]), b = bits_of(w[l]);
        sum[l] += of_bits(a & 0xffff0000) * of_bits(b & 0xffff0000) + of_bits(a << 16) * of_bits(b << 16);
    }
    return sum;
}

static inline Vector pair_everywhere(const REAL *pair) {
    Vector v = {0};
    for (int l = 0; l < WIDTH; l++) memcpy((REAL *)&v + l, pair, sizeof *pair);
    return v;
}

static inline Vector masked(const REAL *from, Size lanes) {
    return lanes > 0 ? lanes_of(from, smaller(lanes, WIDTH)) : (Vector){0};
}

/* To the nearest, of two that are as near to the even one; NaN stays NaN. */
static inline uint32_t rounded(REAL number) {
    uint32_t bits = bits_of(number);
    return number != number ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static inline Vector pairs_across(Vector low, Vector high) {
    Vector out = {0};
    for (int l = 0; l < WIDTH; l++) {
        uint32_t pair = rounded(low[l]) | rounded(high[l]) << 16;
        memcpy((REAL *)&out + l, &pair, sizeof pair);
    }
    return out;
}

static inline Vector pairs_along(Vector first, Vector second) {
    Vector low = {0}, high = {0}, *halves[2] = {&low, &high};
    for (int i = 0; i < 2; i++)
        for (int l = 0; l < WIDTH; l++) {
            int at = 2 * l + i;
            (*halves[i])[l] = at < WIDTH ? first[at] : second[at - WIDTH];
        }
    return pairs_across(low, high);
}
#endif

/* A row in pairs along it. */
static inline void pack_row(const REAL *row, Size count, REAL *out) {
    for (Size k = 0; k < count; k += 2 * WIDTH)
        *(Vector *)(out + k / 2) = pairs_along(masked(row + k, count - k), masked(row + k + WIDTH, count - k - WIDTH));
}

/* Two rows in pairs across them; no second one: of zeros. */
static inline void pack_two_rows(const REAL *row, const REAL *second, Size count, REAL *out) {
    for (Size l = 0; l < count; l += WIDTH)
        *(Vector *)(out + l) = pairs_across(masked(row + l, count - l), second ? masked(second + l, count - l) : (Vector){0});
}

/* Rows of a matrix in pairs along the depth, or of a transposed one, whose rows lie side by side. */
static inline Matrix pack_weights(Matrix weights, Size rows, Size depth, REAL *out, Size most_rows) {
    if (weights.column == 1) {
        Size n = (depth + 2 * WIDTH - 1) / (2 * WIDTH) * WIDTH;
        for (Size r = 0; r < rows; r++) pack_row(weights.entries + r * weights.row, depth, out + r * n);
        return (Matrix){out, n, 1};
    }
    for (Size k = 0; k < depth; k += 2) {
        const REAL *row = weights.entries + k * weights.column;
        pack_two_rows(row, k + 1 < depth ? row + weights.column : NULL, rows, out + k / 2 * most_rows);
    }
    return (Matrix){out, 1, most_rows};
}

/* As pack_weights, a row's pairs always side by side, whole vectors of them. */
static inline Matrix pack_by_rows(Matrix weights, Size rows, Size depth, REAL *out) {
    if (weights.column == 1) return pack_weights(weights, rows, depth, out, rows);
    Size n = (depth + 2 * WIDTH - 1) / (2 * WIDTH) * WIDTH;
    for (Size k = 0; k < n; k += WIDTH)
        for (Size r = 0; r < rows; r += WIDTH) {
            Vector pairs[WIDTH];
            const REAL *at[WIDTH];
            for (Size i = 0; i < WIDTH; i++) {
                Size low = 2 * (k + i);
                const REAL *row = weights.entries + low * weights.column + r;
                pairs[i] = pairs_across(low < depth ? masked(row, rows - r) : (Vector){0},
                                        low + 1 < depth ? masked(row + weights.column, rows - r) : (Vector){0});
                at[i] = (const REAL *)&pairs[i];
            }
            transpose_rows(at, WIDTH, out + r * n + k, n);
        }
    return (Matrix){out, n, 1};
}
