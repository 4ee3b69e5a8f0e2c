"""How to walk back: times, plans, solvers, variances, walks, encoding and interpolation."""
