"""Tasks with a known best policy."""
