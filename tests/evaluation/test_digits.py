"""What Improved DDPM is for, on real data: a better bound, with all steps and with few."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

from ddx.evaluation import evaluate
from ddx.training import train

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "digits_iddpm.py"


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_learned_variance_gives_the_better_bound_of_digits_with_all_steps_and_with_few(tmp_path):
    spec = importlib.util.spec_from_file_location("digits_iddpm", CONFIG)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for objective in ("simple", "hybrid"):
        train(module.get_config(objective), tmp_path / objective)

    def bits(objective, variance, num_steps=None):
        out = tmp_path / f"{objective}_{variance}_{num_steps}"
        evaluate(tmp_path / objective, out=out, variance=variance, num_steps=num_steps, batch_size=297)
        assert json.loads((out / "bpd.json").read_text())["protocol"]["num_examples"] == 297
        return np.load(out / "bpd.npz")["total"]

    for num_steps in (None, 25, 10):
        learned = bits("hybrid", "range", num_steps)
        for objective, variance in (("simple", "large"), ("simple", "small"), ("hybrid", "large"), ("hybrid", "small")):
            gain = bits(objective, variance, num_steps) - learned
            # Of the same images with the same noise; four standard errors of the mean.
            assert gain.mean() > 4 * gain.std(ddof=1) / np.sqrt(len(gain)), (objective, variance, num_steps)
