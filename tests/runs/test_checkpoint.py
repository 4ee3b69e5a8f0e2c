"""Checkpoints: what comes back is what was saved, or nothing does."""

import json
import pathlib
import shutil
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddx.runs import manifest
from ddx.runs.checkpoint import MANIFEST, Checkpoints
from ddx.runtime.errors import CheckpointError, StorageError


def items(step):
    key = jax.random.key(step)
    return {
        "params": {"conv": {"kernel": jax.random.normal(key, (3, 3, 4, 8)), "bias": jnp.zeros(8)}},
        "opt_state": (optax.EmptyState(), optax.ScaleByScheduleState(jnp.asarray(step, jnp.int32))),
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    checkpoints = Checkpoints(tmp_path_factory.mktemp("run") / "checkpoints", keep=2)
    for step in (10, 20, 30):
        checkpoints.save(step, items(step), {"image_shape": [8, 8, 1]})
    return checkpoints.directory


@pytest.fixture
def checkpoints(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "checkpoints")
    return Checkpoints(tmp_path / "checkpoints", keep=2)


def assert_restores(checkpoints, step):
    for found, expected in zip(
        jax.tree.leaves(checkpoints.restore(step, items(0))), jax.tree.leaves(items(step)), strict=True
    ):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_the_newest_are_kept_and_come_back_bit_by_bit(checkpoints):
    assert checkpoints.steps() == [20, 30] and checkpoints.newest(set_aside=True) == 30
    assert_restores(checkpoints, 20)
    assert_restores(checkpoints, 30)
    assert checkpoints.meta(30) == {"image_shape": [8, 8, 1]}


def test_an_item_can_be_restored_alone(checkpoints):
    found = checkpoints.restore(30, {"params": items(0)["params"]})
    assert list(found) == ["params"]
    np.testing.assert_array_equal(found["params"]["conv"]["kernel"], items(30)["params"]["conv"]["kernel"])


@pytest.mark.skipif(not pathlib.Path("/proc/self/clear_refs").exists(), reason="Linux tells the most memory since")
def test_a_save_takes_little_memory_beside_the_arrays(tmp_path):
    arrays = {str(i): np.random.default_rng(i).standard_normal(2**20, np.float32) for i in range(24)}  # 96 MiB
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = _memory("VmRSS")
    Checkpoints(tmp_path / "checkpoints").save(1, {"ema": arrays}, {})
    assert _memory("VmHWM") - before < 0.9 * 96 * 1024  # a copy would be as much as they are


def _memory(what):
    """In KiB."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1])


def test_no_folder_means_no_checkpoint(tmp_path):
    assert Checkpoints(tmp_path / "none").newest(set_aside=True) is None


def test_no_flipped_bit_is_restored(checkpoints):
    """50 random single-bit flips anywhere in the newest checkpoint: each is noticed."""
    rng = np.random.default_rng(0)
    folder = checkpoints.directory / "30"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = np.asarray([path.stat().st_size for path in files])
    for _ in range(50):
        path = files[rng.choice(len(files), p=sizes / sizes.sum())]
        data = bytearray(path.read_bytes())
        place = rng.integers(len(data))
        data[place] ^= 1 << rng.integers(8)
        good = path.read_bytes()
        path.write_bytes(data)
        found = manifest.damage(folder, 30)
        assert found and (path.name in found or path.name == MANIFEST), found
        path.write_bytes(good)
    assert checkpoints.newest(set_aside=True) == 30


def _largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST), key=lambda p: p.stat().st_size)


def _edit_manifest(folder, **changes):
    """Another manifest, properly sealed."""
    path = folder / MANIFEST
    content = json.loads(path.read_text()) | changes
    content.pop("seal")
    path.write_text(manifest.seal(content))


DAMAGE = {
    "half a file": lambda folder: _largest(folder).write_bytes(_largest(folder).read_bytes()[:100]),
    "empty file": lambda folder: _largest(folder).write_bytes(b""),
    "missing file": lambda folder: _largest(folder).unlink(),
    "garbage manifest": lambda folder: (folder / MANIFEST).write_bytes(b"\x80\x81"),
    "manifest is a list": lambda folder: (folder / MANIFEST).write_text("[]"),
    "manifest of another step": lambda folder: _edit_manifest(folder, step=20),
    "manifest of a later format": lambda folder: _edit_manifest(folder, format=99),
    "manifest without its parts": lambda folder: (folder / MANIFEST).write_text(
        manifest.seal({"format": 1, "step": 30})
    ),
    "edited manifest": lambda folder: (folder / MANIFEST).write_text(
        (folder / MANIFEST).read_text().replace("image_shape", "image_shapE")
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(checkpoints, damage):
    DAMAGE[damage](checkpoints.directory / "30")
    with pytest.warns(UserWarning, match=r"checkpoints/30 is damaged \(.+\); using the one before"):
        assert checkpoints.newest(set_aside=False) == 20
    with pytest.warns(UserWarning, match=r"checkpoints/30 is damaged \(.+\); set aside as 30\.corrupt"):
        assert checkpoints.newest(set_aside=True) == 20
    assert_restores(checkpoints, 20)
    assert checkpoints.newest(set_aside=True) == 20
    # The run goes on and saves step 30 again.
    checkpoints.save(30, items(30), {})
    assert_restores(checkpoints, checkpoints.newest(set_aside=True))


UNFINISHED = {
    "no manifest": lambda folder: (folder / MANIFEST).unlink(),
    "empty folder": lambda folder: [shutil.rmtree(folder), folder.mkdir()],
    "a file instead": lambda folder: [shutil.rmtree(folder), folder.write_text("")],
}


@pytest.mark.parametrize("remains", UNFINISHED)
def test_an_unfinished_save_is_passed_over_and_then_cleared(checkpoints, remains):
    UNFINISHED[remains](checkpoints.directory / "30")
    assert checkpoints.newest(set_aside=True) == 20
    checkpoints.save(40, items(40), {})
    assert checkpoints.steps() == [20, 40] and not (checkpoints.directory / "30").exists()


def test_an_unfinished_first_save_is_no_checkpoint_and_no_damage(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    monkeypatch.setattr("ddx.runs.checkpoint.write_text", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(10, items(10), {})
    monkeypatch.undo()
    assert (tmp_path / "checkpoints" / "10").is_dir() and checkpoints.newest(set_aside=True) is None
    checkpoints.save(10, items(10), {})
    assert_restores(checkpoints, 10)


@pytest.mark.parametrize("loss", ["checkpoints", "manifests"])
def test_if_saved_checkpoints_are_gone_nothing_starts_afresh(tmp_path, saved, loss):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(10, items(10), {})
    if loss == "checkpoints":
        shutil.rmtree(checkpoints.directory)
    else:
        (checkpoints.directory / "10" / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match=r"checkpoints\.last says that step 10 was saved"):
        checkpoints.newest(set_aside=True)


@pytest.mark.filterwarnings("ignore:checkpoint")
def test_if_all_are_damaged_nothing_starts_afresh(checkpoints, saved):
    for step in (20, 30):
        _largest(checkpoints.directory / str(step)).write_bytes(b"")
    shutil.copy(saved.with_suffix(".last"), checkpoints.directory.with_suffix(".last"))
    for set_aside in (False, True, True):
        with pytest.raises(CheckpointError, match="no usable checkpoint") as error:
            checkpoints.newest(set_aside=set_aside)
        assert "\n" not in str(error.value)


def test_arrays_that_do_not_fit_are_named(checkpoints):
    target = items(0)
    target["params"]["conv"] = {"kernel": jnp.zeros((3, 3, 4, 16)), "bias": jnp.zeros(8, jnp.bfloat16)}
    with pytest.raises(CheckpointError) as error:
        checkpoints.restore(30, target)
    assert "params['conv']['kernel']: saved float32 (3, 3, 4, 8), needed float32 (3, 3, 4, 16)" in str(error.value)
    assert "params['conv']['bias']: saved float32 (8,), needed bfloat16 (8,)" in str(error.value)


def another(target, kind):
    """Items of another network."""
    params = target["params"]
    if kind == "wider":
        params = {name: jax.tree.map(lambda x: jnp.zeros((*x.shape, 2), x.dtype), p) for name, p in params.items()}
    elif kind == "more":
        params = params | {f"more{i}": {"kernel": jnp.zeros((i + 1,))} for i in range(200)}
    elif kind == "fewer":
        params = dict(list(params.items())[1:])
    elif kind == "dtype":
        params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    return target | {"params": params}


@pytest.mark.parametrize("kind", ["wider", "more", "fewer", "dtype"])
def test_another_network_is_told_in_a_line_of_a_few_arrays(checkpoints, kind):
    with pytest.raises(CheckpointError, match=r"saved .*, needed .*Use the config") as error:
        checkpoints.restore(30, another(items(0), kind))
    assert error.value.exit_code == 3
    assert "\n" not in str(error.value) and str(error.value).count("saved ") <= 5 and len(str(error.value)) < 800


def test_the_remains_of_interrupted_saves_are_cleared(checkpoints):
    remains = checkpoints.directory / "40.orbax-checkpoint-tmp"
    remains.mkdir()
    checkpoints.save(50, items(50), {})
    assert not remains.exists() and checkpoints.newest(set_aside=True) == 50


def test_a_save_that_fails_says_so_and_leaves_the_earlier_ones(checkpoints, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ddx.runs.checkpoint.write_text", full)
    with pytest.raises(CheckpointError, match="No space left"):
        checkpoints.save(40, items(40), {})
    monkeypatch.undo()
    assert checkpoints.newest(set_aside=True) == 30


@pytest.mark.parametrize("loss", ["folder", "manifest", "set aside"])
def test_it_is_said_if_the_last_checkpoint_is_lost(checkpoints, saved, loss):
    shutil.copy(saved.with_suffix(".last"), checkpoints.directory.with_suffix(".last"))
    folder = checkpoints.directory / "30"
    if loss == "folder":
        shutil.rmtree(folder)
    elif loss == "manifest":
        (folder / MANIFEST).unlink()
    else:
        folder.rename(folder.with_name("30.corrupt"))
    fate = {"folder": "is gone", "manifest": r"has no MANIFEST\.json", "set aside": r"set aside as 30\.corrupt"}[loss]
    said = rf"checkpoints\.last says that step 30 was saved, but .*checkpoints/30 .*{fate}; using checkpoint 20"
    for set_aside in (False, True):
        with pytest.warns(UserWarning, match=said):
            assert checkpoints.newest(set_aside=set_aside) == 20
    with pytest.warns(UserWarning, match=said), checkpoints.reading() as step:
        assert step == 20
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with checkpoints.reading(20) as step:  # asked for
            assert step == 20
        checkpoints.save(25, items(25), {})
        assert checkpoints.newest(set_aside=True) == 25


def test_a_damaged_last_checkpoint_is_told_of_once(checkpoints, saved):
    shutil.copy(saved.with_suffix(".last"), checkpoints.directory.with_suffix(".last"))
    _largest(checkpoints.directory / "30").write_bytes(b"")
    with pytest.warns(UserWarning) as told:
        checkpoints.newest(set_aside=True)
    assert len(told) == 1 and "is damaged" in str(told[0].message)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"12 and more", b"9" * 5000, "\u0663".encode(), None])
def test_a_record_that_names_no_step_is_said_to(checkpoints, tmp_path, content):
    def write(record):
        record.mkdir() if content is None else record.write_bytes(content)

    write(checkpoints.directory.with_suffix(".last"))
    with pytest.warns(UserWarning, match=r"checkpoints\.last names no step; using checkpoint 30"):
        assert checkpoints.newest(set_aside=False) == 30
    write(tmp_path / "none.last")
    with pytest.raises(CheckpointError, match=r"none\.last says that one was saved"):
        Checkpoints(tmp_path / "none").newest(set_aside=True)


@pytest.mark.parametrize("name", ["99999999999999999999", "040", "0", "\u0664\u0660", "40 ", "-40", "4_0"])
def test_a_folder_with_another_name_is_left_alone(checkpoints, name):
    """Also where it holds what could be a checkpoint; and a run saves beside it."""
    other = checkpoints.directory / name
    shutil.copytree(checkpoints.directory / "20", other)
    (checkpoints.directory / f"{name}0").mkdir()
    assert checkpoints.steps() == [20, 30] and checkpoints.newest(set_aside=True) == 30
    checkpoints.save(40, items(40), {})
    assert_restores(checkpoints, checkpoints.newest(set_aside=True))
    assert checkpoints.steps() == [30, 40]
    assert (other / MANIFEST).exists() and (checkpoints.directory / f"{name}0").exists()


def test_a_damaged_only_checkpoint_has_none_before_it(checkpoints):
    shutil.rmtree(checkpoints.directory / "20")
    _largest(checkpoints.directory / "30").write_bytes(b"")
    with pytest.warns(UserWarning) as told, pytest.raises(CheckpointError):
        checkpoints.newest(set_aside=False)
    assert not any("one before" in str(warning.message) for warning in told)


def test_a_disk_without_room_is_told_before_anything_is_written(checkpoints, monkeypatch):
    before = sorted(checkpoints.directory.rglob("*"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: types.SimpleNamespace(free=2**19))
    with pytest.raises(StorageError, match=r"checkpoints: it takes 0\.0 MiB, and 0\.5 MiB are free\. Make room"):
        checkpoints.save(40, items(40), {})
    assert sorted(checkpoints.directory.rglob("*")) == before
