"""Config files: shipped ones are known by name in any folder, a user's own work anywhere, every fault is one line."""

import pathlib

import pytest

import ddx
from ddx.config import files
from ddx.runtime.errors import ConfigError

ROOT = pathlib.Path(__file__).parents[2]
START = "from ddx.config import default_config\ndef get_config():\n    config = default_config()\n"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_shipped_configs_are_known_by_name_in_any_folder(elsewhere):
    names = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
    assert list(files.shipped()) == names and "digits" in names
    assert files.load("digits").train.num_steps == 3000
    assert files.load("ddpm_lsun:church").data.name == "lsun/church_outdoor"


def test_a_shipped_config_is_known_by_its_path_where_there_is_no_such_file(elsewhere):
    assert files.load("configs/digits.py") == files.load("./configs/digits.py")
    assert files.load("configs/ddpm_lsun.py:cat").data.name == "lsun/cat"
    for path in ("other/digits.py", "configs/more/digits.py", str(elsewhere / "configs" / "digits.py")):
        with pytest.raises(ConfigError, match="config file not found"):
            files.load(path)


def test_a_users_own_file_of_that_path_comes_first(elsewhere):
    (elsewhere / "configs").mkdir()
    (elsewhere / "configs" / "digits.py").write_text(START + "    config.train.num_steps = 7\n    return config\n")
    (elsewhere / "digits").write_text("not Python")
    assert files.load("configs/digits.py").train.num_steps == 7
    assert files.load("digits").train.num_steps == 3000


def test_a_users_config_may_start_from_a_shipped_one_and_import_what_lies_beside_it(elsewhere, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine")
    (folder / "shared_by_mine.py").write_text("STEPS = 7\n")
    (folder / "mine.py").write_text(
        "import ddx, shared_by_mine\n"
        "def get_config(steps=shared_by_mine.STEPS):\n"
        "    config = ddx.config.files.load('digits')\n"
        "    config.train.num_steps = int(steps)\n"
        "    return config\n"
    )
    assert files.load(f"{folder}/mine.py").train.num_steps == 7
    assert files.load(f"{folder}/mine.py:8").train.num_steps == 8


def test_a_plain_dictionary_with_all_keys_is_a_config(elsewhere):
    (elsewhere / "mine.py").write_text(START + "    return config.to_dict()\n")
    config = files.load("mine.py")
    assert config == ddx.config.default_config() and config.is_locked


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "--config is empty. Name a file or a shipped config: adm_imagenet, analytic_cifar10, blurring_cifar10,"),
        ("digit", "config file not found: digit. Did you mean digits?"),
        (".", "config file not found: ."),
        ("x" * 5000, "config file not found: xxx"),
        ("nul\0", "config file not found: nul"),
        ("gs://bucket/mine.py", "gs://bucket/mine.py is not on this machine. Copy it here"),
        ("digits:cat", "config file digits takes no argument. Leave out :cat"),
        ("ddpm_lsun:chruch", "ddpm_lsun has no run 'chruch'; choose one of: bedroom, bedroom_large, church, cat"),
    ],
)
def test_a_name_that_is_no_config_is_refused_wherever_one_is(elsewhere, name, message):
    with pytest.raises(ConfigError) as error:
        files.load(name)
    assert message in str(error.value)


RETURNS = {
    "None": "returned nothing. Return a config",
    "'digits'": "returned a value of type str",
    "[1]": "returned a value of type list",
    "3": "returned a value of type int",
    "dict": "returned a value of type type",
    "(x for x in ())": "returned a value of type generator",
    "{1: {2: 3}}": "config key 1 is no name",
    "{'train.num_steps': 3}": "config key 'train.num_steps' is no name",
    "{'train': 5}": "unknown config key train. Use a key of train: train.backbone,",
    "{'train': {'num_steps': 3}}": "config key seed is missing. Start from ddx.config.default_config()",
    "default_config().to_dict() | {'model': {'multipliers': {'a': 1}}}": "model.multipliers holds further keys",
}


