/* Equal networks (critics; an actor and a critic; one alone) over a batch, side by side, and their gradients. Arrays are
 * (network, feature, batch), the batch contiguous; those of several layers follow each other.
 */
#pragma once
#include "gain.c"
#include "products.c"
#include "threads.c"

/* out = in^T; rows of out lie n apart. */
static void transpose(Size rows, Size columns, const REAL *in, REAL *out, Size n) {
    for (Size b = 0; b < rows; b++)
        for (Size f = 0; f < columns; f++) out[f * n + b] = in[b * columns + f];
}

typedef struct {
    Size n, lanes;      /* rows lie n apart, and the first lanes count */
    Size networks, depth;
    const Size *widths; /* of the inputs, then of each layer's outputs, (depth + 1) */
    int is_tanh;        /* whether the activation is tanh; ReLU if not */
    int active_end;     /* whether it follows the last layer too */
    Size plain;         /* the last layer's rows after these: their weights, not their biases, are multiplied by the gain */
    double gain;
    int has_norm;       /* whether each layer but the last has a layer norm (Ba et al. 2016) before its activation */
    double epsilon;     /* of the norms */
    Size rounded;       /* of float: the layers after the first up to this one multiply factors rounded to bfloat16; 0: none */
    const REAL *const *weights; /* of each layer the matrix and the bias of each network, (depth, networks, 2) pointers; after
                                   them of each norm the scale and the shift, (depth - 1, networks, 2) */
    const REAL *x;  /* the input that all networks share */
    REAL *outputs;  /* of all layers */
    REAL *gradients; /* in these; at first the last layer's alone; at the end before the activations and norms */
    REAL *normed, *to_normed; /* as outputs: before a norm's scale and shift, and the gradients after these; NULL: not kept */
    REAL *factors;            /* 1 / deviation, (depth, networks, n) */
    /* Where nobody asks for the gradients in the weights, the way back leaves gradients, normed and factors in disorder. */
    REAL *to_x;              /* NULL where nobody asks */
    REAL *const *to_weights; /* as weights; NULL where nobody asks */
} Stack;

/* One layer of one network. */
typedef struct {
    Size before, width;
    Size matrix;            /* its matrix among the pointers to weights; its bias comes after it */
    Size scale;             /* its norm's scale there; the shift comes after it */
    Size factors;           /* where what its norm has multiplied by begins */
    Size outputs, previous; /* where its outputs begin, and those of the layer before, among those of all */
} Layer;

static Layer layer_of(const Stack *s, Size layer, Size network) {
    Layer at = {.before = s->widths[layer], .width = s->widths[layer + 1]};
    for (Size l = 0; l < layer; l++) {
        at.previous = at.outputs;
        at.outputs += s->networks * s->widths[l + 1] * s->n;
    }
    at.previous += network * at.before * s->n;
    at.outputs += network * at.width * s->n;
    at.matrix = 2 * (layer * s->networks + network);
    at.scale = at.matrix + 2 * s->depth * s->networks;
    at.factors = (layer * s->networks + network) * s->n;
    return at;
}

/* Where the last layer of the first network begins, in the outputs or in the gradients in them. */
static REAL *last_layers(const Stack *s, REAL *arrays) { return arrays + layer_of(s, s->depth - 1, 0).outputs; }

static inline int has_norm(const Stack *s, Size layer) { return s->has_norm && layer < s->depth - 1; }

/* Not the first layer: what it reads may be large, with little in the last digits. */
static inline int is_rounded(const Stack *s, Size layer) { return layer > 0 && layer <= s->rounded && s->n > 1; }

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

