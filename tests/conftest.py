"""What all tests share: one compilation cache for the whole run, its subprocesses included, and a tiny training run."""

import fcntl
import gc
import importlib.metadata
import os
import pathlib
import shutil
import sys
import tempfile

# Before jax is imported. A cache of this run alone, its workers included: compiled CPU code is not portable between
# machines.
_IS_FIRST = "DDX_TESTS_CACHE" not in os.environ
_CACHE = tempfile.mkdtemp(prefix="ddx-tests-") if _IS_FIRST else os.environ["DDX_TESTS_CACHE"]
os.environ |= {"DDX_TESTS_CACHE": _CACHE, "JAX_COMPILATION_CACHE_DIR": _CACHE}
os.environ["XDG_CACHE_HOME"] = os.path.join(_CACHE, "home")  # decoded copies of data sets
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Most of the time of the tests is the compiler's, and half of that is optimisation, which changes no result that they
# look at. Set it to 0 to test what users run; the golden files are always optimised.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
_IS_FAST = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] != "0"
if _IS_FIRST and _IS_FAST and importlib.metadata.version("jaxlib").startswith("0.10."):
    # Half of what is left: XLA's older emitters of fused operations have less to translate. An XLA that does not know
    # the flag ends the process.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip()
_OPTIMISED = {"test_golden.py", "test_golden_improved.py", "test_sampling_speed.py", "test_cifar10_distance.py"}
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Tracing makes many objects and frees few: the garbage collector took a tenth of the time of the tests.
gc.set_threshold(50_000, 10, 10)

import pytest  # noqa: E402

from ddx import config as config_lib  # noqa: E402


def pytest_collection_modifyitems(items):
    """Files of a few long tests first, lest one of two processes wait for the other in the end."""
    long = {"training", "runs", "sampling", "evaluation", "models", "test_notebooks.py"}
    items.sort(key=lambda item: not long & set(item.path.parts))


def pytest_unconfigure(config):
    if _IS_FIRST:
        shutil.rmtree(_CACHE, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Drop compiled programs when there are many: a Linux process may have 65,530 memory maps, each program some."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if "jax" in sys.modules and (not maps.exists() or len(maps.read_text().splitlines()) > 15_000):
        sys.modules["jax"].clear_caches()
        gc.collect()


@pytest.fixture(scope="module", autouse=True)
def optimise(request):
    """Compile as users do where the originals' numbers are compared, and where speed is measured."""
    if request.path.name not in _OPTIMISED:
        yield
        return
    import jax

    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] != "0")


@pytest.fixture(autouse=True)
def own_programs(request):
    """A test that changes what is compiled neither takes a program that another test has made nor leaves its own."""

    def forget():
        if "monkeypatch" in request.fixturenames and "ddx.training.program" in sys.modules:
            sys.modules["ddx.training.program"]._kept.clear()

    forget()
    yield
    forget()


@pytest.fixture(scope="session")
def server():
    """Buckets on this machine."""
    from tests.buckets import Server

    found = Server()
    yield found
    found.stop()


@pytest.fixture
def in_bucket(server, request):
    """A path in a bucket of a test's own."""
    return server.new(f"ddx-{abs(hash(request.node.nodeid)):x}")


