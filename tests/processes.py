"""Processes of their own, that compile as these tests do."""

import os
import socket


def environment(devices=1, **changes):
    """The environment of a process with so many forced CPU devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return os.environ | {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"} | changes


def hosts(count, devices):
    """The environments of processes that work together, each with so many devices."""
    with socket.socket() as one:
        one.bind(("localhost", 0))
        address = f"localhost:{one.getsockname()[1]}"
    common = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count)}
    return [environment(devices, **common, JAX_PROCESS_ID=str(i)) for i in range(count)]
