"""What a config costs: on a TPU that need not be there, by its compiler, and on the devices of this machine."""
