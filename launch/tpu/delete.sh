#!/usr/bin/env bash
# Deletes a TPU and its disk. Give --queued if it was created with it.
#
#   launch/tpu/delete.sh --name=ddx --zone=us-central1-a

# shellcheck source=launch/tpu/common.sh
source "$(dirname "$0")/common.sh"
parse "$@"
require name zone
require_no_command
require_gcloud

delete || fail "$name was not deleted from $zone: gcloud says why above. If it is a queued resource, add --queued"
