"""What a config costs on a TPU, by the TPU's own compiler, on any Linux machine."""
