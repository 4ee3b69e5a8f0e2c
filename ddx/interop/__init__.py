"""Weights in and out: networks that other code bases trained, as runs of ddx."""

from ddx.interop.export import export
from ddx.interop.job import convert

__all__ = ["convert", "export"]
