"""Classes are drawn by number or by name."""

import types

import numpy as np
import pytest

from ddx.runtime.errors import ConfigError
from ddx.sampling.settings import class_numbers

ANIMALS = ("cat", "dog", "zebra")


def network(classes=ANIMALS, num_classes=None, null_class=False):
    """What `class_numbers` asks of a trained network."""
    count = len(classes) if num_classes is None else num_classes
    meta = {} if classes is None else {"data": {"classes": list(classes)}}
    model = types.SimpleNamespace(num_classes=count, null_class=null_class)
    return types.SimpleNamespace(system=types.SimpleNamespace(model=model), meta=meta)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("zebra", "cat"), (2, 0)),
        ("dog", (1,)),
        (["dog", "dog"], (1, 1)),
        (("2", "0"), (2, 0)),
        ((2, 0), (2, 0)),
        (1, (1,)),
        (np.array([1, 2]), (1, 2)),
        (("cat", 2), (0, 2)),
        (("cat", "2", np.int64(1)), (0, 2, 1)),
        (np.array(["zebra", "dog"]), (2, 1)),
        (None, None),
        ((), None),
    ],
)
def test_names_and_numbers_are_the_same_classes(given, expected):
    assert class_numbers(network(), given) == expected


def test_of_classes_that_are_named_by_numbers_names_win_where_all_are_names():
    odd = network(("5", "3", "1"))
    assert class_numbers(odd, ("3", "5")) == (1, 0)
    assert class_numbers(odd, (1, 2)) == (1, 2)
    assert class_numbers(odd, ("1", "2")) == (1, 2)  # "2" is no name, so both are numbers
    digits = network(tuple(map(str, range(10))))
    assert class_numbers(digits, ("3", "7")) == class_numbers(digits, (3, 7)) == (3, 7)


def test_none_is_the_class_after_the_last_unless_a_class_is_named_so():
    assert class_numbers(network(null_class=True), ("cat", "none")) == (0, 3)
    assert class_numbers(network(("none", "some"), null_class=True), "none") == (0,)
    assert class_numbers(network(None, 5, null_class=True), ("none", 1)) == (5, 1)


@pytest.mark.parametrize(
    ("source", "given", "message"),
    [
        (network(), ("none",), "'none' is known to a network trained with model.label_dropout, and this one is not"),
        (network(), ("zebre",), r"labels: 'zebre' is none of the 3 classes\. Choose one, such as zebra"),
        (network(), ("cat", "dogs"), r"'dogs' is none of the 3 classes\. Choose one, such as dog"),
        (network(), ("qqq",), "'qqq' is none of the 3 classes"),
        (network(None, 3), ("cat",), r"'cat' is no number, and the checkpoint names no classes\. Use 0, 1"),
        (network(num_classes=0), ("cat",), "trained without classes"),
        (network(), (0.5,), "must be a name or an integer"),
        (network(), (True,), "must be a name or an integer"),
        (network(), b"cat", "must be a name or an integer"),
    ],
)
def test_what_is_no_class_is_one_line(source, given, message):
    with pytest.raises(ConfigError, match=message) as error:
        class_numbers(source, given)
    assert "\n" not in str(error.value)
