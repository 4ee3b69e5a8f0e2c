#!/usr/bin/env bash
# Ends the command that run.sh or watch.sh has started, and waits until it has saved. End watch.sh first.
#
#   launch/tpu/stop.sh --name=ddx --zone=us-central1-a

# shellcheck source=launch/tpu/common.sh
source "$(dirname "$0")/common.sh"
parse "$@"
require name zone
require_no_command
require_gcloud
require_tpu

on_workers "bash ddx/launch/tpu/job.sh stop"
