"""One page a paper: its presets, what only it has, and where its equations and algorithms are."""
