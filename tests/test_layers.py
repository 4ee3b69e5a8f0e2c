"""The structure of the house: who may import whom, and what nobody may do."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "ddx").rglob("*.py"), *(ROOT / "launch").glob("*.py"), *(ROOT / "configs").glob("*.py")])

# Each part may import itself, the parts of its set, and nothing else of ddx.
MAY_IMPORT = {
    "catalogue": set(),
    "diffusion": {"catalogue"},
    "models": set(),
    "runtime": set(),
    "config": {"catalogue", "networks", "diffusion", "runtime"},
    "data": {"runtime"},
    "system": {"catalogue", "diffusion", "models", "runtime", "config", "data"},
    "runs": {"runtime", "config", "data", "system"},
    "networks": set(),
    "features": {"networks", "runtime", "config", "data", "runs"},
    "sampling": {"catalogue", "diffusion", "runtime", "config", "data", "system", "runs"},
    "training": {"evaluation", "diffusion", "models", "runtime", "config", "data", "system", "runs", "sampling"},
    "evaluation": {
        "catalogue",
        "networks",
        "features",
        "diffusion",
        "runtime",
        "config",
        "data",
        "system",
        "runs",
        "sampling",
    },
    "run": {"diffusion", "models", "runtime", "system", "runs", "sampling", "evaluation", "interop"},
    "interop": {"catalogue", "diffusion", "models", "runtime", "config", "runs", "system", "sampling", "__version__"},
    "compiling": {"evaluation", "features", "runtime", "config", "data", "system", "sampling", "training"},
    "cli": {"catalogue", "runtime", "config", "features", "sampling", "training", "evaluation", "interop", "compiling"},
    "launch": set(),
    "configs": {"config", "runtime"},
}

# Within ddx/diffusion each room, a folder or a file, may import itself and the rooms before it.
ROOMS = ("catalogue", "arrays", "times", "random", "forward", "estimate", "reverse", "bound", "objective", "papers")
NEEDS_NO = {"forward": {"random"}}  # what a process says of its levels is drawn nowhere


def part(module):
    """'ddx.training.loop' belongs to 'training', 'launch.train' to 'launch'; tables of names to whoever asks."""
    if module in ("ddx.diffusion.catalogue", "ddx.features.networks"):
        return module.rpartition(".")[2]
    first, _, rest = module.partition(".")
    return rest.partition(".")[0] if first == "ddx" else first


def room(module):
    """'ddx.diffusion.forward.blur' belongs to 'forward', 'ddx.diffusion' itself to none: ''."""
    return module.removeprefix("ddx.diffusion").lstrip(".").partition(".")[0]


def imports(path):
    """The modules of this project that a file imports, by their full names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: name the module from ddx on"
            if node.module in ("ddx", "ddx.diffusion"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path):
    here = part(".".join(path.relative_to(ROOT).with_suffix("").parts))
    if path == ROOT / "ddx" / "__init__.py":
        return  # names everything, imports it on use
    for module in imports(path):
        if module.split(".")[0] in ("ddx", "launch", "configs") and part(module) != here:
            assert part(module) in MAY_IMPORT[here], f"{here} must not import {module}"


MATHEMATICS = ROOT / "ddx" / "diffusion"


@pytest.mark.parametrize("path", sorted(MATHEMATICS.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_within_the_mathematics_point_downwards(path):
    inside = [room(module) for module in imports(path) if module.startswith("ddx.diffusion")]
    if path == MATHEMATICS / "__init__.py":
        assert not inside
        return
    here = path.relative_to(MATHEMATICS).parts[0].removesuffix(".py")
    allowed = set(ROOMS[: ROOMS.index(here) + 1]) - NEEDS_NO.get(here, set())
    assert set(inside) <= allowed, f"{here} must not import {set(inside) - allowed}"


def test_the_mathematics_has_the_rooms_that_are_named():
    found = {path.relative_to(MATHEMATICS).parts[0].removesuffix(".py") for path in MATHEMATICS.rglob("*.py")}
    assert found - {"__init__"} == set(ROOMS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_parallel_knows_the_devices(path):
    if path.name in ("parallel.py", "parts.py"):
        return
    names = {n.attr for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)}
    assert not names & {"pmap", "shard_map", "pmean", "psum", "axis_index", "device_put"}
    assert path.name in ("hosts.py", "devices.py") or not names & {"process_count", "process_index", "distributed"}


# What is on this machine by its nature: locks, TPU devices, config files, decoded copies, the digits, event files.
OPENS_FILES = {
    "runtime/storage.py",
    "runtime/folders.py",
    "runtime/lock.py",
    "runtime/growing.py",
    "runtime/accelerator.py",
    "config/files.py",
    "data/copies.py",
    "data/sources.py",
    "data/arrays.py",
    "runs/checkpoint.py",
    "runs/manifest.py",
    "training/tensorboard.py",
}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_opened_by_the_storage_alone(path):
    """So that every path may be in a bucket; mypy knows that a path has no methods that read or write."""
    tree, here = ast.parse(path.read_text()), str(path.relative_to(ROOT)).removeprefix("ddx/")
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    if here not in OPENS_FILES:
        assert "open" not in called
        assert not {module.split(".")[0] for module in imports(path)} & {"shutil", "glob", "fcntl"}
        assert "ddx.runtime.bucket" not in set(imports(path))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_one_idea(path):
    assert len(path.read_text().splitlines()) <= 300


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import ddx", ("jax", "flax", "tensorflow_datasets")),
        (
            "import ddx.cli.command; ddx.config.default_config(); ddx.config.files.load('digits')",
            ("jax", "flax", "tensorflow_datasets", "orbax"),
        ),
        ("import ddx.cli.convert", ("jax", "flax", "orbax", "torch")),
        ("import ddx.features", ("jax", "flax", "orbax")),
        ("import ddx.evaluation", ("matplotlib",)),
        ("import ddx.training", ("tensorflow", "torch", "tensorflow_datasets", "matplotlib")),
    ],
)
def test_imports_are_cheap(statement, unwanted):
    code = f"{statement}; import sys; print([name for name in {unwanted} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_importing_and_building_touches_no_device():
    code = (
        "import jax, ddx.system, ddx.config, ddx.training\n"
        "from jax._src import xla_bridge\n"
        "ddx.config.validate(ddx.config.default_config()); ddx.ddpm(); ddx.trajectory(1000, 50)\n"
        "print(xla_bridge.backends_are_initialized())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stdout + done.stderr
