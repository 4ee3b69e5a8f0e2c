"""Decoded copies on disk: the same images as without them, whatever becomes of the copy."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest
from PIL import Image

from ddx.data import Storage, copies, datasets, load
from ddx.runtime.errors import ConfigError, DataError

N, SHAPE = 60, (6, 4, 3)


@pytest.fixture
def pictures(tmp_path):
    """60 noisy pictures of 9 x 7 pixels in three classes."""
    rng = np.random.default_rng(0)
    for index in range(N):
        path = tmp_path / "pictures" / "abc"[index % 3] / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8)).save(path)
    return tmp_path / "pictures"


@pytest.fixture
def at_once(monkeypatch):
    """Ten images are decoded before they are written."""
    monkeypatch.setattr(copies, "_AT_ONCE", 10 * 5 * 5 * 3)


def storage(pictures, write=True, **changes):
    return Storage(
        **{"memory_mib": 0, "disk_mib": 1, "cache_dir": str(pictures.parent / "cache"), "write": write} | changes
    )


def opened(pictures, write=True, image_size=5, **changes):
    return load("folder", directory=str(pictures), image_size=image_size, storage=storage(pictures, write, **changes))


def everything(data):
    return data.read(np.arange(data.num_examples))


def assert_same(data, other):
    found, expected = everything(data), everything(other)
    for name in ("image", "label"):
        assert found[name].dtype == expected[name].dtype
        np.testing.assert_array_equal(found[name], expected[name])


def folder_of(pictures):
    (folder,) = [p for p in (pictures.parent / "cache").iterdir() if p.is_dir()]
    return folder


@pytest.fixture
def decoded(monkeypatch):
    """The examples that have been decoded."""
    seen, decode = [], datasets.decode

    def recording(source, convert, shape, indices, progress=""):
        seen.extend(np.asarray(indices).tolist())
        return decode(source, convert, shape, indices, progress)

    monkeypatch.setattr(datasets, "decode", recording)
    return seen


def test_a_copy_is_read_like_the_images_themselves(pictures, at_once):
    in_memory, copy = load("folder", directory=str(pictures), image_size=5), opened(pictures)
    assert copy.kept.startswith("in a decoded copy of 0.0 MiB, ") and str(folder_of(pictures)) in copy.kept
    assert_same(copy, in_memory)
    indices = np.random.default_rng(1).integers(0, N, 500)
    for name, array in in_memory.read(indices).items():
        np.testing.assert_array_equal(copy.read(indices)[name], array)
    copy.read([3])["image"][:] = 0  # the caller's own
    assert_same(copy, in_memory)
    images = np.load(folder_of(pictures) / "images.npy", mmap_mode="r")
    np.testing.assert_array_equal(images, everything(in_memory)["image"])


def test_it_is_written_once(pictures, at_once, decoded, capsys):
    opened(pictures)
    assert decoded == list(range(N))
    said = capsys.readouterr().out
    assert f"decoding folder train into {folder_of(pictures)}, 0.0 MiB, once" in said
    assert f"decoding {N}/{N}" in said and "images/s" in said
    for write in (True, False):
        everything(opened(pictures, write))
    assert decoded == list(range(N)) and capsys.readouterr().out == ""


def test_copies_of_squares_that_were_written_before_there_were_rectangles_are_still_used(tmp_path):
    data = load("digits", image_size=16, storage=Storage(0, 1, str(tmp_path), True))
    assert data.kept.endswith("/digits-train-16x16x1-817a3a81e90035e2")
    oblong = load("digits", image_size=(16, 8), storage=Storage(0, 1, str(tmp_path), True))
    assert "/digits-train-16x8x1-" in oblong.kept


def test_other_data_another_size_or_another_crop_have_another_copy(pictures):
    first = opened(pictures)
    assert first.kept != opened(pictures, image_size=4).kept
    small = Image.new("RGB", (9, 9))
    small.save(pictures / "a" / "00.png")
    again = opened(pictures)
    assert again.kept != first.kept and not everything(again)["image"][0].any()


def test_a_moved_data_set_has_the_same_copy(pictures, decoded):
    opened(pictures)
    pictures.rename(pictures.with_name("moved"))
    assert_same(opened(pictures.with_name("moved")), load("folder", directory=f"{pictures.parent}/moved", image_size=5))
    assert decoded == 2 * list(range(N))  # once for the copy, once for the set in memory


def test_only_what_is_too_large_for_memory_and_small_enough_for_the_disk_has_one(pictures):
    def where(**changes):
        return opened(pictures, **changes).kept

    assert where(memory_mib=1) == "in memory"
    assert where(disk_mib=0) == "decoded whenever they are read (0.0 MiB; data.disk_mib=0)"
    assert not (pictures.parent / "cache").exists()
    assert where(write=False) == "decoded whenever they are read (0.0 MiB, without a copy)"
    assert not (pictures.parent / "cache").exists()


def test_it_lies_in_the_cache_folder_of_the_user_unless_another_is_named(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert f"{tmp_path}/xdg/ddx/folder-train-5x5x3-" in opened(pictures, cache_dir="").kept
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert f"{tmp_path}/home/.cache/ddx/folder-train-5x5x3-" in opened(pictures, cache_dir="").kept
    monkeypatch.chdir(tmp_path)
    assert f"{tmp_path}/home/x/folder-train-5x5x3-" in opened(pictures, cache_dir="~/x").kept
    assert f"{tmp_path}/y/folder-train-5x5x3-" in opened(pictures, cache_dir="y").kept


# Damage


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


DAMAGE = {
    "cut short": lambda folder: os.truncate(folder / "images.npy", 3000),
    "too long": lambda folder: (folder / "images.npy").open("ab").write(b"x"),
    "no images": lambda folder: (folder / "images.npy").unlink(),
    "labels changed": lambda folder: flip(folder / "examples", 100),
    "labels cut short": lambda folder: os.truncate(folder / "examples", 80),
    "no description": lambda folder: (folder / "about.json").unlink(),
    "no JSON": lambda folder: (folder / "about.json").write_bytes(b"\xff{"),
    "a list": lambda folder: (folder / "about.json").write_text("[]"),
    "of other data": lambda folder: (folder / "about.json").write_text(
        (folder / "about.json").read_text().replace('"num_examples": 60', '"num_examples": 61')
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_copy_is_noticed_and_made_again(pictures, damage, decoded):
    opened(pictures)
    DAMAGE[damage](folder_of(pictures))
    in_memory = load("folder", directory=str(pictures), image_size=5)
    with pytest.warns(UserWarning, match="is damaged"):
        assert_same(opened(pictures, write=False), in_memory)  # a job decodes, and leaves it
    decoded.clear()
    with pytest.warns(UserWarning, match="is damaged"):
        assert_same(opened(pictures), in_memory)
    assert decoded == list(range(N))
    assert_same(opened(pictures), in_memory)
    assert decoded == list(range(N))


def test_an_image_that_has_changed_in_the_copy_is_decoded_again(pictures, decoded):
    data = opened(pictures)
    in_memory, path = load("folder", directory=str(pictures), image_size=5), folder_of(pictures) / "images.npy"
    offset = path.stat().st_size - N * 75
    for index in (0, 17, 59):
        flip(path, offset + index * 75 + 74)
    decoded.clear()
    with pytest.warns(UserWarning, match=r"images in .* have changed; decoding them again"):
        assert_same(opened(pictures), in_memory)
    assert decoded == [0, 17, 59]
    assert_same(opened(pictures), in_memory)  # it has been mended
    assert_same(data, in_memory)
    assert decoded == [0, 17, 59]


def test_two_images_that_have_changed_places_are_noticed(pictures, decoded):
    opened(pictures)
    path = folder_of(pictures) / "images.npy"
    content = np.load(path, mmap_mode="r+")
    content[[3, 6]] = content[[6, 3]]
    content.flush()
    with pytest.warns(UserWarning, match="have changed"):
        assert_same(opened(pictures), load("folder", directory=str(pictures), image_size=5))


def test_a_copy_that_is_cut_short_or_removed_while_it_is_read_ends_nothing(pictures):
    in_memory, data = load("folder", directory=str(pictures), image_size=5), opened(pictures)
    os.truncate(folder_of(pictures) / "images.npy", 1000)
    with pytest.warns(UserWarning, match="was cut short; decoding images again"):
        assert_same(data, in_memory)
    with pytest.warns(UserWarning, match="damaged"):
        data = opened(pictures)
    for path in folder_of(pictures).iterdir():
        path.unlink()
    assert_same(data, in_memory)


def test_it_can_be_read_by_many_threads(pictures):
    data, expected = opened(pictures), everything(load("folder", directory=str(pictures), image_size=5))
    wrong = []

    def read(seed):
        rng = np.random.default_rng(seed)
        for _ in range(50):
            indices = rng.integers(0, N, 20)
            batch = data.read(indices)
            wrong.extend(name for name in batch if not np.array_equal(batch[name], expected[name][indices]))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# Interruptions, several processes, full disks


WRITER = """
import sys, time
import numpy as np
from ddx.data import Storage, copies, datasets, load
copies._AT_ONCE = 10 * 75
decode = datasets.decode
def slow(source, convert, shape, indices, progress=""):
    time.sleep(0.15)
    with open({log!r}, "a") as file:
        file.write("".join(f"{{i}}\\n" for i in indices))
    return decode(source, convert, shape, indices, progress)
