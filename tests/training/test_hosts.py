"""A run on two hosts: processes of four devices each that end where one process does."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ddx import config as config_lib
from ddx.evaluation import evaluate
from ddx.sampling import sample
from ddx.training import train
from tests import processes
from tests.training.test_run import ROOT, largest_difference


def start(command, workdir, *args, each=((), ())):
    """The command on both hosts, with arguments for each, the first one's output in workdir.0.log."""
    found = []
    for i, environment in enumerate(processes.hosts(2, 4)):
        log = open(workdir.with_suffix(f".{i}.log"), "w")
        line = [sys.executable, "-m", f"launch.{command}", f"--workdir={workdir}", *args, *each[i]]
        found.append(subprocess.Popen(line, cwd=ROOT, env=environment, stdout=log, stderr=log, text=True))
    return found


def end(running, workdir):
    """The exit codes, and the last line of each host."""
    codes = [process.wait(timeout=240) for process in running]
    logs = [workdir.with_suffix(f".{i}.log").read_text().splitlines() for i in range(2)]
    return codes, [next((line for line in log[::-1] if "Gloo" not in line), "") for log in logs]


def given(config, path):
    path.write_text(config_lib.to_json(config))
    return f"--config={path}"


def steps_logged(workdir):
    return [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_signal_to_one_stops_both_at_one_step_and_one_process_ends_where_it_would_have(
    improved, improved_config, tmp_path
):
    run, config = tmp_path / "run", improved_config()
    running = start("train", run, given(config, tmp_path / "config.json"))
    log = run.with_suffix(".0.log")
    while "training 2/" not in log.read_text() and running[0].poll() is None:
        time.sleep(0.05)
    running[1].send_signal(signal.SIGTERM)
    codes, lines = end(running, run)
    assert codes == [143, 143], log.read_text()
    (step,) = (int(line.split()[3]) for line in {*lines})  # both say the same
    assert "devices  8 x cpu (cpu) on 2 hosts" in log.read_text() and 2 <= step < 12
    assert max(int(path.name) for path in (run / "checkpoints").iterdir()) == step
    assert train(config, run).finished
    assert largest_difference(improved, run) < 1e-6
    assert steps_logged(run) == steps_logged(improved)


@pytest.mark.parametrize("differ", ["settings", "images"])
def test_hosts_that_would_not_train_the_same_network_are_refused_and_all_say_why(differ, improved_config, tmp_path):
    changes = [{}, {"train__learning_rate": 0.5}]
    told = "train.learning_rate is 0.5 on host 1, and 0.001 on host 0. Start the same command"
    if differ == "images":
        for i in range(2):
            np.save(tmp_path / f"{i}.npy", np.full((20, 8, 8, 1), i, np.uint8))
        common = {"data__name": "array", "model__class_conditional": False}
        changes = [common | {"data__dir": str(tmp_path / f"{i}.npy")} for i in range(2)]
        told = "the data's "
    each = [[given(improved_config(**changes[i]), tmp_path / f"{i}.json")] for i in range(2)]
    run = tmp_path / "run"
    codes, lines = end(start("train", run, each=each), run)
    assert codes == [2, 2]
    assert all(line.startswith("error: ") and told in line for line in lines), lines


@pytest.mark.soak
def test_two_hosts_resume_draw_and_score_as_one_does(improved, improved_config, tmp_path):
    run, config = tmp_path / "run", improved_config()
    assert train(improved_config(train__num_steps=4), run).finished
    codes, _ = end(start("train", run, given(config, tmp_path / "config.json")), run)
    assert codes == [0, 0] and largest_difference(improved, run) < 1e-6
    settings = {"--num_samples=40": {"num_samples": 40}, "--gif": {"gif": True}, "--png": {"png": True}}
    out = tmp_path / "samples"
    codes, lines = end(start("sample", run, "--batch_size=8", f"--out={out}", *settings), run)
    assert codes == [0, 0] and lines[0].startswith("wrote 40 samples of step 12") and not lines[1].startswith("wrote")
    alone = sample(run, 40, batch_size=8, gif=True, png=True, out=tmp_path / "alone")
    for name in (*alone.files[:-1], "png/000039.png"):
        assert (out / name).read_bytes() == (alone.out / name).read_bytes(), name
    for metric in ("bpd", "statistics", "comparison"):
        out = tmp_path / metric
        args = [f"--metrics={metric}", "--max_examples=40", "--batch_size=8", f"--out={out}"]
        codes, _ = end(start("evaluate", run, *args), run)
        alone = evaluate(run, (metric,), max_examples=40, batch_size=8, out=tmp_path / f"{metric}_alone")
        assert codes == [0, 0]
        with np.load(out / f"{metric}.npz") as found:
            for name, array in alone.arrays().items():
                np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.soak
def test_a_host_that_is_killed_ends_the_other_and_the_run_resumes(improved, improved_config, tmp_path):
    run, config = tmp_path / "run", improved_config(train__checkpoint_every=2)
    running = start("train", run, given(config, tmp_path / "config.json"))
    while not (run / "checkpoints.last").exists():
        assert running[0].poll() is None
        time.sleep(0.05)
    running[1].kill()
    codes, _ = end(running, run)
    assert codes[0] not in (0, None)
    codes, _ = end(start("train", run, given(config, tmp_path / "config.json")), run)
    assert codes == [0, 0] and largest_difference(improved, run) < 1e-6
