"""The comparisons of ``experiments/benchmark.py``: one file a mode, and the turns, tables and pictures they share."""
