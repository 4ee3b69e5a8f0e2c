"""Betas rescaled to zero terminal SNR: the definition at both ends and between, and what becomes of processes."""

import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion.forward import betas
from ddx.diffusion.forward.betas import with_zero_terminal_snr


@pytest.mark.parametrize("schedule", betas.SCHEDULES)
@pytest.mark.parametrize("num_steps", [100, 1000])
def test_the_first_level_stays_the_last_loses_everything_and_what_is_between_is_scaled_and_shifted(schedule, num_steps):
    plain, rescaled = betas.betas(schedule, num_steps), betas.betas(schedule, num_steps, zero_terminal_snr=True)
    assert rescaled[0] == plain[0] and rescaled[-1] == 1
    x, found = (np.sqrt(np.cumprod(1.0 - values)) for values in (plain, rescaled))
    assert found[0] == x[0] and found[-1] == 0
    # An affine map of x, so ratios of differences stay.
    ratio = (x[1:] - x[-1]) / (x[0] - x[-1])
    np.testing.assert_allclose((found[1:] - found[-1]) / (found[0] - found[-1]), ratio, rtol=1e-11, atol=1e-15)


def test_a_schedule_that_ends_without_signal_stays_as_it_is():
    np.testing.assert_allclose(with_zero_terminal_snr(betas.betas("jsd", 50)), betas.betas("jsd", 50), rtol=1e-13)
    again = with_zero_terminal_snr(betas.betas("linear", 50, True))
    np.testing.assert_allclose(again, betas.betas("linear", 50, True), rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: with_zero_terminal_snr(np.array([0.1])), "a single level cannot be rescaled"),
        (lambda: betas.betas("cosine", 1, True), "a single level cannot be rescaled"),
        (lambda: with_zero_terminal_snr(np.array([0.1, 1.1])), r"betas must lie in \(0, 1\)"),
        (lambda: ddx.denoiser(ddx.ddpm(zero_terminal_snr=True), None), "says nothing of x_0 at t = T"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("prediction", ["v", "x0", "velocity"])
def test_a_network_that_says_x_0_at_T_is_sampled_and_bounded(prediction):
    """A constant estimate of x_0 is what every sample ends in, and its bound has no prior."""
    process, x_0 = ddx.ddpm(20, "cosine", zero_terminal_snr=True), jnp.full((2, 2, 2, 1), 0.25)

    def network(x_t, model_time):
        m = process.marginal(model_time.astype(int) + 1)
        eps = (x_t - m.alpha * 0.25) / m.sigma
        return {"v": m.alpha * eps - m.sigma * 0.25, "x0": 0 * x_t + 0.25, "velocity": eps - 0.25}[prediction]

    denoise = ddx.denoiser(process, network, prediction)
    noise = np.random.default_rng(0).standard_normal((20, 2, 2, 2, 1)).astype(np.float32)
    for eta in (0.0, 1.0):
        found = ddx.sample(denoise, None, noise[0], eta=eta, noise=noise)
        np.testing.assert_allclose(found, x_0, atol=2e-5)
    image = jnp.rint((x_0 + 1) * 127.5) / 127.5 - 1
    bits = ddx.bits_per_dim(denoise, image, None, noise=noise)
    assert np.abs(bits.prior).max() == 0 and np.isfinite(bits.total).all()
