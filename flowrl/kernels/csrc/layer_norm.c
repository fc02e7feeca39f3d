/* Layer norms (Ba et al. 2016) with the activation that follows, and their gradients. */
#pragma once
#include "layers.c"
#include "vectors.c"

/* A norm's sums go over rows n apart, of which it takes this many vectors of columns together: often n is a power of two, and
 * rows push each other out of the nearest cache before the rest of a line is asked for. */
enum { TOGETHER = 4 };
#define EACH for (int v = 0; v < vectors; v++)

/* z becomes f((z - mean) / deviation * scale + shift), mean and deviation over a layer's outputs, f the activation; in some
 * vectors of columns from the first on, of each vector in up to all lanes. */
static inline __attribute__((always_inline)) void normalize_vectors(const Stack *s, const Layer *at, Size first, int vectors,
                                                                    Size lanes) {
    const REAL *scale = s->weights[at->scale], *shift = s->weights[at->scale + 1];
    REAL *z = s->outputs + at->outputs + first, *kept = s->normed ? s->normed + at->outputs + first : NULL;
    REAL share = 1 / (REAL)at->width, unused;
    Vector base[TOGETHER], mean[TOGETHER] = {{0}}, variance[TOGETHER] = {{0}}, factor[TOGETHER];
    EACH base[v] = lanes_of(z + v * WIDTH, lanes); /* sums of small numbers round less */
    for (Size i = 0; i < at->width; i++) EACH mean[v] += share * (lanes_of(z + i * s->n + v * WIDTH, lanes) - base[v]);
    EACH mean[v] += base[v];
    for (Size i = 0; i < at->width; i++) EACH {
        Vector centred = lanes_of(z + i * s->n + v * WIDTH, lanes) - mean[v];
        variance[v] += share * centred * centred;
    }
    EACH {
        for (Size l = 0; l < WIDTH; l++) factor[v][l] = 1 / (REAL)sqrt((double)variance[v][l] + s->epsilon);
        factor[v] += variance[v] - variance[v]; /* NaN where squares overflow, lest the state be taken for zeros */
        if (s->factors) put_lanes(s->factors + at->factors + first + v * WIDTH, factor[v], lanes);
    }
    for (Size i = 0; i < at->width; i++) EACH {
        REAL *here = z + i * s->n + v * WIDTH;
        Vector h = (lanes_of(here, lanes) - mean[v]) * factor[v], y = h * scale[i] + shift[i];
        if (kept) put_lanes(kept + i * s->n + v * WIDTH, h, lanes);
        if (s->is_tanh)
            for (Size l = 0; l < WIDTH; l++) y[l] = tangent(y[l], &unused);
        else
            y = (Vector)((Mask)y & ~(y < 0)); /* NaN stays NaN */
        put_lanes(here, y, lanes);
    }
}

/* The gradients after a norm's scale and shift become those before the norm: with h what it has normed,
 * (g - mean g - h mean(g h)) / deviation, g those times the scale. */
static inline __attribute__((always_inline)) void normalize_vectors_backward(const Stack *s, const Layer *at, Size first,
                                                                             int vectors, Size lanes) {
    const REAL *scale = s->weights[at->scale], *h = s->normed + at->outputs + first;
    REAL *g = s->gradients + at->outputs + first, *kept = s->to_weights ? s->to_normed + at->outputs + first : NULL;
    REAL share = 1 / (REAL)at->width;
    Vector mean[TOGETHER] = {{0}}, along[TOGETHER] = {{0}}, factor[TOGETHER];
    EACH factor[v] = lanes_of(s->factors + at->factors + first + v * WIDTH, lanes);
    for (Size i = 0; i < at->width; i++) EACH {
        Vector scaled = lanes_of(g + i * s->n + v * WIDTH, lanes) * scale[i];
        mean[v] += share * scaled;
        along[v] += share * scaled * lanes_of(h + i * s->n + v * WIDTH, lanes);
    }
    for (Size i = 0; i < at->width; i++) EACH {
        Size here = i * s->n + v * WIDTH;
        Vector given = lanes_of(g + here, lanes);
        if (kept) put_lanes(kept + here, given, lanes);
        put_lanes(g + here, (given * scale[i] - mean[v] - lanes_of(h + here, lanes) * along[v]) * factor[v], lanes);
    }
}

/* Columns in as many whole vectors as there are, by a function whose last two arguments the compiler then knows. */
#define IN_VECTORS(function)                                                                                              \
    Size b = 0;                                                                                                           \
    for (; b + TOGETHER * WIDTH <= lanes; b += TOGETHER * WIDTH) function(s, at, first + b, TOGETHER, WIDTH);             \
    for (; b + WIDTH <= lanes; b += WIDTH) function(s, at, first + b, 1, WIDTH);                                          \
    if (b < lanes) function(s, at, first + b, 1, lanes - b)

static void normalize(const Stack *s, const Layer *at, Size first, Size lanes) { IN_VECTORS(normalize_vectors); }

static void normalize_backward(const Stack *s, const Layer *at, Size first, Size lanes) {
    IN_VECTORS(normalize_vectors_backward);
}

#undef EACH
#undef IN_VECTORS
