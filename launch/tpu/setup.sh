#!/usr/bin/env bash
# Installs this checkout, as it is now, on every host of a TPU, with a Python of its own. Run it again after changes.
#
#   launch/tpu/setup.sh --name=ddx --zone=us-central1-a --type=v3-8

# shellcheck source=launch/tpu/common.sh
source "$(dirname "$0")/common.sh"
parse "$@"
require name zone type
require_no_command
require_gcloud
require_tpu

code=0
set_up || code=$?
case $code in
  0) [[ $dry_run ]] || say "$name is set up. Next: launch/tpu/run.sh or launch/tpu/watch.sh with the same flags, and -- COMMAND" ;;
  75) fail "a job runs on $name, so nothing was installed. Wait for it, or end it with stop.sh" ;;
  *) fail "$name was not set up (exit code $code): see above. It may help to run setup.sh again" ;;
esac
