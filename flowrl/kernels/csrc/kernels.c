/* All kernels, compiled once for float and once for double (REAL). */
#include "flow.c"
#include "policy.c"
#include "sac.c"
#include "squash.c"
#include "stack.c"
