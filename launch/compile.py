"""The name of a command: `python -m launch.compile` is `python -m ddx.cli.compile`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("ddx.cli.compile", run_name="__main__", alter_sys=True)
