/* A whole update of NFAC: soft actor-critic whose critics give the return's distribution, see algorithms/nfac/update.py. Arrays
 * are (feature, batch), the batch contiguous, unless it says otherwise.
 */
#pragma once
#include "returns.c"
#include "sac.c"

/* SAC's, whose critics' outputs are read as distributions. */
typedef struct {
    Sac sac;
    Returns returns;
    const REAL *smoothing; /* noise that moves a flow's target atoms, (batch, atoms), times smoothing_std */
    double smoothing_std, reward_scale; /* rewards are divided by the latter */
    int moves_actor, smallest; /* whether the actor moves; whether it goes by the smallest critic, else by their mean */
    REAL *target, *values;     /* atoms, or weights of fixed returns, (atoms, the critics' columns); of each sample, (networks, n) */
    double value, clipped;     /* the mean of the target; the part of its atoms that lay beyond the interval */
} Nfac;

static inline Size head_size(const Stack *s) { return s->widths[s->depth]; }

/* The critics' outputs for both batches in one pass, so that batch norms go by the mixture, and no networks follow (CrossQ):
 * the first columns are the states and the actions that were taken, the others those that follow. */
static const REAL *critics_of_both(Size threads, Sac *s) {
    Size n = s->n;
    move_rows(s->state_actions + n, 2 * n, s->all_states + n, 2 * n, s->features, n);
    move_rows(s->state_actions + n + s->features * 2 * n, 2 * n, acts(s) + n, 2 * n, s->actions, n);
    return critics_of_taken(threads, s);
}

/* y = r / scale + discount (1 - done) (z' - alpha log pi(a'|s')), z' the atoms of the critic with the smaller mean; raw: the
 * critics' outputs for the states that follow. */
static void returns_targets(Nfac *job, const REAL *raw, double alpha) {
    Sac *s = &job->sac;
    const Returns *r = &job->returns;
    Size n = s->n, columns = s->critics.n, atoms = r->atoms, size = head_size(&s->critics);
    const REAL *log_prob = s->flow.ladj + n;
    REAL bound = (REAL)r->bound, step = 2 * bound / (REAL)(atoms - 1);
    job->value = job->clipped = 0;
    if (r->head == CATEGORICAL) memset(job->target, 0, (size_t)(atoms * columns) * sizeof(REAL));
    static __thread REAL values[MAX_ATOMS][LANES], weights[MAX_ATOMS][LANES], best[MAX_ATOMS][LANES], best_weights[MAX_ATOMS][LANES];
    for (Size b = 0; b < n; b += LANES) {
        int lanes = n - b < LANES ? (int)(n - b) : LANES;
        Lanes mean, best_mean;
        for (Size i = 0; i < s->critics.networks; i++) {
            atoms_of(r, raw + i * size * columns + b, columns, lanes, values, weights, mean);
            for (Size j = 0; j < atoms; j++)
                for (int l = 0; l < LANES; l++)
                    if (!i || !(mean[l] >= best_mean[l])) best[j][l] = values[j][l], best_weights[j][l] = weights[j][l];
            for (int l = 0; l < LANES; l++)
                if (!i || !(mean[l] >= best_mean[l])) best_mean[l] = mean[l]; /* NaN is the least */
        }
        for (int l = 0; l < lanes; l++) {
            Size at = b + l;
            REAL discount = (1 - s->dones[at]) * (s->discounts ? s->discounts[at] : (REAL)s->discount);
            REAL reward = s->rewards[at] / (REAL)job->reward_scale, entropy = (REAL)alpha * log_prob[at];
            for (Size j = 0; j < atoms; j++) {
                REAL y = reward + discount * (best[j][l] - entropy);
                REAL inside = r->head == SCALAR ? y : y > bound ? bound : y < -bound ? -bound : y;
                if (inside != y) job->clipped += 1 / (double)(n * atoms);
                job->value += inside * best_weights[j][l] / (double)n;
                if (r->head == CATEGORICAL) {
                    REAL position = (inside + bound) / step;
                    Size low = position >= 0 ? (Size)position : 0; /* NaN: anywhere, since its weight is NaN */
                    low = low > atoms - 2 ? atoms - 2 : low;
                    REAL upper = position - (REAL)low;
                    job->target[low * columns + at] += best_weights[j][l] * (1 - upper);
                    job->target[(low + 1) * columns + at] += best_weights[j][l] * upper;
                } else if (r->head == SCALAR) {
                    job->target[at] = y;
                } else {
                    REAL noised = inside + (REAL)job->smoothing_std * job->smoothing[at * atoms + j];
                    noised = noised > bound ? 2 * bound - noised : noised;
                    noised = noised < -bound ? -2 * bound - noised : noised;
                    job->target[j * columns + at] = noised > bound ? bound : noised < -bound ? -bound : noised;
                }
            }
        }
    }
}

