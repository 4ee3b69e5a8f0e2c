"""The README and the pages of docs tell the truth: code runs, tables are the library's, what they name exists."""

import configparser
import pathlib
import re
import shlex
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from ddx.cli import command
from ddx.config import keys
from ddx.config.evaluation import EVALUATION
from ddx.config.sampling import SAMPLING
from ddx.config.values import validate

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONFIGS, RUNS, SCORES = ((ROOT / "docs" / name).read_text() for name in ("configs.md", "runs.md", "evaluation.md"))
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])


def test_its_code_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["x_0"].shape == (2, 32, 32, 3)


def test_its_table_of_keys_is_the_librarys():
    rows = dict(re.findall(r"^\| `([a-z0-9_.]+)` \| `(.*?)` \|", CONFIGS, re.M))
    for key, spec in keys.KEYS.items():
        assert rows[key] == (str(spec.default) or '""'), key
        assert spec.meaning in CONFIGS, key


def test_its_table_of_evaluation_s_settings_is_the_librarys():
    rows = [
        f"| `--{name}` | {', '.join(row.jobs) or 'all'} | {row.unset or row.default} | {row.meaning} |"
        for name, row in EVALUATION.items()
    ]
    assert re.findall(r"^\| `--.*$", SCORES, re.M) == rows


def test_what_it_says_to_install_for_each_chip_is_an_extra():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    named = set(re.findall(r"pip install [^`\n]*\[([a-z0-9-]+)\]'", README))
    assert named == {"test", "tpu", "tpu-v3", "cuda", "gcs"} and named <= setup["options.extras_require"].keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_it_names_exist(page):
    text = page.read_text()
    for name in set(re.findall(r"`((?:configs|tests|docs|ddx)/[\w/]+\.\w+)", text)):
        assert (ROOT / name).exists(), name
    for link in set(re.findall(r"\]\(([^)#:]+)\)", text)):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_that_it_names_is_one(page):
    sources = "".join(path.read_text() for path in (ROOT / "ddx" / "cli").glob("*.py"))
    known = set(re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", sources)) | {*SAMPLING, *EVALUATION, "config", "help", "seed"}
    for line in re.findall(r"^    python -m launch\.\w+.*$", page.read_text(), re.M):
        for flag in re.findall(r"--(?:no)?(\w+)", line.partition("#")[0]):
            assert flag in known, (flag, line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_run_that_it_tells_to_train_has_a_valid_config(page, monkeypatch):
    for line in re.findall(r"^    python -m launch\.train +(.*)$", page.read_text(), re.M):
        given = [word for word in shlex.split(line, comments=True) if word.startswith("--config")]
        if "heads.py" in line:
            continue  # reads the config of a run
        values = flags.FlagValues()
        monkeypatch.setattr("sys.argv", ["train", *given])
        holder = config_flags.DEFINE_config_file("config", None, flag_values=values)
        values["config"].parser = command._ConfigFile()
        values(sys.argv)
        if holder.value is not None:
            validate(holder.value)


def test_it_lists_the_keys_that_may_change_in_a_run():
    (listed,) = re.findall(r"It also resumes with another\n\n(.*?)\n\nwhich", RUNS, re.S)
    assert set(re.findall(r"`([a-z_.]+)`", listed)) == set(keys.ADJUSTABLE)
