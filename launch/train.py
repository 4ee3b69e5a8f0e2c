"""The name of a command: `python -m launch.train` is `python -m ddx.cli.train`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("ddx.cli.train", run_name="__main__", alter_sys=True)
