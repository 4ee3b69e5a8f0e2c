"""The name of a command: `python -m launch.features` is `python -m ddx.cli.features`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("ddx.cli.features", run_name="__main__", alter_sys=True)
