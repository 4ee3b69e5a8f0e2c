"""Configs: every mistake is one line, told before a device is touched."""

import importlib.util
import pathlib
import random

import numpy as np
import pytest

from ddx import config as config_lib
from ddx.config import keys, model_rules
from ddx.config.values import check_keys
from ddx.runtime.errors import ConfigError

SHIPPED = sorted(pathlib.Path("configs").glob("*.py"))


def shipped(path, *args):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*args)


def changed(**values):
    flat = {key: spec.default for key, spec in keys.KEYS.items()}
    nested = {}
    for key, value in (flat | {key.replace("__", "."): value for key, value in values.items()}).items():
        group, _, name = key.rpartition(".")
        (nested.setdefault(group, {}) if group else nested)[name] = value
    return nested


ARGUMENTS = {
    "blurring_cifar10": ("0", "1", "20,sin", "20,sin2"),
    "blurring_lsun_church128": ("0", "20,sin"),
    "ddpm_lsun": ("bedroom", "bedroom_large", "church", "cat"),
    "digits_blurring": ("simple", "v", "hybrid"),
    "dit_imagenet64": ("s", "b", "l", "xl"),
    "digits_iddpm": ("simple", "hybrid", "vlb"),
    "iddpm_cifar10": ("simple,1000,linear", "hybrid,4000", "vlb"),
    "iddpm_lsun": ("bs128", "bs64"),
    "iddpm_imagenet64": ("uncond", "uncond_vlb", "class", "upsampler"),
    "ihdm_afhq": ("64", "256"),
    "ihdm_ffhq": ("128", "256"),
    "ihdm_mnist": ("mnist", "small"),
}
RUNS = [(path, ()) for path in SHIPPED if path.stem != "heads"] + [
    (pathlib.Path(f"configs/{name}.py"), (run,)) for name, runs in ARGUMENTS.items() for run in runs
]


@pytest.mark.parametrize(("path", "args"), RUNS, ids=[":".join((path.stem, *args)) for path, args in RUNS])
def test_shipped_configs_are_valid_and_survive_json(path, args):
    config = shipped(path, *args)
    if config.data.name == "folder":  # where it lies, nobody but the user can say
        with pytest.raises(ConfigError, match=r"set data\.dir"):
            config_lib.validate(config)
        config.data.dir = "IMAGES"
    config = config_lib.validate(config)
    again = config_lib.from_json(config_lib.to_json(config), "config.json")
    assert again == config and config_lib.differences(config, again) == []


@pytest.mark.parametrize(
    ("run", "preset"),
    [
        ("blurring_cifar10", "blurring_cifar10"),
        ("blurring_lsun_church128", "blurring_lsun_church128"),
        ("ihdm_mnist:mnist", "ihdm_mnist"),
        ("ihdm_mnist:small", "ihdm_mnist_small"),
        ("ihdm_cifar10", "ihdm_cifar10"),
        ("ihdm_afhq:64", "ihdm_afhq64"),
        ("ihdm_afhq:256", "ihdm_afhq256"),
        ("ihdm_ffhq:128", "ihdm_ffhq128"),
        ("ihdm_ffhq:256", "ihdm_ffhq256"),
        ("ihdm_lsun_church", "ihdm_lsun_church"),
    ],
)
def test_a_config_makes_the_network_of_its_preset(run, preset):
    from ddx.models import PRESETS
    from ddx.system import make_system

    name, *args = run.split(":")
    config = shipped(pathlib.Path(f"configs/{name}.py"), *args)
    config.data.dir = "IMAGES"
    model, image_shape, _ = PRESETS[preset]
    assert make_system(config, image_shape).model == model
    assert config.data.image_size in (0, *image_shape[:2])


