"""Data sets that TensorFlow Datasets has prepared, read without TensorFlow through `tfds.data_source`.

Preparing one (downloading it, writing its records) needs TensorFlow and happens once, elsewhere; nothing is downloaded
here. A prepared copy lies in <directory>/<name>[/<config>]/<version> and describes itself: splits, classes, counts.
"""

import functools
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ddx.data.decode import one_line, open_image
from ddx.data.fingerprint import SOME_BYTES, Fingerprint, checksum, is_read_whole, to_read
from ddx.data.sources import Source
from ddx.runtime import folders, storage
from ddx.runtime.errors import DataError
from ddx.runtime.paths import Path, is_local, user_path

_NAME = re.compile(r"(?P<dataset>\w+)(/(?P<config>[^/:]+))?(:(?P<version>\d+\.\d+\.\d+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def prepared(name: str, split: str, directory: str) -> Source:
    """The images (feature "image") and labels (feature "label", if there is such a class label) of a prepared data set.

    Args:
        name: as TFDS spells it, `name[/config][:version]`; without a version, the newest one in the directory.
        split: as TFDS spells it: "train", "test", "all", "train[:10%]", "train+test".
        directory: of all prepared data sets; "" is $TFDS_DATA_DIR, or ~/tensorflow_datasets where that is not set.

    Raises:
        DataError: no copy, one in another file format, no such split, no uint8 images, or a damaged copy.
    """
    given = [("data.dir", directory), ("TFDS_DATA_DIR", os.environ.get("TFDS_DATA_DIR")), ("", "~/tensorflow_datasets")]
    option, first = next((option, path) for option, path in given if path)
    directory = str(user_path(first, option))
    # Imported here because it costs a quarter of a second, or several from a cold disk, that the other sources save.
    import tensorflow_datasets as tfds

    copy, splits = _find_copy(name, directory)
    if not is_local(copy):
        directory = _nearer(copy, directory)
    try:
        # With its version in the name, TFDS opens the copy as it describes itself and does not ask the code of that
        # data set, which may be of another version or look for one in the network.
        records = tfds.data_source(
            f"{name.split(':')[0]}:{copy.name}",
            split=split,
            data_dir=directory,
            download=False,
            deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
        )
    # TFDS raises ValueError, AssertionError, KeyError... for unknown splits and damaged descriptions.
    except Exception as error:
        raise DataError(
            f"split {split!r} of {name} cannot be opened: {one_line(error)}. {copy}. It has the splits {splits}."
        ) from error

    features = dict(records.dataset_info.features.items())
    image_feature, label_feature = features.get("image"), features.get("label")
    if not isinstance(image_feature, tfds.features.Image) or image_feature.np_dtype not in (np.uint8, np.uint16):
        raise DataError(
            f"{name} has no feature `image` that holds 8 or 16-bit images. {copy}. It has: {one_line(features)}. "
            "Use another data set."
        )
    # Only what is used is parsed; other features can be large, or need TensorFlow.
    wanted = {"image": image_feature}
    labelled = isinstance(label_feature, tfds.features.ClassLabel)
    if labelled:
        wanted["label"] = label_feature
    parser = tfds.features.FeaturesDict(wanted)
    still_encoded = {"image": tfds.decode.SkipDecoding()}
    remedy = "Prepare the data set again."

    def where(index: int) -> str:
        return f"Record {index} of split {split} in {copy}"

    def examples(indices: Sequence[int]) -> Iterator[tuple[Image.Image, int]]:
        for index, record in zip(indices, _read(records, indices), strict=True):
            try:
                if isinstance(record, Exception):
                    raise record
                example = parser.deserialize_example_np(record, decoders=still_encoded)
                image = open_image(example["image"], upright=False)
                label = int(example["label"]) if labelled else 0
            # array_record, protobuf, TFDS and the decoder each have their own kinds.
            except Exception as error:
                raise DataError(f"image cannot be read: {one_line(error)}. {where(index)}. {remedy}") from error
            yield image, label

    channels = 1 if image_feature.shape[-1] in (1, 2) else 3
    classes = tuple(wanted["label"].names) if labelled else ("",)

    def fingerprint() -> Fingerprint:
        try:
            files = sorted(map(os.fspath, records.dataset_info.splits[split].filepaths))
            sizes = [storage.size(user_path(file, "data.dir")) for file in files]
        except OSError as error:
            raise DataError(f"{error.filename} cannot be read: {error.strerror}. {remedy}") from error
        whole, some = is_read_whole(sum(sizes)), to_read(len(records), sum(sizes))
        content = checksum(_contents_of(records, some, None if whole else SOME_BYTES, where, remedy))
        # Of a set that is read to the end nothing else counts: prepared again, it may be cut into other files.
        each = [f"{size} {os.path.basename(file)}" for file, size in zip(files, sizes, strict=True)]
        listing = "" if whole else checksum(map(str.encode, each))
        return Fingerprint(copy.name, classes, len(records), listing, content)

    return Source(len(records), channels, classes, examples, where, remedy, fingerprint)


def _find_copy(name: str, directory: str) -> tuple[Path, str]:
    """The directory of the prepared copy, and a list of its splits for people."""
    parts = _NAME.fullmatch(name)
    if parts is None:
        raise DataError(
            f"{name!r} is not the name of a data set. Use digits, folder, array, or a name of TensorFlow Datasets, "
            "name[/config][:version], e.g. cifar10."
        )
    home = user_path(directory, "data.dir") / parts["dataset"] / (parts["config"] or "")
    versions = [v for v in folders.names(home) if _VERSION.fullmatch(v) and parts["version"] in (None, v)]
    described = ("dataset_info.json", "features.json")
    infos = [home / v / described[0] for v in versions if all(storage.is_file(home / v / name) for name in described)]
    if not infos:
        raise DataError(
            f"there is no prepared copy of {name}. Looked in {home} (found: {_contents(home)}). Name the directory "
            f"above it with data.dir or TFDS_DATA_DIR, or prepare it once: {_recipe(name, directory)}"
        )
    newest = max(infos, key=lambda p: tuple(map(int, p.parent.name.split("."))))
    try:
        info = json.loads(storage.read_bytes(newest))
        formats = [info.get("fileFormat", "tfrecord"), *info.get("alternativeFileFormats", [])]
        splits = [f"{entry['name']} ({sum(map(int, entry['shardLengths']))} images)" for entry in info["splits"]]
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise DataError(f"damaged description: {one_line(error)}. {newest}. Prepare the data set again.") from error
    if "array_record" not in formats:
        raise DataError(
            f"the prepared copy of {name} is in {formats[0]} format, which has no random access. {newest.parent}. "
            f"Prepare it again in another directory: {_recipe(name, 'DIRECTORY')}"
        )
    return newest.parent, ", ".join(splits)


@functools.cache
def _nearer(copy: Path, directory: str) -> str:
    """The directory to read a copy in a bucket from: one on this machine to which a small copy is downloaded first.

    Its records are read one by one, each with a request.
    """
    sizes = folders.files_below(copy).values()
    if sum(size or 0 for size in sizes) > _MOST_FETCHED:
        return directory
    top = storage.temporary_folder()
    folders.download(copy, top / copy.relative_to(user_path(directory, "data.dir")))
    return str(top)


_MOST_FETCHED = 4 * 2**30  # bytes


def _recipe(name: str, directory: str) -> str:
    return (
        "on a machine with tensorflow, `import tensorflow_datasets as tfds; "
        f"tfds.builder({name!r}, data_dir={directory!r}, file_format='array_record').download_and_prepare()`"
    )


def _contents(home: Path) -> str:
    """What a directory holds: the versions or configs that a wrong name missed."""
    if not storage.is_dir(home):
        return "no such directory"
    return ", ".join(folders.names(home)[:10]) or "nothing"


def _contents_of(
    records: Any, indices: Sequence[int], size: int | None, where: Callable[[int], str], remedy: str
) -> Iterator[bytes]:
    """The first bytes of some records, or all of them."""
    for start in range(0, len(indices), _AT_ONCE):
        some = indices[start : start + _AT_ONCE]
        for index, record in zip(some, _read(records, some), strict=True):
            if isinstance(record, Exception):
                raise DataError(f"image cannot be read: {one_line(record)}. {where(index)}. {remedy}") from record
            yield record[:size]


_AT_ONCE = 1000  # records in memory


def _read(records: Any, indices: Sequence[int]) -> list[bytes | Exception]:
    """The records at these indices; for one that cannot be read, the reason."""
    keys = [int(index) for index in indices]
    try:
        return list(records.__getitems__(keys))  # five times as fast as one by one
    except Exception:  # one of them; find which
        return [_read_one(records, key) for key in keys]


def _read_one(records: Any, key: int) -> bytes | Exception:
    try:
        return records[key]
    except Exception as error:
        return error
