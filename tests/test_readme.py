"""The README tells the truth: its code runs, its table of keys is that of the library."""

import configparser
import pathlib
import re

from ddx.config import keys

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()


def test_its_code_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["x_0"].shape == (2, 32, 32, 3)


def test_its_table_of_keys_is_the_librarys():
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| `(.*?)` \|", README, re.M))
    for key, spec in keys.KEYS.items():
        assert rows[key] == (str(spec.default) or '""'), key
        assert spec.meaning in README, key


def test_what_it_says_to_install_for_each_chip_is_an_extra():
    setup = configparser.ConfigParser()
    setup.read(pathlib.Path(__file__).parents[1] / "setup.cfg")
    named = set(re.findall(r"pip install [^`\n]*\[([a-z0-9-]+)\]'", README))
    assert named == {"test", "tpu", "tpu-v3", "cuda"} and named <= setup["options.extras_require"].keys()


def test_files_that_it_names_exist():
    root = pathlib.Path(__file__).parents[1]
    for name in set(re.findall(r"`((?:configs|tests|docs)/[\w/]+\.\w+)", README)):
        assert (root / name).exists(), name


def test_it_lists_the_keys_that_may_change_in_a_run():
    (listed,) = re.findall(r"It also resumes with another\n\n(.*?)\n\nwhich", README, re.S)
    assert set(re.findall(r"`([a-z_.]+)`", listed)) == set(keys.ADJUSTABLE)
