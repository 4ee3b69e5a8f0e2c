"""Whose weights are taken, and for whom they are written: the choices of `launch.convert`, one name each."""

SOURCES = ("diffusers", "improved-diffusion", "ddim", "safetensors")
TARGETS = ("diffusers", "safetensors", "stablehlo")
