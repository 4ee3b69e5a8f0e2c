"""Runs that older versions stored are read, sampled from and trained on. Each format has a sample in tests/data."""

import json
import zipfile

import numpy as np
import pytest

import ddx
from ddx.runs import manifest
from tests.golden import DATA

FORMATS = {path.stem.removeprefix("run_format"): path for path in DATA.glob("run_format*.zip")}


@pytest.fixture
def stored(request, tmp_path):
    with zipfile.ZipFile(FORMATS[request.param]) as archive:
        archive.extractall(tmp_path / "run")
    return tmp_path / "run"


def test_every_format_has_a_sample():
    assert set(FORMATS) == {str(number) for number in range(1, manifest._FORMAT + 1)}


@pytest.mark.parametrize("stored", FORMATS, indirect=True)
def test_its_samples_are_those_that_its_own_version_drew(stored):
    with np.load(stored / "expected.npz") as file:
        expected = file["samples"].astype(int)
    run = ddx.load(stored)
    assert run.step == 6
    difference = np.abs(run.sample(4, seed=0).astype(int) - expected)
    assert difference.max() <= 2 and (difference == 0).mean() > 0.9  # other versions of jaxlib round otherwise


@pytest.mark.parametrize("stored", FORMATS, indirect=True)
def test_it_is_trained_further(stored):
    config = json.loads((stored / "config.json").read_text())
    config["train"]["num_steps"] = 8
    outcome = ddx.train(ddx.config.completed(config), stored)
    assert outcome.finished and outcome.step == 8
    assert [json.loads(line)["step"] for line in open(stored / "metrics.jsonl")][-1] == 8
