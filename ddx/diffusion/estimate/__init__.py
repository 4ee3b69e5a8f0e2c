"""How x_0 and eps follow from a network's output: predictions, and the denoisers built on them."""
