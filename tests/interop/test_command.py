"""launch.convert as a user types it."""

import time

import pytest

from tests.interop.test_networks import written
from tests.test_cli import run


def test_help_is_quick_and_lists_the_flags():
    start = time.perf_counter()
    done = run("convert", "--help")
    assert time.perf_counter() - start < 3
    assert "--source" in done.stdout and "python -m launch.convert" in done.stdout


def test_a_folder_becomes_a_run(tmp_path):
    source = written(tmp_path / "source", "copied")
    done = run("convert", "--from=diffusers", f"--source={source}", f"--out={tmp_path}/run", "--config=ddpm_cifar10")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"wrote {tmp_path}/run: a network of 702,499 parameters for images of 16 x 16 x 3. Draw some with"
        f" python -m launch.sample --workdir={tmp_path}/run\n"
    )


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ([], 2, "--from is missing. Pass it, as --from=diffusers"),
        (["--from=diffuser", "--source=x", "--out=y"], 2, "--from=diffuser is unknown. Did you mean diffusers?"),
        (["--workdir=x"], 2, "--workdir belongs to --to. Leave it out, and name the folder to make with --out"),
        (["--from=diffusers", "--source=/nowhere", "--out=/tmp/y"], 3, "there is no file or folder /nowhere. Name"),
        (["--from=ddim", "--source=/no.pt", "--out=/tmp/y"], 3, "there is no file or folder /no.pt. Name that of the"),
        (["--from=diffusers", "--source=/", "--out=/tmp/y"], 3, "/ has no config.json"),
        (["--from=ddim", "--source=/nowhere", "--out=s3://x/y"], 2, "--out=s3://x/y is neither a path"),
    ],
)
def test_mistakes_are_one_line_with_an_exit_code(args, code, message):
    done = run("convert", *args)
    assert done.returncode == code and message in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
