"""Objectives of a config through the whole house: the loss that is trained, and a run of flow matching to its end."""

import jax
import numpy as np
import pytest

import ddx
from ddx.diffusion.objective import losses, weights
from ddx.sampling.sampler import make_sampler
from ddx.system import make_system, make_time_sampler
from ddx.training import train

FLOW = {
    "process__kind": "rectified_flow",
    "loss__prediction": "velocity",
    "loss__times": "lognormal",
    "loss__times_mean": 0.0,
    "loss__times_std": 1.0,
    "sample__trajectory": "trailing",
}


@pytest.mark.parametrize(
    ("changes", "weight"),
    [
        ({"loss__weight": "min_snr", "loss__min_snr_gamma": 2.0}, weights.min_snr(2.0)),
        ({"loss__weight": "p2", "loss__p2_gamma": 0.5}, weights.p2(0.5)),
        ({"loss__weight": "edm", "loss__sigma_data": 0.3}, weights.edm(0.3)),
        ({"loss__weight": "constant"}, weights.constant()),
        ({}, None),
    ],
)
def test_the_loss_that_is_trained_has_the_config_s_weight(tiny_config, changes, weight):
    system = make_system(tiny_config(**changes), (8, 8, 1))
    x_0 = np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 1)).astype(np.float32)
    noise, t, label = np.flip(x_0, 1), np.array([1, 9, 20]), np.zeros(3, int)
    params = jax.jit(system.init)(jax.random.key(0))
    found, _ = jax.jit(system.loss)(params, x_0, label, t, noise, jax.random.split(jax.random.key(1), 3))

    def network(x, model_time):
        return system.model.apply({"params": params}, x, model_time)

    expected = jax.jit(lambda x: losses.simple_loss(system.process, network, x, t, noise, "eps", weight))(x_0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_flow_matching_is_trained_sampled_and_bounded(tiny_config, tmp_path, no_pictures):
    outcome = train(tiny_config(**FLOW, train__num_steps=4), tmp_path / "run")
    assert outcome.finished
    run = ddx.load(tmp_path / "run")
    assert run.process.continuous and float(run.process.marginal(20).alpha) == 0
    images = run.sample(2, num_steps=3, trajectory="karras", solver="heun")
    assert images.shape == (2, 8, 8, 1)
    bits = run.evaluate(num_steps=5, trajectory="logsnr", max_examples=4, batch_size=4).values
    assert np.isfinite(bits["bits_per_dim"]) and bits["prior"] == 0


@pytest.mark.parametrize(
    ("changes", "whole"),
    [
        (FLOW, False),
        (FLOW | {"loss__times": "uniform"}, False),
        (FLOW | {"loss__times": "uniform", "loss__objective": "hybrid", "loss__variance": "range"}, True),
        ({"loss__times": "lognormal"}, True),
    ],
)
def test_times_are_real_where_the_process_and_the_loss_take_them(tiny_config, changes, whole):
    times = make_time_sampler(tiny_config(**changes))
    t, _ = times.draw((), jax.random.key(0), np.arange(64), 64)
    assert np.all(t == np.round(t)) == whole and t.min() > 0 and t.max() <= 20


@pytest.mark.parametrize("changes", [FLOW, {"process__zero_terminal_snr": True, "loss__prediction": "v"}])
def test_a_walk_that_leaves_out_the_level_without_signal_says_so(tiny_config, changes, recwarn):
    config = tiny_config(**changes | {"sample__trajectory": "leading"})
    system = make_system(config, (8, 8, 1))
    with pytest.warns(
        UserWarning, match=r"from pure noise at t = 17, .* Use a trajectory that visits T, such as trail"
    ):
        make_sampler(config, system)
    for spacing in ("trailing", "karras", "logsnr", "linspace"):
        config.sample.trajectory = spacing
        make_sampler(config, system)
    make_sampler(config, system, strength=0.5)  # from noised images
    assert not recwarn.list
