"""The name of a command: `python -m launch.sample` is `python -m ddx.cli.sample`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("ddx.cli.sample", run_name="__main__", alter_sys=True)
