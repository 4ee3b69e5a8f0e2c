"""Trajectories: what every spacing promises, and the mistakes. The references' indices are in test_golden."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ddx
from ddx.diffusion.reverse.trajectory import NOISE_SPACINGS, PAPERS, SPACINGS, counts_itself

NAMES = [name for name in (*SPACINGS, *PAPERS, "power2", "power3.5") if name not in ("full", "ddpm")]
AT_MOST_K = [name for name in NAMES if name not in ("uniform", "ddim_celeba64", "ddim_lsun", "nll")]


def quiet(*args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ddx.trajectory(*args)


@pytest.mark.parametrize("spacing", NAMES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_times_decrease_from_at_most_T_to_0(spacing, data):
    T = data.draw(st.integers(1, 5000))
    K = data.draw(st.integers(1, T))
    times = quiet(T, K, spacing)
    assert all(isinstance(t, int) for t in times)
    assert times[0] <= T and times[-1] == 0 and times[-2] >= 1
    assert np.all(np.diff(times) < 0)
    if spacing in AT_MOST_K:
        assert len(times) - 1 <= K


@pytest.mark.parametrize("spacing", ["even", "linspace", "power2", "sections", "trailing"])
@pytest.mark.parametrize("K", [2, 7, 50, 999, 1000])
def test_spacings_that_start_from_pure_noise(spacing, K):
    times = quiet(1000, K, spacing)
    assert times[0] == 1000 and len(times) == K + 1


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((1000, 4, "leading"), (751, 501, 251, 1, 0)),  # diffusers: 750, 500, 250, 0
        ((1000, 4, "trailing"), (1000, 750, 500, 250, 0)),  # diffusers: 999, 749, 499, 249
        ((1000, 4, "linspace"), (1000, 667, 334, 1, 0)),  # diffusers: 999, 666, 333, 0
        ((1000, 4, "dpm_leading"), (801, 601, 401, 201, 0)),  # diffusers' DPM-Solver: 800, 600, 400, 200
        ((1000, 4, "dpm_linspace"), (1000, 750, 501, 251, 0)),  # 999, 749, 500, 250
        ((1000, 4, "leading+1"), (752, 502, 252, 2, 0)),
        ((1000, 4, "dpm_leading+1"), (802, 602, 402, 202, 0)),
        ((1000, 3, "leading"), (667, 334, 1, 0)),
        ((1000, 1, "linspace"), (1000, 0)),
        ((1000, 1, "even"), (1000, 0)),
        ((1000, 1, "power2"), (1000, 0)),
        ((1000, None, "2"), (1000, 1, 0)),
        ((1000, None, "ddim5"), (801, 601, 401, 201, 1, 0)),
        ((1000, None, "times:1000,500,1"), (1000, 500, 1, 0)),
        ((1000, 3, "times:1000,500,1,0"), (1000, 500, 1, 0)),
        ((1000, 2, (900, 30)), (900, 30, 0)),
        ((10, None, "ddpm"), (*range(10, 0, -1), 0)),
    ],
)
def test_examples(args, expected):
    assert ddx.trajectory(*args) == expected


@pytest.mark.parametrize("T", [1000, 37])
def test_diffusers_spacings_for_every_number_of_visits(T):
    """Their 0-based indices as its schedulers' set_timesteps computes them, ties and all."""
    for K in range(2, T + 1):
        linspace = np.linspace(0, T - 1, K).round()[::-1] + 1
        trailing = np.round(np.arange(T, 0, -T / K))[:K]
        assert ddx.trajectory(T, K, "linspace") == (*linspace.astype(int).tolist(), 0)
        assert ddx.trajectory(T, K, "trailing") == (*trailing.astype(int).tolist(), 0)
        assert ddx.trajectory(T, K, "leading") == (*((np.arange(K) * (T // K))[::-1] + 1).tolist(), 0)


def test_papers_have_their_spacing():
    assert quiet(1000, 50, "ddim_cifar10") == quiet(1000, 50, "quad")
    assert ddx.trajectory(1000, 50, "ddim_celeba64") == ddx.trajectory(1000, 50, "uniform")
    assert ddx.trajectory(4000, 50, "iddpm") == ddx.trajectory(4000, None, "50")
    assert ddx.trajectory(1000, 51, "analytic_dpm") == ddx.trajectory(1000, 51, "even")


def test_dropped_times_are_counted():
    with pytest.warns(UserWarning, match=r"'quad' visits 96 times and not 100: it repeats 4,"):
        assert len(ddx.trajectory(1000, 100, "quad")) == 97


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((1000, 50, "quadratic"), "choose one of: full, uniform, quad, even"),
        ((1000, 50, "power0.5"), "power2"),
        ((1000, 50, "linspace+1"), "'linspace\\+1' is unknown"),
        ((1000, 1000, "leading+1"), "an offset of 1 leads to the time 1001, above T = 1000; use less"),
        ((1000, 50, "10,20,30"), "visits 60 times, not 50"),
        ((1000, 10, "ddim50"), "visits 50 times, not 10"),
        ((1000, 10, (1000, 0)), "visits 1 times, not 10"),
        ((1000, None, "0"), "visits no time"),
        ((1000, None, "ddim1"), "no integer stride"),
        ((10, None, "11"), "cannot divide section of 10 steps into 11"),
        ((1000, None, "times:1,2"), "decrease strictly"),
        ((1000, None, "times:a,b"), "must list times"),
        ((1000, None, "times:2000"), "at most T = 1000"),
        ((1000, 0, "even"), r"1\.\.1000"),
        ((1000, None, (1000, 500.7, 2)), "must be integers"),
    ],
)
def test_mistakes_are_named(args, message):
    with pytest.raises(ValueError, match=message):
        ddx.trajectory(*args)


BY_NOISE = {
    "linear": ddx.ddpm(),
    "zero terminal": ddx.ddpm(zero_terminal_snr=True),
    "cosine": ddx.ddpm(1000, "cosine"),
    "flow": ddx.rectified_flow(1000),
    "blurring": ddx.blurring(1000),
}


@pytest.mark.parametrize("process", BY_NOISE)
@pytest.mark.parametrize("spacing", NOISE_SPACINGS)
@settings(max_examples=40, deadline=None)
@given(K=st.integers(1, 1000))
def test_spacings_by_noise_visit_just_as_many_levels_from_T_down_to_the_first(process, spacing, K):
    times = ddx.trajectory(1000, K, spacing, BY_NOISE[process].schedule)
    assert len(times) == K + 1 and times[0] == 1000 and times[-1] == 0 and np.all(np.diff(times) < 0)
    assert all(isinstance(t, int) for t in times) and (K == 1 or times[-2] == 1)


def test_spacings_by_noise_are_even_in_the_log_snr_and_in_the_seventh_root_of_the_ratio():
    schedule = ddx.ddpm(20_000).schedule  # so fine that rounding to levels hardly matters
    for spacing, even in (("karras", lambda logsnr: np.exp(-0.5 * logsnr / 7)), ("logsnr", lambda logsnr: logsnr)):
        times = ddx.trajectory(20_000, 9, spacing, schedule)
        y = even(schedule.at(np.array(times[1:-1])).logsnr)  # without T, which stands for sigma / alpha = 80
        np.testing.assert_allclose(np.diff(y), np.mean(np.diff(y)), rtol=0.02)
        first = even(np.array(-2 * np.log(80.0)))
        np.testing.assert_allclose(first - y[0], -np.mean(np.diff(y)), rtol=0.02)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((1000, 10, "karras"), "'karras' needs the schedule of 1000 steps: pass process.schedule"),
        ((50, 10, "logsnr", ddx.ddpm(100).schedule), "'logsnr' needs the schedule of 50 steps"),
        ((10, 5, "karras", ddx.ihdm(10).schedule), "noise that grows with t, and IHDM's does not; use 'uniform'"),
    ],
)
def test_spacings_by_noise_need_a_schedule_of_growing_noise(args, message):
    with pytest.raises(ValueError, match=message):
        ddx.trajectory(*args)


def test_which_spacings_count_themselves():
    assert all(map(counts_itself, ("250", "10,20,30", "ddim50", "times:5,1")))
    assert not any(map(counts_itself, ("ddim_cifar10", "uniform", "power2", "ddpm")))


def test_the_bounds_trajectory_is_even_and_complete_near_the_data():
    times = ddx.trajectory(1000, 10, "nll")
    even = ddx.trajectory(1000, 10, "sections")
    assert set(even) | set(range(101)) == set(times) and len(times) == 1 + 10 + 99
    assert ddx.trajectory(10, 10, "nll") == ddx.trajectory(10)
    assert ddx.trajectory(10, 1, "nll") == ddx.trajectory(10)
