#!/usr/bin/env bash
# Runs a command on every host of a TPU, shows what it prints, and returns its exit code. The command does not need the
# connection: after Ctrl-C or a lost network it runs on, and the same command here attaches to it.
#
#   launch/tpu/run.sh --name=ddx --zone=us-central1-a --workdir=gs://BUCKET/digits -- python -m launch.sample --gif

# shellcheck source=launch/tpu/common.sh
source "$(dirname "$0")/common.sh"
parse "$@"
require name zone
require_command
require_gcloud
require_tpu

say_at_interrupt
run_job
