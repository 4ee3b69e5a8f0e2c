"""What a model is worth: bits per dimension, and the statistics and trajectories that follow from its errors."""
