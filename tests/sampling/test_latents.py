"""Images of a trained network, encoded and decoded again: the figures of docs/sampling.md."""

import itertools
import json
import pathlib
import re

import pytest

from ddx.sampling import reconstruct, sample
from ddx.training import train
from tests.evaluation.test_digits import config

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "sampling.md"


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_digits_are_found_again_as_closely_as_the_readme_says(tmp_path):
    rows = re.findall(r"^\| `(euler|heun)` \|((?: [0-9.]+ \|){4})$", PAGE.read_text(), re.MULTILINE)
    assert [solver for solver, _ in rows] == ["euler", "heun"]
    train(config("digits"), tmp_path / "run")
    sample(tmp_path / "run", 8, num_steps=100, out=tmp_path / "own")
    given = tmp_path / "own" / "samples.npz"

    def error(solver, num_steps, trajectory="uniform"):
        out = tmp_path / f"{solver}{num_steps}{trajectory}"
        reconstruct(tmp_path / "run", given, solver=solver, num_steps=num_steps, trajectory=trajectory, out=out)
        return json.loads((out / "reconstruction.json").read_text())["mean_squared_error"]

    for solver, figures in rows:
        errors = [error(solver, num_steps) for num_steps in (10, 50, 200, 1000)]
        for found, said in zip(errors, re.findall(r"[0-9.]+", figures), strict=True):
            assert float(said) / 3 < found < 3 * float(said), (solver, errors)
        # Below a millionth it is rounding and the step from x_1.
        assert all(later < max(earlier / 2, 2e-6) for earlier, later in itertools.pairwise(errors)), errors
        assert errors[-1] < 2e-4
    for spacing in ("trailing", "quad", "linspace"):
        errors = [error("euler", num_steps, spacing) for num_steps in (10, 50, 500)]
        assert errors[0] > 2 * errors[1] > 4 * errors[2] and errors[2] < 2e-4, (spacing, errors)
    for solver in ("dpmpp_2m", "dpmpp_3m"):
        errors = [error(solver, num_steps, "trailing") for num_steps in (20, 100, 1000)]
        assert errors[0] > errors[1] > errors[2] and errors[2] < 2e-4, (solver, errors)
