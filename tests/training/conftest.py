"""A finished run that many tests look at."""

import pytest

from ddx.training import train


@pytest.fixture(scope="session")
def whole(tiny_config, tmp_path_factory):
    """A run of 12 steps without interruption."""
    workdir = tmp_path_factory.mktemp("whole")
    outcome = train(tiny_config(), workdir)
    assert outcome.step == 12 and outcome.finished
    return workdir
