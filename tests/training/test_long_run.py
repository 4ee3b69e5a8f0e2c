"""A long run takes no more memory or file descriptors than a short one, and compiles nothing new."""

import json
import os
import pathlib
import sys
import threading

import jax
import numpy as np
import pytest

from ddx.training import train


class Watched:
    """Reads, beside a run, its step, the memory of the process in MiB and its descriptors; and when it compiled."""

    def __init__(self, workdir):
        self.metrics, self.seen, self.compiled = workdir / "metrics.jsonl", [], []
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def __enter__(self):
        jax.monitoring.register_event_duration_secs_listener(self.heard)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()
        jax.monitoring.unregister_event_duration_listener(self.heard)

    def step(self):
        lines = self.metrics.read_text().splitlines() if self.metrics.exists() else []
        return json.loads(lines[-1])["step"] if lines else 0

    def heard(self, event, _, **__):
        if event == "/jax/core/compile/backend_compile_duration":
            self.compiled.append(self.step())

    def watch(self):
        while not self.ended.wait(0.2):
            pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
            self.seen.append(
                (self.step(), pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir("/proc/self/fd")))
            )


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_two_thousand_steps_take_no_more_of_anything_than_two_hundred(tiny_config, tmp_path):
    config = tiny_config(
        train__num_steps=2000,
        train__checkpoint_every=50,
        train__log_every=1,
        train__sample_every=200,
        train__evaluate="bpd",
        train__evaluate_every=200,
        train__evaluate_examples=16,
    )
    with Watched(tmp_path) as watched:
        assert train(config, tmp_path).finished
    assert max(watched.compiled) <= 200
    steps, memory, descriptors = (np.array(column) for column in zip(*watched.seen, strict=True))
    early, late = (steps >= 200) & (steps < 600), steps >= 1600
    assert early.sum() > 10 and late.sum() > 10
    print(f"memory {np.median(memory[early]):.0f}, {np.median(memory[late]):.0f} MiB", file=sys.stderr)
    assert np.median(memory[late]) < 1.05 * np.median(memory[early])
    assert descriptors[late].min() == descriptors[early].min()
    assert len(list((tmp_path / "checkpoints").glob("*/MANIFEST.json"))) == config.train.keep_checkpoints
