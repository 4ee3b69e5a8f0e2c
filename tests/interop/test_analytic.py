"""Networks of Analytic-DPM and Extended: outputs and samples by independent equations, statistics, heads, mistakes.

With `pytest -m convert` they are read from PyTorch's files, and walked with PyTorch's operations.
"""

import itertools
import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.config import files as config_files
from ddx.config.values import validate
from ddx.diffusion.bound.analytic import analytic as analytic_variance
from ddx.diffusion.reverse.rows import downward
from ddx.diffusion.reverse.walk import advance, start
from ddx.interop import analytic, convert
from ddx.interop.checkpoints import Hints
from ddx.runs import trained
from ddx.runtime import tensors
from ddx.runtime.errors import CheckpointError, ConfigError
from ddx.runtime.paths import Path
from ddx.runtime.tensors import Tensor
from ddx.sampling import load_statistics, measured
from ddx.sampling.samples import prepare, sample
from tests import golden
from tests.interop.equations import Adm, Ddim, Numpy, Torch, adm_layout, ddim_layout, drawn
from tests.interop.files import safetensors
from tests.interop.test_adm import inputs, outputs

TINY = {"channels": 32, "multipliers": (1,), "num_blocks": 1, "attending": ()}
SMALL = {"channels": 32, "multipliers": (1, 2), "num_blocks": 1, "attending": (1,)}
LIKE_CIFAR10 = {"outputs": 3, "resample_blocks": False}
LIKE_IMAGENET = {"outputs": 6, "resample_blocks": False}
GOLDEN = golden.load("golden_analytic")
MS_EPS = GOLDEN["ms_eps/linear1000/gauss"]


def config_for(name, size=8, **changes):
    """A shipped config for images of another size."""
    config = config_files.load(name)
    config.data.image_size = size
    config.model.update(changes)
    return config


@pytest.fixture
def source(tmp_path):
    """A network such as those for CIFAR-10."""
    safetensors(tmp_path / "net.safetensors", drawn(adm_layout(**TINY, **LIKE_CIFAR10)))
    return tmp_path / "net.safetensors"


def statistics(path, values):
    """A file of statistics."""
    np.save(path, values)
    return path


def test_a_head_puts_out_what_the_equations_say_beside_eps_alone(tmp_path):
    weights = drawn(adm_layout(**SMALL, **LIKE_IMAGENET, head="complex"))
    safetensors(tmp_path / "net.safetensors", weights)
    config = config_for("iddpm_imagenet64:uncond", num_heads=4)
    convert("analytic-dpm", tmp_path / "net.safetensors", tmp_path / "run", config=config, head="sn")
    run, (x, t, _) = ddx.load(tmp_path / "run"), inputs(8)
    expected = Adm(Numpy(), weights, 1, 4)(x, t)
    assert expected.shape == (2, 6, 8, 8)  # eps and the head; the learned variance is of no use beside it
    np.testing.assert_allclose(outputs(run, x, t), expected, rtol=0, atol=2e-5)
    config = run.config
    assert (config.model.head, config.loss.objective, config.loss.variance) == ("complex", "head", "sn")
    assert (config.sample.variance, config.process.schedule, config.process.num_steps) == ("small", "cosine", 4000)


def test_its_own_networks_are_told_times_from_1(source, tmp_path):
    convert("analytic-dpm", source, tmp_path / "run", config=config_for("analytic_cifar10:cosine", 8))
    process = ddx.load(tmp_path / "run").process
    assert (process.model_time(1), process.model_time(1000), process.num_steps) == (1, 1000, 1000)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_statistics_become_the_variance_of_the_papers_code(source, tmp_path, eta):
    """Bao's form, lambda^2 + (sqrt(bbar_t / alpha_ts) - sqrt(bbar_s - lambda^2))^2 (1 - ms_eps), in his abar."""
    path, config = statistics(tmp_path / "ms_eps.npy", MS_EPS.astype(np.float32)), config_for("analytic_cifar10:linear")
    result = convert("analytic-dpm", source, tmp_path / "run", config=config, statistics=path)
    assert f"with the statistics of {path}. Draw some with" in result.message
    assert result.message.endswith(f"--workdir={tmp_path}/run --variance=analytic_paper")
    run = trained.load(tmp_path / "run")
    system, variance = measured.variance(run, tmp_path / "run", "analytic_paper", True)
    abar, times = GOLDEN["sched/linear1000/cum_alphas"], (1000, 889, 334, 12, 1, 0)
    rows = downward(system.process, times, eta=eta).expand()
    for k, (t, s) in enumerate(itertools.pairwise(times[:-1])):
        lambda2 = eta**2 * (1 - abar[s]) / (1 - abar[t]) * (1 - abar[t] / abar[s])
        factor = np.sqrt((1 - abar[t]) * abar[s] / abar[t]) - np.sqrt(1 - abar[s] - lambda2)
        v = np.clip((1 - abar[t]) / abar[t] * (1 - np.float32(MS_EPS[t])), 0, 1) * abar[t] / (1 - abar[t])
        row = jax.tree.map(lambda x, k=k: jnp.asarray(x[k]), rows)
        np.testing.assert_allclose(variance(None, row), lambda2 + factor**2 * v, rtol=1e-4)


