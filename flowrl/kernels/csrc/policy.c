/* Acting: the networks of a policy, its flow and its squash for a few states at once. */
#pragma once
#include "flow.c"
#include "stack.c"

typedef struct {
    Size n, features, actions; /* sizes of the batch, the states and the actions */
    Stack actor, critic;       /* no critic: of depth 0; their weights and shapes alone are given */
    Flow flow;                 /* alike */
    const REAL *states;        /* (n, features) */
    const REAL *noise;         /* (n, actions); NULL for zero */
    REAL *memory;              /* for whatever lies between */
    REAL *out;                 /* the actions, (n, actions) */
    REAL *log_prob, *values;   /* (n); the latter where there is a critic */
} Act;

/* The numbers that a stack's outputs take. */
static Size outputs_of(const Stack *s, Size n) {
    Size rows = 0;
    for (Size l = 1; l <= s->depth; l++) rows += s->networks * s->widths[l];
    return rows * n;
}

/* Whether all actions are finite. */
Size policy_act(Size threads, const Act *a) {
    Size n = a->n, d = a->actions;
    Stack actor = a->actor, critic = a->critic;
    Flow flow = a->flow;
    REAL *x = a->memory;
    transpose(n, a->features, a->states, x, n);
    actor.n = actor.lanes = critic.n = critic.lanes = flow.n = flow.lanes = n;
    actor.x = critic.x = x;
    actor.outputs = x + a->features * n;
    stack_forward(threads, &actor);
    flow.parameters = last_layers(&actor, actor.outputs);
    flow.states = actor.outputs + outputs_of(&actor, n);
    flow.outputs = flow.states + (flow.count + 1) * d * n;
    flow.ladj = a->log_prob;
    if (a->noise)
        transpose(n, d, a->noise, flow.states, n);
    else
        memset(flow.states, 0, (size_t)(n * d) * sizeof(REAL));
    flow_forward(threads, &flow);
    transpose(d, n, flow.states + flow.count * d * n, a->out, d);
    Size finite = 1;
    for (Size i = 0; i < n * d; i++) finite &= isfinite(a->out[i]) != 0;
    if (!critic.depth) return finite;
    critic.outputs = actor.outputs; /* nothing of the actor's is needed any more */
    stack_forward(threads, &critic);
    memcpy(a->values, last_layers(&critic, critic.outputs), (size_t)n * sizeof(REAL));
    return finite;
}
