/* An epoch of proximal policy optimization (Schulman et al. 2017, "Proximal Policy Optimization Algorithms", eq. 7 and 9), as
 * Stable-Baselines3 2.9's PPO.train makes it: minibatches of a shuffled rollout, one after the other. Arrays are (feature,
 * batch), the batch contiguous, unless it says otherwise.
 */
#pragma once
#include "adam.c"
#include "flow.c"
#include "stack.c"

enum Loss { ENTROPY_LOSS, POLICY_GRADIENT_LOSS, VALUE_LOSS, APPROX_KL, CLIP_FRACTION, LOSS, LOSSES };

typedef struct {
    Size features, actions;
    /* The rollout, (steps, feature): what the policy emitted, and noise for the entropy's samples. */
    const REAL *states, *taken, *noise;
    const REAL *old_values, *old_log_prob, *advantages, *returns; /* (steps) */
    int normalize;                      /* whether advantages are normalised in every minibatch */
    double clip, clip_values;           /* of the ratio; of the change in values, negative for none */
    double entropy_weight, value_weight, max_norm, max_kl;
    Stack actor, critic;                /* the last layer of the actor gives the flow's parameters */
    Flow scored, sampled;               /* the taken actions, and the entropy's */
    REAL *const *to_sampled_weights;    /* the latter's gradients in the weights that both read */
    const Size *flow_sizes;             /* of those weights */
    Size flow_tensors;
    Adam adam;
    REAL *x;                            /* the networks' inputs, (features, n) */
    REAL *to_ladj;                      /* in the log-determinants, (n) */
    double *losses;                     /* (minibatches, LOSSES) */
} Ppo;

/* The mean, and one over the deviation, of a minibatch's advantages. */
static void moments(Size n, const REAL *a, double *mean, double *scale) {
    double sum = 0, square = 0;
    for (Size b = 0; b < n; b++) sum += a[b];
    *mean = sum / (double)n;
    for (Size b = 0; b < n; b++) square += (a[b] - *mean) * (a[b] - *mean);
    *scale = 1 / (sqrt(square / (double)(n - 1)) + 1e-8);
}

/* -min(A r, A clip(r)) and what is logged of the ratio r = pi / pi_old; its gradient in the log-determinants. */
static void policy_loss(const Ppo *p, Size n, double *losses) {
    double mean = 0, scale = 1;
    if (p->normalize && n > 1) moments(n, p->advantages, &mean, &scale);
    for (Size b = 0; b < n; b++) {
        double advantage = (p->advantages[b] - mean) * scale;
        double log_ratio = p->scored.ladj[b] - p->old_log_prob[b], ratio = exp(log_ratio);
        double low = 1 - p->clip, high = 1 + p->clip;
        double surrogate = advantage * ratio, clipped = advantage * (ratio < low ? low : ratio > high ? high : ratio);
        losses[POLICY_GRADIENT_LOSS] -= (surrogate <= clipped ? surrogate : clipped) / (double)n;
        losses[APPROX_KL] += (expm1(log_ratio) - log_ratio) / (double)n;
        losses[CLIP_FRACTION] += (fabs(ratio - 1) > p->clip) / (double)n;
        /* Where the clipped surrogate is the smaller one it is constant in the ratio */
        p->to_ladj[b] = (REAL)(surrogate <= clipped ? surrogate / (double)n : 0);
    }
}

/* The squared error of the values, whose change is clipped if asked; its gradient in them. */
static void value_loss(const Ppo *p, Size n, double *losses) {
    const REAL *values = last_layers(&p->critic, p->critic.outputs);
    REAL *g = last_layers(&p->critic, p->critic.gradients);
    for (Size b = 0; b < n; b++) {
        double value = values[b], moves = 1;
        if (p->clip_values >= 0) {
            double change = value - p->old_values[b], limit = p->clip_values;
            moves = fabs(change) <= limit;
            value = p->old_values[b] + (change < -limit ? -limit : change > limit ? limit : change);
        }
        double error = value - p->returns[b];
        losses[VALUE_LOSS] += error * error / (double)n;
        g[b] = (REAL)(2 * p->value_weight / (double)n * error * moves);
    }
}