def test_statistics_say_whose_they_are_and_serve_no_variance_that_they_do_not_tell(source, tmp_path):
    path, config = statistics(tmp_path / "ms_eps.npy", MS_EPS), config_for("analytic_cifar10:linear")
    convert("analytic-dpm", source, tmp_path / "run", config=config, statistics=path)
    (folder,) = (tmp_path / "run" / "statistics").iterdir()
    record, found = json.loads((folder / "statistics.json").read_text()), load_statistics(folder)
    run = trained.load(tmp_path / "run")
    assert record["weights"] == run.seal and record["protocol"]["from"] == str(path)
    assert record["process"]["schedule"] == "linear" and record["process"]["num_steps"] == len(found.logsnr)
    np.testing.assert_allclose(found.ms_eps, MS_EPS[1:])
    origin = measured.origin(run, tmp_path / "run", True, "analytic_gamma")["statistics"]
    assert origin["sha256"] == record["result"]["sha256"]
    for variance in ("analytic", "analytic_frequency", "analytic_pixel"):
        with pytest.raises(ConfigError, match=r"has no statistics of step 1 .*Measure them with"):
            sample(tmp_path / "run", 1, variance=variance, num_steps=2)
    with pytest.raises(ValueError, match="hold no mse; use source='gamma'"):
        analytic_variance(found)


def test_the_trajectory_of_statistics_is_that_of_the_papers_code(source, tmp_path):
    path, config = statistics(tmp_path / "ms_eps.npy", MS_EPS), config_for("analytic_cifar10:linear")
    convert("analytic-dpm", source, tmp_path / "run", config=config, statistics=path)
    run, workdir = trained.load(tmp_path / "run"), tmp_path / "run"
    for key, expected in GOLDEN.items():
        if key.startswith("dpseg/linear1000/gauss/") and key.endswith("/path"):
            found = measured.trajectory(run, workdir, "optimal", len(expected), "analytic_paper", True)
            assert found == "times:" + ",".join(map(str, expected[::-1]))


def test_files_in_a_folder_are_known_by_their_names(source, tmp_path):
    folder = tmp_path / "all"
    (folder / "ms_eps").mkdir(parents=True)
    for name in ("400000.ckpt.pth", "ms_eps/ema_celeba.pth"):
        (folder / name).write_text("")
    assert analytic._only(folder, of_statistics=False).name == "400000.ckpt.pth"
    assert analytic.statistics_in(folder).name == "ema_celeba.pth" and analytic.statistics_in(source) is None
    (folder / "400000_n_samples_None.ms_eps.pth").write_text("")
    with pytest.raises(
        CheckpointError, match=r"has 2 files of statistics \(ms_eps\): .*Name the file with --statistic"
    ):
        analytic.statistics_in(folder)
    with pytest.raises(CheckpointError, match=r"has no files of a network\. Name the file with --source"):
        analytic.find(folder / "ms_eps", Hints())


def network():
    """The tensors of a small network, which cannot be read."""
    return {name: Tensor(shape, None) for name, shape in adm_layout(**TINY, **LIKE_CIFAR10).items()}


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_a_checkpoint_of_its_training_holds_both_weights(monkeypatch, weights):
    raw, average = network(), network()
    content = {"it": 7, "best_val_loss": None, "models_states": {"eps_model": raw}, "optimizers_states": {"all": {}}}
    content |= {"lr_schedulers_states": {}, "ema_models_states": {"eps_model": average}}
    taken = analytic._states(content, Path("x.pth"), weights)
    assert taken is (raw if weights == "raw" else average)
    with pytest.raises(CheckpointError, match=f"holds no {weights} weights. Pass --weights="):
        key = "models_states" if weights == "raw" else "ema_models_states"
        analytic._states(content | {key: None}, Path("x.pth"), weights)
    with pytest.raises(CheckpointError, match=r"holds 2 networks, 'eps_model, d_model'\. Save one alone"):
        both = {"eps_model": raw, "d_model": raw}
        analytic._states(content | {"models_states": both, "ema_models_states": both}, Path("x.pth"), weights)


