/* Sums over pairs of bfloat16 by Intel's matrix unit (AMX), sixteen times as many multiplications at once as by vectors. There
 * the instruction for vectors is slower than float.
 *
 * A tile register holds 16 rows of 16 pairs, or of 16 sums. Four hold the sums of 32 rows and 32 lanes, to which
 *
 *   sums[r, l] += sum over k of weights[r, k] x[k, l]   (k two at a time, those of a pair)
 *
 * is added 16 pairs at a time.
 */
#pragma once
#include "bfloat16.c"

enum { PAIR_BLOCK = 16, SUM_ROWS = 32 }; /* a multiple of each: pairs, and the rows of arrays of weights and sums */

/* Pairs after the last one, to a whole block of them. */
static inline void clear_after(Size pairs, Size n, REAL *packed) {
    Size none = -pairs & (PAIR_BLOCK - 1);
    memset(packed + pairs * n, 0, (size_t)(none * n) * sizeof(REAL));
}

#if defined(SINGLE) && defined(__AVX512BF16__) && defined(__AMX_BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

/* Linux lends it to processes that ask. */
static int has_matrix_unit(void) {
    enum { REQUEST = 0x1023, TILES = 18 };
    static int answer = 0; /* 1: no, 2: yes */
    int known = __atomic_load_n(&answer, __ATOMIC_RELAXED);
    if (known) return known == 2;
    known = 1 + (syscall(SYS_arch_prctl, REQUEST, TILES) == 0);
    __atomic_store_n(&answer, known, __ATOMIC_RELAXED);
    return known == 2;
}

/* Rows, vectors and pairs may be fewer than whole tiles: arrays have whole ones, x's pairs and the weights' are then 0. */
static void add_products(Size rows, Size vectors, Size pairs, const REAL *weights, Size weights_n, const REAL *x, Size x_n,
                         REAL *sums, Size sums_n) {
    static const struct {
        uint8_t palette, start, unused[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } tiles = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    __asm__ volatile("" ::: "memory"); /* what lies in the arrays is written by now: the intrinsics do not say that they read */
    int strides[3] = {(int)(weights_n * 4), (int)(x_n * 4), (int)(sums_n * 4)};
    _tile_loadconfig(&tiles); /* at every call: other libraries set theirs */
    for (Size r = 0; r < rows; r += SUM_ROWS)
        for (Size v = 0; v < vectors; v += 2) {
            REAL *at = sums + r * sums_n + v * WIDTH, *below = at + 16 * sums_n;
            const REAL *w = weights + r * weights_n, *columns = x + v * WIDTH;
            _tile_loadd(0, at, strides[2]);
            _tile_loadd(1, at + WIDTH, strides[2]);
            _tile_loadd(2, below, strides[2]);
            _tile_loadd(3, below + WIDTH, strides[2]);
            for (Size k = 0; k < pairs; k += PAIR_BLOCK) {
                _tile_loadd(4, w + k, strides[0]);
                _tile_loadd(6, columns + k * x_n, strides[1]);
                _tile_loadd(5, w + k + 16 * weights_n, strides[0]);
                _tile_loadd(7, columns + k * x_n + WIDTH, strides[1]);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(0, at, strides[2]);
            _tile_stored(1, at + WIDTH, strides[2]);
            _tile_stored(2, below, strides[2]);
            _tile_stored(3, below + WIDTH, strides[2]);
        }
    _tile_release(); /* or every switch of threads saves it */
}
#else
static inline int has_matrix_unit(void) { return 0; }

static inline void add_products(Size rows, Size vectors, Size pairs, const REAL *weights, Size weights_n, const REAL *x,
                                Size x_n, REAL *sums, Size sums_n) {}
#endif

/* Whether products of pairs are faster than float's. Of the makers of processors with the instruction for vectors one has
 * given it the double rate, the other the matrix unit. */
int bfloat16_is_fast(void) {
#if defined(SINGLE) && defined(__AVX512BF16__)
    return has_matrix_unit() || __builtin_cpu_is("amd");
#else
    return 0;
#endif
}
