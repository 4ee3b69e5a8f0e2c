"""Mistakes in command lines and config files, made from the tables of keys and the flags of the commands themselves.

A new key or flag is covered without a change here. The mistakes are the same in every run of the tests.
"""

import json
import math
import random
from typing import NamedTuple

from absl import flags

from ddx import config as config_lib
from ddx.config.keys import KEYS
from ddx.config.sampling import SAMPLING, SAMPLING_PRESETS

CONFIG, CHECKPOINT, DATA = 2, 3, 4
HUGE = (2**63, 10**12, 10**23, -(2**63), 2**31)
FLOATS = (math.nan, math.inf, -math.inf, 1e308, -1e-3, -1.0, *map(float, HUGE))
RUN = "run"  # a trained run, in the folder where commands are run; "heat" is one of IHDM, "classes" one with classes
BEGIN = "from ddx.config import default_config\nimport sys\ndef get_config():\n    config = default_config()\n"


class Mistake(NamedTuple):
    """A mistake: a command with arguments, and files beside it."""

    kind: str
    command: str
    args: tuple[str, ...]
    names: tuple[str, ...]  # what is at fault: the message has one of them
    code: int = CONFIG
    files: dict[str, str] = {}
    suggestion: str = ""  # the name that was meant


def mistakes_of(command, module):
    """All mistakes of one command, whose module has defined its flags."""
    rng = random.Random(command)
    own = {flag.name: flag for flag in flags.FLAGS.get_key_flags_for_module(module)}
    wanted = {"train": _train, "sample": _sample, "evaluate": _evaluate, "forward": _forward}[command](rng)
    return [*wanted, *_flags(command, own, rng), *_paths(command, own)]


# What every command's flags are given.

GOOD = {"train": ("--config=digits", "--workdir=new"), "sample": (f"--workdir={RUN}",)}
GOOD |= {"evaluate": (f"--workdir={RUN}",), "forward": ("--out=new.png",)}
_PATHS = ("workdir", "out", "images", "reconstruct", "low_res", "data_dir", "known", "mask", "start")


def _flags(command, own, rng):
    good = GOOD[command]
    for name, flag in own.items():
        for typo in (_typo(name, rng, 1), _typo(name, rng, 2)):
            if typo not in flags.FLAGS:
                yield Mistake("typo", command, (*good, f"--{typo}={_value(flag)}"), (typo,), suggestion=name)
        kind = flag.flag_type()
        if kind == "bool":
            yield Mistake("no flag takes a value", command, (*good, f"--no{name}=1"), (f"no{name}",))
            yield Mistake("wrong type", command, (*good, f"--{name}=maybe"), ("maybe",))
            yield Mistake("empty", command, (*good, f"--{name}="), (f"--{name}",))
            continue
        yield Mistake("empty", command, (*good, f"--{name}="), (f"--{name}",))
        if kind in ("int", "float"):
            for value in ("abc", "1,2", "1e", "0x", "True", "--", "(1,)", "\N{SUPERSCRIPT TWO}"):
                yield Mistake("wrong type", command, (*good, f"--{name}={value}"), (value, name))
        if kind == "int":
            for value in ("1.5", "1e3", "nan"):
                yield Mistake("wrong type", command, (*good, f"--{name}={value}"), (value,))
            for value in (-1, -(2**63), 2**63, 10**23):
                code = CHECKPOINT if (command, name, value) == ("sample", "step", -1) else CONFIG
                yield Mistake("out of limits", command, (*good, f"--{name}={value}"), (str(value), name), code)
        if kind == "float":
            extra = ("--num_columns=3",) if command == "forward" else _needed(name)
            for value in ("nan", "inf", "-inf", "1e308", "-1", str(10**23)):
                yield Mistake("out of limits", command, (*good, *extra, f"--{name}={value}"), (value, name))
        if kind == "string enum":
            for value in ("x" * 300, "a\nb", _typo(flag.parser.enum_values[0], rng, 1)):
                if value not in flag.parser.enum_values:
                    yield Mistake("no such name", command, (*good, f"--{name}={value}"), (name,))
    for stray in ("extra", "train", "=5", "-", "workdir=run", "--", "\N{EN DASH}-workdir=run"):
        args = (*good, "--", "x") if stray == "--" else (*good, stray)
        yield Mistake("stray argument", command, args, ("x" if stray == "--" else repr(stray)[1:-1], "workdir"))
    for name in ("frobnicate", "x" * 3000, "a\nb", "gpus", "verbose_level"):
        yield Mistake("unknown flag", command, (*good, f"--{name}=1"), (name[:50].replace("\n", "\\n"),))
    yield Mistake("unknown flag", command, (*good, "--flagfile=/nowhere"), ("/nowhere",))


