"""More than a thousand mistakes: each is refused in one line that names what is at fault and says how to mend it."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest

from ddx.config.keys import KEYS

ROOT = pathlib.Path(__file__).parents[2]
COMMANDS = ("train", "sample", "evaluate", "forward")
# What a sentence has that says what to do.
ADVICE = re.compile(
    r"Did you mean |\bmust (be|divide|lie|decrease|visit|list) |\b(needs?|expected|choose|use|give|leave|set|pass|name|"
    r"return|write|written|see|let|restore|start|add|remove|nest|copy|store|put|prepare|train|measure|lower|raise|"
    r"convert|define|fix|keep|replace|allow|wait|show|try|unset)\b",
    re.IGNORECASE,
)
# Mistakes that show only when the data or the checkpoint are read: devices may be in use by then.
LATE = {"data", "labels", "path", "impossible with the network"}


@pytest.fixture(
    scope="module", params=[pytest.param(6, id="a sixth"), pytest.param(1, id="all", marks=pytest.mark.soak)]
)
def results(request, whole, heated, improved, tmp_path_factory):
    """What came of the mistakes: of a sixth of them, or of all."""
    found = []
    for command in COMMANDS:
        folder = tmp_path_factory.mktemp(command)
        for name, run in {"run": whole, "heat": heated, "classes": improved}.items():
            shutil.copytree(run, folder / "here" / name)
        driver = [sys.executable, "-m", "tests.mistakes.driver", command, str(folder), "0", str(request.param)]
        subprocess.run(driver, cwd=ROOT, check=True, timeout=1500)
        found += map(json.loads, (folder / f"{command}.results").read_text().splitlines())
    assert len(found) > 1900 / request.param
    return found


def those(results, wrong):
    """The commands, and what they said, of mistakes that came out wrong."""
    return [
        (told["mistake"]["command"], told["mistake"]["args"], told["stderr"][-500:]) for told in results if wrong(told)
    ]


@pytest.mark.timeout(1800)
def test_a_mistake_ends_with_its_exit_code(results):
    assert not [
        (told["code"], told["mistake"], told["stderr"][-500:])
        for told in results
        if told["code"] != told["mistake"]["code"]
    ]


def test_a_mistake_is_one_line(results):
    """Before the data are read the first line of a run may be there, which names the devices."""
    line, devices = re.compile(r"error: [^\n]{10,3100}\n"), re.compile(r"(devices  [^\n]*\n)?")

    def is_wrong(told):
        said = told["stdout"] and (told["mistake"]["kind"] not in LATE or not devices.fullmatch(told["stdout"]))
        return said or not line.fullmatch(told["stderr"])

    assert not those(results, is_wrong)


def test_the_message_names_what_is_at_fault(results):
    assert not those(results, lambda told: not any(name in told["stderr"] for name in told["mistake"]["names"]))


def test_the_message_says_how_to_mend_it(results):
    assert not those(results, lambda told: not ADVICE.search(told["stderr"]))


def test_a_mistake_is_told_before_a_device_is_touched(results):
    """An evaluation reads its settings beside the network."""
    early = [
        told for told in results if told["mistake"]["command"] != "evaluate" and told["mistake"]["kind"] not in LATE
    ]
    assert len(early) > len(results) / 2
    assert not those(early, lambda told: told["touched"])


def test_a_mistake_writes_nothing(results):
    """But for the lock of a run's folder, which is taken before the data are read."""
    lock = {"./new", "./new/LOCK"}
    assert not [(told["written"], told["mistake"]) for told in results if set(told["written"]) - lock]


def test_a_mistake_is_told_at_once_and_takes_no_memory(results):
    assert not those(results, lambda told: told["cpu"] > 4 or told["rss"] > 2**20)


def test_typos_within_two_edits_find_what_was_meant(results):
    typos = [told for told in results if told["mistake"]["suggestion"]]
    right = [
        told for told in typos if re.search(rf"Did you mean \S*\b{told['mistake']['suggestion']}\?", told["stderr"])
    ]
    assert len(typos) > 50 and len(right) >= 0.95 * len(typos), those(typos, lambda told: told not in right)


@pytest.mark.parametrize("key", [key for key, spec in KEYS.items() if type(spec.default) in (int, float, tuple)])
def test_every_number_has_limits(key):
    spec = KEYS[key]
    numbers = (
        [2**63, 10**23, -(10**12)] if type(spec.default) is not float else [1e308, float("inf"), float("nan"), -1e12]
    )
    for number in numbers:
        assert not spec.holds((number,) if type(spec.default) is tuple else number), number
    if type(spec.default) is tuple:
        assert not spec.holds((1,) * 1000)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (
            ["train", "--config=digits", "--config.train.batch_size=9223372036854775808"],
            2,
            "train.batch_size=92233720368",
        ),
        (["train", "--config=digits", "--config.train.num_steps=1000000000000"], 2, "at most 1,000,000,000"),
        (["train", "--config=digits", "--config.sample.trajectory=power9999"], 2, "any power from 1 to 100"),
        (["train", "--confg=digits"], 2, "unknown flag --confg. Did you mean --config?"),
        (["sample", "--num_samples=99999999999999999999999"], 2, "--num_samples=99999999999999999999999 must be"),
        (["evaluate", "--split="], 2, "--split is empty. Leave it out"),
        (["forward", "--sigma_blur_max=1e300"], 2, "--sigma_blur_max=1e+300 must be a number from"),
        (["forward", "--out=/proc/x.png"], 2, "cannot write to /proc. Choose another --out"),
    ],
)
def test_a_process_of_its_own_tells_a_mistake_in_five_seconds(args, code, message, tmp_path):
    workdir = [] if args[0] == "forward" else [f"--workdir={tmp_path / 'run'}"]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", f"launch.{args[0]}", *args[1:], *workdir],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr) and message in done.stderr, done.stderr
    assert not any(tmp_path.iterdir())
    assert time.perf_counter() - start < 60  # five seconds where nothing else runs
