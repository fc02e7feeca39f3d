/* Stacks of layers over a batch, and their gradients. */
#pragma once
#include "batch_norm.c"
#include "gain.c"
#include "layer_norm.c"
#include "products.c"
#include "threads.c"

/* out = in^T; rows of out lie n apart. */
static void transpose(Size rows, Size columns, const REAL *in, REAL *out, Size n) {
    for (Size b = 0; b < rows; b++)
        for (Size f = 0; f < columns; f++) out[f * n + b] = in[b * columns + f];
}

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

/* One layer of all networks. */
typedef struct {
    const Stack *s;
    Size layer;
} OneLayer;

/* A block of columns through one layer; not through its norm where that goes by the batch. */
static void layer_forward(const Stack *s, Size l, Size network, Size block) {
    Size first = block * COLUMNS, lanes = columns_of(s->lanes, block);
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
        apply_gain(s->gain, s->plain, at.width, s->n, lanes, s->outputs + at.outputs + first, s->weights[at.matrix + 1]);
    if (!has_norm(s, l) || by_layers(s)) return;
    if (s->norm == LAYER_NORM)
        normalize(s, &at, first, lanes);
    else
        normalize_by_running(s, &at, first, lanes);
}

static void stack_forward_block(const void *job, Size number) {
    const Stack *s = job;
    for (Size l = 0; l < s->depth; l++) layer_forward(s, l, number / blocks(s->lanes), number % blocks(s->lanes));
}

static void layer_forward_block(const void *job, Size number) {
    const OneLayer *one = job;
    layer_forward(one->s, one->layer, number / blocks(one->s->lanes), number % blocks(one->s->lanes));
}

/* Rows of a layer are shared out this many together. */
enum { ROWS = 16 };

static inline Size row_groups(const OneLayer *one) { return (one->s->widths[one->layer + 1] + ROWS - 1) / ROWS; }

static void each_row(const OneLayer *one, Size number, void (*task)(const Stack *, const Layer *, Size)) {
    Layer at = layer_of(one->s, one->layer, number / row_groups(one));
    Size first = number % row_groups(one) * ROWS;
    for (Size i = first; i < first + ROWS && i < at.width; i++) task(one->s, &at, i);
}

static void normalize_rows(const void *job, Size number) { each_row(job, number, normalize_row); }

static void normalize_rows_backward(const void *job, Size number) { each_row(job, number, normalize_row_backward); }

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

/* In the smallest of several critics each action goes through one of them: half the columns of two are zero. Those that are
 * not are put side by side, and these alone are gone through. */
typedef struct {
    int sparse;
    Size count, which[COLUMNS]; /* all of them at first */
} Columns;

static Columns columns_with_gradient(const Stack *s, Size lanes) {
    Columns some = {.sparse = !s->to_weights && !s->active_end, .count = lanes};
    for (Size l = 2; l <= s->depth; l++) some.sparse &= s->widths[l] <= BLOCK; /* or multiply() would write before it reads */
    return some;
}

/* A block's gradients in a layer's outputs become those in the outputs of the layer below, before its activation and, if
 * that does not go by the batch, its norm; the first layer's become those in the input, if these are wanted. */