def _needed(name):
    """What else makes a flag count: `delta` is of IHDM alone."""
    return ("--workdir=heat",) if name == "delta" else ()


def _paths(command, own):
    long, deep = "x" * 300, "/".join(["y" * 200] * 30)
    if command == "forward":
        cases = [("out", "/proc/x.png", CONFIG), ("out", f"{long}.png", CONFIG), ("out", f"{deep}.png", CONFIG)]
        cases += [("out", ".", CONFIG), ("out", "/dev/null/x.png", CONFIG)]
        cases += [("images", path, DATA) for path in ("/nowhere", "a\nb", "/proc", "/dev/zero", "/proc/self/mem")]
        cases += [("images", path, CONFIG) for path in (long, deep)]
        good = ()
    elif command == "train":
        cases = [("workdir", path, CONFIG) for path in ("/proc/x", long, deep, "/dev/null", "/dev/null/x")]
        good = ("--config=digits",)
    else:
        cases = [("workdir", path, CHECKPOINT) for path in ("/proc/x", "/nowhere", "a\nb", "/dev/null", "/dev/null/x")]
        cases += [("workdir", path, CONFIG) for path in (long, deep)]
        cases += [("out", path, CONFIG) for path in ("/proc/x", long, deep, "/dev/null", "/dev/null/x")]
        cases += [("out", f"{RUN}/{path}", CONFIG) for path in ("checkpoints/12", "checkpoints", "checkpoints/12/x")]
        good = GOOD[command]
        if command == "sample":
            cases += [("reconstruct", path, CONFIG) for path in (long, deep)]
            images = ("/nowhere", "/proc", "/dev/zero", "nothing.npy", "nothing.npz", "/proc/self/mem")
            cases += [("reconstruct", path, DATA) for path in images]
    for name, path, code in cases:
        shown = (path[:60].replace("\n", "\\n"), f"--{name}")
        rest = [flag for flag in good if not flag.startswith(f"--{name}=")]
        yield Mistake("path", command, (*rest, f"--{name}={path}"), shown, code)
    for name in _PATHS:
        if name in own and name != "workdir":
            extra = ("--interpolate",) if (command, name) == ("sample", "images") else ()
            for path in ("s3://bucket/x", "http://host/x"):
                yield Mistake("path", command, (*GOOD[command], *extra, f"--{name}={path}"), (path,))


def _value(flag):
    return {"int": "1", "float": "0.5", "bool": "true"}.get(flag.flag_type(), "x")


# Configs.


def _train(rng):
    yield from _keys(rng)
    for key, spec in KEYS.items():
        for text in _wrong_texts(spec):
            yield _change("wrong type", key, text, text or key)
        for value in _outside(spec):
            yield _change("out of limits", key, value, value)
        for value in _wrong_json(spec):
            yield _saved("wrong type in config.json", {key: value}, (key,))
    yield from _pairs()
    yield from _config_files(rng)
    yield from _config_jsons()
    good = GOOD["train"]
    yield Mistake("data", "train", (*good, "--config.data.split=trian"), ("trian",), DATA)
    for name in ("x" * 3000, "mnis", "../x", "a\nb", "cifar10:1", "/etc/passwd", "."):
        yield Mistake("data", "train", (*good, f"--config.data.name={name}"), (name[:50], "a\\nb"), DATA)
    for name, path in (("folder", "/nowhere"), ("array", "x.npy"), ("array", "/dev/zero")):
        args = (*good, f"--config.data.name={name}", f"--config.data.dir={path}")
        yield Mistake("data", "train", args, (path[:50],), DATA)
    for key in ("data.dir", "data.cache_dir", "train.init_from"):
        yield _change("path", key, "x" * 3000, "x" * 40)
    for key in ("data.dir", "data.cache_dir", "train.init_from", "train.backbone"):
        yield _change("path", key, "s3://bucket/x", "s3://bucket/x")
    yield Mistake("no config", "train", ("--workdir=new",), ("--config",))
    yield Mistake("no config", "train", ("--workdir=new", "--config.seed=3"), ("--config",))
    yield Mistake("no workdir", "train", ("--config=digits",), ("--workdir",))


def _change(kind, key, value, *names):
    shown = [name for name in map(str, names) if name] or [key]
    return Mistake(kind, "train", (*GOOD["train"], f"--config.{key}={value}"), (*(n[:40] for n in shown), key))


