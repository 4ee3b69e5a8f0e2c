#!/usr/bin/env bash
# Creates a TPU and waits until it is ready.
#
#   launch/tpu/create.sh --name=ddx --zone=us-central1-a --type=v3-8
#   launch/tpu/create.sh --name=ddx --zone=us-west4-a --type=v5litepod-8 --queued --spot

# shellcheck source=launch/tpu/common.sh
source "$(dirname "$0")/common.sh"
parse "$@"
require name zone type
require_no_command
require_gcloud

create || fail "$name was not created in $zone: gcloud says why above. If there is no room, try --queued or another zone"
if [[ $dry_run ]]; then
  echo "# every $delay s, until it is READY:"
  look
  exit
fi
said=''
while look || fail "gcloud does not tell how $name is doing, as it says above. Run delete.sh if you give up"; do
  case $phase in
    ready) break ;;
    waiting) [[ $said == "$state" ]] || say "$name is $state; Ctrl-C stops waiting, not the request" ;;
    *) fail "$name is $state. Run delete.sh, and create.sh again or in another zone" ;;
  esac
  said=$state
  sleep "$delay"
done
say "$name is ready, and costs money until delete.sh. Next: launch/tpu/setup.sh with the same flags"
