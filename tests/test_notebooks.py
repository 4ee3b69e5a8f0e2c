"""The notebooks run from top to bottom, on a CPU and in small; their files are clean, and their first cell tells."""

import ast
import glob
import importlib.metadata
import json
import pathlib
import re
import subprocess
import sys
import types

import nbclient
import nbformat
import pytest
from jupyter_client.manager import start_new_kernel

import ddx
from ddx.runtime import accelerator, devices
from ddx.runtime.errors import ConfigError
from tests import processes

FOLDER = pathlib.Path(__file__).parents[1] / "launch" / "colab"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
KINDS = {"string": str, "integer": int, "number": float, "slider": int, "boolean": bool}
FORM = re.compile(r"^(\w+) = (.+?)  # @param (.+)$", re.M)

TINY = """
import ddx

def get_config():
    config = ddx.config.load("digits")
    config.process.num_steps = 20
    config.model.channels, config.model.multipliers, config.model.attention_resolutions = 16, (1,), ()
    config.train.num_steps, config.train.log_every, config.train.sample_every = 8, 2, 4
    config.sample.num_steps, config.sample.num_images = 5, 4
    return config
"""


def notebook(name, /, **settings):
    """A notebook with other values in its forms."""
    found = nbformat.read(FOLDER / f"{name}.ipynb", 4)
    for setting, value in settings.items():
        form = re.compile(rf"^{setting} = .+?(?=  # @param)", re.M)
        assert sum(len(form.findall(cell.source)) for cell in found.cells) == 1, setting
        for cell in found.cells:
            cell.source = form.sub(lambda _, to=f"{setting} = {value!r}": to, cell.source)
    return found


def run(name, folder, /, **settings):
    """What the cells of a notebook print, and how many pictures they show, by the cells' names."""
    found = notebook(name, **settings)
    nbclient.NotebookClient(found, timeout=900, resources={"metadata": {"path": str(folder)}}).execute()
    cells = [cell for cell in found.cells if cell.cell_type == "code"]
    said = {cell.id: "".join(part.text for part in cell.outputs if part.output_type == "stream") for cell in cells}
    shown = {cell.id: [kind for part in cell.outputs for kind in part.get("data", ())] for cell in cells}
    return said, {name: sum(kind.startswith("image/") for kind in kinds) for name, kinds in shown.items()}


def test_training_in_a_notebook_and_sampling_from_its_checkpoint_in_another(tmp_path, monkeypatch):
    (tmp_path / "tiny.py").write_text(TINY)
    with monkeypatch.context() as two:
        two.setenv("XLA_FLAGS", processes.environment(devices=2)["XLA_FLAGS"])
        sizes = {"batch_size": 15, "num_samples": 4, "max_examples": 4}
        said, shown = run("train_tpu", tmp_path, config_name="tiny.py", name="mine", **sizes)
    assert "A batch of 16 = 2 x 8" in said["share_of_the_batch"]
    assert "step 8" in said["train"] and "from step 8" in said["sample"] and "bits/dim" in said["evaluate"]
    numbers = {"what_to_train": 1, "share_of_the_batch": 1, "loss_and_samples": 2, "sample": 1, "evaluate": 1}
    assert {name: count for name, count in shown.items() if count} == numbers

    sizes = {"step_counts": "2", "many_steps": 4, "num_images": 6, "evaluations": "2"}
    said, shown = run("sample_from_checkpoint", tmp_path, name="mine", **sizes)
    assert "A network at step 8" in said["the_run"] and "(64, 8, 8, 1) uint8" in said["sample"]
    assert "drawn alone: True" in said["seed"]
    drawn = {"sample": 1, "ddim_steps": 1, "other_solvers": 2, "interpolation": 1, "film": 1, "weights": 1, "seed": 1}
    assert {name: count for name, count in shown.items() if count} == drawn