def _keys(rng):
    """Keys that do not exist, and keys of which a letter or two are wrong."""
    good = GOOD["train"]
    groups = sorted({key.partition(".")[0] for key in KEYS})
    for group in (*groups, "optimiser", "ema", "", "a.b"):
        for name in ("frobnicate", "x" * 500, "a.b.c", "\N{GREEK SMALL LETTER EPSILON}"):
            key = f"{group}.{name}".lstrip(".")
            yield Mistake("unknown key", "train", (*good, f"--config.{key}=1"), (key[:50],))
    for key in KEYS:
        name = key.rpartition(".")[2]
        yield Mistake("unknown key", "train", (*good, f"--config.nogroup.{name}=1"), (f"nogroup.{name}",))
        for edits in (1, 1, 2, 2):
            typo = _typo(key, rng, edits)
            if typo not in KEYS:
                args = (*good, f"--config.{typo}=1")
                yield Mistake("typo", "train", args, (typo,), suggestion=key)
    for key in rng.sample(sorted(KEYS), 20):
        group, _, name = key.rpartition(".")
        typo = _typo(name, rng, 1)
        if f"{group}.{typo}".lstrip(".") not in KEYS:
            place = f"config.{group}.{typo}" if group else f"config.{typo}"
            files = {"mine.py": f"{BEGIN}    {place} = 1\n    return config\n"}
            args = ("--config=mine.py", "--workdir=new")
            yield Mistake("typo in a config file", "train", args, (typo,), files=files, suggestion=name)
    for name in ("digit", "ddpm_cifar", "digts", "ddmp_cifar10", "configs/digts.py"):
        yield Mistake("no such config", "train", (f"--config={name}", "--workdir=new"), (name,))


def _typo(word, rng, edits):
    """The word with letters changed, left out, put in or swapped."""
    letters = list(word)
    for _ in range(edits):
        place = rng.randrange(word.rfind(".") + 1, len(letters))
        letter = rng.choice("abcdefghijklmnopqrstuvwxyz_")
        how = rng.randrange(4)
        if how == 0 and len(letters) > 1:
            letters[place] = ""
        elif how == 1 and place + 1 < len(letters):
            letters[place : place + 2] = letters[place + 1], letters[place]
        elif how == 2:
            letters[place] = letter
        else:
            letters.insert(place, letter)
    return "".join(letters)


def _wrong_texts(spec):
    """Values on a command line that are not of a key's type."""
    if spec.is_size:
        return ("abc", "1.5", "8x8", "(8,8.5)", "True")
    of = {
        int: ("abc", "1.5", "1e3", "(1,2)", "0x", "True", "1:2", "", "--"),
        float: ("abc", "1e", "(1,2)", "1,5", "True", "", "0x1"),
        bool: ("maybe", "2", "(1,)", "yess", "1.0"),
        tuple: ("abc", "(1,2.5)", "(1,'x')", "(1,", "(None,)", "[(1,)]"),
        str: (),
    }
    return of[type(spec.default)]


def _outside(spec):
    """Values of the right type that a key does not take."""
    if type(spec.default) is tuple:
        lists = ((0,), (-1,), (1,) * 1000, (2**63,), (10**12,), (10**23, 1), (), (1, 2, 3, 10**12))
        return [value for value in lists if not spec.holds(value)]
    if type(spec.default) is int:
        return [value for value in (-1, 0, *HUGE) if not spec.holds(value)]
    if type(spec.default) is float:
        return [value for value in (0.0, *FLOATS) if not spec.holds(value)]
    if type(spec.default) is str and spec.limit:
        return [value for value in ("x" * 3000, "a b", "None", "a,b", "\u00fc") if not spec.holds(value)]
    return []


def _wrong_json(spec):
    """Values in a config.json that are not of a key's type."""
    values = (None, "x", 1.5, True, [1.5], [[1]], {"a": 1}, 3, ["x"], 10**23, math.nan)
    right = {int: (int,), float: (int, float), str: (str,), bool: (bool,), tuple: (list,)}[type(spec.default)]
    return [v for v in values if type(v) not in right or (type(v) is list and type(v[0]) is not int)][:7]


def _nested(changes):
    nested = config_lib.load("digits").to_dict()
    for key, value in changes.items():
        group, _, name = key.rpartition(".")
        (nested[group] if group else nested)[name] = value
    return nested


def _saved(kind, changes, names, code=CONFIG):
    files = {"old/config.json": json.dumps(_nested(changes))}
    return Mistake(kind, "train", ("--workdir=old",), names, code, files)


