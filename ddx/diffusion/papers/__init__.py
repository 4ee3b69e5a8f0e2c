"""One page per paper: its presets, what only that paper has, and where to find its equations and algorithms."""
