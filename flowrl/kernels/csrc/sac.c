/* A whole update of soft actor-critic (Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications", section 5), as
 * Stable-Baselines3 2.9's SAC.train makes it: the temperature, the critics, the actor, the targets. Arrays are (feature,
 * batch), the batch contiguous, unless it says otherwise.
 */
#pragma once
#include "adam.c"
#include "flow.c"
#include "stack.c"
#include "temperature.c"

typedef struct {
    Size n, features, actions; /* sizes of the batch, the states and the actions */
    /* The batch as it comes, (batch, feature): transitions, and noise for the states and then for those that follow. */
    const REAL *states, *next_states, *taken, *rewards, *dones, *noise;
    const REAL *discounts; /* of each transition; NULL: the same for all */
    double discount;
    Stack actor;           /* over 2 n columns: the states, then those that follow */
    Flow flow;             /* alike */
    Stack critics, targets; /* over n columns; critics with batch norms over 2 n: this batch, then the one that follows */
    Adam of_actor, of_critics, of_temperature; /* that of the critics moves the targets too */
    const REAL *log_alpha; /* NULL where alpha is fixed */
    double alpha, target_entropy;
    REAL *all_states;              /* the actor's inputs, (features, 2 n) */
    REAL *state_actions;           /* the critics', (features + actions, columns) */
    REAL *to_state_actions;        /* the gradients in them, (networks, features + actions, columns) */
    REAL *td_target, *to_log_prob; /* (n) */
    double losses[4];              /* the temperature's, alpha, the critics', the actor's */
} Sac;

/* The actions that the flow gives. */
static inline const REAL *acts(const Sac *s) { return s->flow.states + s->flow.count * s->actions * 2 * s->n; }

/* Which of the networks has the least value of one of the batch; q: (networks, n). */
static inline Size least(Size networks, Size n, const REAL *q, Size b) {
    Size which = 0;
    for (Size i = 1; i < networks; i++)
        if (q[i * n + b] < q[which * n + b] || q[i * n + b] != q[i * n + b]) which = i; /* NaN is the least */
    return which;
}

/* The policy's actions in the states and in those that follow. Batch norms normalise the states by their batch, where these
 * are wanted, and those that follow by the running moments. */
static void act_in_all_states(Size threads, Sac *s, int wants_states) {
    Size n = s->n;
    transpose(n, s->features, s->states, s->all_states, 2 * n);
    transpose(n, s->features, s->next_states, s->all_states + n, 2 * n);
    if (by_layers(&s->actor)) {
        Stack of_states = s->actor, of_next = s->actor;
        of_states.lanes = of_next.lanes = n;
        of_next.by_batch = 0, of_next.x += n, of_next.outputs += n;
        if (wants_states) stack_forward(threads, &of_states);
        stack_forward(threads, &of_next);
    } else {
        stack_forward(threads, &s->actor);
    }
    s->flow.parameters = last_layers(&s->actor, s->actor.outputs);
    s->flow.to_parameters = last_layers(&s->actor, s->actor.gradients);
    transpose(2 * n, s->actions, s->noise, s->flow.states, 2 * n);
    flow_forward(threads, &s->flow);
}

/* The targets' outputs for the states that follow and the policy's actions there. */
static const REAL *targets_of_next(Size threads, Sac *s) {
    Size n = s->n;
    move_rows(s->state_actions, n, s->all_states + n, 2 * n, s->features, n);
    move_rows(s->state_actions + s->features * n, n, acts(s) + n, 2 * n, s->actions, n);
    stack_forward(threads, &s->targets);
    return last_layers(&s->targets, s->targets.outputs);
}

/* The critics' outputs for the states and the actions that were taken. */
static const REAL *critics_of_taken(Size threads, Sac *s) {
    Size n = s->n, columns = s->critics.n;
    move_rows(s->state_actions, columns, s->all_states, 2 * n, s->features, n);
    transpose(n, s->actions, s->taken, s->state_actions + s->features * columns, columns);
    stack_forward(threads, &s->critics);
    return last_layers(&s->critics, s->critics.outputs);
}

/* The critics for the states (where they were last asked for these) and the policy's actions there; they will not move. */
static Stack critics_of_policy(Size threads, Sac *s) {
    Size n = s->n, columns = s->critics.n;
    move_rows(s->state_actions + s->features * columns, columns, acts(s), 2 * n, s->actions, n);
    Stack frozen = s->critics;
    frozen.to_weights = NULL, frozen.to_x = s->to_state_actions, frozen.lanes = n, frozen.by_batch = 0;
    stack_forward(threads, &frozen);
    return frozen;
}

