"""Files on this machine and objects in a bucket: the same to whoever reads and writes them."""

import errno
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from ddx.runtime import bucket, folders, storage
from ddx.runtime.errors import ConfigError, StorageError
from ddx.runtime.growing import GrowingFile
from ddx.runtime.paths import user_path
from tests.buckets import download

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(params=["on this machine", "in a bucket"])
def top(request, tmp_path):
    """A folder in either place."""
    return tmp_path if request.param == "on this machine" else request.getfixturevalue("in_bucket")


def written(top, *names):
    for name in names:
        folders.make_directory((top / name).parent, "--out")
        storage.write_text(top / name, f"text of {name}")
    return top


def test_what_is_written_is_there_and_what_is_removed_is_not(top):
    written(top, "a.txt", "b/c.txt", "b/d/e.txt", "b/.hidden/f.txt")
    assert folders.names(top) == ["a.txt", "b"] and folders.names(top / "b") == [".hidden", "c.txt", "d"]
    assert storage.read_text(top / "b" / "c.txt") == "text of b/c.txt"
    assert storage.read_bytes(top / "a.txt", 4) == b"text" and storage.size(top / "a.txt") == 13
    assert storage.is_file(top / "a.txt") and not storage.is_dir(top / "a.txt")
    assert storage.is_dir(top / "b") and not storage.is_file(top / "b") and storage.exists(top / "b")
    below = [str(path).removeprefix(f"{top}/") for path in sorted(folders.files_below(top))]
    assert below == ["a.txt", "b/c.txt", "b/d/e.txt"]
    storage.remove(top / "a.txt")
    storage.remove(top / "a.txt")  # it is gone already
    folders.remove_tree(top / "b")
    assert folders.names(top) == [] and not storage.exists(top / "b")


def test_what_is_not_there_is_told_as_a_file_that_is_not_there(top):
    for read in (storage.read_bytes, storage.size, storage.sha256, storage.read_arrays):
        with pytest.raises(FileNotFoundError) as error:
            read(top / "none")
        assert str(error.value.filename) == str(top / "none")
    assert folders.names(top / "none") == []
    assert not storage.exists(top / "none") and not storage.is_dir(top / "none") and not storage.is_file(top / "none")


def test_a_file_is_the_old_one_or_the_new_one(top):
    written(top, "x")
    with pytest.raises(KeyError), storage.replacing(top / "x") as temporary:
        temporary.write_text("half of")
        raise KeyError
    assert storage.read_text(top / "x") == "text of x" and folders.names(top) == ["x"]
    assert not temporary.exists()
    with storage.replacing(top / "x") as temporary:
        temporary.write_text("new")
        assert storage.read_text(top / "x") == "text of x"
    assert storage.read_text(top / "x") == "new" and not temporary.exists()


def test_arrays_come_back(top):
    arrays = {"a": np.arange(6, dtype=np.uint8).reshape(2, 3), "b": np.array("text")}
    storage.write_arrays(top / "x.npz", arrays)
    found = storage.read_arrays(top / "x.npz")
    assert found.keys() == arrays.keys() and all((found[name] == arrays[name]).all() for name in arrays)
    copy = storage.on_this_machine(top / "x.npz")
    assert copy.read_bytes() == storage.read_bytes(top / "x.npz")


def test_a_folder_moves_with_all_that_is_in_it(top):
    written(top, "20/MANIFEST.json", "20/ema/d/x", "20.corrupt/old")
    folders.move_tree(top / "20", top / "20.corrupt", last="MANIFEST.json")
    assert folders.names(top) == ["20.corrupt"]
    assert folders.names(top / "20.corrupt") == ["MANIFEST.json", "ema"]
    assert storage.read_text(top / "20.corrupt" / "ema" / "d" / "x") == "text of 20/ema/d/x"


def test_names_are_not_folders_that_begin_alike(top):
    written(top, "run/a", "run2/b", "run.json")
    assert folders.names(top / "run") == ["a"]
    folders.remove_tree(top / "run")
    assert folders.names(top) == ["run.json", "run2"]


def test_a_file_grows_line_by_line_and_loses_those_that_are_not_kept(top):
    storage.write_text(top / "lines", "1\n2\n3\n4\nhalf a li")
    grown = GrowingFile(top / "lines", lambda line: line.isdecimal() and int(line) <= 3)
    assert storage.read_text(top / "lines") == "1\n2\n3\n"
    grown.add("4")
    grown.add("5")
    grown.flush()
    assert storage.read_text(top / "lines") == "1\n2\n3\n4\n5\n" and grown.lines == list("12345")
    assert storage.read_text(top / "lines") == "".join(f"{line}\n" for line in GrowingFile(top / "lines", bool).lines)