PUBLISHED = {
    "cifar10": (lambda **more: adm_layout(128, (1, 2, 2, 2), 3, (1, 2), 3, resample_blocks=False, **more), None),
    "imagenet64": (
        lambda **more: adm_layout(128, (1, 2, 3, 4), 3, (2, 3), 6, resample_blocks=False, **more),
        ("downsampled_imagenet/64x64", "cosine", 4000, True),
    ),
    "celeba64": (lambda **more: ddim_layout(128, (1, 2, 2, 2, 4), 2, (2,), **more), ("celeb_a", "linear", 1000, False)),
    "bedroom": (
        lambda **more: ddim_layout(128, (1, 1, 2, 2, 4, 4), 2, (4,), **more),
        ("lsun/bedroom", "linear", 1000, False),
    ),
}


@pytest.mark.parametrize("head", ["", "simple", "complex"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_network_is_known_by_its_shapes(monkeypatch, name, head):
    layout, expected = PUBLISHED[name]
    content = {key: Tensor(shape, None) for key, shape in layout(head=head).items()}
    monkeypatch.setattr(analytic, "read", lambda path: content)
    monkeypatch.setattr(analytic.storage, "is_file", lambda path: True)
    told = Hints(head="npr" if head else None)
    if expected is None:
        with pytest.raises(
            ConfigError, match=r"not tell its noise schedule. Pass --config=analytic_cifar10:linear or "
        ):
            analytic.find(Path("net.pth"), told)
        with pytest.raises(
            ConfigError, match=r"told times from 1. Pass --config=analytic_cifar10:linear, or --config.p"
        ):
            analytic.find(Path("net.pth"), told._replace(config=config_files.load("iddpm_cifar10:simple,1000,linear")))
        found = analytic.find(Path("net.pth"), told._replace(config=config_files.load("analytic_cifar10:cosine")))
        assert (found.config.process.schedule, found.config.model.head) == ("cosine", head)
        return
    found = analytic.find(Path("net.pth"), told)
    data, process, how = found.config.data, found.config.process, validate(found.config).sample
    assert how.clip and how.trajectory == "even"
    assert (data.name, process.schedule, process.num_steps, process.rescale_time) == expected
    assert (found.config.model.head, process.first_time) == (head, 0)
    assert found.config.loss.variance == ("npr" if head else "range" if name == "imagenet64" else "small")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (MS_EPS[:-1], r"holds float64 of shape \(1000,\), and 1000 noise levels need floats of shape \(1001,\)"),
        (np.append(MS_EPS, np.ones(3000)), r"holds float64 of shape \(4001,\), and 1000 noise levels need"),
        (MS_EPS[:, None], r"holds float64 of shape \(1001, 1\)"),
        (np.ones(1001, int), r"holds int64 of shape \(1001,\)"),
        (np.append(MS_EPS[1:], 1.0), "begins with .*, and with 0 at t=0 it should"),
        (np.where(np.arange(1001) == 7, np.nan, MS_EPS), "has a number that is not finite at t=7"),
        (np.where(np.arange(1001) == 7, -0.1, MS_EPS), "has -0.1 at t=7, where the mean square of eps lies between"),
        (np.append(0, MS_EPS[:0:-1]), r"has .* at t=\d+, where the mean square of eps lies between 0.\d+ and 2"),
        (np.append(0, 1 / np.linspace(1e-4, 1, 1000)), "has 10000 at t=1, where the mean square of eps lies"),
    ],
)
def test_statistics_that_cannot_be_the_networks_are_one_line_and_leave_nothing(source, tmp_path, values, message):
    path = statistics(tmp_path / "ms_eps.npy", values)
    with pytest.raises(CheckpointError, match=message) as caught:
        config = config_for("analytic_cifar10:linear")
        convert("analytic-dpm", source, tmp_path / "run", config=config, statistics=path)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_mistakes_are_named(source, tmp_path):
    safetensors(tmp_path / "head.safetensors", drawn(adm_layout(**TINY, **LIKE_CIFAR10, head="simple")))
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY and then not")
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    with_head, out, config = tmp_path / "head.safetensors", tmp_path / "run", config_for("analytic_cifar10:linear")
    for file, given, error, message in (
        (source, {}, ConfigError, "is none of the published networks"),
        (source, {"head": "npr"}, ConfigError, r"net.safetensors has no head. Leave out --head"),
        (
            with_head,
            {},
            ConfigError,
            r"has a head and does not tell what it predicts. Pass --from=analytic-dpm --head=",
        ),
        (source, {"head": "nrp"}, ConfigError, "head='nrp' must be one of: sn, npr"),
        (source, {"statistics": tmp_path / "none.npy"}, CheckpointError, "there is no file .*none.npy"),
        (source, {"statistics": tmp_path / "bad.npy"}, CheckpointError, "bad.npy is damaged"),
        (source, {"statistics": tmp_path / "objects.npy"}, CheckpointError, "objects.npy is damaged: .*allow_pickle"),
        (
            source,
            {"statistics": source},
            ConfigError,
            "has no known kind of array. Use a file that ends in one of: .np",
        ),
    ):
        given = given if message.startswith("is none") else given | {"config": config}
        with pytest.raises(error, match=message) as caught:
            convert("analytic-dpm", file, out, **given)
        assert "\n" not in str(caught.value) and not out.exists()