/* Moves the actor by the gradients in those critics' outputs and in the log-probs, if they are finite. */
static void move_actor(Size threads, Sac *s, const Stack *frozen) {
    Size n = s->n, d = s->actions;
    stack_backward(threads, frozen);
    for (Size f = 0; f < d; f++) {
        REAL *to_action = s->flow.to_state + f * 2 * n;
        memset(to_action, 0, (size_t)n * sizeof(REAL));
        for (Size i = 0; i < frozen->networks; i++) {
            const REAL *part = s->to_state_actions + (i * (s->features + d) + s->features + f) * frozen->n;
            for (Size b = 0; b < n; b++) to_action[b] += part[b];
        }
    }
    Flow flow = s->flow;
    Stack network = s->actor;
    flow.lanes = network.lanes = n; /* the states that follow have no part in it */
    flow_backward(threads, &flow);
    stack_backward(threads, &network);
    if (!descend(threads, &s->of_actor)) s->losses[3] = NAN;
}

/* y = r + discount (1 - done) (min_i Q'_i(s', a') - alpha log pi(a' | s')) */
static void td_targets(Size threads, Sac *s, double alpha) {
    Size n = s->n;
    const REAL *q = targets_of_next(threads, s), *log_prob = s->flow.ladj + n;
    for (Size b = 0; b < n; b++) {
        REAL value = q[least(s->targets.networks, n, q, b) * n + b] - (REAL)alpha * log_prob[b];
        REAL discount = s->discounts ? s->discounts[b] : (REAL)s->discount;
        s->td_target[b] = s->rewards[b] + (1 - s->dones[b]) * discount * value;
    }
}

/* Moves the critics by the gradient of 1/2 sum_i mean (Q_i(s, a) - y)^2. */
static void critics(Size threads, Sac *s) {
    Size n = s->n;
    const REAL *q = critics_of_taken(threads, s);
    REAL *g = last_layers(&s->critics, s->critics.gradients);
    s->losses[2] = 0;
    for (Size i = 0; i < s->critics.networks * n; i++) {
        REAL error = q[i] - s->td_target[i % n];
        s->losses[2] += 0.5 * error * error / (double)n;
        g[i] = error / (REAL)n;
    }
    if (!isfinite(s->losses[2] = (REAL)s->losses[2])) return; /* overflows as SB3's does */
    stack_backward(threads, &s->critics);
    if (!descend(threads, &s->of_critics)) s->losses[2] = NAN;
}

/* Moves the actor by the gradient of mean(alpha log pi(a | s) - min_i Q_i(s, a)). */
static void actor(Size threads, Sac *s, double alpha) {
    Size n = s->n;
    Stack frozen = critics_of_policy(threads, s);
    const REAL *q = last_layers(&frozen, frozen.outputs), *log_prob = s->flow.ladj;
    REAL *g = last_layers(&frozen, frozen.gradients);
    memset(g, 0, (size_t)(frozen.networks * n) * sizeof(REAL));
    s->losses[3] = 0;
    for (Size b = 0; b < n; b++) {
        Size which = least(frozen.networks, n, q, b) * n + b;
        s->losses[3] += (alpha * log_prob[b] - q[which]) / (double)n;
        g[which] = -1 / (REAL)n;
        s->to_log_prob[b] = -(REAL)alpha / (REAL)n; /* in the log-determinant, which the log-prob has with a minus */
    }
    if (!isfinite(s->losses[3] = (REAL)s->losses[3])) return;
    move_actor(threads, s, &frozen);
}

/* A loss that is not finite ends the update before it moves anything by it; the caller finds it among the losses, and NaN
 * for one whose gradient is not finite. */
void sac_update(Size threads, Sac *s) {
    Size n = s->n;
    s->losses[0] = s->losses[2] = s->losses[3] = 0;
    act_in_all_states(threads, s, 1);
    double alpha = s->alpha;
    if (s->log_alpha)
        alpha = temperature(threads, &s->of_temperature, s->log_alpha, s->flow.ladj, n, s->target_entropy, s->losses);
    s->losses[1] = alpha;
    td_targets(threads, s, alpha);
    critics(threads, s);
    if (isfinite(s->losses[0]) && isfinite(s->losses[2])) actor(threads, s, alpha);
}
