"""The order of the examples: each once an epoch, a pure function of (seed, step)."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ddx.data import batch_indices
from ddx.data import order as order_module

seeds = st.integers(0, 2**64 - 1)
sizes = st.integers(1, 40)
batch_sizes = st.integers(1, 100)


@settings(deadline=None)
@given(seeds, sizes, batch_sizes)
def test_every_example_comes_exactly_once_an_epoch(seed, num_examples, batch_size):
    steps = -(-3 * num_examples // batch_size)
    stream = np.concatenate([batch_indices(seed, step, num_examples, batch_size) for step in range(steps)])
    for epoch in stream[: 3 * num_examples].reshape(3, num_examples):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(num_examples))


@settings(deadline=None)
@given(seeds, sizes, batch_sizes, st.integers(0, 10**6))
def test_a_batch_is_int64_and_in_range(seed, num_examples, batch_size, step):
    indices = batch_indices(seed, step, num_examples, batch_size)
    assert indices.shape == (batch_size,)
    assert indices.dtype == np.int64
    assert 0 <= indices.min()
    assert indices.max() < num_examples


@settings(deadline=None)
@given(seeds, sizes, batch_sizes, st.integers(0, 1000))
def test_the_batch_size_only_cuts_the_stream(seed, num_examples, batch_size, step):
    whole = batch_indices(seed, step, num_examples, batch_size)
    singles = [batch_indices(seed, step * batch_size + j, num_examples, 1)[0] for j in range(batch_size)]
    np.testing.assert_array_equal(whole, singles)


@settings(deadline=None)
@given(seeds, sizes, batch_sizes, st.integers(0, 1000))
def test_a_step_asked_for_alone_is_the_step_met_on_the_way(seed, num_examples, batch_size, step):
    on_the_way = [batch_indices(seed, k, num_examples, batch_size) for k in range(step, step + 3)][-1]
    order_module._permutation.cache_clear()
    np.testing.assert_array_equal(batch_indices(seed, step + 2, num_examples, batch_size), on_the_way)


def test_what_is_returned_is_the_callers_own():
    batch_indices(0, 0, 8, 8)[:] = 0
    assert len(set(batch_indices(0, 0, 8, 8))) == 8


def test_seeds_and_epochs_give_different_orders():
    orders = {tuple(batch_indices(seed, epoch, 100, 100)) for seed in range(20) for epoch in range(20)}
    assert len(orders) == 400
    # (seed, epoch) is not folded into one number.
    assert (batch_indices(1, 0, 100, 100) != batch_indices(0, 1, 100, 100)).any()


def test_orders_are_uniform():
    # All 24 orders of 4 examples, 200 times each on average: a chi-squared statistic with 23 degrees of freedom is over
    # 50 once in a thousand draws, and these draws are always the same.
    codes = [int("".join(map(str, batch_indices(0, epoch, 4, 4)))) for epoch in range(4800)]
    counts = np.unique(codes, return_counts=True)[1]
    assert len(counts) == 24
    assert ((counts - 200) ** 2 / 200).sum() < 50


def test_the_order_stays_the_same_in_every_version():
    # A checkpoint written by an older version resumes in its order.
    assert batch_indices(0, 0, 10, 12).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7, 5, 3]
    assert batch_indices(2**64 - 1, 10**12, 10, 10).tolist() == [4, 9, 3, 6, 1, 2, 8, 5, 7, 0]