# Values that are fine alone: changes of the config of digits, and what the message names.
BLUR = ("process.kind=blurring", "loss.prediction=v", "sample.clip=False")
HEAD = ("loss.objective=head", "loss.variance=npr")
PAIRS = {
    ("model.channels=36",): "model.groups",
    ("model.channels=66",): "model.channels=66",
    ("model.channels=16384", "model.multipliers=(1024,)"): "model.multipliers",
    ("model.channels=16384", "model.multipliers=(4,4,4)", "model.num_blocks=100"): "model.",
    ("data.image_size=7",): "data.image_size",
    ("data.image_size=(8,7)",): "data.image_size",
    ("data.image_size=16384", "model.attention_resolutions=()", "train.batch_size=1000000"): "train.batch_size",
    ("data.image_size=512", "model.attention_resolutions=()", "sample.batch_size=100000"): "sample.batch_size",
    ("data.image_size=4096", "model.attention_resolutions=()", "sample.num_images=1000"): "sample.num_images",
    (
        "data.image_size=4096",
        "model.attention_resolutions=()",
        "train.batch_size=8",
        "train.steps_per_call=10000",
    ): "train.steps_per_call",
    ("model.attention_resolutions=(5,)", "data.image_size=8"): "model.attention_resolutions",
    ("model.num_heads=7",): "model.num_heads",
    ("model.network=dit",): "model.multipliers",
    ("model.depth=3",): "model.depth",
    ("model.low_res=3", "data.image_size=8"): "model.low_res",
    ("model.low_res=8", "data.image_size=8"): "model.low_res",
    ("data.name=folder",): "data.dir",
    ("data.name=array",): "data.dir",
    ("data.crop=(1,2,3)",): "data.crop",
    ("loss.last_level=False",): "loss.last_level",
    ("loss.reduction=sum", "loss.objective=kl"): "loss.reduction",
    ("loss.objective=hybrid",): "loss.variance",
    ("loss.variance=range",): "loss.variance",
    ("loss.variance=npr",): "loss.variance",
    ("loss.objective=head",): "loss.objective",
    ("loss.objective=head", "loss.variance=sn", "loss.prediction=mean"): "loss.prediction",
    ("model.head=simple",): "model.head",
    ("train.backbone=run",): "train.backbone",
    ("train.backbone=run", "train.init_from=run", "model.head=simple", *HEAD): "train.init_from",
    ("train.backbone=run", "model.head=simple", "model.dropout=0.5", *HEAD): "model.dropout",
    ("train.accumulation=7",): "train.accumulation",
    ("train.accumulation=1000000",): "train.accumulation",
    ("process.num_steps=10", "process.schedule=linear", "sample.num_steps=5"): "num_steps=10",
    ("process.num_steps=20", "process.schedule=linear", "sample.num_steps=5"): "loss.prediction",
    ("process.num_steps=20", "process.schedule=const", "sample.num_steps=5"): "num_steps=20",
    ("process.schedule=jsd",): "process.schedule",
    ("process.num_steps=4",): "sample.num_steps",
    ("sample.num_steps=100000",): "sample.num_steps",
    ("sample.trajectory=quadratic",): "quadratic",
    ("sample.trajectory=ddim25",): "ddim25",
    ("sample.trajectory=full",): "full",
    (f"sample.trajectory=power{'9' * 20}",): "power99",
    (f"sample.trajectory=power{'9' * 400}",): "power99",
    ("sample.trajectory=power0",): "power0",
    ("sample.trajectory=powerx",): "powerx",
    (f"sample.trajectory={'9' * 30}", "sample.num_steps=0"): "9999",
    (f"sample.trajectory={'9' * 5000}", "sample.num_steps=0"): "9999",
    ("sample.trajectory=10,20,99999", "sample.num_steps=0"): "10,20,99999",
    (f"sample.trajectory=ddim{'9' * 30}", "sample.num_steps=0"): "ddim999",
    (f"sample.trajectory=ddim{'9' * 5000}", "sample.num_steps=0"): "ddim999",
    ("sample.trajectory=ddim0", "sample.num_steps=0"): "ddim0",
    ("sample.trajectory=0", "sample.num_steps=0"): "'0'",
    ("sample.trajectory=times:5,5", "sample.num_steps=0"): "times",
    ("sample.trajectory=times:", "sample.num_steps=0"): "times:",
    ("sample.trajectory=times:1,x", "sample.num_steps=0"): "times:1,x",
    (f"sample.trajectory=times:{'9' * 5000}", "sample.num_steps=0"): "times:999",
    (f"sample.trajectory=times:{','.join(map(str, range(3000)))}", "sample.num_steps=0"): "times",
    ("sample.trajectory=",): "sample.trajectory",
    ("sample.trajectory=optimal",): "optimal",
    ("sample.solver=heun", "sample.eta=0.5"): "sample.solver",
    ("sample.solver=deis", "sample.eta=0.5"): "sample.solver",
    ("sample.solver=unipc_3", "sample.sampler=ancestral"): "sample.solver",
    ("sample.solver=dpmpp_2m", "sample.sampler=ancestral", "sample.variance=large"): "sample.variance",
    ("sample.variance=range",): "sample.variance",
    ("sample.sampler=heat",): "sample.sampler",
    ("sample.eta=50.0",): "eta",
    ("process.kind=ihdm",): "loss.prediction",
    ("process.kind=ihdm", "loss.prediction=residual", "sample.sampler=heat"): "sample.",
    ("process.kind=ihdm", "loss.prediction=v", "process.sigma_blur_min=30.0"): "process.sigma_blur_min",
    ("process.kind=blurring",): "sample.clip",
    ("process.kind=blurring", "loss.prediction=mean"): "loss.prediction",
    (*BLUR, "process.logsnr_min=11.0"): "process.logsnr_min",
    (*BLUR, "process.logsnr_min=10.0"): "process.logsnr_min",
    ("loss.prediction=residual",): "loss.prediction",
    ("train.evaluate=fid",): "train.evaluate",
    ("train.evaluate=bpd,fid",): "train.evaluate",
    ("train.evaluate=bpd,",): "train.evaluate",
}


