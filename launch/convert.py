"""The name of a command: `python -m launch.convert` is `python -m ddx.cli.convert`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("ddx.cli.convert", run_name="__main__", alter_sys=True)
