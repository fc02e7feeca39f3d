"""Hand-written CPU kernels in C, compiled at first use where a C compiler is found; nothing needs them to work."""
