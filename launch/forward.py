"""The name of a command: `python -m launch.forward` is `python -m ddx.cli.forward`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("ddx.cli.forward", run_name="__main__", alter_sys=True)
