/* A whole update of NFAC: soft actor-critic whose critics give the return's distribution, see algorithms/nfac/update.py. Arrays
 * are (feature, batch), the batch contiguous, unless it says otherwise.
 */
#pragma once
#include "adam.c"
#include "flow.c"
#include "returns.c"
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
    Stack critics, targets;
    Adam of_actor, of_critics, of_temperature; /* that of the critics moves the targets too */
    const REAL *log_alpha; /* NULL where alpha is fixed */
    double alpha, target_entropy;
    Returns returns;
    const REAL *smoothing; /* noise that moves a flow's target atoms, (batch, atoms), times smoothing_std */
    double smoothing_std, reward_scale; /* rewards are divided by the latter */
    int moves_actor, smallest; /* whether the actor moves; whether it goes by the smallest critic, else by their mean */
    REAL *all_states;              /* the actor's inputs, (features, 2 n) */
    REAL *state_actions;           /* the critics', (features + actions, n) */
    REAL *to_state_actions;        /* the gradients in them, (networks, features + actions, n) */
    REAL *target;                  /* atoms, or weights of fixed returns, (atoms, n) */
    REAL *to_log_prob, *values;    /* (n), (networks, n) */
    double losses[6];              /* the temperature's, alpha, the critics', the actor's, the mean value, the part clipped */
} Nfac;

static inline const REAL *policy_actions(const Nfac *s) { return s->flow.states + s->flow.count * s->actions * 2 * s->n; }

static inline Size head_size(const Stack *s) { return s->widths[s->depth]; }

/* y = r / scale + discount (1 - done) (z' - alpha log pi(a'|s')), z' the atoms of the critic with the smaller mean. */
static void returns_targets(Size threads, Nfac *s, double alpha) {
    Size n = s->n, atoms = s->returns.atoms, size = head_size(&s->targets);
    move_rows(s->state_actions, n, s->all_states + n, 2 * n, s->features, n);
    move_rows(s->state_actions + s->features * n, n, policy_actions(s) + n, 2 * n, s->actions, n);
    stack_forward(threads, &s->targets);
    const REAL *raw = last_layers(&s->targets, s->targets.outputs), *log_prob = s->flow.ladj + n;
    REAL bound = (REAL)s->returns.bound, step = 2 * bound / (REAL)(atoms - 1);
    if (s->returns.head == CATEGORICAL) memset(s->target, 0, (size_t)(atoms * n) * sizeof(REAL));
    static __thread REAL values[MAX_ATOMS][LANES], weights[MAX_ATOMS][LANES], best[MAX_ATOMS][LANES], best_weights[MAX_ATOMS][LANES];
    for (Size b = 0; b < n; b += LANES) {
        int lanes = n - b < LANES ? (int)(n - b) : LANES;
        Lanes mean, best_mean;
        for (Size i = 0; i < s->targets.networks; i++) {
            atoms_of(&s->returns, raw + i * size * n + b, n, lanes, values, weights, mean);
            for (Size j = 0; j < atoms; j++)
                for (int l = 0; l < LANES; l++)
                    if (!i || !(mean[l] >= best_mean[l])) best[j][l] = values[j][l], best_weights[j][l] = weights[j][l];
            for (int l = 0; l < LANES; l++)
                if (!i || !(mean[l] >= best_mean[l])) best_mean[l] = mean[l]; /* NaN is the least */
        }
        for (int l = 0; l < lanes; l++) {
            Size at = b + l;
            REAL discount = (1 - s->dones[at]) * (s->discounts ? s->discounts[at] : (REAL)s->discount);
            REAL reward = s->rewards[at] / (REAL)s->reward_scale, entropy = (REAL)alpha * log_prob[at];
            for (Size j = 0; j < atoms; j++) {
                REAL y = reward + discount * (best[j][l] - entropy);
                REAL inside = y > bound ? bound : y < -bound ? -bound : y;
                if (inside != y) s->losses[5] += 1 / (double)(n * atoms);
                s->losses[4] += inside * best_weights[j][l] / (double)n;
                if (s->returns.head == CATEGORICAL) {
                    REAL position = (inside + bound) / step;
                    Size low = position >= 0 ? (Size)position : 0; /* NaN: anywhere, since its weight is NaN */
                    low = low > atoms - 2 ? atoms - 2 : low;
                    REAL upper = position - (REAL)low;
                    s->target[low * n + at] += best_weights[j][l] * (1 - upper);
                    s->target[(low + 1) * n + at] += best_weights[j][l] * upper;
                } else {
                    REAL noised = inside + (REAL)s->smoothing_std * s->smoothing[at * atoms + j];
                    noised = noised > bound ? 2 * bound - noised : noised;
                    noised = noised < -bound ? -2 * bound - noised : noised;
                    s->target[j * n + at] = noised > bound ? bound : noised < -bound ? -bound : noised;
                }
            }
        }
    }
}

typedef struct {
    const Nfac *s;
    const REAL *raw, *scale;
    REAL *out, *gradients; /* the loss or the value of each network's sample, (networks, n) */
    int measures;
} HeadJob;