def _pairs():
    for changes, name in PAIRS.items():
        args = (*GOOD["train"], *(f"--config.{change}" for change in changes))
        yield Mistake("impossible pair", "train", args, (name,))


# What a config file returns, or does, and what the message names besides the file.
RETURNS = {
    **{f"    return {value}\n": "get_config" for value in ("None", "'digits'", "[1]", "3", "dict", "(x for x in ())")},
    **{f"    return {value}\n": "mine.py" for value in ("{1: {2: 3}}", "{'train': 5}", "{}", "{'train': {}}")},
    "    return {'train.num_steps': 3}\n": "train.num_steps",
    "    return {None: 3}\n": "None",
    "    return config.to_dict() | {'model': {'multipliers': {'a': 1}}}\n": "model.multipliers",
    "    return config.to_dict() | {'train': 5}\n": "train",
    "    return config.to_dict() | {'seed': {'a': 5}}\n": "seed",
    "    return config.to_dict() | {'user': 5}\n": "user",
    "    return config.to_dict() | {'user': {'a': object()}}\n": "user",
    "    d = {}\n    d['train'] = d\n    return d\n": "train",
    "    d = {}\n    for _ in range(1000):\n        d = {'train': d}\n    return d\n": "train",
    "    d = {}\n    for _ in range(999):\n        d = {'a': d}\n    config.user = d\n    return config\n": "recursion",
    "    config.user.me = config\n    return config\n": "user",
    "    return get_config\n": "get_config",
    "    return get_config()\n": "RecursionError",
    "    sys.exit(0)\n": "exits",
    "    sys.exit()\n": "exits",
    "    sys.exit('text')\n": "text",
    "    raise SystemExit('text')\n": "text",
    "    raise SystemExit(3)\n": "exits",
    "    raise KeyboardInterrupt\n": "mine.py",
    "    raise ValueError('first\\nsecond')\n": "first",
    "    raise ValueError\n": "ValueError",
    "    raise BaseException('odd')\n": "odd",
    "    raise GeneratorExit\n": "GeneratorExit",
    "    1 / 0\n": "ZeroDivisionError",
    "    import nosuchmodule\n": "nosuchmodule",
    "    config.train.batch_size = 'x'\n    return config\n": "batch_size",
    "    config.train.batch_size = 0\n    return config\n": "train.batch_size",
    "    config.train.batch_size = 10**12\n    return config\n": "train.batch_size",
    "    config.train.batch_size = True\n    return config\n": "batch_size",
    "    config.train.learning_rate = float('nan')\n    return config\n": "train.learning_rate",
    "    config.model.multipliers = (1,) * 10**6\n    return config\n": "model.multipliers",
    "    config.model.multipliers = range(3)\n    return config\n": "multipliers",
    "    config.sample.trajectory = 'x' * 10**6\n    return config\n": "sample.trajectory",
    "    config.train = 5\n    return config\n": "train",
    "    del config.train.batch_size\n    return config\n": "delete a field",
    "    config.unlock()\n    config.train.new = 5\n    return config\n": "train.new",
    "    config.unlock()\n    config.data = None\n    return config\n": "data",
    "    return config\ndef get_config(a, b): pass\n": "argument",
    "    return config\nget_config = 3\n": "get_config",
    "    return config\ndel get_config\n": "get_config",
    "    return config\n  return 3\n": "mine.py",
    "    return config\n\0": "mine.py",
    "    return config\nclass get_config: pass\n": "get_config",
}


