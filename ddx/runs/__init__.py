"""A run's folder: its config, checkpoints and data, its jobs, and the trained network in it."""
