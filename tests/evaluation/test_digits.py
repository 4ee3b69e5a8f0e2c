"""What learned and optimal variances are for, on real data: a better bound, with all steps and with few."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

from ddx.evaluation import compare, evaluate
from ddx.training import train

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def config(name, *args):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*args)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_learned_variance_gives_the_better_bound_of_digits_with_all_steps_and_with_few(tmp_path):
    for objective in ("simple", "hybrid"):
        train(config("digits_iddpm", objective), tmp_path / objective)

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


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_optimal_variances_and_times_give_the_better_bound_at_every_number_of_steps(tmp_path):
    train(config("digits"), tmp_path / "digits")
    train(config("heads", f"npr,{tmp_path / 'digits'}"), tmp_path / "npr")
    compare(tmp_path / "npr", out=tmp_path / "out", batch_size=297)
    table = json.loads((tmp_path / "out" / "comparison.json").read_text())["result"]["table"]
    bits = {(row["variance"], row["trajectory"], row["num_steps"]): row["bits_per_dim"] for row in table}
    for spacing in ("even", "optimal"):
        for k in (10, 25, 50, 100, 1000):
            npr, each, analytic, small, large = (
                bits[variance, spacing, k] for variance in ("npr", "analytic_frequency", "analytic", "small", "large")
            )
            assert npr < each < analytic < min(small, large), (spacing, k)
    for variance, spacing, k in bits:
        if spacing == "optimal" and k < 1000:
            assert bits[variance, "optimal", k] < bits[variance, "even", k], (variance, k)
