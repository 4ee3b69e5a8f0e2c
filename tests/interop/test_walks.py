"""A converted run samples as the scheduler of diffusers does that it came with."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.config import default_config, validate
from ddx.interop import schedulers
from ddx.sampling.sampler import make_sampler
from ddx.system import make_system
from tests import golden
from tests.interop.originals import WALKS, model_output, start


def converted(tmp_path, options, doubled=False, **given):
    """The config of a run with a scheduler's options, and further settings of samples."""
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps(options))
    config = default_config()
    schedulers.apply(path, config, doubled)
    config.sample.update(given)
    return validate(config)


@pytest.mark.parametrize("name", WALKS)
def test_a_walk_ends_where_diffusers_does(tmp_path, name):
    data = golden.load("diffusers_walks")
    _, options, steps, given = WALKS[name]
    doubled = options.get("variance_type") == "learned_range"
    given = {"num_steps": steps} | given
    if "use_clipped_model_output" in given:
        given["keep_eps"] = not given.pop("use_clipped_model_output")
    config = converted(tmp_path, json.loads(str(data[f"{name}/config"])), doubled, **given)
    system = make_system(config, (4, 4, 1))
    with jax.enable_x64(True):
        x_T, *noise = start(name)

        def network(x, t):
            return jnp.concatenate(model_output(x, t[:, None, None, None], 2 if doubled else 1), -1)

        how = make_sampler(config, system)
        denoise = ddx.denoiser(system.process, network, config.loss.prediction, how.clip)
        draws = jnp.stack(noise)[: len(how.times) - 1]
        x_0 = jax.jit(lambda plan, x_T: ddx.walk(denoise, plan, x_T, solver=how.solver, noise=draws))(how.plan, x_T)
    np.testing.assert_allclose(x_0, data[f"{name}/x_0"], rtol=0, atol=1e-4)  # diffusers' alphas are float32