@pytest.fixture(scope="session")
def tiny_config():
    """Changes that make a run of a few seconds: the smallest U-Net on digits. Returns a fresh config each call."""

    def make(**changes):
        config = config_lib.default_config()
        values = {
            "process.schedule": "cosine",
            "process.num_steps": 20,
            "model.channels": 16,
            "model.multipliers": (1,),
            "model.num_blocks": 1,
            "model.attention_resolutions": (),
            "model.groups": 8,
            "model.dropout": 0.0,
            "train.num_steps": 12,
            "train.batch_size": 16,
            "train.learning_rate": 1e-3,
            "train.warmup_steps": 4,
            "train.ema_decay": 0.9,
            "train.log_every": 2,
            "train.checkpoint_every": 4,
            "train.sample_every": 100,
            "sample.num_steps": 5,
            "sample.num_images": 4,
            "sample.batch_size": 4,
        } | {key.replace("__", "."): value for key, value in changes.items()}
        config.unlock()
        for key, value in values.items():
            group, _, name = key.rpartition(".")
            (config[group] if group else config)[name] = value
        return config_lib.validate(config)

    return make


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """Has a run made by one of the processes that test, and gives a copy to each."""

    def made(name, config):
        master = pathlib.Path(_CACHE, "runs", name)
        master.parent.mkdir(exist_ok=True)
        with open(master.with_suffix(".lock"), "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not master.with_suffix(".done").exists():
                run_of(config, master)
                master.with_suffix(".done").touch()
        return shutil.copytree(master, tmp_path_factory.mktemp(name) / name)

    return made


@pytest.fixture(scope="session")
def whole(tiny_config, made_once):
    """A run of 12 steps without interruption, that many tests look at."""
    return made_once("whole", tiny_config())


def linked(run, folder):
    """A folder with all that a run's holds, for tests that write into it and leave the run of all alone."""
    folder.mkdir()
    for entry in run.iterdir():
        (folder / entry.name).symlink_to(entry)
    return folder


@pytest.fixture(scope="session")
def in_fives(tiny_config, made_once):
    """The same in calls of up to five steps, as many as the time allows."""
    changes = {"train__steps_per_call": 5, "train__log_every": 100, "train__checkpoint_every": 100}
    return made_once("in_fives", tiny_config(**changes))


@pytest.fixture
def no_pictures():
    """For runs whose pictures no test looks at: their sampler need not be compiled."""
    with pytest.MonkeyPatch.context() as patch:  # not the fixture: the programs of training are as they are
        patch.setattr("ddx.training.watch.Watch.draw", lambda *_: None)
        yield


@pytest.fixture
def four(whole, tmp_path):
    """The first four steps of `whole`, for one test alone."""
    return as_it_was(whole, 4, tmp_path / "four")


@pytest.fixture(scope="session")
def headed(whole, tmp_path_factory):
    """A head for NPR on the network of `whole`."""
    config = config_lib.head_config(str(whole), "npr")
    config.train.ema_decay = 0.5
    return run_of(config, tmp_path_factory.mktemp("headed"))


# Four times, so that every time has ten losses, and the sampler of times learns, before the run ends.
IMPROVED = {
    "data__flip": True,
    "process__num_steps": 4,
    "model__family": "iddpm",
    "model__num_heads": 2,
    "model__dropout": 0.1,
    "model__scale_shift": True,
    "model__class_conditional": True,
    "loss__objective": "hybrid",
    "loss__variance": "range",
    "loss__times": "loss_second_moment",
    "sample__num_steps": 4,
    "sample__variance": "range",
}


@pytest.fixture(scope="session")
def improved_config(tiny_config):
    """As `tiny_config`, with all that Improved DDPM adds."""
    return lambda **changes: tiny_config(**(IMPROVED | changes))


@pytest.fixture(scope="session")
def improved(improved_config, made_once):
    """The same of Improved DDPM, with flips."""
    return made_once("improved", improved_config())


HEAT = {
    "data__low": 0,
    "process__kind": "ihdm",
    "process__num_steps": 5,
    "process__sigma_blur_max": 4.0,
    "loss__prediction": "residual",
    "loss__reduction": "sum",
    "sample__sampler": "heat",
    "sample__num_steps": 0,
    "sample__clip": False,
}
BLURRING = {
    "process__kind": "blurring",
    "process__sigma_blur_max": 4.0,
    "loss__prediction": "v",
    "loss__objective": "hybrid",
    "loss__variance": "range",
    "sample__sampler": "ancestral",
    "sample__variance": "range",
    "sample__clip": False,
}


@pytest.fixture(scope="session")
def heated(tiny_config, made_once):
    """The same of IHDM."""
    return made_once("heated", tiny_config(**HEAT))


@pytest.fixture(scope="session")
def blurred(tiny_config, made_once):
    """The same of Blurring Diffusion, with a learned variance."""
    return made_once("blurred", tiny_config(**BLURRING))


def as_it_was(run, step, workdir):
    """A copy of a run as it was when it had saved this step."""
    shutil.copytree(run, workdir)
    for path in (workdir / "checkpoints").iterdir():
        if int(path.name) > step:
            shutil.rmtree(path)
    (workdir / "checkpoints.last").write_text(f"{step}\n")
    return workdir


def run_of(config, workdir):
    from ddx.training import train

    outcome = train(config, workdir)
    assert outcome.step == 12 and outcome.finished
    return workdir