@pytest.mark.parametrize(("value", "message"), RETURNS.items())
def test_what_is_no_config_is_refused(elsewhere, value, message):
    (elsewhere / "mine.py").write_text(
        f"from ddx.config import default_config\ndef get_config():\n    return {value}\n"
    )
    with pytest.raises(ConfigError) as error:
        files.load("mine.py")
    assert message in str(error.value) and "mine.py" in str(error.value)


NESTED = {
    "a dictionary in itself": "d = {'train': {}}\nd['train']['num_steps'] = d['train']\n",
    "a config in itself": "import ml_collections as m\nd = m.ConfigDict()\nd.train = m.ConfigDict()\nd.train.x = d\n",
    "a thousand levels": "d = {}\nfor _ in range(1000):\n    d = {'train': d}\n",
}


@pytest.mark.parametrize("text", NESTED.values(), ids=NESTED)
def test_a_config_without_end_is_refused(elsewhere, text):
    (elsewhere / "mine.py").write_text(text + "def get_config():\n    return d\n")
    with pytest.raises(ConfigError, match=r"^config file mine\.py: (unknown )?config key train\."):
        files.load("mine.py")


FAILURES = {
    "    config.train.batchsize = 3": "in line 4: unknown config key batchsize. Did you mean train.batch_size?",
    "    config.update({'train': {'batchsize': 3}})": "in line 4: unknown config key batchsize. Did you mean train.b",
    "    config.train.batchsize += 3": "in line 4: unknown config key batchsize. Did you mean train.batch_size?",
    "    config['trian'].num_steps = 3": "in line 4: unknown config key trian.",
    "    config.train.batch_size = 'x'": "fails with TypeError in line 4: Could not override field 'batch_size'",
    "    {}['x']": "fails with KeyError in line 4: x",
    "    raise ValueError(\"use 'v' or 'x0'\")": "fails with ValueError in line 4: use 'v' or 'x0'",
    "    raise ValueError('=====\\nthe main thing\\nmore')": "fails with ValueError in line 4: the main thing",
    "    raise SystemExit(0)": "exits (0) in line 4. Let get_config() return the config",
    "    raise SystemExit('text')": "exits ('text') in line 4",
    "    import nosuchmodule": "fails with ModuleNotFoundError in line 4: No module named 'nosuchmodule'",
    "    return get_config()": "fails with RecursionError in line",
    "    bytearray(10**17)": "fails with MemoryError in line 4",
    "get_config = 3": "has no function get_config()",
    "def get_config(run): pass": "needs an argument. Write it after a colon, as --config=mine.py:ARGUMENT",
    "def get_config()": "fails with SyntaxError in line 4",
}


@pytest.mark.parametrize(("line", "message"), FAILURES.items())
def test_a_file_that_fails_is_named_with_the_line_and_the_reason(elsewhere, line, message):
    (elsewhere / "mine.py").write_text(f"{START}{line}\n")
    with pytest.raises(ConfigError) as error:
        files.load("mine.py")
    assert str(error.value).startswith("config file mine.py ") and message in str(error.value)
    assert "\n" not in str(error.value)


# Of a null byte Python 3.11.3 and older say ValueError.
@pytest.mark.parametrize("content", [b'x = "\0"', b'x = "\xff"', b"def"])
def test_a_file_that_is_no_python_is_named(elsewhere, content):
    (elsewhere / "mine.py").write_bytes(content)
    with pytest.raises(ConfigError, match=r"config file mine\.py fails with (SyntaxError|ValueError)"):
        files.load("mine.py")


def test_the_configs_module_is_a_public_name():
    assert "config" in dir(ddx)
    assert ddx.config.validate(ddx.config.default_config()) == ddx.config.default_config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"train": 5}', "unknown config key train."),
        ('{"train": [1]}', "unknown config key train."),
        ('{"train.num_steps": 5}', "config key 'train.num_steps' is no name"),
        ('{"model": {"multipliers": {"a": 1}}}', "config key model.multipliers holds further keys"),
        ('{"a": {"b": {"c": 1}}}', "unknown config key a.b."),
    ],
)
def test_a_saved_config_that_is_not_nested_as_the_keys_are_is_refused(text, message):
    with pytest.raises(ConfigError) as error:
        ddx.config.from_json(text, "runs/x/config.json")
    assert str(error.value).startswith(f"in runs/x/config.json: {message}")