def _config_files(rng):
    for text, name in RETURNS.items():
        code = 130 if "KeyboardInterrupt" in text else CONFIG
        args = ("--config=mine.py", "--workdir=new")
        if code == CONFIG:
            yield Mistake("config file", "train", args, (name,), code, {"mine.py": BEGIN + text})
    cases = (
        "",
        ".",
        "/dev/null",
        "/proc",
        "x" * 5000,
        "a\nb",
        "/dev/zero",
        "nothing.json",
        "digits:cat",
        "ddpm_lsun:x",
    )
    cases += ("s3://bucket/mine.py", "iddpm_cifar10:l2", "heads:npr,/nowhere", "heads", "ddpm_lsun:", "digits:", ":")
    for name in cases:
        shown = name.partition(":")[2] or name
        names = (shown[:50].replace("\n", "\\n"), "--config", "get_config()", "/nowhere", "config file digits takes no")
        yield Mistake("config name", "train", (f"--config={name}", "--workdir=new"), names)


DEEP = '{"train": ' * 5000 + "5" + "}" * 5000
JSONS = ("", "[]", "{", "5", '"x"', "null", "NaN", "\0", "{}{}", "{'a': 1}", DEEP, "[" * 100_000, "\ufeff{}")
OBJECTS = {
    '{"train": 5}': "train",
    '{"train": [1]}': "train",
    '{"train": null}': "train",
    '{"train.num_steps": 5}': "train.num_steps",
    '{"train": {"num_steps": {"a": 1}}}': "train.num_steps",
    '{"model": {"multipliers": {"a": 1}}}': "model.multipliers",
    '{"a": {"b": {"c": 1}}}': "a.b",
    '{"seed": {"a": 1}}': "seed",
    '{"seed": 1e400}': "seed",
    f'{{"seed": {"9" * 5000}}}': "old/config.json",
    '{"train": {"batch_size": NaN}}': "train.batch_size",
    '{"train": {"learning_rate": -Infinity}}': "train.learning_rate",
    '{"": 1}': "old/config.json",
    '{"user": [1]}': "user",
    '{"tra\\nin": {"a": 1}}': "tra\\nin",
}


def _config_jsons():
    for text in JSONS:
        yield Mistake("config.json", "train", ("--workdir=old",), ("config.json",), CONFIG, {"old/config.json": text})
        args = ("--config=mine.json", "--workdir=new")
        yield Mistake("config.json", "train", args, ("mine.json",), CONFIG, {"mine.json": text})
    for text, name in OBJECTS.items():
        yield Mistake("config.json", "train", ("--workdir=old",), (name,), CONFIG, {"old/config.json": text})


# Jobs on a trained run.


def _sample(rng):
    good = GOOD["sample"]
    for name, key in SAMPLING.items():
        if not key.is_flag:
            continue
        extra = _needed(name)
        for value in _outside(key):
            if type(key.default) is not str:
                args = (*good, *extra, f"--{name}={value}")
                yield Mistake("out of limits", "sample", args, (str(value), f"{name}="))
    for value in (0, -1, 10**10, 10**12, 10**23, 2**63):
        for more in ((), ("--interpolate",), ("--gif",), ("--png",)):
            names = (f"num_samples={value}",)
            yield Mistake("out of limits", "sample", (*good, *more, f"--num_samples={value}"), names)
    for value in (-1, 2**32, 10**23):
        for more in ((), ("--interpolate",)):
            yield Mistake("out of limits", "sample", (*good, *more, f"--seed={value}"), (f"seed={value}",))
    for value in (0, 1, 5, -1, 999_999):
        for more in ((), ("--interpolate",)):
            yield Mistake("no such step", "sample", (*good, *more, f"--step={value}"), (str(value),), CHECKPOINT)
    for preset in SAMPLING_PRESETS:
        typo = _typo(preset, rng, 1)
        yield Mistake("no such name", "sample", (*good, f"--preset={typo}"), (typo,))
    classes = "--workdir=classes"
    for labels in ("10", "-1", "cat", "none", "1,x", "1,,2", ",", str(10**23), "1.5", "x" * 3000, " "):
        args = ("--workdir=classes", f"--labels={labels}")
        yield Mistake("labels", "sample", args, ("labels",))
    yield Mistake("labels", "sample", (*good, "--labels=1"), ("labels",))
    yield Mistake("impossible pair", "sample", (classes, "--labels=1", "--interpolate", "--gif"), ("--gif",))
    for workdir, pairs in ((RUN, SAMPLES), ("heat", HEAT)):
        for args, name in pairs.items():
            kind = "impossible pair" if name not in OF_THE_NETWORK else "impossible with the network"
            yield Mistake(kind, "sample", (f"--workdir={workdir}", *args), (name,))
    yield Mistake("no workdir", "sample", ("--num_samples=4",), ("--workdir",))
    yield Mistake("no run", "sample", ("--workdir=new",), ("new",), CHECKPOINT)
    yield Mistake("no run", "sample", ("--workdir=new", "--eta=-1"), ("eta",))


