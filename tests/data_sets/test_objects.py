"""Objects of Python as data sets: their examples are read as they are, and mistakes name the index."""

import threading

import numpy as np
import pytest

from ddx.data import batches, from_object
from ddx.data.fingerprint import differences
from ddx.runtime.errors import DataError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (7, 8, 12, 2), np.uint8)
LABELS = [1, 0, 2, 1, 1, 0, 2]
PAIRS = list(zip(IMAGES, LABELS, strict=True))


class Examples:
    """As torch's data sets are: a length and items. It remembers what was read."""

    def __init__(self, items):
        self.items, self.read = items, []

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        assert type(index) is int
        self.read.append(index)
        return self.items[index]


def grain_map():
    grain = pytest.importorskip("grain")
    return grain.MapDataset.source(PAIRS).map(lambda pair: {"image": pair[0], "label": np.int64(pair[1])})


OBJECTS = {
    "array": (lambda: IMAGES, False),
    "list of arrays": (lambda: list(IMAGES), False),
    "pairs": (lambda: PAIRS, True),
    "mappings": (lambda: [{"image": image, "label": np.int32(label)} for image, label in PAIRS], True),
    "unlabelled mappings": (lambda: [{"image": image} for image in IMAGES], False),
    "torch-style": (lambda: Examples([[image, np.array(label)] for image, label in PAIRS]), True),
    "grain": (grain_map, True),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_every_kind_of_object_gives_its_examples(name):
    make, labelled = OBJECTS[name]
    data = from_object(make())
    assert (data.num_examples, data.image_shape) == (7, (8, 12, 2))
    assert data.classes == (("0", "1", "2") if labelled else ("",))
    order = np.array([3, 0, 6, 3])
    batch = data.read(order)
    np.testing.assert_array_equal(batch["image"], IMAGES[order])
    assert batch["label"].tolist() == ([1, 1, 2, 1] if labelled else [0] * 4) and batch["label"].dtype == np.int32
    batch["image"][:] = 0  # the caller's own
    np.testing.assert_array_equal(data.read(order)["image"], IMAGES[order])


def test_images_of_two_axes_are_grey():
    data = from_object(IMAGES[..., 0])
    assert data.image_shape == (8, 12, 1)
    np.testing.assert_array_equal(data.read([2])["image"][0, ..., 0], IMAGES[2, ..., 0])


def test_with_names_only_what_is_needed_is_read():
    examples = Examples(PAIRS)
    data = from_object(examples, ("ant", "bee", "cat"))
    assert data.classes == ("ant", "bee", "cat") and examples.read == [0]
    data.read([5, 2])
    assert examples.read == [0, 5, 2]


def test_an_object_is_used_by_one_thread_at_a_time():
    busy = threading.Lock()

    class Alone(Examples):
        def __getitem__(self, index):
            assert busy.acquire(blocking=False)
            try:
                return super().__getitem__(index)
            finally:
                busy.release()

    data = from_object(Alone(PAIRS))
    with batches(data, seed=0, batch_size=50, first_step=0, last_step=40, prefetch=8) as stream:
        for _ in stream:
            data.read(np.arange(7))


def test_the_fingerprint_is_of_the_examples_and_not_of_the_object():
    first = from_object(PAIRS).fingerprint()
    assert from_object(Examples([{"image": i, "label": n} for i, n in PAIRS])).fingerprint() == first
    changed = IMAGES.copy()
    changed[6, 7, 11, 1] ^= 1
    for other, message in (
        (from_object(list(zip(changed, LABELS, strict=True))), "the content of the images"),
        (from_object(list(zip(IMAGES, [*LABELS[:-1], 0], strict=True))), "the content of the images"),
        (from_object(PAIRS[:-1]), "7 examples -> 6"),
        (from_object(PAIRS, ("ant", "bee", "cat")), "classes 0, 1, 2 -> ant, bee, cat"),
        (from_object(IMAGES), "classes 0, 1, 2 -> none"),
        (
            from_object(list(zip(IMAGES.swapaxes(1, 2), LABELS, strict=True))),
            "the names, labels or sizes of the images",
        ),
    ):
        assert differences(first.record(), other.fingerprint()) == [message]


def test_of_a_large_set_256_examples_are_read_from_the_first_to_the_last():
    examples = Examples(np.zeros((1021, 2, 2), np.uint8))
    data = from_object(examples)
    examples.read.clear()
    data.fingerprint()
    assert examples.read == list(range(0, 1021, 4))


class Broken(Examples):
    def __getitem__(self, index):
        if index == 5:
            raise RuntimeError("the disk\nis gone")
        return super().__getitem__(index)


def replaced(index, item):
    return [*PAIRS[:index], item, *PAIRS[index + 1 :]]


MISTAKES = {
    "floats": (IMAGES / 255, r"example 0 of ndarray is float64 of shape \(8, 12, 2\)"),
    "flat": (IMAGES.reshape(7, -1), r"example 0 of ndarray is uint8 of shape \(192,\)"),
    "batches": (IMAGES[None], r"example 0 of ndarray is uint8 of shape \(7, 8, 12, 2\)"),
    "another shape": (replaced(3, (IMAGES[0, :4], 1)), r"example 3 of list has the shape \(4, 12, 2\), the first"),
    "no label": (replaced(3, IMAGES[0]), "example 3 of list has no label, unlike the first"),
    "a label": ([IMAGES[0], *PAIRS[1:]], "example 1 of list has a label, unlike the first"),
    "three parts": (replaced(0, (1, 2, 3)), "example 0 of list cannot be read: it is 3 values"),
    "half a label": (replaced(4, (IMAGES[0], 0.5)), "example 4 of list cannot be read"),
    "below 0": (replaced(4, (IMAGES[0], -1)), "example 4 of list has the label -1"),
    "no image": ([{"picture": IMAGES[0]}], "example 0 of list cannot be read: 'image'"),
    "broken": (Broken(PAIRS), "example 5 of Broken cannot be read: the disk is gone"),
    "empty": ([], "have no examples"),
    "a number": (3, "data of type int have no __len__ and __getitem__"),
    "a generator": ((image for image in IMAGES), "data of type generator have no __len__"),
    "a dictionary": ({"images": IMAGES}, "are not numbered examples"),
    "a path": ("images.npy", "are not numbered examples"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line_that_names_the_index(name):
    given, message = MISTAKES[name]
    with pytest.raises(DataError, match=message) as error:
        from_object(given).read(np.arange(len(given)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("classes", ["ab", (1, 2), ("ant", "bee")])
def test_names_must_fit_the_labels(classes):
    with pytest.raises(DataError, match=r"sequence of names|label 2\. Labels are 0 \.\.\. 1") as error:
        from_object(PAIRS, classes).read(np.arange(7))
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=r"example 0 of ndarray has no label|sequence of names"):
        from_object(IMAGES, classes)
