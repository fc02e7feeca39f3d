/* Equal networks (critics; an actor and a critic; one alone) side by side, and where each one's layers are. Arrays are
 * (network, feature, batch), the batch contiguous; those of several layers follow each other.
 */
#pragma once
#include "elementary.c"

enum Norm { NO_NORM, LAYER_NORM, BATCH_NORM };

/* What a batch norm has made of a row: (z - mean) / deviation * ratio + shift. */
typedef struct {
    REAL deviation, ratio, shift;
} Renormed;

typedef struct {
    Size n, lanes;      /* rows lie n apart, and the first lanes count */
    Size networks, depth;
    const Size *widths; /* of the inputs, then of each layer's outputs, (depth + 1) */
    int is_tanh;        /* whether the activation is tanh; ReLU if not */
    int active_end;     /* whether it follows the last layer too */
    Size plain;         /* the last layer's rows after these: their weights, not their biases, are multiplied by the gain */
    double gain;
    int norm;           /* which Norm each layer but the last has before its activation */
    double epsilon;     /* of the norms */
    int by_batch;       /* of batch norms: whether they go by the batch's moments, which the running ones then follow */
    Size rounded;       /* of float: the layers after the first up to this one multiply factors rounded to bfloat16; 0: none */
    const REAL *const *weights; /* of each layer the matrix and the bias of each network, (depth, networks, 2) pointers; after
                                   them of each norm the scale and the shift, (depth - 1, networks, 2) */
    REAL *const *moments;       /* of each batch norm the running mean, variance and number of updates: (depth - 1, networks, 3)
                                   pointers */
    const REAL *x;  /* the input that all networks share */
    REAL *outputs;  /* of all layers */
    REAL *gradients; /* in these; at first the last layer's alone; at the end before the activations and norms */
    REAL *normed, *to_normed; /* as outputs: before a norm's scale and shift, and the gradients after these; NULL: not kept */
    REAL *factors;            /* of layer norms: 1 / deviation, (depth, networks, n) */
    Renormed *renormed;       /* of batch norms: of each row */
    /* Where nobody asks for the gradients in the weights, the way back leaves gradients, normed and factors in disorder. */
    REAL *to_x;              /* NULL where nobody asks */
    REAL *const *to_weights; /* as weights; NULL where nobody asks */
} Stack;

/* One layer of one network. */
typedef struct {
    Size before, width;
    Size matrix;            /* its matrix among the pointers to weights; its bias comes after it */
    Size scale;             /* its norm's scale there; the shift comes after it */
    Size factors;           /* where what its layer norm has multiplied by begins */
    Size moments;           /* its batch norm's among the pointers to them */
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
    at.moments = 3 * (layer * s->networks + network);
    return at;
}

/* Where the last layer of the first network begins, in the outputs or in the gradients in them. */
static REAL *last_layers(const Stack *s, REAL *arrays) { return arrays + layer_of(s, s->depth - 1, 0).outputs; }

/* Whether a layer must be through with the whole batch before the next one begins. */
static inline int by_layers(const Stack *s) { return s->norm == BATCH_NORM && s->by_batch; }

static inline int has_norm(const Stack *s, Size layer) { return s->norm != NO_NORM && layer < s->depth - 1; }

/* Not the first layer: what it reads may be large, with little in the last digits. */
static inline int is_rounded(const Stack *s, Size layer) { return layer > 0 && layer <= s->rounded && s->n > 1; }
