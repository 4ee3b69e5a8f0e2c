#!/usr/bin/env bash
# Runs a command on a TPU until it is done: creates the TPU and sets it up where that is needed, and does so again after it
# was preempted. The run's folder is in a bucket, so that the same command resumes.
#
#   launch/tpu/watch.sh --name=ddx --zone=us-central1-a --type=v3-8 --spot --workdir=gs://BUCKET/digits \
#     -- python -m launch.train --config=digits

# shellcheck source=launch/tpu/common.sh
source "$(dirname "$0")/common.sh"
parse "$@"
require name zone type workdir
require_command
require_gcloud

if [[ $dry_run ]]; then
  look
  echo "# if it was preempted:"
  delete
  echo "# if it was preempted, or does not exist:"
  create
  echo "# when it is READY, unless a job runs there:"
  set_up
  echo "# again and again, until it ends with exit code 0, 2, 4 or 5, or fails $((retries + 1)) times in a row:"
  run_job
  exit
fi

longest_pause=600 # seconds
failures=0
last_failure=0
is_set_up=''
hopeless=''

# failed CODE WHAT [LIMIT]: wait, longer after every failure in a row, or give up. Half an hour without one ends the row,
# and so does a preemption, which is no failure.
failed() {
  local limit=${3:-$retries} pause now
  [[ ! $hopeless ]] || stop "$1" "$2"
  now=$(date +%s)
  ((now - last_failure < 3 * longest_pause)) || failures=0
  last_failure=$now
  if ((failures >= limit)); then
    say "error: $2. Giving up after $((failures + 1)) failures in a row; $name may still cost money, see delete.sh"
    exit "$1"
  fi
  pause=$((delay << (failures < 10 ? failures : 10)))
  pause=$((pause < longest_pause ? pause : longest_pause))
  failures=$((failures + 1))
  say "$2. Trying again in $pause s ($failures of $limit)"
  sleep "$pause"
}

stop() {
  say "error: $2. Not tried again; $name still costs money, see delete.sh"
  exit "$1"
}

say_at_interrupt
said=''
while true; do
  look || { failed 1 "gcloud does not tell how $name is doing" && continue; }
  [[ $phase == ready || $said == "$state" ]] || say "$name in $zone is $state"
  said=$state
  case $phase in
    waiting) sleep "$delay" && continue ;;
    stopped) stop 1 "somebody has stopped $name (state $state). Start it with gcloud, or delete it" ;;
    gone | missing)
      is_set_up=''
      [[ $state == FAILED || $phase == missing ]] || failures=0
      [[ $state != FAILED ]] || failed 1 "Google gave up the request for $name"
      [[ $phase == missing ]] || delete || { failed 1 "$name was not deleted: gcloud says why above" && continue; }
      attempt create || failed 1 "$name was not created in $zone: gcloud says why above"
      continue
      ;;
  esac

  if [[ ! $is_set_up ]]; then
    code=0
    attempt set_up || code=$?
    # 75: a job runs there, as when this script was ended and started again.
    ((code == 0 || code == 75)) || { failed 1 "$name was not set up (exit code $code)" && continue; }
    is_set_up=1
  fi

  code=0
  run_job || code=$?
  case $code in
    0 | 2 | 4 | 5 | 130) ;;
    # Preempted, most likely: that is no failure, and nothing is to be waited for.
    *) if look && [[ $phase == gone ]]; then
      say "the command ended with exit code $code, and $name in $zone is $state"
      said=$state
      continue
    fi ;;
  esac
  case $code in
    0) say "done. $name still costs money: delete it with launch/tpu/delete.sh" && exit ;;
    2) stop 2 "the command ended with exit code 2: a flag, a config, the TPU or too little memory, as it says above" ;;
    4) stop 4 "the command ended with exit code 4: the data cannot be read, or are not the run's, as it says above" ;;
    5) stop 5 "the command ended with exit code 5: the loss is no longer finite, as it says above" ;;
    130) stop 130 "somebody stopped the command at once, without saving (exit code 130)" ;;
    143) failed 143 "the command was stopped and has saved (exit code 143)" ;;
    # A bucket out of reach passes, a damaged checkpoint does not: a few tries tell them apart.
    3)
      failed 3 "the command ended with exit code 3: a checkpoint, a disk or the bucket, see docs/runs.md" \
        "$((retries < 3 ? retries : 3))"
      ;;
    *) failed "$code" "the connection or the command ended with exit code $code" ;;
  esac
done
