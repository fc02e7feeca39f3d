/* The temperature of maximum-entropy methods (Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications", eq. 18),
 * as Stable-Baselines3 2.9 moves it.
 */
#pragma once
#include "adam.c"

/* alpha as it is, which is then moved by the gradient of -log alpha mean(log pi + target entropy). */
static double temperature(Size threads, const Adam *adam, const REAL *log_alpha, const REAL *log_prob, Size n,
                          double target_entropy, double *loss) {
    double mean = 0, before = *log_alpha;
    for (Size b = 0; b < n; b++) mean += log_prob[b] / (double)n;
    double gradient = -(mean + target_entropy);
    *loss = before * gradient;
    **adam->gradients = (REAL)gradient;
    if (!descend(threads, adam)) *loss = NAN;
    return exp(before);
}
