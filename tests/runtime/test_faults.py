"""Errors of other libraries: the line that tells what went wrong, and a lack of memory with what helps."""

import functools
import json
from types import SimpleNamespace

import numpy as np
import pytest

from ddx import config as config_lib
from ddx.runs.job import Job
from ddx.runtime import devices, faults, parallel
from ddx.runtime.errors import ConfigError, OutOfMemoryError, printable, telling_line
from ddx.training.remedies import smaller_step

TPU_COMPILER = (
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 20.05G of 15.75G"
    " hbm. Exceeded hbm capacity by 4.30G.\n\nTotal hbm usage >= 20.55G:\n    reserved        516.00M \n    program    "
    "     20.05G \n    arguments            0B \n\n  Program hbm requirement 20.05G:\n    HLO temp         20.05G"
    " (99.9% utilization)\n\n  Largest allocations in hbm:\n\n  1. Size: 4.00G\n     Shape: f32[128,256,256,128]\n"
    "     ==========================\n\n"
)
TPU_RUNTIME = (
    "RESOURCE_EXHAUSTED: Error allocating device buffer: Attempting to allocate 1.00G. That was not possible. There are"
    " 512.00M free.; (0x0x0_HBM0)"
)
TPU_PROGRAM = (
    "RESOURCE_EXHAUSTED: Error loading program: Attempting to reserve 12.70G at the bottom of memory. That was not"
    " possible. There are 10.24G free, 0B reserved, and 10.24G reservable."
)
GPU = (
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.\nBufferAssignment OOM Debugging.\n"
    "BufferAssignment stats:\n             parameter allocation:    4.00GiB\nPeak buffers:\n\tBuffer 1:\n\t\tSize:"
    " 8.00GiB\n\t\t==========================\n\n"
)
GPU_DRIVER = "INTERNAL: Failed to load in-memory CUBIN: CUDA_ERROR_OUT_OF_MEMORY: out of memory"
CPU_LATER = "INTERNAL: Error dispatching computation: Out of memory allocating 4608000000000000 bytes."
CPU = "RESOURCE_EXHAUSTED: Out of memory allocating 70368744177664 bytes."


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (TPU_COMPILER, "XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 20.05G of 15.75G"),
        (TPU_RUNTIME, "Error allocating device buffer: Attempting to allocate 1.00G. That was not possible."),
        (TPU_PROGRAM, "Error loading program: Attempting to reserve 12.70G at the bottom of memory."),
        (GPU, "Out of memory while trying to allocate 17179869184 bytes. REMEDY"),
        (GPU_DRIVER, "INTERNAL: Failed to load in-memory CUBIN: CUDA_ERROR_OUT_OF_MEMORY: out of memory. REMEDY"),
        (CPU_LATER, "INTERNAL: Error dispatching computation: Out of memory allocating 4608000000000000 bytes. REM"),
        (CPU, "Out of memory allocating 70368744177664 bytes. REMEDY"),
    ],
)
def test_a_device_without_memory_is_one_line_with_what_helps(text, line):
    error = faults.explain(RuntimeError(text), "training", "REMEDY")
    assert isinstance(error, OutOfMemoryError) and error.exit_code == 2
    assert str(error).startswith(f"out of memory while training: {line}")
    assert str(error).endswith(". REMEDY") and "\n" not in str(error)


def test_a_host_without_memory_is_one_line_with_what_helps():
    error = faults.explain(MemoryError("Unable to allocate 72.8 TiB for an array"), "sampling", "REMEDY")
    assert str(error) == "out of memory on the host while sampling: Unable to allocate 72.8 TiB for an array. REMEDY"
    assert str(faults.explain(MemoryError())) == "out of memory on the host: MemoryError. Ask for less at once"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("RESOURCE_EXHAUSTED: Quota exceeded for requests per minute"),  # of a storage service
        ValueError(CPU),
        RuntimeError("INTERNAL: something else"),
        OSError(28, "No space left on device"),
    ],
)
def test_other_errors_are_no_lack_of_memory(error):
    assert faults.explain(error) is None


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError(TPU_COMPILER.replace("\n\nTotal", "\n=====\nTotal")), "hbm. Exceeded hbm capacity by 4.30G"),
        (ValueError("=====\n\n   the main thing.\nmore\n====="), "the main thing"),
        (ValueError("use 'v' or 'x0'"), "use 'v' or 'x0'"),
        (KeyError("x"), "x"),
        (KeyError('Key "a" is not there\nDid you mean "b"?'), 'Key "a" is not there Did you mean "b"?'),
        (AttributeError(KeyError("first\nDid you mean b?")), "first Did you mean b?"),
        (RuntimeError("callback failed: Traceback (most recent call last):\n  File x\nValueError: why"), "Error: why"),
        (ValueError(""), "ValueError"),
        (ValueError("{\n}"), "ValueError"),
        (ValueError("a\tb\x1b[1m"), "a\\tb\\x1b[1m"),
    ],
)
def test_the_line_that_tells_most_is_shown(error, line):
    assert telling_line(error).endswith(line)


def test_a_very_long_line_is_cut():
    assert len(telling_line(ValueError("x" * 10_000))) <= 400


