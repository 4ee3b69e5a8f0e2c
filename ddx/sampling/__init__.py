"""Samples of a run: drawn, interpolated, encoded and decoded again."""

from ddx.sampling.latents import interpolate as interpolate
from ddx.sampling.latents import reconstruct as reconstruct
from ddx.sampling.measured import load_statistics as load_statistics
from ddx.sampling.samples import sample as sample