static void layer_backward(const Stack *s, Size l, Size network, Size block, Columns *some) {
    Size first = block * COLUMNS, lanes = columns_of(s->lanes, block);
    End slope = s->is_tanh ? TANH_SLOPE : RELU_SLOPE;
    Layer at = layer_of(s, l, network);
    Size here = at.outputs + first, below = at.previous + first;
    if (l == s->depth - 1 && s->active_end)
        for (Size i = 0; i < at.width; i++) {
            REAL *g = s->gradients + here + i * s->n;
            const REAL *h = s->outputs + here + i * s->n;
            for (Size b = 0; b < lanes; b++) g[b] = s->is_tanh ? g[b] * (1 - h[b] * h[b]) : h[b] <= 0 ? 0 : g[b]; /* NaN passes */
        }
    if (l == s->depth - 1) apply_gain(s->gain, s->plain, at.width, s->n, lanes, s->gradients + here, NULL);
    if (l == s->depth - 1 && some->sparse) some->count = with_gradient(s->gradients + here, at.width, s->n, lanes, some->which);
    if (l == 0 && !s->to_x) return;
    REAL *out = l ? s->gradients + below : s->to_x + network * at.before * s->n + first;
    const REAL *beside = l ? s->outputs + below : NULL;
    if (l && some->count < lanes) { /* the outputs' own columns, where the gradients will replace them one by one */
        pick(beside, out, at.before, s->n, some->count, some->which);
        beside = out;
    }
    multiply(&(Product){.n = s->n, .rows = at.before, .depth = at.width,
                        .weights = {s->weights[at.matrix], 1, at.before},
                        .x = s->gradients + here, .end = l ? slope : LINEAR, .beside = beside, .out = out,
                        .rounded = is_rounded(s, l)},
             some->count);
    if (l == 0 && some->count < lanes)
        for (Size i = 0; i < at.before; i++) spread(out + i * s->n, lanes, some->count, some->which);
    if (l == 0 || !has_norm(s, l - 1) || by_layers(s)) return;
    Layer before = layer_of(s, l - 1, network);
    if (s->norm == BATCH_NORM) {
        normalize_by_running_backward(s, &before, first, some->count);
        return;
    }
    if (some->count < lanes) { /* nobody needs the others any more */
        REAL *normed = s->normed + below, *factors = s->factors + before.factors + first;
        pick(normed, normed, at.before, s->n, some->count, some->which);
        pick(factors, factors, 1, s->n, some->count, some->which);
    }
    normalize_backward(s, &before, first, some->count);
}

static void stack_backward_block(const void *job, Size number) {
    const Stack *s = job;
    Size network = number / blocks(s->lanes), block = number % blocks(s->lanes);
    Columns some = columns_with_gradient(s, columns_of(s->lanes, block));
    for (Size l = s->depth - 1; l >= 0; l--) layer_backward(s, l, network, block, &some);
}

static void layer_backward_block(const void *job, Size number) {
    const OneLayer *one = job;
    Size block = number % blocks(one->s->lanes);
    Columns all = {.count = columns_of(one->s->lanes, block)};
    layer_backward(one->s, one->layer, number / blocks(one->s->lanes), block, &all);
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

static void forward_by_layers(Size threads, const Stack *s) {
    for (Size l = 0; l < s->depth; l++) {
        OneLayer one = {s, l};
        share(layer_forward_block, &one, s->networks * blocks(s->lanes), threads);
        if (!has_norm(s, l)) continue;
        share(normalize_rows, &one, s->networks * row_groups(&one), threads);
        for (Size i = 0; i < s->networks; i++) *s->moments[layer_of(s, l, i).moments + 2] += 1;
    }
}

static void backward_by_layers(Size threads, const Stack *s) {
    for (Size l = s->depth - 1; l >= 0; l--) {
        OneLayer one = {s, l}, below = {s, l - 1};
        share(layer_backward_block, &one, s->networks * blocks(s->lanes), threads);
        if (l && has_norm(s, l - 1)) share(normalize_rows_backward, &below, s->networks * row_groups(&below), threads);
    }
}

void stack_forward(Size threads, const Stack *s) {
    threads = threads_for(s, threads);
    if (by_layers(s))
        forward_by_layers(threads, s);
    else
        share(stack_forward_block, s, s->networks * blocks(s->lanes), threads);
}

void stack_backward(Size threads, const Stack *s) {
    threads = threads_for(s, threads);
    if (by_layers(s))
        backward_by_layers(threads, s);
    else
        share(stack_backward_block, s, s->networks * blocks(s->lanes), threads);
    if (s->to_weights) share(stack_weights_panel, s, s->networks * stack_panels(s), threads);
}
