"""What docs/tutorial.md shows."""