/* The gradient of -H, estimated by a sample: added to that in the flow's parameters and weights. */
static void entropy_backward(Size threads, Ppo *p, Size n) {
    for (Size b = 0; b < n; b++) p->to_ladj[b] = (REAL)(-p->entropy_weight / (double)n);
    Size numbers = p->actor.widths[p->actor.depth] * n;
    Flow *flow = &p->sampled;
    memset(flow->to_state, 0, (size_t)(p->actions * n) * sizeof(REAL));
    flow_backward(threads, flow);
    REAL *sum = last_layers(&p->actor, p->actor.gradients);
    for (Size i = 0; i < numbers; i++) sum[i] += flow->to_parameters[i];
    for (Size t = 0; t < p->flow_tensors; t++)
        for (Size i = 0; i < p->flow_sizes[t]; i++) p->scored.to_weights[t][i] += p->to_sampled_weights[t][i];
}

/* Moves the policy by the loss of the n steps at the head of the arrays; 0 where it or its gradient is not finite (the loss is
 * then NaN), or the divergence is too large. */
static int ppo_minibatch(Size threads, Ppo *p, Size n, double *losses) {
    Size d = p->actions;
    p->actor.n = p->actor.lanes = p->critic.n = p->critic.lanes = n;
    p->scored.n = p->scored.lanes = p->sampled.n = p->sampled.lanes = n;
    memset(losses, 0, LOSSES * sizeof(double));
    transpose(n, p->features, p->states, p->x, n);
    stack_forward(threads, &p->actor);
    stack_forward(threads, &p->critic);
    p->scored.parameters = p->sampled.parameters = last_layers(&p->actor, p->actor.outputs);
    p->scored.to_parameters = last_layers(&p->actor, p->actor.gradients);
    transpose(n, d, p->taken, p->scored.states, n);
    flow_forward(threads, &p->scored);
    if (p->entropy_weight != 0) {
        transpose(n, d, p->noise, p->sampled.states, n);
        flow_forward(threads, &p->sampled);
    }
    const REAL *log_prob = p->entropy_weight != 0 ? p->sampled.ladj : p->scored.ladj; /* either estimates -H */
    for (Size b = 0; b < n; b++) losses[ENTROPY_LOSS] += log_prob[b] / (double)n;
    policy_loss(p, n, losses);
    value_loss(p, n, losses);
    losses[LOSS] = losses[POLICY_GRADIENT_LOSS] + p->entropy_weight * losses[ENTROPY_LOSS] + p->value_weight * losses[VALUE_LOSS];
    for (Size i = 0; i < LOSSES; i++) losses[i] = (REAL)losses[i]; /* overflows as SB3's do */
    if (!isfinite(losses[LOSS]) || losses[APPROX_KL] > p->max_kl) return 0;

    memset(p->scored.to_state, 0, (size_t)(d * n) * sizeof(REAL));
    flow_backward(threads, &p->scored);
    if (p->entropy_weight != 0) entropy_backward(threads, p, n);
    stack_backward(threads, &p->actor);
    stack_backward(threads, &p->critic);
    double norm = gradient_norm(&p->adam);
    if (!isfinite(norm)) {
        losses[LOSS] = NAN;
        return 0;
    }
    clip_gradients(&p->adam, norm, p->max_norm);
    adam_step(threads, &p->adam);
    return 1;
}

/* Minibatches of a size until the steps are used up; returns how many were begun. */
Size ppo_epoch(Size threads, const Ppo *epoch, Size steps, Size size) {
    Ppo p = *epoch;
    Size count = 0;
    for (Size first = 0; first < steps; first += size) {
        Size n = steps - first < size ? steps - first : size;
        if (!ppo_minibatch(threads, &p, n, p.losses + LOSSES * count++)) break;
        p.states += n * p.features, p.taken += n * p.actions;
        p.noise += n * p.actions, p.old_values += n, p.old_log_prob += n, p.advantages += n, p.returns += n;
    }
    return count;
}
