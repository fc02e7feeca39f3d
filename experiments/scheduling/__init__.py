"""Many runs of ``run.py``: what is to be trained (suite files), where it stands (jobs), and who trains it."""