DIT = {"model__network": "dit", "model__dropout": 0.0, "model__patch_size": 4}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train__batchsize": 64}, "unknown config key train.batchsize. Did you mean train.batch_size?"),
        ({"batch_size": 64}, "unknown config key batch_size. Did you mean train.batch_size?"),
        ({"train__batch_size": "64"}, "train.batch_size='64' must be an int"),
        ({"train__batch_size": True}, "train.batch_size=True must be an int"),
        ({"train__batch_size": 0}, "train.batch_size=0 must be at least 1"),
        ({"data__flip": 1}, "data.flip=1 must be True or False"),
        ({"model__multipliers": (1, "x")}, "'x' must be an int"),
        ({"model__multipliers": ()}, "1 to 14 numbers"),
        ({"model__multipliers": ("",)}, "model.multipliers=() must be 1 to 14 numbers"),  # what an empty flag gives
        ({"model__multipliers": 2}, "must be a tuple of ints"),
        ({"model__head_channels": 48}, "model.head_channels=48 must divide the 256 channels of the last level"),
        ({"model__head_channels": 8, "model__num_heads": 2}, "both say how many heads there are; leave one out"),
        (
            {"model__head_channels": 256, "data__image_size": 32, "model__multipliers": (1, 1, 2)},
            "model.head_channels=256 does not divide the 128 channels at the attention resolution 16",
        ),
        ({"sample__end": 2}, "sample.end=2 must be 0 or 1"),
        ({"model__channels": 40}, "must be a multiple of model.groups=32"),
        ({"model__dropout": 1.0}, "below 1"),
        ({"model__dtype": "float16"}, "one of: float32, bfloat16"),
        ({"train__learning_rate": float("nan")}, "above 0"),
        ({"train__ema_decay": 1.0}, "below 1"),
        ({"train__accumulation": 3}, "multiple of train.accumulation=3"),
        ({"process__schedule": "cosin"}, "one of: linear"),
        ({"process__num_steps": 10, "sample__num_steps": 5}, "beta_T = 2 > 1"),
        ({"process__schedule": "jsd"}, "which ends without signal, says nothing of x_0"),
        (
            {"process__zero_terminal_snr": True},
            "loss.prediction='eps' with process.zero_terminal_snr=True, which ends without signal, says nothing of x_0",
        ),
        ({"process__zero_terminal_snr": True, "process__num_steps": 1, "process__schedule": "cosine"}, "single level"),
        (
            {"process__zero_terminal_snr": True, "process__kind": "blurring", "loss__prediction": "v"},
            "process.zero_terminal_snr=True rescales betas, and process.kind='blurring' has none; leave it False",
        ),
        (
            {"process__zero_terminal_snr": True, "loss__prediction": "v", "loss__weight": "min_snr"},
            "loss.weight='min_snr' leaves out the level T, where nothing is left of the data and samples start; use",
        ),
        (
            {"process__schedule": "jsd", "loss__prediction": "v", "loss__times": "lognormal"},
            "loss.times='lognormal' leaves out the level T",
        ),
        ({"process__kind": "rectified_flow"}, "ends without signal, says nothing of x_0 at t = T"),
        ({"process__noise": "pink"}, "one of: white, power, band, equal_snr"),
        (
            {"process__noise_power": 1.0},
            "process.noise_power=1.0 says nothing of process.noise='white'; leave it out, or set process.noise=power",
        ),
        (
            {"process__noise": "power", "process__noise_floor": 0.2},
            "process.noise_floor=0.2 says nothing of process.noise='power'; leave it out, or set process.noise=band",
        ),
        ({"process__noise": "power", "process__noise_power": 3.0}, "at least -2 and at most 2"),
        (
            {"process__noise": "band", "process__noise_low": 0.5},
            "process.noise_low=0.5 must be below process.noise_high=0.5",
        ),
        (
            {"process__noise": "power", "process__kind": "ihdm", "loss__prediction": "residual"},
            "samples of process.kind='ihdm' start from images, not from noise; use white",
        ),
        (
            {"process__noise": "band", "loss__objective": "head", "loss__variance": "ocm_frequency"},
            "loss.variance='ocm_frequency' with process.noise='band', which works in frequencies anyway; use ocm",
        ),
        ({"process__kind": "rectified_flow"}, "use 'v', 'x0' or flow matching's 'velocity'"),
        ({"process__kind": "rectified_flow", "loss__prediction": "mean"}, "times are continuous; use 'v'"),
        (
            {"process__kind": "rectified_flow", "loss__prediction": "velocity", "process__first_time": 1},
            "is of process.kind='ddpm', not 'rectified_flow'",
        ),
        (
            {
                "process__kind": "rectified_flow",
                "loss__prediction": "velocity",
                "loss__objective": "hybrid",
                "loss__variance": "range",
                "loss__weight": "p2",
            },
            "loss.weight='p2' leaves out the level T",
        ),
        ({"loss__weight": "snr"}, "one of: none, constant, min_snr, p2, edm"),
        ({"loss__weight": "edm", "loss__objective": "kl"}, "is then no bound; use none, or simple or hybrid"),
        (
            {"loss__times": "lognormal", "loss__objective": "rescaled_kl"},
            "loss.times='lognormal' would weight loss.objective='rescaled_kl', which is then no bound; use low_discrep",
        ),
        (
            {"process__kind": "ihdm", "loss__prediction": "residual", "loss__weight": "min_snr"},
            "none of loss.prediction='residual'; use none, or a prediction of eps, x0, v, velocity",
        ),
        (
            {"process__kind": "ihdm", "loss__prediction": "x0", "loss__times": "lognormal"},
            "the noise of process.kind='ihdm' does not; use uniform",
        ),
        ({"loss__min_snr_gamma": 0.0}, "loss.min_snr_gamma=0.0 must be above 0"),
        ({"loss__times_std": 0.0}, "loss.times_std=0.0 must be at least 0.001"),
        (
            {"process__kind": "ihdm", "loss__prediction": "residual", "sample__trajectory": "karras"},
            "sample.trajectory='karras' needs noise that grows with t",
        ),
        ({"sample__num_steps": 1001, "sample__trajectory": "karras"}, "exceeds process.num_steps=1000"),
        ({"sample__num_steps": 1001}, "exceeds process.num_steps=1000"),
        ({"sample__eta": -0.5}, "at least 0 and at most 100"),
        ({"sample__trajectory": "quadratic"}, "choose one of: full, uniform"),
        ({"sample__trajectory": "ddim25"}, "visits 25 times, not 5"),
        ({"sample__solver": "heun", "sample__eta": 0.5}, "without noise"),
        ({"sample__solver": "deis", "sample__eta": 0.5}, "without noise"),
        ({"sample__solver": "unipc_3", "sample__sampler": "ancestral"}, "without noise"),
        (
            {"sample__solver": "dpmpp_2m", "sample__sampler": "ancestral", "sample__variance": "large"},
            "needs sample.variance",
        ),
        ({"loss__variance": "npr"}, "objective head trains what sn, npr, ocm or ocm_frequency is from"),
        ({"loss__objective": "head"}, "set both or neither"),
        (
            {"loss__objective": "head", "loss__variance": "sn", "loss__prediction": "mean"},
            "belongs to a loss.prediction of eps, x0, v, velocity, not 'mean'",
        ),
        ({"model__head": "simple"}, "has nothing to output with loss.variance='small'"),
        ({"model__head": "large"}, "must be empty, simple, complex or dense"),
        ({"train__backbone": "runs/x"}, "trains model.head alone"),
        (
            {"data__dir": "s3://bucket/images"},
            "data.dir=s3://bucket/images is neither a path on this machine nor gs://",
        ),
        ({"train__init_from": "s3://bucket/run:100"}, "train.init_from=s3://bucket/run is neither a path"),
        (
            {
                "train__backbone": "runs/x",
                "train__init_from": "runs/x",
                "model__head": "simple",
                "loss__objective": "head",
                "loss__variance": "npr",
            },
            "set one of them",
        ),
        (
            {
                "train__backbone": "runs/x",
                "model__head": "simple",
                "loss__objective": "head",
                "loss__variance": "npr",
            },
            "set model.dropout=0.0",
        ),
        ({"loss__variance": "range"}, "does not train loss.variance='range'; use hybrid or rescaled_kl"),
        ({"process__kind": "blur"}, "one of: ddpm, blurring, ihdm, rectified_flow"),
        ({"process__kind": "blurring"}, "set sample.clip=False, or use 'v'"),
        ({"process__kind": "blurring", "loss__prediction": "mean"}, "times are continuous; use 'v'"),
        ({"process__kind": "blurring", "process__d_min": 0.0}, "with process.d_min=0.0 says nothing of x_0"),
        ({"process__kind": "blurring", "process__logsnr_min": 11.0}, "must be below process.logsnr_max=10.0"),
        ({"process__kind": "blurring", "process__sigma_blur_max": -1.0}, "at least 0 and at most 1,000,000"),
        ({"process__kind": "ihdm"}, "use 'v', 'x0' or, under ihdm's blur, 'residual'"),
        ({"process__kind": "ihdm", "process__sigma_blur_min": 30.0}, "must be at most process.sigma_blur_max=20.0"),
        ({"process__kind": "ihdm", "process__sigma": 0.0}, "above 0 and at most 100"),
        ({"loss__prediction": "residual"}, "nothing blurs; use 'eps' or 'v'"),
        ({"loss__last_level": False}, "is IHDM's released code"),
        (
            {"process__kind": "ihdm", "loss__prediction": "residual", "process__first_time": 1},
            "process.first_time=1 is of process.kind='ddpm', not 'ihdm', which has its own; leave it 0",
        ),
        ({"loss__reduction": "sum", "loss__objective": "kl"}, "belongs to loss.objective='simple'"),
        ({"data__low": 1}, "-1 or 0"),
        ({"sample__sampler": "heat"}, "needs process.kind='ihdm'"),
        (
            {"process__kind": "ihdm", "loss__prediction": "residual", "sample__sampler": "heat"},
            "goes through all levels",
        ),
        ({"loss__objective": "vlb"}, "one of: simple, kl, rescaled_kl, hybrid"),
        ({"loss__vlb_weight": float("inf")}, "at least 0"),
        ({"sample__variance": "range"}, "loss.variance='range', not 'small'"),
        (
            {"loss__objective": "kl", "loss__variance": "range", "sample__variance": "learned"},
            "loss.variance='learned', not 'range'",
        ),
        ({"loss__objective": "hybrid"}, "loss.variance='small' is fixed; set loss.variance='range'"),
        (
            {"model__num_heads": 3, "data__image_size": 32},
            "must divide the 256 channels of the last level",
        ),
        ({"model__num_heads": 0}, "at least 1"),
        ({"model__family": "adm"}, "one of: ddpm, iddpm"),
        ({"model__network": "vit"}, "one of: unet, dit"),
        (
            {"model__network": "dit", "model__multipliers": (1, 2), "model__groups": 8},
            "model.multipliers=(1, 2), model.groups=8: model.network='dit' has no such setting;"
            " leave out, or set to (1, 2, 2, 2), 32",
        ),
        (
            {"model__network": "dit", "model__head": "simple", "loss__objective": "head", "loss__variance": "npr"},
            "model.head='simple': model.network='dit' has no such setting",
        ),
        (
            {"model__patch_size": 4},
            "model.patch_size=4: model.network='unet' has no such setting; leave out, or set to 2",
        ),
        ({"model__network": "dit"}, "model.dropout=0.1: model.network='dit' has no dropout; set 0.0"),
        (DIT | {"model__num_heads": 12}, "must be a multiple of model.num_heads=12, and of 4"),
        (DIT | {"model__num_heads": 3, "model__channels": 130}, "model.num_heads=3, and of 4"),
        (DIT | {"data__image_size": 30}, "30 x 30: both must be multiples of model.patch_size=4"),
        (DIT | {"data__image_size": (32, 30)}, "32 x 30: both must be multiples of model.patch_size=4"),
        (
            DIT | {"model__channels": 16384, "model__depth": 1000},
            "model.channels=16384 and model.depth=1000 make more",
        ),
        (
            {"data__image_size": 64, "model__low_res": 24},
            "no whole fraction of images of data.image_size 64 x 64; use 32",
        ),
        ({"data__crop": (1, 2, 3)}, "empty or four numbers"),
        ({"data__crop": (0, 0, 0, 8)}, "the last two at least 1"),
        ({"train__clip_norm": -1.0}, "at least 0"),
        ({"data__name": "folder"}, "set data.dir"),
        ({"data__image_size": 36}, "multiples of 8"),
        ({"data__image_size": 64, "model__attention_resolutions": (20,)}, "set it to some of [64, 32, 16, 8]"),
        ({"data__image_size": (64, 36)}, "64 x 36: both must be multiples of 8"),
        ({"data__image_size": (8, 64, 3)}, "at least 0, or two numbers of at least 1"),
        ({"data__image_size": (8,)}, "at least 0, or two numbers of at least 1"),
        ({"data__image_size": (8, 0)}, "at least 0, or two numbers of at least 1"),
        ({"data__image_size": (0, 0)}, "at least 0, or two numbers of at least 1"),
        ({"data__image_size": -8}, "at least 0, or two numbers of at least 1"),
        ({"data__image_size": (8, 8.5)}, "8.5 must be an int"),
        ({"data__image_size": "8"}, "data.image_size='8' must be an int or two, such as 64 or 64,96"),
        ({"data__image_size": True}, "data.image_size=True must be an int or two, such as 64 or 64,96"),
        ({"data__image_size": None}, "data.image_size=None must be an int or two, such as 64 or 64,96"),
        ({"data__channels": 2}, "0, 1 or 3"),
        ({"seed": -1}, "at least 0"),
        ({"seed": 2**32}, "below"),
        ({"train__learning_rate": float("inf")}, "above 0 and at most 1e+38"),
        ({"process__num_steps": 20, "process__schedule": "const", "sample__num_steps": 5}, "use more steps"),
        ({"process__num_steps": 20, "sample__num_steps": 5}, "ends without signal"),
    ],
)
def test_mistakes_are_named_in_one_line(values, message):
    with pytest.raises(ConfigError) as error:
        config_lib.validate(changed(**values))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_missing_key_is_named():
    config = changed()
    del config["train"]["batch_size"]
    with pytest.raises(ConfigError, match=r"train\.batch_size is missing"):
        config_lib.validate(config)


