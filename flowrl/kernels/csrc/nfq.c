/* A whole update of NFQ: Q_i(s, a) = V_i(s) + alpha log pi(a|s), see algorithms/nfq/update.py. Arrays are (feature, batch), the
 * batch contiguous, unless it says otherwise.
 */
#pragma once
#include "adam.c"
#include "flow.c"
#include "stack.c"
#include "temperature.c"

typedef struct {
    Size n, features, actions; /* sizes of the batch, the states and the actions */
    /* The batch as it comes, (batch, feature): transitions whose actions are u, and noise where the policy's own are needed. */
    const REAL *states, *next_states, *taken, *rewards, *dones, *noise;
    const REAL *discounts; /* of each transition; NULL: the same for all */
    double discount;
    Stack actor;           /* whose last layer gives the flow's parameters */
    Flow scored, sampled;  /* the taken actions; the policy's own, for the temperature and the weights */
    Stack values, targets; /* V_i; of the states that follow */
    Adam of_actor, of_values, of_temperature; /* that of the values moves the targets too */
    const REAL *log_alpha; /* NULL where alpha is fixed */
    double alpha, target_entropy;
    double max_norm, cql_weight; /* infinity: gradients are not clipped; 0: nothing is conservative */
    double floor, max_weight;    /* of a replayed action; 1: all count the same */
    REAL *x, *next_x;      /* the networks' inputs, (features, n) */
    REAL *weights;         /* what each replayed action counts for, (n) */
    REAL *to_ladj;         /* the gradient in the log-determinant, which log pi has with a minus, (n) */
    double losses[4];      /* the temperature's, alpha, Q's, the mean of V */
} Nfq;

/* max(floor, min(1, pi(a|s) / pi(a'|s))), divided by their mean. */
static void importance(Nfq *q) {
    Size n = q->n;
    REAL mean = 0;
    for (Size b = 0; b < n; b++) {
        REAL difference = q->scored.ladj[b] - q->sampled.ladj[b];
        REAL weight = difference < 0 ? (REAL)exp(difference) : difference > 0 ? 1 : 1 + difference; /* NaN stays */
        q->weights[b] = weight < (REAL)q->floor ? (REAL)q->floor : weight;
        mean += q->weights[b] / (REAL)n;
    }
    REAL least = (REAL)(1 / q->max_weight), divisor = mean < least ? least : mean;
    for (Size b = 0; b < n; b++) q->weights[b] /= divisor;
}

/* 1/2 sum_i mean w (V_i(s) + alpha log pi(a|s) - y)^2, y = r + discount (1 - done) min_j V'_j(s'), and its gradients; with
 * that of -c alpha mean log pi(a|s) for each value. */
static void soft_q_loss(Nfq *q, double alpha) {
    Size n = q->n;
    const REAL *v = last_layers(&q->values, q->values.outputs), *next_v = last_layers(&q->targets, q->targets.outputs);
    REAL *to_v = last_layers(&q->values, q->values.gradients);
    for (Size b = 0; b < n; b++) {
        REAL next = next_v[b];
        for (Size i = 1; i < q->targets.networks; i++) next = next_v[i * n + b] < next ? next_v[i * n + b] : next;
        REAL discount = q->discounts ? q->discounts[b] : (REAL)q->discount;
        REAL weight = q->floor < 1 ? q->weights[b] : 1;
        REAL y = q->rewards[b] + (1 - q->dones[b]) * discount * next;
        REAL sum = -(REAL)(q->cql_weight * (double)q->values.networks);
        for (Size i = 0; i < q->values.networks; i++) {
            REAL error = v[i * n + b] + (REAL)alpha * q->scored.ladj[b] - y;
            q->losses[2] += 0.5 * weight * error * error / (double)n;
            q->losses[3] += v[i * n + b] / (double)(n * q->values.networks);
            to_v[i * n + b] = weight * error / (REAL)n;
            sum += weight * error;
        }
        q->to_ladj[b] = -(REAL)alpha * sum / (REAL)n;
    }
    q->losses[2] = (REAL)q->losses[2]; /* overflows as torch's does */
}

/* A loss that is not finite ends the update before it moves anything; the caller finds it among the losses, and NaN for one
 * whose gradient is not finite. */
void nfq_update(Size threads, Nfq *q) {
    Size n = q->n, d = q->actions;
    memset(q->losses, 0, sizeof(q->losses));
    transpose(n, q->features, q->states, q->x, n);
    transpose(n, q->features, q->next_states, q->next_x, n);
    stack_forward(threads, &q->actor);
    stack_forward(threads, &q->values);
    stack_forward(threads, &q->targets);
    q->scored.parameters = q->sampled.parameters = last_layers(&q->actor, q->actor.outputs);
    q->scored.to_parameters = last_layers(&q->actor, q->actor.gradients);
    transpose(n, d, q->taken, q->scored.states, n);
    flow_forward(threads, &q->scored);

    double alpha = q->losses[1] = q->log_alpha ? exp(*q->log_alpha) : q->alpha;
    if (q->log_alpha || q->floor < 1) {
        transpose(n, d, q->noise, q->sampled.states, n);
        flow_forward(threads, &q->sampled);
    }
    if (q->floor < 1) importance(q);
    soft_q_loss(q, alpha);
    if (!isfinite(q->losses[2])) return;
    memset(q->scored.to_state, 0, (size_t)(d * n) * sizeof(REAL));
    flow_backward(threads, &q->scored);
    stack_backward(threads, &q->actor);
    stack_backward(threads, &q->values);
    double actor_norm = gradient_norm(&q->of_actor), values_norm = gradient_norm(&q->of_values);
    if (!isfinite(actor_norm + values_norm)) {
        q->losses[2] = NAN;
        return;
    }
    if (q->log_alpha)
        temperature(threads, &q->of_temperature, q->log_alpha, q->sampled.ladj, n, q->target_entropy, q->losses);
    clip_gradients(&q->of_actor, actor_norm, q->max_norm);
    clip_gradients(&q->of_values, values_norm, q->max_norm);
    adam_step(threads, &q->of_actor);
    adam_step(threads, &q->of_values);
}
