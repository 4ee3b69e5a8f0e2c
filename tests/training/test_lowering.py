"""Every shipped config becomes a TPU and a GPU program at full size, without such a device or any allocation."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddx.diffusion.reverse.walk import advance, noise_from, start
from ddx.sampling.sampler import make_sampler
from ddx.system import make_system, make_time_sampler
from ddx.training.program import step_of
from ddx.training.state import init_state, make_optimizer
from ddx.training.step import many_steps
from tests.config.test_config import shipped

# One of each network, with each objective and each thing that a network is told: images, parameters.
DISTINCT = {
    "digits_iddpm:vlb": ((8, 8, 1), 755_298),
    "ddpm_cifar10": ((32, 32, 3), 35_746_307),
    "ddpm_lsun:bedroom_large": ((256, 256, 3), 255_677_955),
    "ddim_celeba64": ((64, 64, 3), 78_700_803),
    "iddpm_imagenet64:upsampler": ((256, 256, 3), 279_792_390),
    "blurring_cifar10": ((32, 32, 3), 49_505_283),
    "ihdm_cifar10": ((32, 32, 3), 61_060_867),
}


# One network of each family, the other's with a learned variance and a sampler of times that learns.
SHORT = ("ddpm_cifar10", "digits_iddpm:vlb")


@pytest.mark.parametrize("run", [pytest.param(run, marks=[pytest.mark.soak] * (run not in SHORT)) for run in DISTINCT])
def test_training_and_sampling_lower_for_tpu_and_gpu(run):
    shape, num_params = DISTINCT[run]
    name, *args = run.split(":")
    config = shipped(pathlib.Path(f"configs/{name}.py"), *args)
    config.model.dtype = "bfloat16"
    system = make_system(config, shape, 1000 if config.model.class_conditional else 1)
    t = config.train
    optimizer = make_optimizer(t.learning_rate, t.warmup_steps)
    times = make_time_sampler(config)
    key = jax.random.key(0)
    state = jax.eval_shape(lambda key: init_state(system.init(key), optimizer, times.init()), key)
    sizes = [np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(state.params)]
    assert sum(sizes) == num_params

    t.accumulation = 1
    step = step_of(config, system, times, optimizer, state.params)
    batch = {
        "image": jax.ShapeDtypeStruct((2, t.batch_size // 8, *shape), jnp.uint8),
        "label": jax.ShapeDtypeStruct((2, t.batch_size // 8), jnp.int32),
        "example": jax.ShapeDtypeStruct((2, t.batch_size // 8), jnp.int32),
    }
    # Layouts of doubled images and of shortcuts, which no other version of JAX need know: nothing is kept of this.
    known = [jax.export.DisabledSafetyCheck.custom_call("LayoutConstraint")]
    exported = jax.export.export(jax.jit(many_steps(step)), platforms=["tpu", "cuda"], disabled_checks=known)
    program = exported(state, key, (np.int32(2), batch)).mlir_module()
    assert "f64" not in program and "bf16" in program

    sampler = make_sampler(config, system)

    def walk(params, steps, draws, u_t):
        denoise = system.denoiser(params, sampler.clip, system.told(u_t, jnp.zeros(2, jnp.int32)))
        return advance(denoise, start(sampler.solver, u_t), steps, draws, sampler.solver, noise_from(key, u_t))

    u_t = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    lowered = jax.export.export(jax.jit(walk), platforms=["tpu", "cuda"], disabled_checks=known)(
        state.ema, jax.tree.map(lambda x: jnp.asarray(x), sampler.plan), jnp.arange(len(sampler.times) - 1), u_t
    )
    assert lowered.out_avals[0].shape == (2, *shape) and "f64" not in lowered.mlir_module()