OF_THE_NETWORK = ("statistics", "low_res", "npr", "analytic", "--images", "images", "reconstruct", "jump_length=5")
LONG = ",".join(map(str, range(20, 0, -1)))
SAMPLES = {
    ("--num_steps=21",): "num_steps=21",
    ("--num_steps=0", "--trajectory=ddim9"): "ddim9",
    ("--eta=0.5", "--sampler=ancestral"): "eta",
    ("--variance=large",): "variance",
    ("--guidance=2",): "guidance",
    ("--guidance_interval=3,9",): "guidance",
    ("--clip_percentile=99", "--noclip"): "clip_percentile",
    ("--clip_percentile=99", "--keep_eps"): "clip_percentile",
    ("--variance=large", "--sampler=ddim"): "variance",
    ("--delta=0.1",): "delta",
    ("--prior_noise",): "prior_noise",
    ("--noprior_noise",): "prior_noise",
    ("--sampler=heat",): "sampler",
    ("--solver=heun", "--eta=0.5"): "solver",
    ("--solver=heun", "--sampler=ancestral"): "solver",
    ("--solver=dpmpp_2m", "--sampler=ancestral", "--variance=large"): "variance",
    ("--variance=learned", "--sampler=ancestral"): "variance",
    ("--variance=analytic",): "statistics",
    ("--variance=npr",): "npr",
    ("--trajectory=optimal",): "statistics",
    ("--trajectory=full", "--num_steps=5"): "full",
    ("--trajectory=quadratic",): "quadratic",
    ("--trajectory=uniforme",): "uniforme",
    (f"--trajectory=power{'9' * 30}",): "power999",
    (f"--trajectory=power{'9' * 400}",): "power999",
    (f"--trajectory={'9' * 30}",): "9999",
    (f"--trajectory=times:{LONG},5",): "times",
    ("--trajectory=times:21,1",): "21",
    ("--preset=ddpm_256", "--eta=1"): "eta",
    ("--preset=ddim_cifar10", "--num_steps=21"): "21",
    ("--interpolate", "--sampler=ancestral"): "--images",
    ("--interpolate", "--eta=0.5"): "eta",
    ("--interpolate", "--variance=analytic"): "variance",
    ("--interpolate", "--trajectory=optimal"): "trajectory",
    ("--interpolate", "--gif"): "--gif",
    ("--interpolate", "--png"): "--png",
    ("--interpolate", "--reconstruct=x"): "--interpolate",
    ("--interpolate", "--low_res=x"): "--low_res",
    ("--interpolate", "--images=/nowhere", "--num_samples=4"): "--num_samples",
    ("--images=x",): "--images",
    ("--low_res=x",): "low_res",
    ("--reconstruct=x", "--num_samples=4"): "--num_samples",
    ("--reconstruct=x", "--seed=4"): "--seed",
    ("--reconstruct=x", "--clip"): "--clip",
    ("--reconstruct=x", "--gif"): "--gif",
    ("--reconstruct=x", "--eta=1"): "eta",
    ("--known=x",): "--mask",
    ("--mask=x",): "--known",
    ("--known=x", "--mask=x", "--start=x", "--strength=1"): "--start",
    ("--known=x", "--mask=x", "--interpolate"): "--known",
    ("--known=x", "--mask=x", "--solver=dpmpp_2m"): "dpmpp_2m",
    ("--known=x", "--mask=x", "--num_steps=5", "--jump_length=5"): "jump_length=5",
    ("--known=x", "--mask=x", "--jump_length=0"): "jump_length",
    ("--known=x", "--mask=x", "--num_resamples=-1"): "num_resamples",
    ("--jump_length=2",): "jump_length",
    ("--num_resamples=2",): "num_resamples",
    ("--start=x",): "--strength",
    ("--strength=0.5",): "--start",
    ("--start=x", "--strength=0"): "strength",
    ("--start=x", "--strength=1.01"): "strength",
    ("--start=x", "--strength=0.5", "--reconstruct=x"): "--start",
    ("--eta=50",): "eta",
    ("--step=12", f"--out={RUN}/checkpoints/12"): "checkpoints",
}
HEAT = {
    ("--num_steps=2",): "num_steps",
    ("--trajectory=quad",): "trajectory",
    ("--solver=heun",): "solver",
    ("--clip",): "clip",
    ("--eta=1",): "eta",
    ("--variance=small",): "variance",
    ("--delta=-1",): "delta",
    ("--interpolate", "--images=/nowhere"): "images",
    ("--known=/nowhere", "--mask=/nowhere"): "known",
    ("--reconstruct=/nowhere",): "reconstruct",
    ("--data_dir=/nowhere", "--variance=analytic"): "analytic",
}