def test_what_a_terminal_does_not_show_is_escaped():
    assert printable("runs/a\nb\r\x1b[2J\udcff é 図") == r"runs/a\nb\r\x1b[2J\udcff é 図"


def test_a_step_is_made_smaller_by_what_it_does_not_use_yet(tiny_config):
    config = tiny_config(train__batch_size=16 * devices.count())
    assert smaller_step(config) == (
        "Try --config.model.remat=True, --config.train.accumulation=2, --config.model.dtype=bfloat16 or a smaller"
        " --config.train.batch_size"
    )
    config.model.remat, config.train.accumulation, config.model.dtype = True, 8, "bfloat16"
    assert smaller_step(config) == "Try --config.train.accumulation=16 or a smaller --config.train.batch_size"
    config.train.accumulation = 16
    assert smaller_step(config) == "Try a smaller --config.train.batch_size"
    config.train.batch_size, config.train.accumulation = 15 * devices.count(), 1
    assert "--config.train.accumulation=3" in smaller_step(config)


def test_a_network_that_no_memory_holds_is_one_line(tiny_config, tmp_path, monkeypatch):
    from ddx.training import train

    monkeypatch.setattr(parallel, "run_once", allocate)
    with pytest.raises(OutOfMemoryError, match=r"^out of memory while making the network: .*Use a smaller network"):
        train(tiny_config(train__batch_size=1), tmp_path)


def allocate(*_):
    """What JAX does when a program does not fit."""
    import jax

    return jax.jit(lambda: jax.numpy.zeros(2**46))().block_until_ready()


def test_a_training_step_that_no_memory_holds_is_one_line(tiny_config, tmp_path, monkeypatch):
    from ddx.training import train

    compiled = parallel.data_parallel
    monkeypatch.setattr(parallel, "data_parallel", lambda *how: functools.wraps(compiled(*how))(lambda *_: allocate()))
    with pytest.raises(OutOfMemoryError, match=r"^out of memory while training: .*--config\.model\.remat=True,"):
        train(tiny_config(train__num_steps=1), tmp_path)


def test_grids_that_no_memory_holds_are_told_from_steps(tiny_config):
    from ddx.training.watch import Watch

    watch = SimpleNamespace(generator=allocate, _config=tiny_config())
    with (
        pytest.raises(OutOfMemoryError, match=r"^out of memory while drawing samples: .*sample\.batch_size$"),
        devices.job("training", "Train less"),
    ):
        Watch.draw(watch, 1, None, None, lambda work: work(), None)


@pytest.mark.parametrize(
    ("job", "what", "place"),
    [
        ("sample", "sampling", "ddx.sampling.generator.Generator.batches"),
        ("interpolate", "interpolating", "ddx.sampling.generator.Generator.initial"),
        ("evaluate", "evaluating", "ddx.evaluation.bound.Bound.parts"),
        ("measure", "measuring", "ddx.evaluation.sums._parts"),
    ],
)
def test_a_job_that_no_memory_holds_is_one_line(whole, tmp_path, monkeypatch, job, what, place):
    from ddx import evaluation, sampling

    call = getattr(sampling if hasattr(sampling, job) else evaluation, job)
    with monkeypatch.context() as patch:
        patch.setattr(place, allocate)
        with pytest.raises(OutOfMemoryError, match=f"^out of memory while {what}: .*Use a smaller --batch_size"):
            call(whole, out=tmp_path)


def test_after_the_first_batch_did_not_fit_the_same_job_may_take_fewer_at_once(whole, tmp_path, monkeypatch):
    from ddx.sampling import sample

    with monkeypatch.context() as patch:
        patch.setattr("ddx.sampling.generator.Generator._take", allocate)
        with pytest.raises(OutOfMemoryError, match="Use a smaller --batch_size"):
            sample(whole, 4, out=tmp_path)
    assert "wrote 4 samples" in sample(whole, 4, batch_size=2, out=tmp_path).message
    sample(whole, 4, out=tmp_path / "at once")
    samples = [np.load(folder / "samples.npz")["samples"] for folder in (tmp_path, tmp_path / "at once")]
    np.testing.assert_array_equal(*samples)


def test_a_job_with_parts_keeps_its_size_and_refuses_another(tmp_path):
    record = {"weights": "a", "seed": 0}
    job = Job(tmp_path, "job", record, 4, 2)
    job.begin()
    assert Job(tmp_path, "job", record | {"seed": 1}, 4, 1).size == 1  # nothing was done yet
    job.write(0, x=np.zeros(2))
    assert Job(tmp_path, "job", record, 4, 1).size == 2
    with pytest.raises(ConfigError, match="holds another job"):
        Job(tmp_path, "job", record | {"seed": 1}, 4, 2)
    job.write(2, x=np.zeros(2))
    job.finish(result={"sha256": ""})
    job.remove_parts()
    with pytest.raises(ConfigError, match="holds another job"):
        Job(tmp_path, "job", record | {"seed": 1}, 4, 2)
    assert json.loads((tmp_path / "job.json").read_text())["at_once"] == 2


def test_config_errors_keep_their_quotes():
    values = config_lib.default_config().to_dict()
    values["process"]["schedule"] = "jsd"
    with pytest.raises(ConfigError) as error:
        config_lib.validate(values)
    assert str(error.value).endswith("use 'v' or 'x0'")
