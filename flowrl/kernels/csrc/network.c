/* A coupling's small network over a batch, and its gradients. */
#pragma once
#include "gain.c"
#include "products.c"

/* A network of two layers or more. Its weights: every layer's matrix, each followed by its bias but the first, whose place
 * the context takes. */
typedef struct {
    Size inputs, depth;
    const Size *widths; /* of the layers' outputs, (depth) */
    const Size *from;   /* the inputs' rows */
    double gain;        /* of the last layer's weights */
} Network;

static inline Size width_before(const Network *net, Size layer) { return layer ? net->widths[layer - 1] : net->inputs; }

/* The first row of the last layer's outputs. */
static inline Size last_layer(const Network *net) {
    Size row = 0;
    for (Size layer = 0; layer < net->depth - 1; layer++) row += net->widths[layer];
    return row;
}

/* g W_n relu(... relu(W_1 x + context) ...) + b_n; outputs: of all layers, one after the other, (widths, batch). */
static void network_forward(Size n, Size lanes, const Network *net, const REAL *const *weights,
                            const REAL *context, const REAL *x, REAL *outputs) {
    for (Size layer = 0; layer < net->depth; layer++) {
        Size width = net->widths[layer], before = width_before(net, layer);
        multiply(&(Product){.n = n, .rows = width, .depth = before,
                            .weights = {weights[layer ? 2 * layer - 1 : 0], before, 1},
                            .x = x, .from = layer ? NULL : net->from,
                            .base = layer ? NULL : context, .bias = layer ? weights[2 * layer] : NULL,
                            .end = layer < net->depth - 1 ? RELU : LINEAR, .out = outputs},
                 lanes);
        if (layer == net->depth - 1) apply_gain(net->gain, 0, width, n, lanes, outputs, weights[2 * layer]);
        x = outputs;
        outputs += width * n;
    }
}

/* gradients: as outputs, at the start that in the last layer's output, at the end those in all layers' outputs before their
 * activations; the first layer's is that in the context too. Adds the gradient in the inputs to to_x, in its rows
 * net->from. */
static void network_backward(Size n, Size lanes, const Network *net, const REAL *const *weights,
                             const REAL *outputs, REAL *gradients, REAL *to_x) {
    Size start = last_layer(net) * n; /* of a layer's outputs */
    apply_gain(net->gain, 0, net->widths[net->depth - 1], n, lanes, gradients + start, NULL);
    for (Size layer = net->depth - 1; layer > 0; layer--) {
        Size width = net->widths[layer], before = net->widths[layer - 1];
        const REAL *g = gradients + start;
        start -= before * n;
        multiply(&(Product){.n = n, .rows = before, .depth = width, .weights = {weights[2 * layer - 1], 1, before}, .x = g,
                            .end = RELU_SLOPE, .beside = outputs + start, .out = gradients + start},
                 lanes);
    }
    multiply(&(Product){.n = n, .rows = net->inputs, .depth = net->widths[0], .weights = {weights[0], 1, net->inputs},
                        .x = gradients, .base = to_x, .out = to_x, .to = net->from},
             lanes);
}

static inline Size network_panels(const Network *net) {
    Size count = 0;
    for (Size layer = 0; layer < net->depth; layer++) count += panels(width_before(net, layer));
    return count;
}

/* One panel of the gradients in the weights, from those in the layers' outputs. */
static void network_panel(Size n, Size lanes, const Network *net, Size panel, const REAL *x, const REAL *outputs,
                          const REAL *gradients, REAL *const *to_weights) {
    Size layer = 0;
    for (; panel >= panels(width_before(net, layer)); layer++) {
        panel -= panels(width_before(net, layer));
        x = outputs;
        outputs += net->widths[layer] * n;
        gradients += net->widths[layer] * n;
    }
    panel_gradient(0, n, lanes, net->widths[layer], width_before(net, layer), gradients, x, layer ? NULL : net->from, panel,
                   to_weights[layer ? 2 * layer - 1 : 0], layer ? to_weights[2 * layer] : NULL);
    if (layer == net->depth - 1 && panel == 0) without_gain(net->gain, 0, net->widths[layer], to_weights[2 * layer]);
}
