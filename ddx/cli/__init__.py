"""The commands: python -m launch.train, python -m launch.sample. Thin: flags, then one call."""