datasets.decode = slow
storage = Storage(memory_mib=0, disk_mib=1, cache_dir={cache!r}, write=True)
data = load("folder", directory={pictures!r}, image_size=5, storage=storage)
np.save(sys.argv[1], data.read(np.arange({count}))["image"])
print(data.kept)
"""


def writer(pictures, name):
    """A process that writes the copy, a part each 0.15 s, and then what it reads from it."""
    where = {"log": str(pictures.parent / "log"), "cache": str(pictures.parent / "cache"), "pictures": str(pictures)}
    code = WRITER.format(count=N, **where)
    command = [sys.executable, "-c", code, str(pictures.parent / name)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def log(pictures):
    path = pictures.parent / "log"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_after_kill_9_the_next_writer_goes_on_where_it_ended(pictures):
    for done in (20, 40):
        process = writer(pictures, "none.npy")
        until(lambda done=done: len(log(pictures)) >= done)
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = writer(pictures, "images.npy")
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    assert "images are there" in output
    assert len(log(pictures)) <= N + 20  # of each that was stopped, the part that it was at
    expected = everything(load("folder", directory=str(pictures), image_size=5))["image"]
    np.testing.assert_array_equal(np.load(pictures.parent / "images.npy"), expected)
    assert not list((pictures.parent / "cache").glob("*.partial"))


def test_two_processes_at_once_write_it_once(pictures):
    processes = [writer(pictures, f"{i}.npy") for i in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sorted(log(pictures)) == list(range(N))
    assert sum("waiting for another process, which is writing" in output for output in outputs) <= 1
    expected = everything(load("folder", directory=str(pictures), image_size=5))["image"]
    for i in range(2):
        np.testing.assert_array_equal(np.load(pictures.parent / f"{i}.npy"), expected)


def test_parts_that_a_crash_of_the_machine_lost_are_decoded_again(pictures, at_once, decoded, monkeypatch):
    """The labels of 30 images are on the disk, the images themselves are not."""
    write = copies.Progress.advance

    def stopping(self, count=1):
        write(self, count)
        if self._count == 30:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(copies.Progress, "advance", stopping)
        with pytest.raises(KeyboardInterrupt):
            opened(pictures)
    (images,) = (pictures.parent / "cache").glob("*.partial/images.npy")
    with images.open("r+b") as file:
        file.seek(images.stat().st_size - N * 75)
        file.write(bytes(25 * 75))
    with (images.parent / "examples").open("ab") as file:
        file.write(b"abc")  # half an entry
    with pytest.warns(UserWarning, match="have changed; decoding them again"):
        assert_same(opened(pictures), load("folder", directory=str(pictures), image_size=5))
    assert decoded == [*range(N), *range(N), *range(25)]  # the copy, the set in memory, what was lost


def no_space(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("where", ["at the beginning", "later", "in the end"])
def test_a_full_disk_leaves_nothing_behind_and_changes_no_image(pictures, at_once, where, monkeypatch):
    if where == "at the beginning":
        monkeypatch.setattr(os, "posix_fallocate", no_space)
    elif where == "later":
        monkeypatch.setattr(os, "fsync", no_space)
    else:
        monkeypatch.setattr(copies, "write_json", no_space)
    data = opened(pictures)
    assert "there can be no copy of 0.0 MiB in " in data.kept and "(No space left on device)" in data.kept
    assert "\n" not in data.kept
    assert [p.suffix for p in (pictures.parent / "cache").iterdir()] == [".lock"]
    assert_same(data, load("folder", directory=str(pictures), image_size=5))


def test_a_limit_of_the_size_of_files_is_no_error_either(pictures):
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "from ddx.data import Storage, load\n"
        f"storage = Storage(0, 1, {str(pictures.parent / 'cache')!r}, True)\n"
        f"print(load('folder', directory={str(pictures)!r}, image_size=5, storage=storage).kept)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "there can be no copy" in done.stdout and "File too large" in done.stdout, done.stdout + done.stderr


def test_a_folder_that_nobody_named_keeps_as_much_free_as_the_copy_takes(pictures, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    free = N * 75 * 3 // 2
    monkeypatch.setattr(copies.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=free))
    assert "as much is to stay free where data.cache_dir is not set" in opened(pictures, cache_dir="").kept
    assert opened(pictures).kept.startswith("in a decoded copy")


def test_a_cache_folder_that_cannot_be_made_is_named(pictures, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot create .*file/x .*Choose another data\.cache_dir"):
        opened(pictures, cache_dir=str(tmp_path / "file" / "x"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # nobody asked for this one
    data = opened(pictures, cache_dir="")
    assert "there can be no copy" in data.kept
    assert_same(data, load("folder", directory=str(pictures), image_size=5))


def test_a_copy_in_a_folder_that_cannot_be_written_to_is_read(pictures, decoded, monkeypatch):
    opened(pictures)
    monkeypatch.setattr(copies, "make_directory", lambda *_: pytest.fail("written to"))
    assert opened(pictures).kept.startswith("in a decoded copy") and decoded == list(range(N))


def test_a_user_without_a_home_has_no_copy(pictures, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    data = load("digits", storage=Storage(0, 1, "", True))
    assert data.kept.endswith("(this user has no home folder)")


def test_an_image_that_cannot_be_read_is_told_and_no_half_copy_stays(pictures, at_once):
    (pictures / "b" / "31.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"31\.png"):
        opened(pictures)
    assert [p.suffix for p in (pictures.parent / "cache").iterdir()] == [".lock"]


def test_other_data_are_refused_before_they_are_decoded(pictures, decoded):
    def refuse(data):
        assert data.num_examples == N and data.image_shape == (5, 5, 3)
        raise DataError("other data")

    for kept in (Storage(), storage(pictures)):
        with pytest.raises(DataError, match="other data"):
            load("folder", directory=str(pictures), image_size=5, storage=kept, check=refuse)
    assert decoded == [] and not (pictures.parent / "cache").exists()


def test_what_a_copy_is_of_is_told_in_it(pictures):
    data = opened(pictures)
    about = json.loads((folder_of(pictures) / "about.json").read_text())
    assert about["shape"] == [N, 5, 5, 3] and about["name"] == "folder"
    assert about["fingerprint"] == data.fingerprint().record()
    assert about["conversion"] == {"channels": 3, "size": [5, 5], "crop": []}
