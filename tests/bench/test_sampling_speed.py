"""How fast sampling is. Run alone on a quiet machine, with torch and diffusers installed:

    pip install torch diffusers && pytest -m bench -s tests/bench

DDX_BENCH_STEPS (default 50) and DDX_BENCH_RUNS (default 5) make it shorter.
"""

import importlib.util
import os
import pathlib
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.interop.export import of_diffusers

STEPS = int(os.environ.get("DDX_BENCH_STEPS", "50"))
RUNS = int(os.environ.get("DDX_BENCH_RUNS", "5"))
pytestmark = pytest.mark.bench


@pytest.fixture(scope="module")
def network():
    """DDPM's CIFAR-10 network, every weight random, and its parameters."""
    model = ddx.models.create("ddpm_cifar10")
    x, t = jnp.zeros((1, 32, 32, 3)), jnp.zeros(1)
    params = jax.jit(model.init)(jax.random.key(0), x, t)["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [leaf + 0.01 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return model, tree.unflatten(noisy)


def test_64_samples_are_no_slower_than_diffusers(network, tmp_path):
    if not all(map(importlib.util.find_spec, ("torch", "diffusers"))):
        pytest.skip("needs torch and diffusers")
    model, params = network
    np.savez(tmp_path / "weights.npz", **of_diffusers(params, model))
    script = pathlib.Path(__file__).with_name("diffusers_ddim.py")
    command = [sys.executable, str(script), str(tmp_path / "weights.npz"), str(STEPS)]
    process = ddx.ddpm()
    times = ddx.trajectory(1000, STEPS)

    @jax.jit
    def run(params, x_T):
        denoise = ddx.denoiser(process, lambda x, t: model.apply({"params": params}, x, t), clip=False)
        return ddx.sample(denoise, None, x_T, times)

    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "ready\n"
        with np.load(tmp_path / "diffusers.npz") as file:
            x_T, expected = jnp.asarray(file["latents"].transpose(0, 2, 3, 1)), file["images"]
        images = np.clip((np.asarray(run(params, x_T)) + 1) / 2, 0, 1)
        difference = float(np.abs(images - expected).max())
        ours, theirs = [], []
        for _ in range(RUNS):
            print("run", file=other.stdin, flush=True)
            theirs.append(float(other.stdout.readline()))
            start = time.perf_counter()
            run(params, x_T).block_until_ready()
            ours.append(time.perf_counter() - start)
        other.stdin.close()
    ratio = statistics.median(theirs) / statistics.median(ours)
    print(
        f"\nDDIM, {STEPS} steps, 64 images: ddx {statistics.median(ours):.1f} s, diffusers"
        f" {statistics.median(theirs):.1f} s, ratio {ratio:.3f}; images differ by {difference:.1e}"
    )
    print("ddx", np.round(ours, 2), "diffusers", np.round(theirs, 2))
    assert difference < 1e-2
    assert ratio >= 1.1


def test_a_step_costs_little_beyond_its_network(network):
    """Per-step overhead below 1 %: the sampler against the same number of network evaluations in a bare scan."""
    model, params = network
    process, steps = ddx.ddpm(), 3
    x_T = jax.random.normal(jax.random.key(0), (64, 32, 32, 3))

    @jax.jit
    def bare(params, x):
        def body(x, t):
            return model.apply({"params": params}, x, jnp.full(64, t)), None

        return jax.lax.scan(body, x, jnp.arange(steps))[0]

    @jax.jit
    def sampler(params, x):
        denoise = ddx.denoiser(process, lambda x, t: model.apply({"params": params}, x, t), clip=False)
        return ddx.sample(denoise, jax.random.key(0), x, (900, 600, 300, 0), eta=1.0)

    spent = {"bare": [], "sampler": []}
    for i in range(2 * RUNS + 1):
        for name, fn in (("bare", bare), ("sampler", sampler)):
            start = time.perf_counter()
            fn(params, x_T).block_until_ready()
            spent[name] += [time.perf_counter() - start] * (i > 0)
    overhead = min(spent["sampler"]) / min(spent["bare"]) - 1
    print(f"\noverhead of a DDPM step beyond the network: {100 * overhead:.2f} %")
    print({name: np.round(values, 2) for name, values in spent.items()})
    assert overhead < 0.01