def test_typos_within_two_edits_find_their_key():
    rng = random.Random(0)
    tries, found = 0, 0
    for key in keys.KEYS:
        for _ in range(5):
            name = list(key)
            for _ in range(rng.choice([1, 2])):
                place = rng.randrange(key.index(".") + 1 if "." in key else 0, len(name))
                name[place] = rng.choice(["", rng.choice("abcdefgh_")])
            typo = "".join(name)
            if typo in keys.KEYS:
                continue
            tries += 1
            with pytest.raises(ConfigError) as error:
                config_lib.check_key(typo)
            found += f"Did you mean {key}?" in str(error.value)
    assert found / tries > 0.95, (found, tries)


# What may change in a run that has checkpoints, and is then recorded.
ADJUSTABLE = {
    *("model.dropout", "model.dtype", "model.remat"),
    *("train.batch_size", "train.accumulation", "train.learning_rate", "train.warmup_steps", "train.clip_norm"),
    *("train.ema_decay", "train.ema_warmup", "train.steps_per_call"),
}
# What may change and is no matter of the state after N steps.
FREE = {
    *("train.num_steps", "train.log_every", "train.checkpoint_every", "train.keep_checkpoints", "train.sample_every"),
    "train.max_bad_steps",
    "train.hang_timeout",
    *("train.evaluate", "train.evaluate_every", "train.evaluate_examples", "train.evaluate_split"),
    *("data.dir", "data.memory_mib", "data.disk_mib", "data.cache_dir"),
}


