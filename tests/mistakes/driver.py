"""Makes all mistakes of one command, each in a forked process, and writes down what came of it.

python -m tests.mistakes.driver COMMAND FOLDER PART PARTS, where FOLDER/here holds the runs of `test_mistakes.py`.

A command's module is imported once, with all that it imports when it works; a fork takes milliseconds instead of
seconds, and a mistake that hangs, exits or aborts ends alone.
"""

import importlib
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import sys
import traceback
import warnings

sys.dont_write_bytecode = True  # beside config files
SECONDS, WAIT = 6, 100  # of a processor, or of the clock, after which a mistake counts as one that hangs
WORK = {"train": "ddx.training", "sample": "ddx.sampling", "evaluate": "ddx.evaluation"}
WORK["forward"] = "ddx.sampling.forward"


def main() -> None:
    name, folder, part, parts = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    from tests.mistakes.generate import mistakes_of

    module = importlib.import_module(f"ddx.cli.{name}")
    known = mistakes_of(name, module)
    importlib.import_module(WORK[name])
    import jax  # noqa: F401 - so that a fork finds it
    from jax._src import xla_bridge

    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
    os.chdir(folder / "here")
    with open(folder / f"{name}.results", "w", buffering=1) as file:
        for i, mistake in enumerate(known):
            if random.Random(i).randrange(parts) == part:
                print(json.dumps(_made(module, mistake, xla_bridge)), file=file)


def _made(module, mistake, xla_bridge):
    for name, content in mistake.files.items():
        pathlib.Path(name).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(name).write_text(content)
    before = _listing()
    child = os.fork()
    if not child:
        _child(module, mistake, xla_bridge)
    _, status, usage = os.wait4(child, 0)
    out, err = (pathlib.Path(f"../{name}").read_text(errors="replace") for name in ("stdout", "stderr"))
    touched = pathlib.Path("../touched").exists()
    after = _listing()
    written = sorted(after.keys() - before.keys() | {path for path in before if before[path] != after.get(path)})
    for path in sorted(after.keys() - before.keys(), reverse=True):
        shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    for name in mistake.files:
        top = pathlib.Path(name).parts[0]
        shutil.rmtree(top) if os.path.isdir(top) else os.unlink(top)
    code, cpu = os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
    found = {"code": code, "stdout": out, "stderr": err, "touched": touched, "written": written}
    return {"mistake": mistake._asdict(), **found, "cpu": cpu, "rss": usage.ru_maxrss}


def _child(module, mistake, xla_bridge):
    code = 1
    try:
        pathlib.Path("../touched").unlink(missing_ok=True)
        for number, name in ((1, "stdout"), (2, "stderr")):
            file = os.open(f"../{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        signal.alarm(WAIT)
        sys.argv = [f"launch.{mistake.command}", *mistake.args]
        module.command.run(module.main)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if xla_bridge.backends_are_initialized():
            pathlib.Path("../touched").touch()
        os._exit(code)


def _listing():
    return {
        os.path.join(parent, name): os.lstat(os.path.join(parent, name))[6:9:2]
        for parent, folders, names in os.walk(".")
        for name in (*folders, *names)
    }


if __name__ == "__main__":
    main()
