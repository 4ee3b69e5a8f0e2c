"""The optimiser and the average of the weights, against what they are defined to be."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddx.training.metrics import MetricsWriter, join, summarise
from ddx.training.state import clipped, init_state, make_optimizer, update_ema
from tests import golden


def test_the_average_is_that_of_improved_diffusion():
    data = golden.load("ema")
    ema = jnp.asarray(data["ema_init"])
    for step, params in enumerate(data["ema_seq"]):
        ema = update_ema(ema, jnp.asarray(params), step, 0.9, warmup=False)
    np.testing.assert_allclose(ema, data["ema_rate0.9"], rtol=1e-6)


def test_a_warmed_up_average_forgets_its_start():
    """With decay (1 + n) / (10 + n) from the start, the weights of n steps are binomial and the start's is tiny."""
    ema = plain = jnp.ones(())
    for step in range(100):
        ema, plain = (update_ema(x, jnp.zeros(()), step, 0.9999, warmup=w) for x, w in ((ema, True), (plain, False)))
    product = np.prod([(1 + n) / (10 + n) for n in range(1, 101)])
    np.testing.assert_allclose(ema, product, rtol=1e-4)
    np.testing.assert_allclose(plain, 0.9999**100, rtol=1e-5)
    assert ema < 1e-8 < 0.98 < plain


def test_the_learning_rate_rises_from_zero_and_adams_step_is_that_long():
    """Adam's first steps on a constant gradient have the length of the learning rate, whatever the gradient's."""
    optimizer = make_optimizer(2e-4, 5000)
    state = optimizer.init(jnp.zeros(3))
    update = jax.jit(optimizer.update)
    for step in range(3):
        updates, state = update(jnp.asarray([0.3, -0.2, 0.1]), state)
        np.testing.assert_allclose(jnp.abs(updates), 2e-4 * step / 5000, rtol=1e-3, atol=1e-14)
    constant = make_optimizer(1e-3, 0)
    updates, _ = constant.update(jnp.asarray([1e6]), constant.init(jnp.zeros(1)))
    np.testing.assert_allclose(updates, -1e-3, rtol=1e-4)


def test_gradients_are_clipped_by_their_global_norm():
    spike = {"a": jnp.asarray([3e4]), "b": jnp.asarray([4e4])}
    found = clipped(spike, jnp.asarray(5e4), 1.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, {"a": [0.6], "b": [0.8]})
    small = {"a": jnp.asarray([0.3]), "b": jnp.asarray([0.4])}
    for same in (clipped(small, jnp.asarray(0.5), 1.0), clipped(small, jnp.asarray(0.5), 0.0)):
        jax.tree.map(np.testing.assert_array_equal, same, small)


def test_the_average_starts_as_a_copy_and_not_an_alias():
    state = init_state({"w": jnp.ones(3)}, optax.sgd(1.0))
    assert state.ema["w"].unsafe_buffer_pointer() != state.params["w"].unsafe_buffer_pointer()


def test_metrics_after_a_restart_have_each_step_once(tmp_path):
    with MetricsWriter(tmp_path, 0) as writer:
        for step in (1, 2, 3, 4):
            writer.scalars(step, {"loss": float(step)})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "lo')  # a kill in the middle of a line
    with MetricsWriter(tmp_path, 2) as writer:
        writer.scalars(3, {"loss": 30.0})
    assert (tmp_path / "metrics.jsonl").read_text() == (
        '{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 2.0}\n{"step": 3, "loss": 30.0}\n'
    )


def test_summaries_weigh_quartiles_by_their_examples():
    calls = [
        {"loss": [loss], "grad_norm": [1.0], "finite": [True], "quartile_sum": [total], "quartile_count": [count]}
        for loss, total, count in ((1.0, [2.0, 0, 0, 1], [1, 0, 0, 1]), (3.0, [4.0, 0, 0, 0], [2, 0, 0, 0]))
    ]
    assert summarise(join(calls)) == {"loss": 2.0, "grad_norm": 1.0, "loss_q0": 2.0, "loss_q3": 1.0}
    assert summarise(join([join(calls[:1]), calls[1]])) == summarise(join(calls))
