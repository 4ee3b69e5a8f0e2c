"""Whose weights are taken, and for whom they are written: the choices of `launch.convert`, one name each."""

SOURCES = ("diffusers", "improved-diffusion", "ddim", "guided-diffusion", "analytic-dpm", "safetensors")
TARGETS = ("diffusers", "safetensors", "stablehlo")
ATTENTION_ORDERS = ("old", "new")  # of queries, keys and values in the files of ADM
