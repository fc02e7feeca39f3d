/* Sums over pairs of bfloat16 by Intel's matrix unit (AMX), up to sixteen times as many multiplications a cycle as by vectors of
 * float. On the processor that was measured the vectors' instruction for pairs is slower than float.
 *
 * A tile register holds 16 rows of 16 pairs, or of 16 sums. Four hold the sums of 32 rows and 32 lanes, to which
 *
 *   sums[r, l] += sum over k of weights[r, k] x[k, l]   (k two at a time, those of a pair)
 *
 * is added 16 pairs at a time.
 */
#pragma once
#include "bfloat16.c"

enum { PAIR_BLOCK = 16, SUM_ROWS = 32 }; /* so many pairs, and rows of sums, are taken at once */

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

/* Arrays reach to whole blocks: SUM_ROWS rows of weights and sums, PAIR_BLOCK pairs, of which those after the last are zero in
 * weights and x. An odd last vector takes another one along: what follows it in x, and a place for it in sums. */
static void add_products(Size rows, Size vectors, Size pairs, const REAL *weights, Size weights_n, const REAL *x, Size x_n,
                         REAL *sums, Size sums_n) {
    static const struct {
        uint8_t palette, start, unused[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } tiles = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    __asm__ volatile("" ::: "memory"); /* what lies in the arrays is written by now: the intrinsics do not say that they read */
    int of_weights = (int)(weights_n * 4), of_x = (int)(x_n * 4), of_sums = (int)(sums_n * 4); /* bytes from row to row */
    _tile_loadconfig(&tiles); /* at every call: other libraries set theirs */
    for (Size r = 0; r < rows; r += SUM_ROWS)
        for (Size v = 0; v < vectors; v += 2) {
            REAL *at = sums + r * sums_n + v * WIDTH, *below = at + 16 * sums_n;
            const REAL *w = weights + r * weights_n, *columns = x + v * WIDTH;
            _tile_loadd(0, at, of_sums);
            _tile_loadd(1, at + WIDTH, of_sums);
            _tile_loadd(2, below, of_sums);
            _tile_loadd(3, below + WIDTH, of_sums);
            for (Size k = 0; k < pairs; k += PAIR_BLOCK) {
                _tile_loadd(4, w + k, of_weights);
                _tile_loadd(6, columns + k * x_n, of_x);
                _tile_loadd(5, w + k + 16 * weights_n, of_weights);
                _tile_loadd(7, columns + k * x_n + WIDTH, of_x);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(0, at, of_sums);
            _tile_stored(1, at + WIDTH, of_sums);
            _tile_stored(2, below, of_sums);
            _tile_stored(3, below + WIDTH, of_sums);
        }
    _tile_release(); /* or every switch of threads saves it */
}
#else
static inline int has_matrix_unit(void) { return 0; }

static inline void add_products(Size rows, Size vectors, Size pairs, const REAL *weights, Size weights_n, const REAL *x,
                                Size x_n, REAL *sums, Size sums_n) {}
#endif

/* Whether products of pairs are faster than float's: by AMD's instruction for vectors, and by the matrix unit. */
int bfloat16_is_fast(void) {
#if defined(SINGLE) && defined(__AVX512BF16__)
    return has_matrix_unit() || __builtin_cpu_is("amd");
#else
    return 0;
#endif
}
