"""Processes of their own, that compile as these tests do."""

import os


def environment(devices=1, **changes):
    """The environment of a process with so many forced CPU devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return os.environ | {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"} | changes
