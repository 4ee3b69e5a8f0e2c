"""What is installed: every module, the shipped configs inside ddx, and commands that run in any folder."""

import configparser
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def run(command, cwd, code=0, timeout=60, **env):
    done = subprocess.run(command, cwd=cwd, env=os.environ | env, capture_output=True, text=True, timeout=timeout)
    assert code in (None, done.returncode), done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folders that a wheel puts into an environment, and nothing else of the checkout."""
    folder = tmp_path_factory.mktemp("built")
    setup = [sys.executable, "-c", "import setuptools; setuptools.setup()", "--quiet"]
    run([*setup, "build_py", f"--build-lib={folder}"], ROOT, PYTHONWARNINGS="ignore")
    return folder


@pytest.fixture
def installed(built, tmp_path):
    """Runs Python in an empty folder, with nothing but the wheel's content and the packages it needs on the path."""
    return lambda *args, code=0: run([sys.executable, *args], tmp_path, code, PYTHONPATH=str(built))


def files(folder, pattern="*"):
    return {str(path.relative_to(folder)) for path in folder.rglob(pattern) if path.is_file() and _is_ours(path)}


def _is_ours(path):
    return "__pycache__" not in path.parts


def test_the_wheel_holds_every_module_and_config_and_nothing_else(built):
    data = {"ddx/py.typed", "ddx/data/digits.npz"}
    data |= {f"ddx/features/shipped/{name}" for name in files(ROOT / "ddx" / "features" / "shipped")}
    modules = {f"ddx/{name}" for name in files(ROOT / "ddx", "*.py")}
    configs = {f"ddx/configs/{name}" for name in files(ROOT / "configs", "*.py")}
    commands = {f"launch/{name}" for name in files(ROOT / "launch", "*.py")}
    assert files(built) == data | modules | configs | commands
    # Without it, a folder named launch of the user's own hides no command.
    assert "launch/__init__.py" not in commands


def test_the_commands_run_in_any_folder_and_know_the_shipped_configs(installed, tmp_path):
    assert str(ROOT) not in installed("-c", "import ddx; print(ddx.__file__)")
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "mine.py").write_text("")
    for config in ("digits", "configs/digits.py"):
        changed = ("--config=" + config, "--config.train.num_steps=0")
        assert "train.num_steps=0 must be at least 1" in installed("-m", "launch.train", *changed, code=2)
    assert "wrote forward.png" in installed("-m", "launch.forward", "--num_columns=2")


def test_every_command_has_a_name_that_no_folder_of_a_user_hides(installed, tmp_path):
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "__init__.py").write_text("")
    for path in (ROOT / "launch").glob("*.py"):
        assert "--[no]debug" in installed("-m", f"ddx.cli.{path.stem}", "--help", code=None)


def test_a_shipped_config_takes_its_argument_in_any_folder(installed):
    message = installed("-m", "launch.train", "--config=heads:npr,runs/none", code=2)
    assert message.startswith("error: cannot read runs/none/config.json")


# What follows asks the package index: pytest -m package -n 0 tests/test_package.py


def extras():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return {name: value.split() for name, value in setup["options.extras_require"].items()}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A fresh virtual environment: its Python."""
    folder = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", str(folder)], ROOT)
    python = str(folder / "bin" / "python")
    run([python, "-m", "pip", "install", "--quiet", "--upgrade", "pip"], ROOT, timeout=300)
    return python


@pytest.fixture(scope="module")
def wheel(environment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(
        ROOT, folder / "source", ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "runs")
    )
    run(
        [environment, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}", str(source)],
        folder,
        0,
        300,
    )
    (path,) = folder.glob("ddx-*.whl")
    return path


def resolved(environment, folder, *args):
    """{"jax": "0.10.2", ...}: what pip would install."""
    report = folder / "report.json"
    pip = [environment, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", f"--report={report}"]
    run([*pip, *args], folder, timeout=600)
    found = json.loads(report.read_text())["install"]
    return {one["metadata"]["name"].lower(): one["metadata"]["version"] for one in found}


@pytest.mark.package
@pytest.mark.parametrize("extra", ["tpu", "tpu-v3", "tpu-compile", "cuda", "convert", "test"])
def test_every_extra_resolves_to_its_pins(environment, wheel, tmp_path, extra):
    found = resolved(environment, tmp_path, f"{wheel}[{extra}]")
    pins = dict(pin.split("==") for pin in extras().get(extra, []) if "==" in pin)
    assert pins.items() <= found.items() and "jax" in found
    assert ("libtpu" in found) == extra.startswith("tpu")


@pytest.mark.package
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_pins_for_v3_exist_for_every_python(environment, tmp_path, python):
    pins = extras()["tpu-v3"]
    options = ["--no-deps", "--only-binary=:all:", f"--python-version={python}", f"--target={tmp_path}"]
    assert resolved(environment, tmp_path, *options, *pins) == dict(pin.split("==") for pin in pins)


@pytest.mark.package
def test_an_installed_ddx_trains_and_samples_in_an_empty_folder(environment, wheel, tmp_path):
    run([environment, "-m", "pip", "install", "--quiet", str(wheel)], tmp_path, timeout=900)
    env = {"PYTHONPATH": "", "JAX_PLATFORMS": "cpu"}
    flags = ["--config=digits", "--workdir=runs/digits", "--config.train.num_steps=20"]
    out = run([environment, "-m", "launch.train", *flags], tmp_path, timeout=600, **env)
    assert "trained 20 steps: runs/digits/samples/000020.png" in out
    flags = ["--workdir=runs/digits", "--num_samples=4", "--num_steps=5"]
    out = run([environment, "-m", "launch.sample", *flags], tmp_path, timeout=600, **env)
    assert "wrote 4 samples of step 20" in out
    assert (tmp_path / "runs" / "digits" / "samples" / "000020.png").exists()
    head = ["--config=heads:npr,runs/digits", "--workdir=runs/head", "--config.train.num_steps=2"]
    assert "trained 2 steps" in run([environment, "-m", "launch.train", *head], tmp_path, timeout=600, **env)