def test_many_models_of_one_process(tmp_path):
    sizes = {"columns": 3, "num_images": 2, "num_paths": 3, "path_steps": 5, "step_counts": "3", "num_test": 8}
    said, shown = run("one_process_many_models", tmp_path, **sizes)
    assert "analytic, each frequency" in said["variances"]
    assert all(shown[name] == 1 for name in ("log_snr", "q_sample", "exact_denoiser", "paths", "variances"))


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS])
def test_it_runs_as_it_is(name, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    _, shown = run(name, tmp_path)
    assert sum(shown.values()) >= 5


@pytest.mark.soak
def test_the_stop_button_saves_and_the_same_cell_resumes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("tiny.py").write_text(TINY)
    cells = notebook("train_tpu", config_name="tiny.py", num_steps=20_000).cells
    source = {cell.id: cell.source for cell in cells}
    manager, client = start_new_kernel()

    def said(source, stop_at=None):
        printed = []

        def hook(message):
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])
                if stop_at and re.search(stop_at, printed[-1]):
                    manager.interrupt_kernel()

        reply = client.execute_interactive(source, output_hook=hook, timeout=300)
        assert reply["content"]["status"] == "ok", reply["content"]
        return "".join(printed)

    try:
        for name in ("install", "where", "what_to_train", "share_of_the_batch"):
            said(source[name])
        stopped_at = re.search(r"stopped at step (\d+) of 20000", said(source["train"], stop_at=r"training 100/"))[1]
        said(f"config.train.num_steps = {stopped_at} + 4")
        assert f"resuming at step {stopped_at}" in said(source["train"])
        assert "already complete" in said(source["train"])
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_file_is_clean(path):
    text = path.read_text()
    found = json.loads(text)
    assert text == json.dumps(found, indent=1, ensure_ascii=False) + "\n"  # as Colab and Jupyter write it
    nbformat.validate(found)
    assert set(found["metadata"]) == {"accelerator", "colab", "kernelspec", "language_info"}
    for cell in found["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None
        assert set(cell["metadata"]) <= {"cellView"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_forms_have_titles_and_values_that_they_offer(path):
    titles = []
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type != "code":
            continue
        number, title = re.match(r"# @title (\d+)\. (\S.*)", cell.source).groups()
        titles.append(int(number))
        forms = FORM.findall(cell.source)
        assert len(forms) == cell.source.count("@param"), title
        for _, value, text in forms:
            value = ast.literal_eval(value)
            offered, end = json.JSONDecoder().raw_decode(text)
            if isinstance(offered, list):
                assert value in offered and json.loads(text[end:] or "{}") in ({}, {"allow-input": True})
            else:
                assert type(value) is KINDS[offered["type"]] and not text[end:]
    assert titles == [*range(1, len(titles) + 1)]


def cell(name, of="train_tpu"):
    return next(cell.source for cell in notebook(of).cells if cell.id == name)


def test_the_cells_that_notebooks_share_are_the_same():
    for path in NOTEBOOKS:
        assert notebook(path.stem).cells[1].source == cell("install")
    assert cell("where", "sample_from_checkpoint") == cell("where")


# The first cell, where the notebook does not run.


def first_cell(**settings):
    source = next(cell.source for cell in notebook("train_tpu", **settings).cells if cell.id == "install")
    exec(compile(source, "install", "exec"), {})


def stopped(match, **settings):
    """The message with which the first cell stops, in one piece and without a traceback."""
    with pytest.raises(Exception, match=match) as found:
        first_cell(**settings)
    assert type(found.value).__name__ == "Stop" and found.value._render_traceback_() == [str(found.value)]
    return str(found.value)


def test_an_install_anew_replaces_a_ddx_of_the_same_version(not_installed, tmp_path):
    stopped("installed anew", source=str(tmp_path), install="again")
    (once, again), options = not_installed, ["--force-reinstall", "--no-deps"]
    assert [word for word in again if word not in options] == once
    assert [word for word in again if word in options] == options


def test_a_checkout_that_cannot_be_written_is_copied(not_installed, tmp_path, monkeypatch):
    (tmp_path / "setup.cfg").write_text("here")
    monkeypatch.setattr("os.access", lambda path, _: str(path) != str(tmp_path))
    stopped("installed anew", source=str(tmp_path))
    *_, (*_, wanted) = not_installed
    copy = pathlib.Path(wanted.partition("[")[0])
    assert copy != tmp_path and (copy / "setup.cfg").read_text() == "here"


def test_a_bucket_has_the_address_of_one():
    source = next(
        cell.source for cell in notebook("train_tpu", keep_in="bucket", bucket="my-runs").cells if cell.id == "where"
    )
    with pytest.raises(ValueError, match="gs://NAME"):
        exec(source, {"Stop": ValueError})


@pytest.mark.parametrize(
    ("files", "trained"),
    [
        ([], ["digits"]),
        (["config.json"], [None]),
        (["config.json", "checkpoints/7.orbax-checkpoint-tmp/x"], [None]),
        (["config.json", "checkpoints/8/x"], []),
    ],
)
def test_a_run_without_a_checkpoint_is_trained_before_it_is_loaded(files, trained, tmp_path, monkeypatch, capsys):
    for file in map(tmp_path.joinpath, files):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    calls = []

    def train(config, _):
        calls.append(config and config.data.name)
        return types.SimpleNamespace(message="done")

    def load(_):
        config = ddx.config.load("digits")
        whole = types.SimpleNamespace(num_steps=1000, blur=None)
        return types.SimpleNamespace(step=8, config=config, process=whole, model=types.SimpleNamespace(num_classes=0))

    monkeypatch.setattr(ddx, "train", train)
    monkeypatch.setattr(ddx, "load", load)
    exec(cell("the_run", "sample_from_checkpoint"), {"workdir": str(tmp_path)})
    assert calls == trained
    assert "Not trained to its end" in capsys.readouterr().out


@pytest.fixture
def not_installed(monkeypatch):
    """ddx as if it were not there; returns the commands that the cell runs."""
    installed, commands = importlib.metadata.version, []

    def version(name):
        if name in ("ddx", "libtpu"):
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    def command(words, **_):
        commands.append(words)
        return types.SimpleNamespace(returncode=int("broken" in words[-1]), stdout="ERROR: no such thing\n")

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(subprocess, "run", command)
    return commands


def test_without_a_tpu_it_says_what_is_there_and_how_to_change_it(capsys):
    first_cell()
    said = capsys.readouterr().out
    assert "x cpu (cpu)" in said and "no TPU" in said and "Runtime > Change runtime type" in said


def test_on_a_tpu_it_says_so_and_no_more(capsys, monkeypatch):
    import jax

    monkeypatch.setattr(devices, "count", lambda: 8)
    tpu = types.SimpleNamespace(platform="tpu", device_kind="TPU v5 lite")
    monkeypatch.setattr(jax, "devices", lambda: [tpu] * 8)
    first_cell()
    said = capsys.readouterr().out
    assert "Devices: 8 x TPU v5 lite (tpu)" in said and "no TPU" not in said


def test_a_jax_that_was_imported_before_the_install_needs_a_restart(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", types.SimpleNamespace(__version__="0.7.2"))
    said = stopped("restart")
    assert f"jax 0.7.2 (installed: {importlib.metadata.version('jax')})" in said
    assert "Runtime > Restart session" in said and "run this cell again" in said


def test_a_libtpu_that_does_not_match_is_told_before_a_device_is_touched(monkeypatch):
    host = accelerator.Host("v5e", "0.10.2", "0.0.20", "0.0.42")
    monkeypatch.setattr(accelerator, "this_host", lambda: host)
    monkeypatch.setattr(devices, "_cpu_is_wanted", lambda: False)
    monkeypatch.setattr(devices, "count", lambda: pytest.fail("a device was touched"))
    said = stopped("does not match jax")
    assert "pip install 'jax[tpu]==0.10.2'" in said and "Restart session" in said


@pytest.mark.parametrize(
    ("there", "extras"), [("/dev/accel*", "tpu,gcs"), ("/dev/vfio/[0-9]*", "tpu,gcs"), ("", "gcs")]
)
def test_it_installs_what_the_machine_needs(there, extras, not_installed, tmp_path, monkeypatch):
    monkeypatch.setattr(glob, "glob", lambda pattern: [pattern] * (pattern == there))
    monkeypatch.setattr("shutil.which", lambda _: None)
    stopped("installed anew", source=str(tmp_path))  # as these tests have imported it
    assert not_installed == [[sys.executable, "-m", "pip", "install", "--quiet", f"{tmp_path}[{extras}]"]]


def test_it_installs_from_a_repository(not_installed, monkeypatch):
    monkeypatch.setattr(glob, "glob", lambda _: [])
    monkeypatch.setattr("shutil.which", lambda name: name)
    stopped("installed anew", source="git+https://example.com/ddx")
    assert not_installed[0][-1] == "ddx[cuda,gcs] @ git+https://example.com/ddx"


def test_an_install_that_cannot_be_says_why(not_installed, tmp_path):
    assert "git+https" in stopped("There is no ddx at .*nowhere", source=str(tmp_path / "nowhere"))
    (tmp_path / "broken").mkdir()
    stopped("(?s)could not install .*no such thing", source=str(tmp_path / "broken"))


def test_an_error_of_ddx_in_a_cell_is_its_line():
    assert ConfigError("no. Do it otherwise")._render_traceback_() == ["error: no. Do it otherwise"]
