#!/usr/bin/env bash
# On the machine of a TPU: one command at a time that outlives the connection which started it.
#
#   bash launch/tpu/job.sh run COMMAND   starts it, or attaches to it; shows what it prints; returns its exit code
#   bash launch/tpu/job.sh stop          sends it SIGTERM and waits until it has ended

set -euo pipefail
cd "$(dirname "$0")/../.."
job=~/ddx-job
mkdir -p "$job"

action=$1
shift
# The job holds the lock as long as it lives, also when the machine restarts and another process gets its number.
exec 9> "$job/lock"
if flock -n 9; then
  [[ $action == run ]] || { echo "no command runs here" && exit; }
  PATH=~/ddx-python/bin:$PATH
  rm -f "$job/exit_code"
  [[ ! -s $job/log ]] || mv "$job/log" "$job/log.1" # why the one before has ended
  : > "$job/log" # before the job, which begins in its own time, so that whoever shows it finds it
  printf '%q ' "$@" > "$job/command"
  # The trap keeps the shell alive at a SIGTERM to the whole group, so that it can tell how the command has ended.
  # shellcheck disable=SC2016
  setsid bash -c 'trap : TERM; code=0; "$@" || code=$?; echo "$code" > ~/ddx-job/exit_code' job "$@" \
    >> "$job/log" 2>&1 < /dev/null &
  echo $! > "$job/pid"
  lines=+1
elif [[ ! -e $job/command ]]; then
  echo "error: ddx is being installed here. Wait until that is done" >&2
  exit 2
elif [[ $action == run && $(printf '%q ' "$@") != "$(cat "$job/command")" ]]; then
  echo "error: $(cat "$job/command")runs here already. Wait for it, or end it with stop.sh" >&2
  exit 2
else
  lines=100
fi
exec 9>&-

pid=$(cat "$job/pid")
[[ $action == run ]] || kill -TERM -- "-$pid"
tail --pid="$pid" --sleep-interval=0.5 --lines="$lines" --follow "$job/log"
code=$(cat "$job/exit_code" 2> /dev/null || echo 137) # without one, it was killed
[[ $action == run ]] || { echo "ended with exit code $code" && exit; }
exit "$code"