def test_an_ncsnpp_is_refused_by_its_name(monkeypatch):
    content = {"all_modules.0.W": Tensor((64,), None), "sigmas": Tensor((1000,), None)}
    monkeypatch.setattr(analytic, "read", lambda path: content)
    monkeypatch.setattr(analytic.storage, "is_file", lambda path: True)
    with pytest.raises(ConfigError, match=r"is of an NCSN\+\+ of score_sde, which ddx has not"):
        analytic.find(Path("vpsde.pth"), Hints())


def reference(net, sampler, times, levels, head, ms_eps, abar, told, z):
    """The papers' loops in float64, NCHW: A-, SN- or NPR-DDPM ("ancestral") or -DDIM of `net`, which is `told` times.

    The noise into the last noisy time is at most `levels` grey levels.
    """
    x = z[0]
    for k, (t, s) in enumerate(itertools.pairwise(times)):
        out = np.asarray(net(x.astype(np.float32), np.full(len(x), told(t))), np.float64)
        a_t, a_s, eps, ratio = abar[t], abar[s], out[:, :3], abar[t] / abar[s]
        x_0 = np.clip((x - np.sqrt(1 - a_t) * eps) / np.sqrt(a_t), -1, 1)
        square = 1 - ms_eps[t] if head is None else out[:, 3:] - (eps**2 if head == "sn" else 0)
        v = np.clip((1 - a_t) / a_t * square, 0, 1)
        if sampler == "ancestral":
            lambda2 = (1 - a_s) / (1 - a_t) * (1 - ratio)
            gamma = np.sqrt(a_s) * (1 - ratio) / (1 - a_t)
            x = gamma * x_0 + np.sqrt(ratio) * (1 - a_s) / (1 - a_t) * x
        else:
            lambda2, gamma = 0, np.sqrt(a_s) - np.sqrt((1 - a_s) / (1 - a_t) * a_t)
            x = np.sqrt(a_s) * x_0 + np.sqrt(1 - a_s) * eps
        variance = lambda2 + gamma**2 * v
        if s == times[-2]:
            variance = np.minimum(variance, (levels * 2 / 255) ** 2 * np.pi / 2)
        x = x + np.sqrt(variance) * z[k + 1] if s else x
    return x