/* LANES samples of one network. */
static void head_block(const void *job, Size number) {
    const HeadJob *h = job;
    Size n = h->s->n, count = (n + LANES - 1) / LANES, network = number / count, b = number % count * LANES;
    int lanes = n - b < LANES ? (int)(n - b) : LANES;
    Size at = network * head_size(&h->s->critics) * n + b;
    Lanes out, scale;
    REAL *gradients = h->gradients ? h->gradients + at : NULL;
    if (h->measures) {
        if (h->scale) gather(scale, h->scale + network * n + b, 1, lanes);
        measure_returns(&h->s->returns, h->raw + at, n, lanes, scale, out, gradients);
    } else {
        learn_returns(&h->s->returns, h->raw + at, n, lanes, h->s->target + b, 1 / (REAL)n, out, gradients);
    }
    for (int l = 0; l < lanes; l++) h->out[network * n + b + l] = out[l];
}

static void heads(Size threads, const Nfac *s, HeadJob job) {
    job.s = s;
    share(head_block, &job, s->critics.networks * ((s->n + LANES - 1) / LANES), threads);
}

/* Moves the critics by the gradient of the sum of their mean losses. */
static void returns_critics(Size threads, Nfac *s) {
    Size n = s->n;
    move_rows(s->state_actions, n, s->all_states, 2 * n, s->features, n);
    transpose(n, s->actions, s->taken, s->state_actions + s->features * n, n);
    stack_forward(threads, &s->critics);
    heads(threads, s, (HeadJob){.raw = last_layers(&s->critics, s->critics.outputs), .out = s->values,
                                .gradients = last_layers(&s->critics, s->critics.gradients)});
    for (Size i = 0; i < s->critics.networks * n; i++) s->losses[2] += s->values[i] / (double)n;
    if (!isfinite(s->losses[2])) return;
    stack_backward(threads, &s->critics);
    adam_step(threads, &s->of_critics);
}

/* Moves the actor by the gradient of mean(alpha log pi(a | s) - rho(Z(s, a))). */
static void returns_actor(Size threads, Nfac *s, double alpha) {
    Size n = s->n, d = s->actions, networks = s->critics.networks;
    move_rows(s->state_actions + s->features * n, n, policy_actions(s), 2 * n, d, n);
    Stack frozen = s->critics;
    frozen.to_weights = NULL, frozen.to_x = s->to_state_actions;
    stack_forward(threads, &frozen);
    const REAL *raw = last_layers(&frozen, frozen.outputs), *log_prob = s->flow.ladj;
    heads(threads, s, (HeadJob){.raw = raw, .out = s->values, .measures = 1});
    for (Size b = 0; b < n; b++) {
        Size which = 0;
        REAL mean = 0;
        for (Size i = 0; i < networks; i++) {
            if (!(s->values[i * n + b] >= s->values[which * n + b])) which = i; /* NaN is the least */
            mean += s->values[i * n + b] / (REAL)networks;
        }
        s->losses[3] += (alpha * log_prob[b] - (s->smallest ? s->values[which * n + b] : mean)) / (double)n;
        for (Size i = 0; i < networks; i++)
            s->values[i * n + b] = s->smallest ? (i == which ? -1 / (REAL)n : 0) : -1 / (REAL)(n * networks);
        s->to_log_prob[b] = -(REAL)alpha / (REAL)n; /* in the log-determinant, which the log-prob has with a minus */
    }
    if (!isfinite(s->losses[3])) return;
    heads(threads, s, (HeadJob){.raw = raw, .scale = s->values, .out = s->values, .measures = 1,
                                .gradients = last_layers(&frozen, frozen.gradients)});
    stack_backward(threads, &frozen);
    for (Size f = 0; f < d; f++) {
        REAL *to_action = s->flow.to_state + f * 2 * n;
        memset(to_action, 0, (size_t)n * sizeof(REAL));
        for (Size i = 0; i < networks; i++) {
            const REAL *part = s->to_state_actions + (i * (s->features + d) + s->features + f) * n;
            for (Size b = 0; b < n; b++) to_action[b] += part[b];
        }
    }
    Flow flow = s->flow;
    Stack network = s->actor;
    flow.lanes = network.lanes = n; /* the states that follow have no part in it */
    flow_backward(threads, &flow);
    stack_backward(threads, &network);
    adam_step(threads, &s->of_actor);
}

/* A loss that is not finite ends the update before it moves anything by it; the caller finds it among the losses. */
void nfac_update(Size threads, Nfac *s) {
    Size n = s->n;
    memset(s->losses, 0, sizeof(s->losses));
    transpose(n, s->features, s->states, s->all_states, 2 * n);
    transpose(n, s->features, s->next_states, s->all_states + n, 2 * n);
    stack_forward(threads, &s->actor);
    s->flow.parameters = last_layers(&s->actor, s->actor.outputs);
    s->flow.to_parameters = last_layers(&s->actor, s->actor.gradients);
    transpose(2 * n, s->actions, s->noise, s->flow.states, 2 * n);
    flow_forward(threads, &s->flow);
    double alpha = s->log_alpha ? exp(*s->log_alpha) : s->alpha;
    if (s->log_alpha && s->moves_actor)
        temperature(threads, &s->of_temperature, s->log_alpha, s->flow.ladj, n, s->target_entropy, s->losses);
    s->losses[1] = alpha;
    returns_targets(threads, s, alpha);
    returns_critics(threads, s);
    if (s->moves_actor && isfinite(s->losses[0]) && isfinite(s->losses[2])) returns_actor(threads, s, alpha);
}
