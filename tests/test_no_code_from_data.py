"""Data run no code: files that would run some if pickle, YAML or eval read them are refused in one line.

Config files are Python and are run, as docs/configs.md says; nothing else is.
"""

import ast
import io
import json
import pathlib
import pickle
import shutil
import tarfile
import zipfile

import numpy as np
import pytest

import ddx
from ddx import features
from ddx.config import files
from ddx.runtime.errors import CheckpointError, ConfigError, DataError, DdxError

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "ddx").rglob("*.py"), *(ROOT / "launch").glob("*.py"), *(ROOT / "configs").glob("*.py")])


class Canary:
    """Sings when it is unpickled."""

    def __init__(self, nest):
        self.nest = nest

    def __reduce__(self):
        return pathlib.Path.touch, (self.nest,)


@pytest.fixture
def nest(tmp_path):
    """The file that a canary makes when its code runs."""
    path = tmp_path / "sang"
    yield path
    assert not path.exists(), "code of a data file was run"


def objects(nest):
    """An array of canaries, as NumPy pickles it."""
    array = np.empty(3, object)
    array[:] = Canary(nest)
    return array


def npy(nest):
    file = io.BytesIO()
    np.save(file, objects(nest), allow_pickle=True)
    return file.getvalue()


def npz(nest, **others):
    file = io.BytesIO()
    np.savez(file, images=objects(nest), **others)
    return file.getvalue()


def labelled(nest):
    file = io.BytesIO()
    np.savez(file, images=np.zeros((3, 8, 8, 1), np.uint8), labels=objects(nest))
    return file.getvalue()


def classes(nest):
    file = io.BytesIO()
    numbers = np.zeros(3, np.int32)
    np.savez(file, images=np.zeros((3, 8, 8, 1), np.uint8), labels=numbers, classes=objects(nest))
    return file.getvalue()


def torch_zip(nest):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Canary(nest)))
        archive.writestr("archive/version", "3")
    return file.getvalue()


def yaml(nest):
    return f"!!python/object/apply:os.system ['touch {nest}']\n".encode()


def python(nest):
    return f"__import__('pathlib').Path({str(nest)!r}).touch()\n".encode()


def msgpack(nest):
    """An extension type, as flax has for arrays, whose content is a pickle."""
    content = pickle.dumps(Canary(nest))
    return b"\xc8" + len(content).to_bytes(2, "big") + b"\x01" + content


def safetensors(nest):
    header = json.dumps({"__metadata__": {"load": f"!!python/object/apply:os.system ['touch {nest}']"}}).encode()
    return len(header).to_bytes(8, "little") + header