@pytest.mark.parametrize("key", keys.KEYS)
def test_a_key_is_fixed_in_a_run_unless_a_state_means_the_same_without(key):
    other = {int: 7, float: 0.77, str: "other", bool: not keys.KEYS[key].default, tuple: (7,)}
    old, new = changed(), changed(**{key.replace(".", "__"): other[type(keys.KEYS[key].default)]})
    fixed, adjusted = config_lib.differences(old, new), config_lib.adjustments(old, new)
    is_free = key in FREE or key.startswith("sample.")
    assert bool(adjusted) == (key in ADJUSTABLE)
    assert bool(fixed) == (not is_free and key not in ADJUSTABLE), fixed
    assert config_lib.told(config_lib.all_changes(old, new)) == (fixed or config_lib.told(adjusted))


@pytest.mark.parametrize("given", [(32, 48), [32, 48], np.array([32, 48])])
def test_images_may_be_rectangles_and_a_square_has_one_spelling(given):
    config = config_lib.default_config()
    config.data.image_size = given
    checked = config_lib.validate(config)
    assert checked.data.image_size == (32, 48)
    again = config_lib.from_json(config_lib.to_json(checked), "config.json")
    assert again == checked and again.data.image_size == (32, 48) and config_lib.differences(checked, again) == []
    for square in (32, [32, 32], (np.int64(32), 32)):
        checked.data.image_size = square
        squares = config_lib.validate(checked)
        assert squares.data.image_size == 32 and type(squares.data.image_size) is int
        assert config_lib.differences(squares, again) == ["data.image_size 32 -> (32, 48)"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"seed": "x"}'])