def test_a_growing_object_is_not_written_again_at_every_line(in_bucket, monkeypatch):
    grown = GrowingFile(in_bucket / "lines", bool)
    at = bucket.address(in_bucket / "lines")
    for line in range(100):
        grown.add(f"{line}")
    before = bucket.generation(at)
    assert before == 0
    monkeypatch.setattr("ddx.runtime.growing.EVERY", 0.0)
    grown.add("100")
    assert storage.read_text(in_bucket / "lines").splitlines() == [str(line) for line in range(101)]


def test_a_large_object_is_uploaded_in_parts_and_comes_back(in_bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(bucket, "_CHUNK", 2**18)
    content = np.random.default_rng(0).bytes(2**20 + 12345)
    with storage.replacing(in_bucket / "large") as temporary:
        temporary.write_bytes(content)
    assert storage.read_bytes(in_bucket / "large") == content
    (tmp_path / "copy").mkdir()
    download(in_bucket, tmp_path / "copy")
    assert (tmp_path / "copy" / "large").read_bytes() == content


def test_an_object_is_written_only_where_nobody_else_has_written(in_bucket):
    at = bucket.address(in_bucket / "x")
    first = bucket.put_if(at, "mine", 0)
    assert first and bucket.put_if(at, "theirs", 0) is None
    second = bucket.put_if(at, "mine again", first)
    assert second and second != first and bucket.put_if(at, "theirs", first) is None
    assert storage.read_text(in_bucket / "x") == "mine again"
    # The answer to a write was lost, and the write was tried again: it is there, and it is ours.
    assert bucket.put_if(at, "mine again", first) == second


def test_no_such_bucket_is_one_line(server):
    for work in (storage.read_bytes, storage.is_file, folders.names, lambda path: storage.write_text(path, "x")):
        if work is storage.is_file:
            continue  # for want of an answer of the server: it says that there is no such object
        with pytest.raises(StorageError, match=r"there is no bucket gs://ddx-none\. Create it, or name another"):
            work(user_path("gs://ddx-none/x", "--workdir"))


def test_a_server_that_is_gone_is_tried_again_and_told_in_one_line(server, in_bucket, monkeypatch):
    written(in_bucket, "x")
    monkeypatch.setattr(bucket, "PATIENCE", 2.0)
    server.go()
    try:
        with pytest.raises(StorageError) as error:
            storage.read_bytes(in_bucket / "x")
    finally:
        server.come_back()
    assert str(error.value) == (
        f"cannot read {in_bucket}/x, tried for 2 s: Connection refused. Fix that, and run the same command again; it"
        " resumes"
    )
    assert storage.read_text(in_bucket / "x") == "text of x"


def test_a_server_that_comes_back_in_time_is_not_noticed(server, in_bucket):
    import threading

    written(in_bucket, "x")
    server.go()
    threading.Timer(1.0, server.come_back).start()
    assert storage.read_text(in_bucket / "x") == "text of x"


@pytest.mark.parametrize("name", ["gs://", "gs://a", "gs:///x", "gs://Bucket/x", "gs://b_/x", "gs:/bucket/x"])
def test_what_names_no_bucket_is_refused(name):
    with pytest.raises(ConfigError, match="gs://bucket/name"):
        user_path(name, "--workdir")


def test_without_the_extra_a_bucket_is_refused_with_the_command_that_installs_it(monkeypatch):
    bucket._client.cache_clear()
    monkeypatch.setitem(sys.modules, "google.cloud", None)
    with pytest.raises(ConfigError, match=r"pip install 'ddx\[gcs\]'"):
        storage.read_bytes(user_path("gs://bucket/x", "--workdir"))


def test_a_bucket_without_credentials_is_one_line(monkeypatch, tmp_path):
    code = (
        "from ddx.runtime import storage; from ddx.runtime.paths import user_path\n"
        "try: storage.read_bytes(user_path('gs://bucket/x', 'x'))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    environment = {name: value for name, value in os.environ.items() if "EMULATOR" not in name}
    environment |= {"HOME": str(tmp_path), "NO_GCE_CHECK": "true", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("StorageError gs:// paths need credentials, and none were found"), done
    assert "gcloud auth application-default login" in done.stdout


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.ENOSPC, "Make room, "), (errno.EROFS, "Make it writable"), (errno.EIO, "Fix that")]
)
def test_a_disk_that_does_not_take_it_is_one_line_with_the_file(tmp_path, number, remedy):
    storage.write_text(tmp_path / "x", "old")
    with pytest.raises(StorageError) as error, storage.replacing(tmp_path / "x") as temporary:
        temporary.write_text("half")
        raise OSError(number, os.strerror(number))
    message = str(error.value)
    assert message.startswith(f"cannot write {tmp_path}/x ({os.strerror(number)}). {remedy}")
    assert message.endswith("and run the same command again")
    assert (tmp_path / "x").read_text() == "old" and os.listdir(tmp_path) == ["x"]


def test_json_of_numpy_is_json(tmp_path):
    storage.write_json(tmp_path / "x.json", {"a": np.float32(0.5), "b": np.arange(3)})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 0.5, "b": [0, 1, 2]}
