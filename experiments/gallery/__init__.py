"""What `experiments/tutorial.py` shows: single transforms, fits of flows to targets, the document that quotes them."""
