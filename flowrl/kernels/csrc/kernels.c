/* All kernels, compiled once for float and once for double (REAL). */
#include "nfac.c"
#include "nfq.c"
#include "policy.c"
#include "ppo.c"
#include "sac.c"
