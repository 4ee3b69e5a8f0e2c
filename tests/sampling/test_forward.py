"""The picture of the forward process: what each row must show, the file, and the command."""

import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from ddx.data import load
from ddx.runtime.errors import ConfigError, DataError
from ddx.sampling.forward import forward, forward_rows

ROOT = pathlib.Path(__file__).parents[2]
DDPM, BLURRING, HEAT = range(3)
HEAT_NOISE = 0.01 * 255  # grey levels


def digits(n):
    return load("digits").read(np.arange(n))["image"]


@pytest.fixture(scope="module")
def mid():
    """Images whose blurred forms stay far from black and white, where noise would be clipped."""
    return np.random.default_rng(0).integers(64, 192, (2, 8, 8, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def rows(mid):
    return forward_rows(mid, seed=1)


def test_every_row_starts_with_the_image(mid, rows):
    assert rows.shape == (2, 3, 9, 8, 8, 1) and rows.dtype == np.uint8
    np.testing.assert_array_equal(rows[:, :, 0], np.stack([mid] * 3, 1))


def test_ddpm_and_blurring_forget_the_image_and_heat_keeps_its_colour(mid, rows):
    other = forward_rows(255 - mid, seed=1)
    last, of_other = rows[:, :, -1].astype(int), other[:, :, -1].astype(int)
    assert np.abs(last - of_other)[:, DDPM].max() <= 1
    assert np.abs(last - of_other)[:, BLURRING].max() <= 2  # its log-SNR at T is -10
    # Of the noise: clipped to [-1, 1], a third of it is at the ends.
    ends = np.isin(last[:, :2], (0, 255)).mean()
    assert 0.2 < ends < 0.45
    colour = np.abs(rows[:, HEAT].mean((2, 3)) - mid.mean((1, 2))[:, None])
    assert colour.max() < 0.5 + 4 * HEAT_NOISE / 8


def test_heat_obeys_the_maximum_principle_and_flattens(mid, rows):
    heat = rows[:, HEAT].astype(float)
    assert heat.min() > mid.min() - 5 * HEAT_NOISE and heat.max() < mid.max() + 5 * HEAT_NOISE
    spread = heat.std((2, 3)).mean((0, 2))
    assert (np.diff(spread) < 0.2).all() and spread[-1] < 0.25 * spread[0]


def test_a_cosine_is_damped_as_a_gaussian_blur_damps_it():
    cosine = np.cos(np.pi * (np.arange(8) + 0.5) / 4)  # a period of 8 pixels
    image = np.rint(127.5 + 100 * np.broadcast_to(cosine, (8, 8)))[None, ..., None].astype(np.uint8)
    # Convolved with a Gaussian, without any DCT: a wave of angular frequency w becomes exp(-(w s)^2 / 2) of itself.
    for blur in (1.0, 2.0):
        last = forward_rows(image, sigma_blur_max=blur)[0, HEAT, -1, ..., 0].astype(float)
        offsets = np.arange(-60, 61)
        weights = np.exp(-0.5 * (offsets / blur) ** 2)
        left = np.sum(weights * np.cos(np.pi / 4 * offsets)) / weights.sum()
        amplitude = 2 * np.mean((last - 127.5) * cosine)
        assert abs(amplitude - 100 * left) < 1.0


def test_with_hardly_any_blur_blurring_diffusion_is_ddpm(mid, rows):
    sharp = forward_rows(mid, sigma_blur_max=0.01, seed=1).astype(int)
    difference = np.abs(sharp[:, DDPM] - sharp[:, BLURRING])
    assert difference.max() <= 4  # of 255: their cosine schedules differ by an offset
    np.testing.assert_array_equal(sharp[:, DDPM], rows[:, DDPM])
    assert np.abs(rows[:, DDPM, 2:6].astype(int) - rows[:, BLURRING, 2:6]).mean() > 10


def test_an_image_has_one_noise_that_its_number_and_the_seed_decide(mid):
    flat = np.full((2, 8, 8, 1), 128, np.uint8)
    rows = forward_rows(flat, seed=5).astype(float) - 127.5
    first, second = rows[:, DDPM, -1].reshape(2, -1)
    for of_process in rows[0]:
        for x_t in of_process[1:]:
            assert np.corrcoef(x_t.ravel(), first)[0, 1] > 0.9
    assert np.corrcoef(first, second)[0, 1] < 0.5
    np.testing.assert_array_equal(forward_rows(flat[:1], seed=5)[0] - 127.5, rows[0])
    assert np.corrcoef(forward_rows(flat, seed=6)[0, DDPM, -1].ravel(), first)[0, 1] < 0.5


def test_the_command_draws_a_digit(tmp_path):
    done = command(f"--out={tmp_path / 'new' / 'forward.png'}")
    assert done.stdout == f"wrote {tmp_path}/new/forward.png\n" and done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["forward.png"]
    picture = Image.open(tmp_path / "new" / "forward.png")
    assert picture.format == "PNG" and 1200 < picture.width < 1500 and 400 < picture.height < 550
    drawn = forward_rows(digits(1))[0]
    pixels = np.asarray(picture.convert("L")).astype(int)
    # Cells of 128 with a margin of 4, the last one in the lower right corner; every pixel is a square of 16.
    corner = pixels[-3 * 136 :, -9 * 136 :].reshape(3, 136, 9, 136).transpose(0, 2, 1, 3)[..., 4:-4, 4:-4]
    np.testing.assert_array_equal(corner, drawn[..., 0].repeat(16, 2).repeat(16, 3))
    # Each row and each column has a label.
    assert all((row[:, : -9 * 136] < 100).any() for row in np.split(pixels[-3 * 136 :], 3))
    assert all((column < 100).any() for column in np.split(pixels[: -3 * 136, -9 * 136 :], 9, axis=1))


def test_pictures_of_any_size_become_squares_like_the_first(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(5):
        Image.fromarray(np.full((8 + i, 10), 50 * i, np.uint8)).save(folder / f"{i}.png")
    Image.fromarray(np.full((600, 300, 3), (200, 100, 0), np.uint8)).save(tmp_path / "large.png")
    assert forward(folder, out=tmp_path / "four") == f"wrote {tmp_path}/four.png"
    assert forward(tmp_path / "large.png", num_columns=2, out=tmp_path / "one.png") == f"wrote {tmp_path}/one.png"
    four, one = (Image.open(tmp_path / name) for name in ("four.png", "one.png"))
    assert 12 * 128 < four.height < 12 * 150 and 3 * 256 < one.height < 3 * 340
    colours = np.unique(np.asarray(one)[-100, :, :3], axis=0).tolist()
    assert [200, 100, 0] in colours


def test_help_is_quick_and_lists_the_flags():
    start = time.perf_counter()
    done = command("--help")
    assert time.perf_counter() - start < 3
    assert "python -m launch.forward" in done.stdout and "--sigma_blur_max" in done.stdout
    assert "--workdir" not in done.stdout


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--workdir=runs/digits"], 2, "needs none"),
        (["--images=/nowhere/x.png"], 4, "cannot read /nowhere/x.png"),
    ],
)
def test_mistakes_are_one_line_with_an_exit_code(args, code, message, tmp_path):
    done = command(*args, f"--out={tmp_path / 'forward.png'}")
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma_blur_max": -1.0}, "sigma_blur_max=-1.0 must be above 0"),
        ({"sigma_blur_max": float("nan")}, "sigma_blur_max=nan"),
        ({"num_columns": 1}, "num_columns=1 must be 2 to 50"),
        ({"seed": -1}, "seed=-1"),
        ({"out": ""}, "names nothing"),
        ({"out": ".png"}, "names no file"),
        ({"out": "file/forward"}, "Choose another --out"),
    ],
)
def test_settings_that_cannot_be_used_are_named(settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("no picture")
    with pytest.raises(ConfigError, match=message):
        forward(**settings)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_that_is_no_picture_is_named(tmp_path):
    (tmp_path / "file.png").write_text("no picture")
    for path in (tmp_path / "file.png", tmp_path):
        with pytest.raises(DataError, match=r"file\.png"):
            forward(path, out=tmp_path / "forward.png")


def test_a_pipe_is_not_waited_for_and_an_empty_folder_is_told_without_advice_on_a_config(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path, tmp_path / "pipe.png"):
        with pytest.raises(DataError, match="it is no regular file"):
            forward(path, out=tmp_path / "forward.png")
    (tmp_path / "pipe.png").unlink()
    with pytest.raises(DataError, match=r"has 0 images .* Name an image or a folder of images"):
        forward(tmp_path, out=tmp_path / "forward.png")


def command(*args):
    return subprocess.run(
        [sys.executable, "-m", "launch.forward", *args], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
