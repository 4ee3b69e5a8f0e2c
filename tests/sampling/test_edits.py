"""Samples that keep a part of given images, or start from them."""

import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import ddx
from ddx.data.augment import to_float
from ddx.diffusion import random
from ddx.diffusion.reverse.walk import initial_noise
from ddx.runs import job, trained
from ddx.runtime.errors import ConfigError, DataError
from ddx.runtime.pictures import to_uint8
from ddx.sampling import edits, sample
from ddx.sampling.generator import Generator
from ddx.sampling.sampler import make_sampler
from ddx.system import make_system

UPPER = np.zeros((8, 8), np.uint8)
UPPER[:4] = 255
KNOWN = {"sampler": "ancestral", "num_steps": 4, "jump_length": 2, "num_resamples": 2}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)


@pytest.fixture(scope="module")
def given(images, tmp_path_factory):
    """A folder of pictures, and masks beside it."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "pictures").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(folder / "pictures" / f"{i}.png")
    Image.fromarray(UPPER).save(folder / "upper.png")
    Image.fromarray(UPPER).convert("RGB").save(folder / "colour.png")
    Image.fromarray(UPPER[:, :7]).save(folder / "narrow.png")
    Image.fromarray(UPPER // 2).save(folder / "grey.png")
    Image.fromarray(np.full_like(UPPER, 255)).save(folder / "white.png")
    Image.fromarray(np.zeros_like(UPPER)).save(folder / "black.png")
    np.savez(folder / "two.npz", images=np.stack([UPPER, UPPER])[..., None])
    np.savez(folder / "three.npz", images=np.stack([UPPER, 255 - UPPER, UPPER])[..., None])
    return folder


def samples(folder):
    with np.load(folder / "samples.npz") as file:
        return file["samples"]


def keys_of(seed, examples):
    return random.example_keys(jax.random.key(seed), jnp.asarray(examples, jnp.uint32))


def test_known_parts_are_kept_and_the_rest_is_that_of_inpaint(whole, images, given, tmp_path):
    paths = {"known": given / "pictures", "mask": given / "upper.png"}
    done = sample(whole, 7, out=tmp_path / "a", seed=3, batch_size=3, **paths, **KNOWN)
    assert done.message.startswith("wrote 7 samples of step 12 with 50% of their pixels known, 6 steps each")
    found, order = samples(tmp_path / "a"), np.arange(7) % 3
    np.testing.assert_array_equal(found[:, :4], images[order, :4])
    source = trained.load(whole)
    denoise, keys = source.system.denoiser(source.params, source.system.config.sample.clip), keys_of(3, range(7))
    x_T, known = initial_noise(denoise.process, keys, (8, 8, 1)), to_float(images[order], -1.0)
    times = ddx.trajectory(20, 4)
    expected = ddx.inpaint(denoise, keys, x_T, known, UPPER[..., None] > 0, times, 1.0, jump_length=2, num_resamples=2)
    assert np.abs(found - np.asarray((expected + 1) * 127.5)).max() < 0.51
    # The same in a notebook, and one image each without being told how many.
    run = ddx.load(whole)
    np.testing.assert_array_equal(run.sample(seed=3, batch_size=3, **paths, **KNOWN), found[:3])


def test_a_job_with_known_parts_resumes_and_is_told_from_others(whole, given, tmp_path, monkeypatch):
    paths = {"known": given / "pictures", "mask": given / "three.npz", "batch_size": 2, "png": True}
    sample(whole, 5, out=tmp_path / "whole", **paths, **KNOWN)
    write = job.Job.write

    def stops(self, start, **arrays):
        write(self, start, **arrays)
        if start == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job.Job, "write", stops)
        with pytest.raises(KeyboardInterrupt):
            sample(whole, 5, out=tmp_path / "cut", **paths, **KNOWN)
    for change in (
        {"mask": given / "upper.png"},
        {"jump_length": 1},
        {"num_resamples": 3},
        {"known": given / "two.npz"},
    ):
        with pytest.raises((ConfigError, DataError), match=r"holds another job|3 masks for 2 images"):
            sample(whole, 5, out=tmp_path / "cut", **paths | KNOWN | change)
    assert sample(whole, 5, out=tmp_path / "cut", **paths, **KNOWN).message.startswith("wrote 5")
    np.testing.assert_array_equal(samples(tmp_path / "cut"), samples(tmp_path / "whole"))
    np.testing.assert_array_equal(samples(tmp_path / "cut")[1, 4:], samples(tmp_path / "cut")[4, 4:])
    assert len(list((tmp_path / "cut" / "png").iterdir())) == 5
    # Three rows: what is known of an image, and the sample of it; the fifth and sixth would be a further column.
    picture = np.asarray(Image.open(tmp_path / "cut" / "grid.png"))
    assert picture.shape == (3 * 68 + 4, 2 * 68 + 4)
    assert (picture[4 + 32 : 68, 4:68] == edits.UNKNOWN).all() and (picture[140 : 140 + 32, 4:68] != 128).any()


def test_samples_start_from_noised_images(whole, images, given, tmp_path):
    start = {"start": given / "pictures", "sampler": "ddim", "num_steps": 5}
    done = sample(whole, out=tmp_path / "a", strength=0.5, **start)
    assert done.message.startswith("wrote 3 samples of step 12 from images, 4 steps each")
    source = trained.load(whole)
    denoise, keys = source.system.denoiser(source.params, source.system.config.sample.clip), keys_of(0, range(3))
    noise, x_0 = initial_noise(denoise.process, keys, (8, 8, 1)), to_float(images, -1.0)
    assert ddx.trajectory(20, 5) == (17, 13, 9, 5, 1, 0)
    x_t = ddx.q_sample(denoise.process, x_0, 10, noise)
    expected = ddx.sample(denoise, None, x_t, (10, 9, 5, 1, 0))
    assert np.abs(samples(tmp_path / "a") - np.asarray((expected + 1) * 127.5)).max() < 0.51
    again = ddx.load(whole).sample(strength=0.5, **start)
    np.testing.assert_array_equal(again, samples(tmp_path / "a"))
    record = json.loads((tmp_path / "a" / "samples.json").read_text())
    assert record["strength"] == 0.5 and len(record["start"]) == 64
    with pytest.raises(ConfigError, match="holds another job"):
        sample(whole, out=tmp_path / "a", strength=0.6, **start)


def test_heat_starts_from_images_blurred_as_at_the_strength_and_needs_no_training_set(tiny_config, images):
    config = tiny_config(
        process__kind="ihdm", process__num_steps=6, loss__prediction="residual", sample__sampler="heat",
        sample__num_steps=0, sample__clip=False, data__low=0,
    )  # fmt: skip
    system = make_system(config, (8, 8, 1))
    params, how = system.init(jax.random.key(0)), make_sampler(config, system, strength=0.5)
    found = Generator(system, how, given=edits.Given(images, None))(params, 0, 3)
    keys, delta = keys_of(0, range(3)), config.sample.delta
    x_t = ddx.heat_prior(system.process, keys, to_float(images, 0.0), how.prior_noise, 3)
    denoise = system.denoiser(params, False)
    expected = ddx.sample(denoise, keys, x_t, (3, 2, 1, 0), solver=ddx.heat_sampler(delta))
    assert np.abs(found - to_uint8(expected, 0.0).astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"known": "pictures"}, ConfigError, "--known needs --mask"),
        ({"mask": "upper.png"}, ConfigError, "--mask needs --known"),
        ({"known": "pictures", "mask": "grey.png"}, DataError, "grey levels, such as 127; a mask is white where"),
        ({"known": "pictures", "mask": "narrow.png"}, DataError, "must be 8 x 8, .* and this is 8 x 7"),
        ({"known": "pictures", "mask": "white.png"}, DataError, "white everywhere, so nothing is drawn. Paint white"),
        ({"known": "pictures", "mask": "black.png"}, DataError, "black everywhere, so nothing is kept"),
        ({"known": "pictures", "mask": "two.npz"}, DataError, "has 2 masks for 3 images"),
        ({"known": "pictures", "mask": "nowhere"}, DataError, "nowhere"),
        ({"known": "pictures", "mask": "upper.png", "jump_length": 5}, ConfigError, "needs a walk of more steps"),
        ({"known": "pictures", "mask": "upper.png", "jump_length": 0}, ConfigError, "jump_length=0 must be an integer"),
        ({"known": "pictures", "mask": "upper.png", "jump_length": 2.0}, ConfigError, "length=2.0 must be an integer"),
        ({"known": "pictures", "mask": "upper.png", "num_resamples": "2"}, ConfigError, "num_resamples='2' must be an"),
        ({"known": "pictures", "mask": "upper.png", "solver": "unipc_2"}, ConfigError, "remembers earlier steps"),
        ({"known": "pictures", "mask": "upper.png", "start": "pictures"}, ConfigError, "Give one of them"),
        ({"num_resamples": 2}, ConfigError, "num_resamples is of images with known parts"),
        ({"start": "pictures"}, ConfigError, "--start needs --strength"),
        ({"strength": 0.5}, ConfigError, "--strength needs --start"),
        *(
            ({"start": "pictures", "strength": s}, ConfigError, f"strength={s!r} must be a number above 0")
            for s in (0, 1.5, -1, "0.5")
        ),
        ({"start": "nowhere", "strength": 0.5}, DataError, "nowhere"),
    ],
)
def test_what_cannot_be_edited_is_refused_in_one_line(whole, given, tmp_path, changes, error, message):
    paths = {name: given / value for name, value in changes.items() if name in ("known", "mask", "start")}
    settings = {"jump_length": 2} if "known" in changes else {}
    with pytest.raises(error, match=message) as raised:
        sample(whole, 2, out=tmp_path / "out", **settings | changes | paths)
    assert "\n" not in str(raised.value) and not (tmp_path / "out").exists()


def test_a_mask_may_be_in_colour_and_of_each_image(given, images, whole):
    system = trained.load(whole).system
    same = (
        edits.read(edits.make_edit(given / "pictures", given / name), system) for name in ("upper.png", "colour.png")
    )
    for one, other in zip(*same, strict=True):
        np.testing.assert_array_equal(one, other)
    each = edits.read(edits.make_edit(given / "pictures", given / "three.npz"), system)
    np.testing.assert_array_equal(each.images, images)
    assert each.mask[0, 0].all() and not each.mask[1, 0].any() and each.mask[1, 7].all()


def test_a_run_draws_from_what_its_files_hold_now(whole, images, given, tmp_path):
    run, mask = ddx.load(whole), tmp_path / "mask.png"
    for upper in (True, False):
        Image.fromarray(UPPER if upper else 255 - UPPER).save(mask)
        found = run.sample(known=given / "pictures", mask=mask, **KNOWN)
        kept = slice(0, 4) if upper else slice(4, 8)
        np.testing.assert_array_equal(found[:, kept], images[:, kept])
    assert len(run._generators) == 2


@pytest.mark.parametrize(("strength", "times"), [(1.0, (20, 17, 13, 9, 5, 1, 0)), (0.95, (19, 17, 13, 9, 5, 1, 0))])
def test_a_walk_starts_at_its_part_of_t_even_where_that_is_all(tiny_config, strength, times):
    config = tiny_config(process__num_steps=20, process__zero_terminal_snr=True, loss__prediction="v")
    system = make_system(config, (8, 8, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that samples start from pure noise, which these do not
        assert make_sampler(config, system, strength=strength).times == times


def test_folders_are_not_named_longer_than_a_disk_allows(images, tmp_path):
    given = edits.Given(images, np.broadcast_to(UPPER[..., None] > 0, (3, 8, 8, 1)))
    edit = edits.make_edit(tmp_path / f"{'k' * 200}.png", tmp_path / f"{'m' * 200}.png")
    assert len(edits.record(edit, given).name) < 100
