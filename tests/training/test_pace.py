"""Calls of many steps: short enough for a signal to be answered in time, and the same bits however they are cut."""

import functools
import os
import signal
import threading
import time

import jax
import numpy as np
import pytest

from ddx.runtime import parallel
from ddx.training import pace, train
from ddx.training.loop import _Run
from ddx.training.pace import Pace, steps_per_call
from tests.training.test_run import assert_same_bits, steps_logged


class Clock:
    """A time that passes only when somebody waits."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(pace, "clock", lambda: self.now)


class Device:
    """Calls that run one after the other, each step a given time, while the host goes on."""

    def __init__(self, clock, seconds_per_step, compiling=60.0):
        self.clock, self.seconds, self.free, self.compiling = clock, seconds_per_step, 0.0, compiling
        self.calls, self.waiting = [], []

    def call(self, steps):
        if not self.calls:
            self.clock.now += self.compiling  # in the foreground, as jit does
        self.free = max(self.free, self.clock.now) + steps * self.seconds(len(self.calls))
        self.calls.append(steps)
        self.waiting.append(self.free)
        return {"loss": Later(self, self.free)}

    def longest_answer(self):
        """Until all that was begun is done."""
        return self.free - self.clock.now


class Later:
    """Metrics that are there when their call is done."""

    def __init__(self, device, when):
        self.device, self.when = device, when

    def __array__(self, dtype=None, copy=None):
        self.device.clock.now = max(self.device.clock.now, self.when)
        self.device.waiting.remove(self.when)
        return np.arange(50.0)


def drive(device, steps, most=50):
    """A loop as that of training; the longest time that a signal would have waited."""
    calls, done, longest, metrics = Pace(most), 0, 0.0, []
    while done < steps:
        n = calls.begin(steps - done)
        metrics += calls.queue(n, device.call(n))
        if done == 0:
            metrics += calls.wait()
        done += n
        assert len(device.waiting) <= 1
        longest = max(longest, device.longest_answer())
    metrics += calls.wait()
    assert [len(m["loss"]) for m in metrics] == device.calls and sum(device.calls) == steps
    return longest


@pytest.mark.parametrize("seconds", [0.001, 0.03, 0.07, 0.46, 1.3])
def test_a_call_takes_as_long_as_it_may_and_no_longer(monkeypatch, seconds):
    device = Device(Clock(monkeypatch), lambda call: seconds)
    longest = drive(device, 1000)
    fit = min(50, int(pace.SECONDS / seconds + 1e-9))
    assert device.calls[:3] == [1, 1, 1] and set(device.calls[9:-1]) <= {fit, fit - 1}
    assert max(device.calls) * seconds <= pace.SECONDS <= 5
    assert longest <= 2 * pace.SECONDS


def test_a_step_that_is_longer_is_a_call_of_its_own(monkeypatch):
    device = Device(Clock(monkeypatch), lambda call: 7.0)
    longest = drive(device, 20)
    assert set(device.calls) == {1} and longest <= 2 * 7.0


def test_steps_that_become_slower_are_taken_fewer_at_a_time(monkeypatch):
    device = Device(Clock(monkeypatch), lambda call: 0.05 if call < 10 else 0.1)
    longest = drive(device, 1000)
    assert max(device.calls) == 50 and device.calls[13] <= 25
    assert longest <= 2 * 5.0


def test_what_else_the_loop_does_counts_where_it_takes_longer(monkeypatch):
    """Reading a batch takes longer than a step here."""
    clock = Clock(monkeypatch)
    device, calls, done = Device(clock, lambda call: 0.001), Pace(50), 0
    while done < 100:
        n = calls.begin(100 - done)
        clock.now += n * 0.5
        calls.queue(n, device.call(n))
        done += n
    assert max(device.calls) * 0.5 <= 5 and min(device.calls[4:-1]) >= 2


def test_a_run_is_cut_by_the_time_of_its_steps_and_ends_in_the_same_bits(in_fives, tiny_config, tmp_path, monkeypatch):
    """The same run with calls of five steps, once as fast as it is and once with slow steps by the clock."""
    config = tiny_config(train__steps_per_call=5, train__log_every=100, train__checkpoint_every=100)
    clock, counts, compiled = Clock(monkeypatch), [], parallel.data_parallel

    def slow(step, axes):
        call = compiled(step, axes)

        @functools.wraps(call)
        def counting(state, key, work):
            counts.append(work[0])
            clock.now += 60.0 if len(counts) == 1 else work[0] * 0.9
            return call(state, key, work)

        return counting

    monkeypatch.setattr(parallel, "data_parallel", slow)
    train(config, tmp_path)
    assert counts == [1, 1, 2, 2, 2, 2, 2]
    assert_same_bits(in_fives, tmp_path)


def test_a_signal_is_answered_after_the_calls_that_were_begun(tiny_config, tmp_path, monkeypatch):
    """Steps of 0.4 s, up to five in a call, which is to take 0.9 s: two."""
    config = tiny_config(train__steps_per_call=5, train__num_steps=400, train__log_every=400)
    config.unlock().train.checkpoint_every = config.train.sample_every = 400
    compiled, counts, sent = parallel.data_parallel, [], []

    def send():
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    def slow(step, axes):
        call = compiled(step, axes)

        @functools.wraps(call)
        def sleeping(state, key, work):
            counts.append(work[0])
            time.sleep(0.4 * work[0])
            if len(counts) == 5:
                threading.Timer(0.1, send).start()
            return call(state, key, work)

        return sleeping

    monkeypatch.setattr(parallel, "data_parallel", slow)
    monkeypatch.setattr(pace, "SECONDS", 0.9)
    outcome = train(config, tmp_path)
    assert time.monotonic() - sent[0] < 2 * 0.9 + 2  # and the time to save
    assert max(counts) <= 2 and len(counts) <= 7
    assert outcome.step == sum(counts) and not outcome.finished


def test_a_signal_ends_a_drawing_which_the_resumed_run_makes_up_for(tiny_config, tmp_path, monkeypatch):
    """Of a network that halves and doubles its images."""
    changes = {"train__sample_every": 6, "train__checkpoint_every": 100, "train__log_every": 100}
    config = tiny_config(model__multipliers=(1, 1), **changes)
    train(config, tmp_path / "whole")
    begin, pictures = _Run.begin, ["000006.png", "000012.png"]

    def signalled(self):
        self.watch.generator = lambda *_: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(600)
        return begin(self)

    with monkeypatch.context() as patch:
        patch.setattr(_Run, "begin", signalled)
        outcome = train(config, tmp_path / "cut")
    assert (outcome.step, outcome.finished) == (6, False)
    assert list((tmp_path / "cut" / "samples").iterdir()) == []
    assert train(None, tmp_path / "cut").finished
    assert_same_bits(tmp_path / "whole", tmp_path / "cut")
    assert steps_logged(tmp_path / "whole") == steps_logged(tmp_path / "cut")
    for picture in pictures:
        one, other = ((tmp_path / run / "samples" / picture).read_bytes() for run in ("whole", "cut"))
        assert one == other


def test_metrics_of_padded_calls_are_cut_on_the_host(monkeypatch):
    calls = Pace(5)
    assert calls.wait() == []
    calls.begin(9)
    assert calls.queue(2, {"loss": jax.numpy.arange(5.0), "finite": np.ones((5, 4))}) == []
    (found,) = calls.wait()
    assert found["loss"].tolist() == [0.0, 1.0] and found["finite"].shape == (2, 4)


def test_padded_batches_that_are_copied_for_nothing_are_small(tiny_config, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    sizes = {(32, 128): 32, (64, 128): 32, (256, 64): 10, (256, 2048): 1}
    for (size, batch), most in sizes.items():
        assert steps_per_call(tiny_config(train__batch_size=batch), (size, size, 3)) == most
    assert steps_per_call(tiny_config(train__steps_per_call=70), (256, 256, 3)) == 70