/* The gradients in a norm's scale and shift. */
static void norm_gradient(const Stack *s, const Layer *at) {
    const REAL *h = s->normed + at->outputs, *g = s->to_normed + at->outputs;
    REAL *to_scale = s->to_weights[at->scale], *to_shift = s->to_weights[at->scale + 1];
    for (Size i = 0; i < at->width; i++, h += s->n, g += s->n) {
        REAL along = 0, sum = 0;
#pragma omp simd reduction(+ : along, sum)
        for (Size b = 0; b < s->lanes; b++) along += g[b] * h[b], sum += g[b];
        to_scale[i] = along, to_shift[i] = sum;
    }
}

/* A block of columns of one network, through all layers. */
static void stack_forward_block(const void *job, Size number) {
    const Stack *s = job;
    Size network = number / blocks(s->lanes), block = number % blocks(s->lanes);
    Size first = block * COLUMNS, lanes = columns_of(s->lanes, block);
    for (Size l = 0; l < s->depth; l++) {
        Layer at = layer_of(s, l, network);
        const REAL *x = l ? s->outputs + at.previous : s->x;
        int is_linear = has_norm(s, l) || (l == s->depth - 1 && !s->active_end);
        End end = is_linear ? LINEAR : s->is_tanh ? TANH : RELU;
        multiply(&(Product){.n = s->n, .rows = at.width, .depth = at.before,
                            .weights = {s->weights[at.matrix], at.before, 1},
                            .x = x + first, .bias = s->weights[at.matrix + 1], .end = end,
                            .out = s->outputs + at.outputs + first, .rounded = is_rounded(s, l)},
                 lanes);
        if (l == s->depth - 1)
            apply_gain(s->gain, s->plain, at.width, s->n, lanes, s->outputs + at.outputs + first,
                       s->weights[at.matrix + 1]);
        if (has_norm(s, l)) normalize(s, &at, first, lanes);
    }
}

/* Some columns of rows n apart, in increasing order, side by side: to may be from, whose first columns they then replace. */
static void pick(const REAL *from, REAL *to, Size rows, Size n, Size count, const Size *which) {
    for (Size i = 0; i < rows; i++)
        for (Size c = 0; c < count; c++) to[i * n + c] = from[i * n + which[c]];
}

/* Which of a block's columns have any gradient in the outputs, rows n apart, filled up to whole vectors: how many, and those
 * gradients moved to the front. All of them, unmoved, if that is no fewer. */
static Size with_gradient(REAL *g, Size rows, Size n, Size lanes, Size *which) {
    Size count = 0;
    for (Size b = 0; b < lanes; b++) {
        int any = 0;
        for (Size i = 0; i < rows && !any; i++) any = g[i * n + b] != 0;
        if (any) which[count++] = b;
    }
    Size filled = (count + WIDTH - 1) / WIDTH * WIDTH;
    if (filled >= lanes) return lanes; /* nothing to gain */
    pick(g, g, rows, n, count, which);
    for (Size c = count; c < filled; c++) {
        which[c] = lanes - 1;
        for (Size i = 0; i < rows; i++) g[i * n + c] = 0;
    }
    return filled;
}

/* Back to where the columns were; the others are zero. The columns that filled up are zero themselves. */
static void spread(REAL *row, Size lanes, Size count, const Size *which) {
    for (; count > 1 && which[count - 1] == which[count - 2]; count--) {}
    for (Size b = lanes - 1, i = count - 1; b >= 0; b--) row[b] = i >= 0 && which[i] == b ? row[i--] : 0;
}

