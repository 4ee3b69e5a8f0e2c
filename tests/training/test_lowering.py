"""Every shipped config becomes a TPU and a GPU program at full size, without such a device or any allocation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddx import build
from ddx.diffusion import sampling
from ddx.training.state import init_state, make_optimizer
from ddx.training.step import make_step, many_steps
from tests.test_config import RUNS, shipped

SHAPES = {
    "digits": (8, 8, 1),
    "ddpm_cifar10": (32, 32, 3),
    "ddpm_celebahq256": (256, 256, 3),
    "ddpm_lsun": (256, 256, 3),
}
PARAMETERS = {"digits": 701_345, "ddpm_cifar10": 35_746_307, "bedroom_large": 255_677_955}


# LSUN's other runs have CelebA-HQ's network.
DISTINCT = [run for run in RUNS if run[0].stem != "ddpm_lsun" or run[1] == ("bedroom_large",)]


@pytest.mark.parametrize(("path", "args"), DISTINCT, ids=[":".join((path.stem, *args)) for path, args in DISTINCT])
def test_training_and_sampling_lower_for_tpu_and_gpu(path, args):
    shape = SHAPES[path.stem]
    config = shipped(path, *args)
    config.model.dtype = "bfloat16"
    system = build.system(config, shape)
    t = config.train
    optimizer = make_optimizer(t.learning_rate, t.warmup_steps, t.clip_norm)
    key = jax.random.key(0)
    state = jax.eval_shape(lambda key: init_state(system.init(key), optimizer), key)
    sizes = [np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(state.params)]
    assert sum(sizes) == PARAMETERS.get((path.stem, *args)[-1], 113_673_219)

    step = make_step(
        system.loss,
        optimizer,
        num_steps=config.process.num_steps,
        flip=config.data.flip,
        ema_decay=t.ema_decay,
        ema_warmup=t.ema_warmup,
        accumulation=1,
    )
    batch = {
        "image": jax.ShapeDtypeStruct((2, t.batch_size // 8, *shape), jnp.uint8),
        "label": jax.ShapeDtypeStruct((2, t.batch_size // 8), jnp.int32),
        "example": jax.ShapeDtypeStruct((2, t.batch_size // 8), jnp.int32),
    }
    exported = jax.export.export(jax.jit(many_steps(step)), platforms=["tpu", "cuda"])
    program = exported(state, key, (np.int32(2), batch)).mlir_module()
    assert "f64" not in program and "bf16" in program

    sampler = build.sampler(config, system)

    def walk(params, steps, draws, u_t):
        at = system.denoiser(params, sampler.clip).at
        walking = sampling.start(sampler.kernel, u_t)
        return sampling.walk(at, walking, steps, draws, sampler.kernel, sampling.noise_from(key, u_t))

    u_t = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    lowered = jax.export.export(jax.jit(walk), platforms=["tpu", "cuda"])(
        state.ema, jax.tree.map(lambda x: jnp.asarray(x), sampler.steps), jnp.arange(len(sampler.times) - 1), u_t
    )
    assert lowered.out_avals[0].shape == (2, *shape) and "f64" not in lowered.mlir_module()
