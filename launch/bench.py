"""The name of a command: `python -m launch.bench` is `python -m ddx.cli.bench`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("ddx.cli.bench", run_name="__main__", alter_sys=True)
