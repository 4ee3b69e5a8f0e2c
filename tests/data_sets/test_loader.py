"""Reading ahead: the same batches as reading directly, errors where they belong, and no thread left behind."""

import gc
import threading
import time

import numpy as np
import pytest

from ddx.data import Dataset, batch_indices, batches, load
from ddx.runtime.errors import DataError


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    gc.collect()
    deadline = time.monotonic() + 5
    while extra := set(threading.enumerate()) - before:
        assert time.monotonic() < deadline, extra
        time.sleep(0.01)


def recording(fail_at=(), seconds=0.0):
    """A data set whose images hold their index, and the list of all indices read so far."""
    read = []

    def fetch(indices):
        time.sleep(seconds)
        read.append(indices.tolist())
        if set(fail_at) & set(indices.tolist()):
            raise DataError("image cannot be read")
        return np.full((len(indices), 1, 1, 1), indices[:, None, None, None], np.uint8), indices.astype(np.int32)

    return dataset_of(fetch), read


def dataset_of(fetch):
    return Dataset("recording", "train", 10, (1, 1, 1), tuple("0123456789"), fetch, lambda: None)


def test_steps_and_batches_are_those_of_the_order():
    digits = load("digits")
    with batches(digits, seed=3, batch_size=16, first_step=5, last_step=200) as stream:
        seen = 0
        for step, batch in stream:
            expected = digits.read(batch_indices(3, step, digits.num_examples, 16))
            assert step == 5 + seen
            assert set(batch) == {"image", "label"}
            for name, array in batch.items():
                np.testing.assert_array_equal(array, expected[name])
            seen += 1
    assert seen == 195


@pytest.mark.parametrize("prefetch", [1, 2, 7])
def test_a_resumed_stream_continues_the_interrupted_one(prefetch):
    dataset, _ = recording()
    settings = dict(seed=0, batch_size=3, last_step=12)
    whole = {step: batch["label"].tolist() for step, batch in batches(dataset, first_step=0, **settings)}
    resumed = batches(dataset, first_step=7, prefetch=prefetch, **settings)
    assert {step: batch["label"].tolist() for step, batch in resumed} == {step: whole[step] for step in range(7, 12)}


def test_no_steps_give_no_batches():
    dataset, read = recording()
    assert list(batches(dataset, seed=0, batch_size=3, first_step=4, last_step=4)) == []
    assert read == []


def test_exactly_prefetch_batches_are_read_ahead_of_use():
    dataset, read = recording()
    with batches(dataset, seed=0, batch_size=2, first_step=0, last_step=100, prefetch=3) as stream:
        for used in range(5):
            deadline = time.monotonic() + 5
            while len(read) < used + 3 and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.02)
            assert len(read) == used + 3
            next(stream)


def test_an_error_in_the_thread_is_raised_as_it_is_at_its_own_step():
    dataset, read = recording(fail_at=[batch_indices(0, 4, 10, 1)[0]])
    steps = []
    with pytest.raises(DataError, match=r"^image cannot be read$"):
        for step, _ in batches(dataset, seed=0, batch_size=1, first_step=0, last_step=100):
            steps.append(step)
    assert steps == [0, 1, 2, 3]
    assert len(read) <= 7


def test_after_an_error_the_stream_is_over():
    dataset, _ = recording(fail_at=range(10))
    stream = batches(dataset, seed=0, batch_size=1, first_step=0, last_step=100)
    with pytest.raises(DataError):
        next(stream)
    with pytest.raises(StopIteration):
        next(stream)


def by_break(stream):
    for _ in stream:
        break


def by_exception_in_a_with(stream):
    with pytest.raises(KeyboardInterrupt), stream:
        next(stream)
        raise KeyboardInterrupt


def by_dropping_it_unused(stream):
    del stream


def by_closing_twice(stream):
    next(stream)
    stream.close()
    stream.close()


def by_closing_a_generator_over_it(stream):
    def generator():
        with stream:
            yield from stream

    over = generator()
    next(over)
    over.close()


@pytest.mark.parametrize(
    "end", [by_break, by_exception_in_a_with, by_dropping_it_unused, by_closing_twice, by_closing_a_generator_over_it]
)
def test_ending_early_stops_the_thread(end):
    dataset, read = recording(seconds=0.01)
    started = time.monotonic()
    end(batches(dataset, seed=0, batch_size=2, first_step=0, last_step=10**9, prefetch=4))
    gc.collect()
    assert time.monotonic() - started < 5
    time.sleep(0.1)
    count = len(read)
    assert count <= 6
    time.sleep(0.1)
    assert len(read) == count


def test_closing_waits_for_the_batch_being_read_and_no_other():
    gate, begun = threading.Event(), []

    def fetch(indices):
        begun.append(indices)
        gate.wait()
        return np.zeros((1, 1, 1, 1), np.uint8), np.zeros(1, np.int32)

    dataset = dataset_of(fetch)
    stream = batches(dataset, seed=0, batch_size=1, first_step=0, last_step=100, prefetch=8)
    threading.Timer(0.2, gate.set).start()
    stream.close()
    assert gate.is_set()
    assert len(begun) == 1


def test_reading_nothing_ahead_is_refused():
    with pytest.raises(ValueError, match="prefetch must be at least 1"):
        batches(recording()[0], seed=0, batch_size=1, first_step=0, last_step=1, prefetch=0)
