"""The name of a command: `python -m launch.evaluate` is `python -m ddx.cli.evaluate`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("ddx.cli.evaluate", run_name="__main__", alter_sys=True)