def tar(nest):
    """A path out of the folder, and a link to one."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        link = tarfile.TarInfo("out")
        link.type, link.linkname = tarfile.SYMTYPE, str(nest.parent)
        archive.addfile(link)
        for name in (f"../{nest.name}", f"out/{nest.name}", str(nest)):
            archive.addfile(tarfile.TarInfo(name))
    return file.getvalue()


PAYLOADS = {
    "x.npy": npy,
    "x.npz": npz,
    "labels.npz": labelled,
    "classes.npz": classes,
    "x.pkl": lambda nest: pickle.dumps(Canary(nest)),
    "x.pth": torch_zip,
    "x.pt": lambda nest: pickle.dumps(Canary(nest)),
    "pickle.npy": lambda nest: pickle.dumps(Canary(nest)),
    "torch.npz": torch_zip,
    "pickle.png": lambda nest: pickle.dumps(Canary(nest)),
    "x.yaml": yaml,
    "yaml.png": yaml,
    "python.png": python,
    "python.npy": python,
    "x.json": python,
    "x.msgpack": msgpack,
    "msgpack.npy": msgpack,
    "x.safetensors": safetensors,
    "safetensors.npz": safetensors,
    "x.tar": tar,
    "tar.npz": tar,
}


@pytest.fixture(params=PAYLOADS)
def payload(request, nest, tmp_path):
    path = tmp_path / "data" / request.param
    path.parent.mkdir()
    path.write_bytes(PAYLOADS[request.param](nest))
    return path


def is_one_line(error, *codes):
    return error.exit_code in codes and "\n" not in str(error)


def test_data_sets_run_no_code(payload):
    for name, directory in (("array", payload), ("folder", payload.parent), ("folder", payload)):
        with pytest.raises(DdxError) as error:
            data = ddx.data.load(name, directory=str(directory))
            data.read(np.arange(data.num_examples))
        assert is_one_line(error.value, 2, 4)


def test_images_that_a_command_is_given_run_no_code(payload):
    from ddx.data import given_images

    for path in (payload, payload.parent):
        if payload.name in ("labels.npz", "classes.npz"):
            continue  # their images are images; nothing else of them is read
        with pytest.raises(DataError) as error:
            given_images(path, np.asarray, (8, 8, 1))
        assert is_one_line(error.value, 4)


def test_prepared_data_sets_run_no_code(payload, tmp_path):
    copy = tmp_path / "sets" / "mine" / "1.0.0"
    copy.mkdir(parents=True)
    for name in ("dataset_info.json", "features.json", "mine-train.array_record-00000-of-00001"):
        shutil.copy(payload, copy / name)
    with pytest.raises(DdxError) as error:
        ddx.data.load("mine", directory=str(tmp_path / "sets"))
    assert is_one_line(error.value, 2, 4)


def test_weights_of_feature_networks_run_no_code(payload, tmp_path):
    with pytest.raises(DdxError) as error:
        features.convert("clip", payload, tmp_path / "x.safetensors")
    assert is_one_line(error.value, 2, 3)
    with pytest.raises(DdxError) as error:
        features.load("digits", weights=payload)
    assert is_one_line(error.value, 3)


def test_a_saved_config_runs_no_code(payload, tmp_path):
    shutil.copy(payload, tmp_path / "config.json")
    with pytest.raises(ConfigError) as error:
        files.load(str(tmp_path / "config.json"))
    assert is_one_line(error.value, 2)


@pytest.mark.parametrize("name", ["MANIFEST.json", "_CHECKPOINT_METADATA", "ema/_METADATA", "ema/manifest.ocdbt"])
def test_checkpoints_run_no_code(four, nest, name):
    pickled = pickle.dumps(Canary(nest))
    path = four / "checkpoints" / "4" / name
    assert path.exists()
    path.write_bytes(pickled)
    with pytest.warns(UserWarning, match="is damaged"), pytest.raises(CheckpointError) as error:
        ddx.load(four)
    assert is_one_line(error.value, 3)


def test_the_record_of_a_job_and_its_parts_run_no_code(four, nest, tmp_path):
    from ddx.runs.job import Job, read_record

    (tmp_path / "samples.json").write_bytes(python(nest))
    with pytest.raises(ConfigError) as error:
        read_record(tmp_path / "samples.json")
    assert is_one_line(error.value, 2)
    (tmp_path / "samples.json").unlink()
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "00000000.npz").write_bytes(npz(nest, job=objects(nest)))
    with pytest.warns(UserWarning, match="cannot be used"):
        assert Job(tmp_path, "samples", {"weights": "x"}, 4, 4).begin() == frozenset()


def test_a_config_file_is_python_and_is_run(tmp_path):
    made = tmp_path / "made"
    (tmp_path / "mine.py").write_text(
        f"import pathlib\npathlib.Path({str(made)!r}).touch()\nfrom ddx.config import default_config as get_config\n"
    )
    files.load(str(tmp_path / "mine.py"))
    assert made.exists()
    assert "A config file is Python and is run" in (ROOT / "docs" / "configs.md").read_text()


# The one place that runs a file: a config file, which its user names as a program of theirs.
RUNS_FILES = {ROOT / "ddx" / "config" / "files.py": {"exec_module", "module_from_spec", "spec_from_file_location"}}
READS_TENSORS = ROOT / "ddx" / "runtime" / "tensors.py"  # of PyTorch's files, and nothing else of them
BANNED = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml", "torch", "tensorflow", "code"}
RUNNING = {"exec_module", "module_from_spec", "spec_from_file_location", "load_module", "unsafe_load", "full_load"}
RUNNING |= {"run_path", "system", "popen", "run_code"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_of_ddx_runs_what_it_reads(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            banned = BANNED - ({"torch"} if path == READS_TENSORS else set())
            assert not {module.split(".")[0] for module in modules} & banned, f"line {node.lineno}"
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        is_plain = isinstance(node.func, ast.Name)
        assert not (is_plain and name in ("eval", "exec", "compile", "__import__")), f"line {node.lineno}"
        assert name not in RUNNING - RUNS_FILES.get(path, set()), f"line {node.lineno}"
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        pickled = keywords.get("allow_pickle")
        assert pickled is None or getattr(pickled, "value", None) is False, f"line {node.lineno}"
        if ast.unparse(node.func) == "torch.load":
            assert getattr(keywords.get("weights_only"), "value", None) is True, f"line {node.lineno}"
        if ast.unparse(node.func) == "np.load":
            assert pickled is not None, f"line {node.lineno}: say allow_pickle=False"
