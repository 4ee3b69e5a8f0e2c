"""How good a model is: bits per dimension, and the statistics and trajectories that follow from its errors."""