def test_a_broken_config_json_is_named(text):
    with pytest.raises(ConfigError, match=r"runs/x/config\.json"):
        config_lib.from_json(text, "runs/x/config.json")


def test_the_names_a_config_may_use_are_those_the_library_has():
    from ddx.diffusion import catalogue
    from ddx.diffusion.estimate import prediction
    from ddx.diffusion.objective import time_samplers, weights
    from ddx.diffusion.reverse import solvers, variance
    from ddx.models import NETWORKS, conventions

    assert tuple(catalogue.PREDICTIONS) == tuple(prediction.PREDICTIONS)
    of_runs = {*catalogue.ANALYTIC_VARIANCES, *catalogue.PUBLISHED_VARIANCES, *catalogue.PROBED_VARIANCES}
    assert set(variance.VARIANCES) == set(catalogue.VARIANCES) - of_runs
    assert tuple(solvers.SOLVERS) == catalogue.SOLVERS
    assert catalogue.STOCHASTIC_SOLVERS == tuple(name for name, make in solvers.SOLVERS.items() if make().any_eta)
    assert (*time_samplers.TIME_SAMPLERS, "lognormal") == keys.TIME_SAMPLERS
    assert ("none", *weights.WEIGHTS) == keys.WEIGHTS
    assert tuple(conventions.FAMILIES) == keys.FAMILIES
    assert tuple(NETWORKS) == keys.NETWORKS