typedef struct {
    const Nfac *job;
    const REAL *raw, *scale;
    REAL *out, *gradients; /* the loss or the value of each network's sample, (networks, n) */
    int measures;
} HeadJob;

/* LANES samples of one network. */
static void head_block(const void *given, Size number) {
    const HeadJob *h = given;
    const Sac *s = &h->job->sac;
    Size n = s->n, columns = s->critics.n, count = (n + LANES - 1) / LANES, network = number / count, b = number % count * LANES;
    int lanes = n - b < LANES ? (int)(n - b) : LANES;
    Size at = network * head_size(&s->critics) * columns + b;
    Lanes out, scale;
    REAL *gradients = h->gradients ? h->gradients + at : NULL;
    if (h->measures) {
        if (h->scale) gather(scale, h->scale + network * n + b, 1, lanes);
        measure_returns(&h->job->returns, h->raw + at, columns, lanes, scale, out, gradients);
    } else {
        learn_returns(&h->job->returns, h->raw + at, columns, lanes, h->job->target + b, 1 / (REAL)n, out, gradients);
    }
    for (int l = 0; l < lanes; l++) h->out[network * n + b + l] = out[l];
}

static void heads(Size threads, const Nfac *job, HeadJob part) {
    part.job = job;
    share(head_block, &part, job->sac.critics.networks * ((job->sac.n + LANES - 1) / LANES), threads);
}

/* Moves the critics by the gradient of the sum of their mean losses; raw: their outputs for the actions that were taken. */
static void returns_critics(Size threads, Nfac *job, const REAL *raw) {
    Sac *s = &job->sac;
    REAL *gradients = last_layers(&s->critics, s->critics.gradients);
    heads(threads, job, (HeadJob){.raw = raw, .out = job->values, .gradients = gradients});
    if (by_layers(&s->critics)) /* of what follows nothing is learned */
        for (Size i = 0; i < s->critics.networks * head_size(&s->critics); i++)
            memset(gradients + 2 * i * s->n + s->n, 0, (size_t)s->n * sizeof(REAL));
    for (Size i = 0; i < s->critics.networks * s->n; i++) s->losses[2] += job->values[i] / (double)s->n;
    if (!isfinite(s->losses[2])) return;
    stack_backward(threads, &s->critics);
    if (!descend(threads, &s->of_critics)) s->losses[2] = NAN;
}

/* Moves the actor by the gradient of mean(alpha log pi(a | s) - rho(Z(s, a))). */
static void returns_actor(Size threads, Nfac *job, double alpha) {
    Sac *s = &job->sac;
    Size n = s->n, networks = s->critics.networks;
    Stack frozen = critics_of_policy(threads, s);
    const REAL *raw = last_layers(&frozen, frozen.outputs), *log_prob = s->flow.ladj;
    heads(threads, job, (HeadJob){.raw = raw, .out = job->values, .measures = 1});
    for (Size b = 0; b < n; b++) {
        Size which = least(networks, n, job->values, b);
        REAL mean = 0;
        for (Size i = 0; i < networks; i++) mean += job->values[i * n + b] / (REAL)networks;
        s->losses[3] += (alpha * log_prob[b] - (job->smallest ? job->values[which * n + b] : mean)) / (double)n;
        for (Size i = 0; i < networks; i++)
            job->values[i * n + b] = job->smallest ? (i == which ? -1 / (REAL)n : 0) : -1 / (REAL)(n * networks);
        s->to_log_prob[b] = -(REAL)alpha / (REAL)n; /* in the log-determinant, which the log-prob has with a minus */
    }
    if (!isfinite(s->losses[3])) return;
    heads(threads, job, (HeadJob){.raw = raw, .scale = job->values, .out = job->values, .measures = 1,
                                  .gradients = last_layers(&frozen, frozen.gradients)});
    move_actor(threads, s, &frozen);
}

/* As sac_update. */
void nfac_update(Size threads, Nfac *job) {
    Sac *s = &job->sac;
    s->losses[0] = s->losses[2] = s->losses[3] = 0;
    act_in_all_states(threads, s, job->moves_actor);
    double alpha = s->log_alpha ? exp(*s->log_alpha) : s->alpha;
    if (s->log_alpha && job->moves_actor)
        temperature(threads, &s->of_temperature, s->log_alpha, s->flow.ladj, s->n, s->target_entropy, s->losses);
    s->losses[1] = alpha;
    if (by_layers(&s->critics)) {
        const REAL *raw = critics_of_both(threads, s);
        returns_targets(job, raw + s->n, alpha);
        returns_critics(threads, job, raw);
    } else {
        returns_targets(job, targets_of_next(threads, s), alpha);
        returns_critics(threads, job, critics_of_taken(threads, s));
    }
    if (job->moves_actor && isfinite(s->losses[0]) && isfinite(s->losses[2])) returns_actor(threads, job, alpha);
}
