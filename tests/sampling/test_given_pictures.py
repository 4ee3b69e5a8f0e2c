"""Pictures for reconstructions, interpolations and enlargement are made as the run's own images were."""

import numpy as np
import pytest
from PIL import Image

import ddx.system
from ddx import data
from ddx.runs import trained
from ddx.runtime.errors import DataError
from ddx.sampling import interpolate, latents, reconstruct
from ddx.training import train

RNG = np.random.default_rng(0)


def folder_of(path, size, count=3):
    """Noisy pictures, and the folder they are in."""
    path.mkdir()
    for index in range(count):
        Image.fromarray(RNG.integers(0, 256, (*size, 3), np.uint8)).save(path / f"{index}.png")
    return path


class Identity:
    """Instead of a generator: a network whose latents are the images themselves."""

    def __init__(self, *_, **__):
        pass

    def encode(self, params, x_0, *_, **__):
        return np.asarray(x_0)

    def decode(self, params, x_t, *_, **__):
        return np.asarray(x_t)


@pytest.fixture
def run_of(tiny_config, tmp_path, monkeypatch):
    """A run on pictures of a size: its folder of pictures, and the images that it sees."""

    def make(size, **changes):
        pictures = folder_of(tmp_path / "pictures", size)
        config = tiny_config(data__name="folder", data__dir=str(pictures), process__num_steps=10, **changes)
        dataset = ddx.runs.data.open_dataset(config)
        source = trained.Trained(1, "", ddx.system.make_system(config, dataset.image_shape), None)
        monkeypatch.setattr(trained, "load", lambda *_: source)
        monkeypatch.setattr(latents, "Generator", Identity)
        return pictures, dataset.read(np.arange(3))["image"]

    return make


WIDE = ((8, 12), {})
CROPPED = ((40, 30), {"data__crop": (20, 4, 16, 24), "data__image_size": 8})


def shown(out, image, index=0):
    """What the picture of a reconstruction shows as the image that was given."""
    scale = max(1, 64 // max(image.shape[:2]))
    gap = max(2, scale * image.shape[0] // 16)
    left = gap + index * 2 * (scale * image.shape[1] + gap)
    drawn = np.asarray(Image.open(out / "reconstruction.png"))
    cell = drawn[gap : gap + scale * image.shape[0], left : left + scale * image.shape[1]]
    return cell[::scale, ::scale]


@pytest.mark.parametrize("run", [WIDE, CROPPED], ids=["wide", "cropped"])
def test_a_folder_and_a_picture_of_the_data_set_are_what_the_run_was_trained_on(run_of, run, tmp_path):
    pictures, images = run_of(run[0], **run[1])
    line = reconstruct("run", pictures, out=tmp_path / "all", num_steps=3).message
    assert "mean squared error 0 of images in [0, 1]" in line
    for index, image in enumerate(images):
        np.testing.assert_array_equal(shown(tmp_path / "all", image, index), image)
        reconstruct("run", pictures / f"{index}.png", out=tmp_path / "one", num_steps=3)
        np.testing.assert_array_equal(shown(tmp_path / "one", image), image)
    interpolate("run", images=pictures, out=tmp_path / "between", num_steps=3)
    with np.load(tmp_path / "between" / "interpolation.npz") as file:
        np.testing.assert_array_equal(file["samples"][0, [0, -1]], images[:2])
    (pictures / "2.png").unlink()
    interpolate("run", images=pictures, out=tmp_path / "diffused", sampler="ancestral", num_steps=10)
    with np.load(tmp_path / "diffused" / "interpolation.npz") as file:
        np.testing.assert_array_equal(file["samples"][0, [0, -1]], images[:2])


def test_a_run_on_images_that_are_no_squares_reconstructs_them(tiny_config, tmp_path):
    pictures = folder_of(tmp_path / "pictures", (8, 12))
    where = {"data__name": "folder", "data__dir": str(pictures)}
    few = {"train__num_steps": 1, "train__batch_size": 2, "sample__num_images": 1}
    train(tiny_config(**where, **few), tmp_path / "run")
    line = reconstruct(tmp_path / "run", pictures / "1.png", out=tmp_path / "out", num_steps=3).message
    assert "mean squared error" in line
    np.testing.assert_array_equal(shown(tmp_path / "out", np.zeros((8, 12, 3))), Image.open(pictures / "1.png"))


def test_a_picture_of_another_size_is_covered_and_its_centre_is_taken(run_of, tmp_path):
    _, images = run_of(*WIDE[:1])
    large = np.pad(images[0], ((0, 0), (3, 5), (0, 0)), "edge")  # 8 x 20: the centre is columns 4 to 15
    Image.fromarray(large).save(tmp_path / "large.png")
    reconstruct("run", tmp_path / "large.png", out=tmp_path / "out", num_steps=3)
    np.testing.assert_array_equal(shown(tmp_path / "out", images[0]), large[:, 4:16])


def test_a_picture_that_the_crop_reaches_beyond_is_refused_and_an_array_is_taken_as_it_is(run_of, tmp_path):
    _, images = run_of(CROPPED[0], **CROPPED[1])
    Image.fromarray(images[0]).save(tmp_path / "small.png")
    for job in (reconstruct, lambda run, path, **how: interpolate(run, images=path, **how)):
        with pytest.raises(DataError, match=r"data\.crop=\(20, 4, 16, 24\) reaches beyond the 8x8 pixels .*small\.png"):
            job("run", tmp_path / "small.png", num_steps=3)
    np.savez(tmp_path / "small.npz", images[:1])
    reconstruct("run", tmp_path / "small.npz", out=tmp_path / "out", num_steps=3)
    np.testing.assert_array_equal(shown(tmp_path / "out", images[0]), images[0])


def test_pictures_to_enlarge_are_made_as_in_training_unless_they_are_small_already(tiny_config):
    config = tiny_config(model__low_res=4, data__crop=(20, 4, 16, 24), data__image_size=8)
    system = ddx.system.make_system(config, (8, 8, 3))
    picture = Image.fromarray(RNG.integers(0, 256, (40, 30, 3), np.uint8))
    image = data.Conversion(3, (8, 8), (20, 4, 16, 24))(picture)
    seen = np.asarray(system.told(system.to_float(image[None]), None)["low_res"])[0]
    found = np.asarray(system.to_float(system.to_low_res(picture)))
    assert found.shape == (4, 4, 3)
    np.testing.assert_allclose(found, seen, atol=0.51 / 127.5)  # rounded to a byte
    small = RNG.integers(0, 256, (4, 4, 3), np.uint8)
    np.testing.assert_array_equal(system.to_low_res(Image.fromarray(small)), small)