def test_a_setting_of_one_network_is_known_to_be_so():
    from ddx.models import NETWORKS

    settings = {key.removeprefix("model.") for key in keys.KEYS if key.startswith("model.")}
    has = {name: settings & network.__dataclass_fields__.keys() for name, network in NETWORKS.items()}
    assert settings - {"network", "class_conditional", "label_dropout"} == has["unet"] | has["dit"]
    alone = {"unet": has["unet"] - has["dit"] - {"dropout"}, "dit": has["dit"] - has["unet"]}  # 0.0 there, as it is not
    assert alone == {name: set(names) for name, names in model_rules.OF_ONE.items()}


def test_a_config_s_network_is_changed_to_another_and_back():
    config = config_lib.load("digits")
    config_lib.set_network(config, "dit")
    assert config_lib.validate(config).model.multipliers == (1, 2, 2, 2)
    config.model.depth = 3
    config_lib.set_network(config, "unet")
    assert config_lib.validate(config).model.depth == 12


@pytest.mark.parametrize("size", ["s", "b", "l", "xl"])
def test_a_dit_is_of_the_paper_s_size_and_told_classes_and_makes_variances(size):
    from ddx.models import create
    from ddx.system import make_system

    system = make_system(config_lib.load(f"dit_imagenet64:{size}"), (64, 64, 3), 1000)
    assert system.model == create(f"dit_{size}_4", out_channels=6)


@pytest.mark.parametrize(
    ("name", "arg"),
    [
        ("iddpm_cifar10", "vlb,10k"),
        ("iddpm_cifar10", "l2"),
        ("iddpm_cifar10", "vlb,10,linear,x"),
        ("iddpm_imagenet64", "cond"),
        ("digits_iddpm", "kl"),
        ("digits_blurring", "eps"),
        ("blurring_cifar10", "5"),
        ("blurring_cifar10", "20,cos"),
        ("blurring_cifar10", "20,sin,x"),
        ("blurring_lsun_church128", "sin2"),
        ("ihdm_mnist", "large"),
        ("ihdm_afhq", "128"),
        ("ihdm_ffhq", "64"),
        ("dit_imagenet64", "h"),
        ("heads", ""),
        ("heads", "npr"),
        ("heads", "range,runs/digits"),
    ],
)
def test_a_run_that_a_config_does_not_have_is_named_with_those_that_it_has(name, arg):
    with pytest.raises(ConfigError, match=f"^{name} has no run '{arg}'"):
        shipped(pathlib.Path(f"configs/{name}.py"), arg)


