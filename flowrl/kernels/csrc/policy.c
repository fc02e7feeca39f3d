/* Acting: the network of a policy, its flow and its squash for a few states at once. */
#pragma once
#include "flow.c"
#include "stack.c"

/* states: (n, features); noise: (n, actions), NULL for zero; memory: for whatever lies between; actions: (n, actions). */
void policy_act(Size threads, Size n, Size depth, const Size *widths, int is_tanh, const REAL *const *weights, Size count,
                const Step *steps, double limit, double low, double high, const REAL *const *flow_weights, Size actions,
                const REAL *states, const REAL *noise, REAL *memory, REAL *out) {
    Size rows = 0;
    for (Size l = 1; l <= depth; l++) rows += widths[l];
    REAL *x = memory, *outputs = x + widths[0] * n, *parameters = outputs + (rows - widths[depth]) * n;
    REAL *values = outputs + rows * n, *image = values + count * actions * n, *ladj = image + actions * n;
    transpose(n, widths[0], states, x, n);
    Stack network = {.n = n, .lanes = n, .networks = 1, .depth = depth, .widths = widths, .is_tanh = is_tanh,
                     .weights = weights, .x = x, .outputs = outputs};
    stack_forward(threads, &network);
    if (noise)
        transpose(n, actions, noise, values, n);
    else
        memset(values, 0, (size_t)(n * actions) * sizeof(REAL));
    Flow flow = {.n = n, .lanes = n, .features = actions, .count = count, .steps = steps, .limit = limit, .low = low,
                 .high = high, .parameters = parameters, .weights = flow_weights, .states = values, .outputs = ladj + n,
                 .ladj = ladj};
    flow_forward(threads, &flow);
    transpose(actions, n, image, out, actions);
}
