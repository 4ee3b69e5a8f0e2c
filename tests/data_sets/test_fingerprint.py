"""What tells one data set from another: everything about its images, and nothing about where they lie."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from ddx.data import Storage, fingerprint, load
from ddx.data.fingerprint import differences
from ddx.data.sources import folder
from ddx.runtime.errors import DataError
from tests.data_sets.prepared_set import digits_like, image_feature, label_feature, write

FEATURES = {"image": image_feature((6, 6, 3)), "label": label_feature(3)}


def of(directory, name="folder", **options):
    return load(name, directory=str(directory), **{"storage": Storage(memory_mib=0)} | options).fingerprint()


def changes(old, new):
    return differences(json.loads(json.dumps(old.record())), new)


@pytest.fixture
def animals(tmp_path):
    """Five images of two classes, all of as many bytes."""
    for value, name in enumerate(("cat/a", "cat/b", "cat/c", "dog/a", "dog/b")):
        path = tmp_path / "animals" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (value, value, value)).save(path, "BMP")
    return tmp_path / "animals"


def test_a_moved_data_set_is_the_same(animals, tmp_path):
    before = of(animals)
    shutil.copytree(animals, tmp_path / "else" / "where")
    for path in (tmp_path / "else").rglob("*"):
        os.utime(path, (1, 1))
    (tmp_path / "else" / "where" / ".DS_Store").write_text("")
    (tmp_path / "else" / "where" / "cat" / "notes.txt").write_text("")
    assert changes(before, of(tmp_path / "else" / "where")) == []
    assert before.checksum == of(tmp_path / "else" / "where").checksum


def test_a_folder_is_the_same_however_it_is_named(animals, monkeypatch):
    before = of(animals)
    monkeypatch.chdir(animals.parent)
    monkeypatch.setenv("HOME", str(animals.parent))
    for name in ("animals", "./animals/", "~/animals", "animals/../animals"):
        assert of(name) == before
    monkeypatch.chdir(animals)
    assert of(".") == before


def repaint(folder, name="cat/b", value=200):
    Image.new("RGB", (4, 4), (value, value, value)).save(folder / f"{name}.png", "BMP")


def rename(folder, old, new):
    (folder / new).parent.mkdir(exist_ok=True)
    (folder / old).rename(folder / new)


def swap(folder):
    rename(folder, "cat/a.png", "x.png")
    rename(folder, "cat/c.png", "cat/a.png")
    rename(folder, "x.png", "cat/c.png")


CHANGES = {
    "repainted": (repaint, "the content of the images"),
    "two in another order": (swap, "the content of the images"),
    "renamed": (lambda f: rename(f, "cat/a.png", "cat/aa.png"), "the names, labels or sizes of the images"),
    "of another class": (lambda f: rename(f, "cat/a.png", "dog/c.png"), "the names, labels or sizes of the images"),
    "a longer file": (lambda f: (f / "cat" / "b.png").write_bytes(b"x"), "the names, labels or sizes"),
    "one more": (lambda f: repaint(f, "dog/z"), "5 examples -> 6"),
    "one less": (lambda f: (f / "dog" / "b.png").unlink(), "5 examples -> 4"),
    "a class renamed": (lambda f: (f / "cat").rename(f / "zebra"), "classes cat, dog -> dog, zebra"),
    "a class more": (lambda f: rename(f, "cat/a.png", "ant/a.png"), "classes cat, dog -> ant, cat, dog"),
    "no classes": (
        lambda f: [rename(f, p.relative_to(f), p.name * 2) for p in sorted(f.rglob("*.png"))],
        "classes cat, dog -> none",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_a_folder_is_another_set_and_is_named(animals, change):
    before = of(animals)
    alter, message = CHANGES[change]
    alter(animals)
    found = "; ".join(changes(before, of(animals)))
    assert found.startswith(message), found
    assert before.checksum != of(animals).checksum


def test_several_differences_are_all_named(animals):
    before = of(animals)
    (animals / "cat").rename(animals / "zebra")
    repaint(animals, "dog/z")
    assert changes(before, of(animals)) == ["classes cat, dog -> dog, zebra", "5 examples -> 6"]


def test_one_example_that_became_three_is_told_so(tmp_path):
    repaint(tmp_path, "a")
    before = of(tmp_path)
    repaint(tmp_path, "b")
    repaint(tmp_path, "c")
    assert changes(before, of(tmp_path)) == ["1 example -> 3"]


def test_of_many_classes_the_first_that_differs_is_named(tmp_path):
    names = [f"n{i:03}" for i in range(100)]
    for name in names:
        (tmp_path / name).mkdir()
        Image.new("L", (2, 2)).save(tmp_path / name / "a.png")
    before = of(tmp_path)
    (tmp_path / "n041").rename(tmp_path / "n041x")
    assert changes(before, of(tmp_path)) == ["class 41 n041 -> n041x of 100"]
    shutil.rmtree(tmp_path / "n041x")
    assert changes(before, of(tmp_path)) == ["class 41 n041 -> n042, 100 classes -> 99", "100 examples -> 99"]


def test_names_that_are_no_text_are_told_apart_in_one_line(tmp_path):
    strange = os.fsencode(tmp_path) + b"/\xff\n"
    os.mkdir(strange)
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", strange + b"/a.png")
    before = of(tmp_path)
    os.rename(strange, tmp_path / "cat")
    assert changes(before, of(tmp_path)) == [r"classes '\udcff\n' -> cat"]


def test_splits_have_fingerprints_of_their_own_and_the_classes_of_all(animals):
    before = of(animals)
    whole = animals.parent / "whole"
    shutil.copytree(animals, whole / "train")
    assert of(whole) == before  # only moved
    Image.new("RGB", (4, 4)).save(whole / "train" / "cat" / "a.png")
    (whole / "test" / "emu").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(whole / "test" / "emu" / "a.png")
    assert changes(before, of(whole)) == ["classes cat, dog -> cat, dog, emu"]
    assert of(whole, split="test").num_examples == 1


@pytest.fixture
def few_are_read(monkeypatch):
    """As of a set that is too large to be read: six examples, of a file the first ten bytes."""
    monkeypatch.setattr(fingerprint, "MOST_BYTES", 60)
    monkeypatch.setattr(fingerprint, "SOME", 6)
    monkeypatch.setattr("ddx.data.sources.SOME_BYTES", 10)


def test_of_a_large_folder_all_names_and_sizes_count_and_the_content_of_some(tmp_path, few_are_read):
    for index in range(26):
        (tmp_path / f"{index:02}.png").write_bytes(bytes([index]) * 30)
    Image.new("L", (2, 2)).save(tmp_path / "00.png")
    before = of(tmp_path)
    for index in range(1, 26):
        path, content = tmp_path / f"{index:02}.png", bytes([index]) * 30
        for other, noticed in (
            (content + b"x", True),
            (b"y" + content[1:], index % 5 == 0),
            (content[:-1] + b"z", False),
        ):
            path.write_bytes(other)
            assert bool(changes(before, of(tmp_path))) == noticed, (index, other)
        path.write_bytes(content)
    assert changes(before, of(tmp_path)) == []


def test_it_stays_the_same_in_every_version_and_on_every_machine(tmp_path):
    """A checkpoint that an older version wrote must not be refused."""
    for index, name in enumerate(("a/x.webp", "b/z.PNG", "b/é.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes([index]) * (index + 1))
    found = folder(str(tmp_path), "train").fingerprint()
    assert found.classes == ("a", "b") and found.num_examples == 3
    assert found.listing == "a5f4eb73ea511a9669b2d21dd548fb5adc8335876d28d22d3e54e1a133c5448e"
    assert found.content == "54d06778ba8899589b2c4f6c2685c7abd68e1ec58e2c6884ca6f6b6e3c79315f"
    assert found.checksum == "b65031522604134780930b41073a9fb0622d7cf9027d389d9d86ef0f8be3c3b2"
    assert load("digits").fingerprint().content == "0c7ae57ecc45e84b6306b0de35992bff3c06f702d0b3da8bb683e5e07dfbf0fe"


# Prepared sets


def prepared(directory, count=20, names=None, alter=None, **options):
    examples, _, _ = digits_like(count, seed=0)
    if alter is not None:
        alter(examples)
    home = write(directory, "tiny", {"train": examples, "test": digits_like(5, seed=1)[0]}, FEATURES, **options)
    if names:
        (home / "label.labels.txt").write_text("\n".join(names))
    return home


def test_a_moved_prepared_set_is_the_same(tmp_path):
    prepared(tmp_path / "here", names=["ant", "bee", "cat"])
    before = of(tmp_path / "here", "tiny")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    shutil.rmtree(tmp_path / "here")
    assert before.classes == ("ant", "bee", "cat")
    assert changes(before, of(tmp_path / "there", "tiny")) == []


def relabel(examples):
    examples[7]["label"] = (examples[7]["label"] + 1) % 3


def exchange(examples):
    examples[3], examples[4] = examples[4], examples[3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alter": relabel}, "the content of the images"),
        ({"alter": exchange}, "the content of the images"),
        ({"alter": lambda examples: examples[7].update(examples[8])}, "the content of the images"),
        ({"count": 21}, "20 examples -> 21"),
        ({"names": ["ant", "bee", "dog"]}, "classes ant, bee, cat -> ant, bee, dog"),
        ({"version": "1.0.1"}, "version 1.0.0 -> 1.0.1"),
    ],
)
def test_any_change_of_a_prepared_set_is_named(tmp_path, options, message):
    prepared(tmp_path / "a", names=["ant", "bee", "cat"])
    prepared(tmp_path / "b", **{"names": ["ant", "bee", "cat"], **options})
    assert changes(of(tmp_path / "a", "tiny"), of(tmp_path / "b", "tiny")) == [message]


def test_of_a_large_prepared_set_the_content_of_some_records_counts(tmp_path, few_are_read):
    prepared(tmp_path / "a", count=26)
    prepared(tmp_path / "b", count=26, alter=lambda examples: examples[10].update(label=2))
    prepared(tmp_path / "c", count=26, alter=lambda examples: examples[11].update(label=1))
    of_a, of_b, of_c = (of(tmp_path / name, "tiny") for name in "abc")
    assert of_a.listing  # the sizes of the files, in blocks of 64 KiB
    assert changes(of_a, of_b) == ["the content of the images"] and changes(of_a, of_c) == []


def test_a_part_of_a_split_has_a_fingerprint_of_its_own(tmp_path):
    prepared(tmp_path)
    whole, part, both = (of(tmp_path, "tiny", split=split) for split in ("train", "train[:8]", "train+test"))
    assert [x.num_examples for x in (whole, part, both)] == [20, 8, 25]
    assert len({x.content for x in (whole, part, both)}) == 3


def test_a_set_without_labels_has_no_classes(tmp_path):
    write(tmp_path, "plain", {"train": digits_like(2, 0)[0]}, {"image": image_feature((6, 6, 3))})
    assert of(tmp_path, "plain").classes == ("",)


# In general


def test_no_image_is_decoded_for_it(animals, monkeypatch):
    data = load("folder", directory=str(animals), storage=Storage(0))
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("an image was decoded"))
    assert data.fingerprint().num_examples == 5


def test_a_pipe_among_the_images_is_named_and_not_waited_for(animals):
    os.mkfifo(animals / "cat" / "pipe.png")
    for storage in (Storage(), Storage(0)):
        with pytest.raises(DataError, match=r"no regular file\. .*pipe\.png"):
            of(animals, storage=storage)


@pytest.mark.parametrize("record", [None, [], {}, "x", 5])
def test_where_there_is_no_record_nothing_differs(record):
    assert differences(record, load("digits").fingerprint()) == []


@pytest.mark.parametrize("classes", [None, 5, "cat", [1, None], {}])
def test_a_record_of_something_else_differs(classes):
    (found,) = differences({"classes": classes}, load("digits").fingerprint())
    assert found.startswith("class") and "\n" not in found


def test_a_million_examples_are_sampled_evenly():
    some = fingerprint.to_read(1_281_167, 2**37)
    assert (len(some), some[0], some[-1]) == (256, 0, 1_281_166)
    assert set(np.diff(some)) == {5024, 5025}
    assert fingerprint.to_read(1000, 2**26) == list(range(1000))