def _evaluate(rng):
    good = GOOD["evaluate"]
    for metrics in (
        "fed",
        "bpd,fid",
        "bpd,",
        ",",
        "BPD",
        "x" * 3000,
        "statistics,bpd",
        "comparison,statistics",
        "a\nb",
    ):
        yield Mistake("no such name", "evaluate", (*good, f"--metrics={metrics}"), ("metrics", metrics[:50]))
    for value in ("0", "-1", str(10**23), str(2**63)):
        yield Mistake("out of limits", "evaluate", (*good, f"--batch_size={value}"), ("batch_size",))
    for value in ("-1", str(2**32), str(10**23)):
        yield Mistake("out of limits", "evaluate", (*good, f"--seed={value}"), ("seed",))
    for value in ("21", "-1", "x", "5,x", "5,6", "1.5", str(10**23), ","):
        yield Mistake("out of limits", "evaluate", (*good, f"--num_steps={value}"), ("num_steps", value, "1..20"))
    for value in ("21", "-1", "0,0", "x", str(10**23)):
        args = (*good, "--metrics=comparison", f"--num_steps={value}")
        yield Mistake("out of limits", "evaluate", args, ("num_steps", value))
    for value in (0, 1, 999_999):
        yield Mistake("no such step", "evaluate", (*good, f"--step={value}"), (str(value),), CHECKPOINT)
    for args, name in SCORES.items():
        yield Mistake("impossible pair", "evaluate", (*good, *args), (name,))
    for split in ("tset", "validation", "test[", "x" * 3000, "a\nb"):
        yield Mistake("data", "evaluate", (*good, f"--split={split}"), (split[:50].replace("\n", "\\n"),), DATA)
    yield Mistake("no workdir", "evaluate", ("--metrics=bpd",), ("--workdir",))
    yield Mistake("no run", "evaluate", ("--workdir=new",), ("new",), CHECKPOINT)


SCORES = {
    ("--basis=dct",): "--basis",
    ("--eta=0",): "eta",
    ("--eta=0.5", "--variance=large"): "variance",
    ("--delta=0.1",): "delta",
    ("--variance=learned",): "variance",
    ("--variance=npr",): "npr",
    ("--variance=analytic",): "statistics",
    ("--trajectory=quadratic", "--num_steps=5"): "quadratic",
    ("--trajectory=uniform",): "num_steps",
    (f"--trajectory=power{'9' * 30}", "--num_steps=5"): "power999",
    ("--cdf=gauss",): "cdf",
    ("--metrics=statistics", "--eta=0.5"): "--eta",
    ("--metrics=statistics", "--num_steps=5"): "--num_steps",
    ("--metrics=statistics", "--cdf=exact"): "--cdf",
    ("--metrics=comparison", "--basis=dct"): "--basis",
    ("--metrics=comparison", "--delta=1"): "--delta",
    ("--workdir=heat", "--num_steps=2"): "num_steps",
    ("--workdir=heat", "--eta=0.5"): "eta",
    ("--workdir=heat", "--delta=0"): "delta",
    ("--workdir=heat", "--metrics=statistics"): "statistics",
    ("--workdir=heat", "--metrics=rate_distortion"): "rate_distortion",
}


def _forward(rng):
    good = GOOD["forward"]
    for value in (0, 1, -1, 51, 10**12, 10**23):
        yield Mistake("out of limits", "forward", (*good, f"--num_columns={value}"), ("num_columns",))
    for value in (-1, 2**32, 10**23):
        yield Mistake("out of limits", "forward", (*good, f"--seed={value}"), ("seed",))
    for value in ("0", "-1", "1e300", "1e7", "nan", "inf"):
        yield Mistake("out of limits", "forward", (*good, f"--sigma_blur_max={value}"), ("sigma_blur_max",))
    yield Mistake("stray flag", "forward", (*good, "--workdir=run"), ("--workdir",))
