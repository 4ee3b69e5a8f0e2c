"""A stand-in for gcloud: one TPU whose machine is a folder, where ssh runs its commands; or what a test makes happen.

A test puts it on PATH under the name gcloud, with $CLOUD naming a folder that it has filled:

    plan.json       {"create": [1], "job": [{"code": 143, "state": "PREEMPTED"}]}: how the next calls of a kind end,
                    with an exit code alone or with what happens first; without a plan a call does its work
    state, request  what `describe` tells of the machine and of the queued resource; without the file there is none
    token, project  what gcloud knows of the person; without them, nobody is logged in or no project is set

It leaves there calls.jsonl, the arguments of every call; machine/, the home of whoever logs in; and login, the process
group of the last who did.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

CLOUD = pathlib.Path(os.environ["CLOUD"])
MACHINE = CLOUD / "machine"


def main(args):
    with open(CLOUD / "calls.jsonl", "a") as file:
        file.write(json.dumps(args) + "\n")
    if args[0] in ("auth", "config"):
        return told(CLOUD / ("token" if args[0] == "auth" else "project"), "You do not have an active account.")
    assert args[:2] == ["compute", "tpus"], args
    group, verb, name = args[2:5]
    command = next((arg.removeprefix("--command=") for arg in args if arg.startswith("--command=")), "")
    kind = {"ssh": "job" if "job.sh run" in command else "install" if "install.sh" in command else "ssh"}.get(
        verb, verb
    )
    found = planned(kind)
    if found is not None:
        return found
    if verb == "describe":
        missing = f"ERROR: (gcloud) NOT_FOUND: Resource 'projects/p/{name}' was not found"
        return told(CLOUD / ("request" if group == "queued-resources" else "state"), missing)
    if verb == "create":
        assert not (CLOUD / "state").exists(), "it exists"
        MACHINE.mkdir()
        (CLOUD / "state").write_text("READY")
        if group == "queued-resources":
            (CLOUD / "request").write_text("ACTIVE")
    elif verb == "delete":
        for path in (CLOUD / "state", CLOUD / "request"):
            path.unlink(missing_ok=True)
        shutil.rmtree(MACHINE, ignore_errors=True)
    elif verb == "scp":
        shutil.copy(args[4], MACHINE)
    elif verb == "ssh":
        environment = os.environ | {"HOME": str(MACHINE)}
        login = subprocess.Popen(["bash", "-c", command], cwd=MACHINE, env=environment, start_new_session=True)
        (CLOUD / "login").write_text(str(login.pid))
        return login.wait() % 256
    return 0


def told(path, otherwise):
    """Print what a file holds; without it, say so."""
    if path.exists():
        print(path.read_text())
        return 0
    print(otherwise, file=sys.stderr)
    return 1


def planned(kind):
    """The exit code that is planned for the next call of a kind, after what was planned with it has happened."""
    path = CLOUD / "plan.json"
    plan = json.loads(path.read_text()) if path.exists() else {}
    if not plan.get(kind):
        return None
    found = plan[kind].pop(0)
    path.write_text(json.dumps(plan))
    if isinstance(found, int):
        return found
    for name in ("state", "request"):
        if found.get(name):
            (CLOUD / name).write_text(found[name])
    print(found.get("prints", ""), end="")
    print(found.get("says", ""), file=sys.stderr)
    return found["code"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