@pytest.mark.convert
@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
@pytest.mark.parametrize(
    ("name", "head", "form"),
    [
        ("cifar10", None, ""),
        ("cifar10", "npr", "simple"),
        ("cifar10", "sn", "simple"),
        ("imagenet64", None, ""),
        ("imagenet64", "npr", "simple"),
        ("imagenet64", "sn", "complex"),
        ("celeba64", None, ""),
        ("celeba64", "npr", "simple"),
        ("celeba64", "sn", "complex"),
    ],
)
def test_samples_from_pytorchs_files_are_those_of_the_papers_loop(tmp_path, name, head, form, sampler):
    """With the same noise: the network, its times, its head or statistics, and the limits of the papers' code."""
    import torch

    like, config = {
        "cifar10": (LIKE_CIFAR10, config_for("analytic_cifar10:linear", num_heads=4)),
        "imagenet64": (LIKE_IMAGENET, config_for("iddpm_imagenet64:uncond", num_heads=4)),
        "celeba64": (None, config_for("ddim_celeba64")),
    }[name]
    layout = ddim_layout(**SMALL, head=form) if like is None else adm_layout(**SMALL, **like, head=form)
    weights = drawn(layout)
    state = {key: torch.tensor(value) for key, value in weights.items()}
    content = {"it": 1, "models_states": {"eps_model": state}, "ema_models_states": {"eps_model": state}}
    torch.save(state if head else content, tmp_path / "net.pth")
    schedule = f"{config.process.schedule}{config.process.num_steps}"
    ms_eps, abar = GOLDEN[f"ms_eps/{schedule}/gauss"].astype(np.float32), GOLDEN[f"sched/{schedule}/cum_alphas"]
    torch.save(ms_eps, tmp_path / "ms_eps.pth")
    given = {"head": head} if head else {"statistics": tmp_path / "ms_eps.pth"}
    convert("analytic-dpm", tmp_path / "net.pth", tmp_path / "run", config=config, **given)

    limit = "paper" if name == "cifar10" else "paper1"
    source, workdir = trained.load(tmp_path / "run"), tmp_path / "run"
    settings = {"sampler": sampler, "variance": f"{head or 'analytic'}_{limit}", "trajectory": "even"}
    drawing = prepare(source, workdir, 0, None, None, None, None, settings | {"num_steps": 5, "clip": True})
    how, z = drawing.sampler, np.random.default_rng(3).standard_normal((6, 2, 3, 8, 8))
    noise = jnp.asarray(np.moveaxis(z[1:], 2, -1), jnp.float32)
    with jax.default_matmul_precision("highest"):
        denoise = drawing.system.denoiser(source.params, how.clip)
        begun = start(how.solver, jnp.asarray(np.moveaxis(z[0], 1, -1), jnp.float32))
        walk = jax.jit(lambda state: advance(denoise, state, how.plan, jnp.arange(5), how.solver, lambda k: noise[k]))
        found = np.moveaxis(np.asarray(walk(begun).u_t), -1, 1)

    net = Ddim(Torch(), weights) if like is None else Adm(Torch(), weights, 1, 4)
    times = {"cifar10": lambda t: t, "imagenet64": lambda t: (t - 1) / 4, "celeba64": lambda t: t - 1}[name]
    with torch.no_grad():
        levels = 2 if limit == "paper" and sampler == "ancestral" else 1
        expected = reference(net, sampler, how.times, levels, head, ms_eps, abar, times, z)
        x, t, _ = inputs(8)
        of_network = np.abs(outputs(ddx.load(workdir), x, t) - np.asarray(net(x, t))).max()
    of_walk = np.abs(found - expected).max()
    print(f"{name} {sampler} {head} {form}: max difference {of_network:.1e}, of the walk {of_walk:.1e}")
    assert of_network < 1e-4
    assert of_walk < 5e-4  # rounding grows by 1 / alpha_T = 157 in the first step; PyTorch's own is 5e-5


@pytest.mark.convert
@pytest.mark.parametrize("numpy1", [False, True])
def test_statistics_are_read_from_pytorchs_file_without_running_anything(tmp_path, numpy1):
    import torch

    values = MS_EPS.astype(np.float32)
    torch.save(values, tmp_path / "ms_eps.pth")
    if numpy1:  # as NumPy 1 and PyTorch 1 wrote it
        with zipfile.ZipFile(tmp_path / "ms_eps.pth") as file:
            content = {name: file.read(name) for name in file.namelist()}
        with zipfile.ZipFile(tmp_path / "ms_eps.pth", "w") as file:
            for name, data in content.items():
                file.writestr(name, data.replace(b"numpy._core", b"numpy.core"))
    np.testing.assert_array_equal(tensors.read_array(tmp_path / "ms_eps.pth"), values)
    torch.save(torch.tensor(values), tmp_path / "tensor.pt")
    np.testing.assert_array_equal(tensors.read_array(tmp_path / "tensor.pt"), values)
    torch.save({"ms_eps": torch.tensor(values)}, tmp_path / "dict.pt")
    with pytest.raises(CheckpointError, match=r"dict.pt holds tensors by name, no array"):
        tensors.read_array(tmp_path / "dict.pt")
    torch.save([_Canary(tmp_path / "sang")], tmp_path / "canary.pt")
    with pytest.raises(CheckpointError, match="holds more than tensors, or is no PyTorch file; it is not read"):
        tensors.read_array(tmp_path / "canary.pt")
    assert not (tmp_path / "sang").exists()
    (tmp_path / "cut.pth").write_bytes((tmp_path / "ms_eps.pth").read_bytes()[:-500])
    with pytest.raises(CheckpointError, match=r"cut.pth"):
        tensors.read_array(tmp_path / "cut.pth")


class _Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, nest):
        self.nest = nest

    def __reduce__(self):
        import pathlib

        return pathlib.Path.touch, (self.nest,)
