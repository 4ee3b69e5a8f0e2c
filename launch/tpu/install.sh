#!/usr/bin/env bash
# On the machine of a TPU: a Python in ~/ddx-python, since the system's may be too old, and in it ddx from this checkout.
#
#   bash launch/tpu/install.sh tpu-v3,gcs

set -euo pipefail
cd "$(dirname "$0")/../.."
extras=${1:?name the extras of setup.cfg, such as tpu,gcs}
PATH=$HOME/.local/bin:$PATH

type -P uv > /dev/null || python3 -m pip install --quiet --user uv
uv venv --quiet --allow-existing --seed --python 3.12 ~/ddx-python
uv pip install --quiet --python ~/ddx-python/bin/python --editable ".[$extras]"
JAX_PLATFORMS=tpu ~/ddx-python/bin/python -c 'import jax; print("jax", jax.__version__, *jax.devices())'