static void stack_backward_block(const void *job, Size number) {
    const Stack *s = job;
    Size network = number / blocks(s->lanes), block = number % blocks(s->lanes);
    Size first = block * COLUMNS, lanes = columns_of(s->lanes, block), some = lanes, which[COLUMNS];
    End slope = s->is_tanh ? TANH_SLOPE : RELU_SLOPE;
    /* In the smallest of several critics each action goes through one of them: half the columns of two are zero. */
    int sparse = !s->to_weights && !s->active_end;
    for (Size l = 2; l <= s->depth; l++) sparse &= s->widths[l] <= BLOCK; /* or multiply() would write before it reads */
    for (Size l = s->depth - 1; l >= 0; l--) {
        Layer at = layer_of(s, l, network);
        Size here = at.outputs + first, below = at.previous + first;
        if (l == s->depth - 1 && s->active_end)
            for (Size i = 0; i < at.width; i++) {
                REAL *g = s->gradients + here + i * s->n;
                const REAL *h = s->outputs + here + i * s->n;
                for (Size b = 0; b < lanes; b++) g[b] = s->is_tanh ? g[b] * (1 - h[b] * h[b]) : h[b] <= 0 ? 0 : g[b]; /* NaN passes */
            }
        if (l == s->depth - 1) apply_gain(s->gain, s->plain, at.width, s->n, lanes, s->gradients + here, NULL);
        if (l == s->depth - 1 && sparse) some = with_gradient(s->gradients + here, at.width, s->n, lanes, which);
        if (l == 0 && !s->to_x) return;
        REAL *out = l ? s->gradients + below : s->to_x + network * at.before * s->n + first;
        const REAL *beside = l ? s->outputs + below : NULL;
        if (l && some < lanes) { /* the outputs' own columns, where the gradients will replace them one by one */
            pick(beside, out, at.before, s->n, some, which);
            beside = out;
        }
        multiply(&(Product){.n = s->n, .rows = at.before, .depth = at.width,
                            .weights = {s->weights[at.matrix], 1, at.before},
                            .x = s->gradients + here, .end = l ? slope : LINEAR, .beside = beside, .out = out,
                            .rounded = is_rounded(s, l)},
                 some);
        if (l && has_norm(s, l - 1)) {
            Layer before = layer_of(s, l - 1, network);
            if (some < lanes) { /* nobody needs the others any more */
                REAL *normed = s->normed + below, *factors = s->factors + before.factors + first;
                pick(normed, normed, at.before, s->n, some, which);
                pick(factors, factors, 1, s->n, some, which);
            }
            normalize_backward(s, &before, first, some);
        }
        if (l == 0 && some < lanes)
            for (Size i = 0; i < at.before; i++) spread(out + i * s->n, lanes, some, which);
    }
}

static Size stack_panels(const Stack *s) {
    Size count = 0;
    for (Size l = 0; l < s->depth; l++) count += panels(s->widths[l]);
    return count;
}

static void stack_weights_panel(const void *job, Size number) {
    const Stack *s = job;
    Size network = number / stack_panels(s), panel = number % stack_panels(s), l = 0;
    for (; panel >= panels(s->widths[l]); l++) panel -= panels(s->widths[l]);
    Layer at = layer_of(s, l, network);
    const REAL *x = l ? s->outputs + at.previous : s->x;
    REAL *to_bias = s->to_weights[at.matrix + 1];
    panel_gradient(is_rounded(s, l), s->n, s->lanes, at.width, at.before, s->gradients + at.outputs, x, NULL, panel,
                   s->to_weights[at.matrix], to_bias);
    if (has_norm(s, l) && panel == 0) norm_gradient(s, &at);
    if (l == s->depth - 1 && panel == 0) without_gain(s->gain, s->plain, at.width, to_bias);
}

/* Below this many multiplications a second thread is not worth waking. */
enum { WORTHWHILE = 1 << 18 };

static Size threads_for(const Stack *s, Size threads) {
    Size products = 0;
    for (Size l = 0; l < s->depth; l++) products += s->widths[l] * s->widths[l + 1];
    return s->networks * s->lanes * products < WORTHWHILE ? 1 : threads;
}

void stack_forward(Size threads, const Stack *s) {
    share(stack_forward_block, s, s->networks * blocks(s->lanes), threads_for(s, threads));
}

void stack_backward(Size threads, const Stack *s) {
    threads = threads_for(s, threads);
    share(stack_backward_block, s, s->networks * blocks(s->lanes), threads);
    if (s->to_weights) share(stack_weights_panel, s, s->networks * stack_panels(s), threads);
}
