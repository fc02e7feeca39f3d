"""What `experiments/tutorial.py` shows: single transforms, fits of flows to targets, and the document they are quoted in."""