@pytest.mark.parametrize("kind", ["npr", "sn", "ocm"])
@pytest.mark.parametrize("form", ["", "simple", "complex", "dense"])
@pytest.mark.parametrize("network", ["digits", "iddpm_cifar10", "blurring_cifar10"])
def test_a_head_s_config_is_made_from_that_of_its_network(kind, form, network, tmp_path):
    theirs = config_lib.validate(shipped(pathlib.Path(f"configs/{network}.py")))
    (tmp_path / "config.json").write_text(config_lib.to_json(theirs))
    arg = ",".join(part for part in (kind, form, str(tmp_path)) if part)
    config = config_lib.validate(shipped(pathlib.Path("configs/heads.py"), arg))
    assert (config.loss.variance, config.model.head) == (kind, form or "simple")
    assert config.process == theirs.process and config.loss.prediction == theirs.loss.prediction
    assert config.train.backbone == str(tmp_path) and config.model.dropout == 0
    paper = (500_000, 128, 1e-4, 0.9999)
    found = (config.train.num_steps, config.train.batch_size, config.train.learning_rate, config.train.ema_decay)
    assert (found == paper) == (network != "digits")


def test_a_head_of_frequencies_is_dense_and_of_a_process_that_does_not_work_in_them_by_itself(tmp_path):
    path, arg = pathlib.Path("configs/heads.py"), f"ocm_frequency,{tmp_path}"
    for network in ("digits", "digits_flow", "digits_blurring"):
        theirs = config_lib.validate(shipped(pathlib.Path(f"configs/{network}.py")))
        (tmp_path / "config.json").write_text(config_lib.to_json(theirs))
        if network != "digits_blurring":
            config = config_lib.validate(shipped(path, arg))
            assert (config.loss.variance, config.model.head) == ("ocm_frequency", "dense")
            continue
        with pytest.raises(ConfigError, match="works in frequencies anyway; use ocm"):
            shipped(path, arg)


def test_a_head_of_a_dit_is_trained_with_it(tmp_path):
    theirs = config_lib.validate(shipped(pathlib.Path("configs/digits_dit.py")))
    (tmp_path / "config.json").write_text(config_lib.to_json(theirs))
    advice = "Train it anew with its own config and --config.loss.objective=head --config.loss.variance=ocm"
    with pytest.raises(ConfigError, match=f"takes no further layers. {advice}"):
        shipped(pathlib.Path("configs/heads.py"), f"ocm,{tmp_path}")
    theirs.loss.objective, theirs.loss.variance = "head", "ocm"  # which is possible
    config_lib.validate(theirs)


def test_a_user_s_own_keys_are_kept_and_change_nothing():
    config = config_lib.default_config()
    config.user.note = "first try"
    config.user.tags = {"gpus": [1, 2], "ok": True}
    checked = config_lib.validate(config)
    assert checked.user.tags.gpus == [1, 2]
    again = config_lib.from_json(config_lib.to_json(checked), "x")
    assert again == checked and again.user.note == "first try"
    assert not config_lib.all_changes(config_lib.default_config(), checked)
    with pytest.raises(AttributeError):
        config.usr = 3
    old = config_lib.default_config().to_dict()
    del old["user"]
    assert config_lib.validate(old) == config_lib.default_config()


@pytest.mark.parametrize("value", [3, [1], None])
def test_a_user_s_keys_have_names(value):
    for use in (config_lib.validate, check_keys):
        with pytest.raises(ConfigError, match=r"^user must hold keys of yours, as user\.note"):
            use(config_lib.default_config().to_dict() | {"user": value})


@pytest.mark.parametrize("value", [{"a": {1, 2}}, {"a": float("nan")}, {"a": object()}])
def test_what_json_has_not_is_no_user_s_key(value):
    with pytest.raises(ConfigError, match=r"^user: .*Use what JSON has"):
        config_lib.validate(config_lib.default_config().to_dict() | {"user": value})
