"""Writes a data set as TensorFlow Datasets prepares it, without TensorFlow.

That is records of tf.train.Example in array_record files, and two JSON files that describe them.
"""

import io
import json
from pathlib import Path

import numpy as np
from array_record.python import array_record_module
from PIL import Image

_FEATURES = "tensorflow_datasets.core.features"


def encode(array, kind="PNG"):
    """A (H, W, 3) or (H, W) uint8 array as an image file's bytes."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


def image_feature(shape, dtype="uint8"):
    dimensions = [str(side) for side in shape]
    content = {"dtype": dtype, "encodingFormat": "png", "shape": {"dimensions": dimensions}}
    return {"pythonClassName": f"{_FEATURES}.image_feature.Image", "image": content}


def label_feature(num_classes):
    content = {"numClasses": str(num_classes)}
    return {"pythonClassName": f"{_FEATURES}.class_label_feature.ClassLabel", "classLabel": content}


def text_feature():
    return {"pythonClassName": f"{_FEATURES}.text_feature.Text", "text": {}}


def write(directory, name, splits, features, *, version="1.0.0", file_format="array_record", **info):
    """Writes the examples of each split, dicts of bytes and ints, as one shard; returns the copy's directory."""
    home = Path(directory, name, version)
    home.mkdir(parents=True)
    dataset = name.split("/")[0]
    for split, examples in splits.items():
        path = home / f"{dataset}-{split}.array_record-00000-of-00001"
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for example in examples:
            writer.write(_example(example))
        writer.close()
    described = {
        "name": dataset,
        "version": version,
        "fileFormat": file_format,
        "moduleName": "anywhere",
        "splits": [
            {
                "name": split,
                "numBytes": "1",
                "shardLengths": [str(len(examples))],
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
            for split, examples in splits.items()
        ],
        **info,
    }
    (home / "dataset_info.json").write_text(json.dumps(described))
    dictionary = {"pythonClassName": f"{_FEATURES}.features_dict.FeaturesDict", "featuresDict": {"features": features}}
    (home / "features.json").write_text(json.dumps(dictionary))
    return home


def digits_like(count, seed, side=6):
    """`count` examples with random RGB images and labels 0, 1, 2, 0, ...; and what reading them must give."""
    images = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)
    labels = np.arange(count) % 3
    examples = [{"image": encode(image), "label": int(label)} for image, label in zip(images, labels, strict=True)]
    return examples, images, labels


def _example(values):
    """tf.train.Example: Features (field 1): a map (1) of names (1) to Feature (2): bytes list (1) or int64 list (3)."""
    entries = b""
    for name, value in values.items():
        if isinstance(value, bytes):
            feature = _field(1, _field(1, value))
        else:
            feature = _field(3, _field(1, _varint(value % 2**64)))
        entries += _field(1, _field(1, name.encode()) + _field(2, feature))
    return _field(1, entries)


def _field(number, content):
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value):
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
