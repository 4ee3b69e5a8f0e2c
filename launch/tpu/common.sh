# shellcheck shell=bash
# What the scripts of this folder share; they source it. All take the same flags and ignore those they do not need:
#
#   --name=NAME          name of the TPU, such as ddx
#   --zone=ZONE          zone that has such TPUs, such as us-central1-a
#   --project=PROJECT    Google Cloud project; without it, the one that gcloud is set to
#   --type=TYPE          v3-8, v5litepod-8 (a v5e), v6e-8 and the like
#   --version=VERSION    image of the machine; without it, the one for the chip
#   --spot               cheaper, and Google may take it back at any time
#   --queued             as a queued resource: wait in line until there is room
#   --workdir=gs://...   folder of the run, in a bucket; given on to the command
#   --retries=N          how often watch.sh tries again after failures in a row (10)
#   --delay=SECONDS      pause between two looks, and after the first failure (30)
#   --dry_run            print the commands and run none
#   -- COMMAND           what run.sh and watch.sh run on the TPU; to set a variable: -- env NAME=VALUE COMMAND

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
name='' zone='' project='' type='' version='' workdir='' spot='' queued='' dry_run='' retries=10 delay=30
command=()

say() { echo "$*" >&2; }
# Exit code 2 is for flags, as it is for every command of ddx.
fail() {
  say "error: $*"
  exit 1
}
die() {
  say "error: $*"
  exit 2
}

# Words as a shell reads them back, which is what a person can paste and what ssh hands to the other side.
quote() {
  local word flag escape="'\\''" separator=''
  for word in "$@"; do
    flag=''
    if [[ $word =~ ^--[a-z_-]+= ]]; then
      flag=${BASH_REMATCH[0]} word=${word#*=}
    fi
    case $word in
      '' | *[!A-Za-z0-9_@%+=:,./-]*) word="'${word//\'/$escape}'" ;;
    esac
    printf '%s%s%s' "$separator" "$flag" "$word"
    separator=' '
  done
}

run() {
  if [[ $dry_run ]]; then
    quote "$@" && echo
  else
    "$@"
  fi
}

# unknown FLAG: refuse it, and name the flag that was meant: one that it begins or contains, or a few letters away.
unknown() {
  local meant
  meant=$(printf '%s\n' name zone project type version workdir spot queued retries delay dry_run help |
    awk -v word="${1//-/_}" '
      function smallest(a, b, c) { return a <= b && a <= c ? a : b <= c ? b : c }
      function distance(a, b,   i, j, row, diagonal, above) {
        for (j = 0; j <= length(b); j++) row[j] = j
        for (i = 1; i <= length(a); i++) {
          diagonal = row[0]; row[0] = i
          for (j = 1; j <= length(b); j++) {
            above = row[j]
            row[j] = smallest(row[j] + 1, row[j - 1] + 1, diagonal + (substr(a, i, 1) != substr(b, j, 1)))
            diagonal = above
          }
        }
        return row[length(b)]
      }
      BEGIN { sub(/^_+/, "", word); least = length(word) / 2 }
      {
        far = word != "" && (index($0, word) == 1 || index(word, $0)) ? 0 : distance(word, $0)
        if (far <= least && (best == "" || far < least)) { least = far; best = $0 }
      }
      END { print best }')
  die "unknown flag $1. ${meant:+Did you mean --$meant? }See --help"
}

parse() {
  local flag value
  while (($#)); do
    flag=${1%%=*} value=${1#*=}
    [[ $value ]] || set -- "$flag" "${@:2}" # --name= is --name
    case $1 in
      --) shift && command=("$@") && break ;;
      --help)
        sed -n '2,/^$/s/^# \{0,1\}//p' "$0" && echo
        sed -n 's/^#   --/  --/p' "${BASH_SOURCE[0]}"
        exit
        ;;
      --spot | --queued | --dry_run) printf -v "${flag#--}" 1 ;;
      --name=?* | --zone=?* | --project=?* | --type=?* | --version=?* | --workdir=?* | --retries=?* | --delay=?*)
        printf -v "${flag#--}" %s "$value"
        ;;
      --spot=* | --queued=* | --dry_run=*) die "$flag takes no value. Write $flag, or leave it out" ;;
      --name | --zone | --project | --type | --version | --workdir | --retries | --delay)
        die "$flag has no value. Write $flag=VALUE; see --help"
        ;;
      -*) unknown "$flag" ;;
      *) die "unexpected argument $1. Flags are written --name=value, and the command for the TPU comes after --" ;;
    esac
    shift
  done
  check
}

check() {
  [[ $name =~ ^([a-z]([-a-z0-9]{0,61}[a-z0-9])?)?$ ]] ||
    die "--name=$name is no name of a TPU. Take at most 63 small letters, digits and hyphens, such as --name=ddx"
  [[ -z $zone || $zone =~ ^[a-z]+-[a-z]+[0-9]+-[a-z]$ ]] ||
    die "--zone=$zone is no zone, which has a letter at its end. Write it as --zone=us-central1-a"
  [[ -z $workdir || $workdir =~ ^gs://[^/]+/. ]] ||
    die "--workdir=$workdir goes with the machine. Name a folder in a bucket, such as --workdir=gs://BUCKET/digits"
  [[ $retries =~ ^[0-9]{1,4}$ ]] || die "--retries=$retries must be a whole number, such as --retries=10"
  [[ $delay =~ ^[0-9]{1,4}$ ]] || die "--delay=$delay must be whole seconds, such as --delay=30"
  retries=$((10#$retries)) delay=$((10#$delay)) # or 08 is a mistake in base 8
  [[ -z $type ]] || choose_by_chip
}

# What a chip needs: libtpu drives v2 and v3 up to a version that the extra tpu-v3 pins.
choose_by_chip() {
  local image
  extras=tpu,gcs
  case ${type%%-*} in
    v2 | v3) image=tpu-ubuntu2204-base extras=tpu-v3,gcs ;;
    v4) image=tpu-ubuntu2204-base ;;
    v5litepod) image=v2-alpha-tpuv5-lite ;;
    v5p) image=v2-alpha-tpuv5 ;;
    v6e) image=v2-alpha-tpuv6e ;;
    v5e) die "--type=$type is unknown. Google's name for it is --type=v5litepod-${type#*-}" ;;
    *) die "--type=$type is unknown. Choose one of v2-8, v3-8, v4-8, v5litepod-8, v5p-8 and v6e-8, or another size" ;;
  esac
  [[ $type =~ ^[a-z0-9]+-[1-9][0-9]*$ ]] || die "--type=$type has no size. Write it with one, such as --type=${type%%-*}-8"
  version=${version:-$image}
}

# require FLAG...: the script cannot do without them.
require() {
  local flag
  for flag in "$@"; do
    [[ ${!flag} ]] && continue
    case $flag in
      name) die "--name is missing. Name the TPU, such as --name=ddx" ;;
      zone) die "--zone is missing. Name a zone that has such TPUs, such as --zone=us-central1-a" ;;
      type) die "--type is missing. Name the TPU's type, such as --type=v3-8" ;;
      workdir) die "--workdir is missing. Name the run's folder in a bucket, such as --workdir=gs://BUCKET/digits" ;;
    esac
  done
}

require_no_command() {
  ((${#command[@]} == 0)) || die "$(basename "$0") runs no command. Leave out -- and what follows; run.sh takes it"
}

require_command() {
  local word
  ((${#command[@]})) || die "there is no command. Write it after --, such as -- python -m launch.train --config=digits"
  [[ $workdir ]] || return 0
  for word in "${command[@]}"; do
    [[ $word != --workdir && $word != --workdir=* ]] || die "--workdir is given twice. Leave it out after --"
  done
  command+=("--workdir=$workdir")
}

# Asks once, before anything happens, what would otherwise fail in the middle of it.
require_gcloud() {
  [[ ! $dry_run ]] || return 0
  type -P gcloud > /dev/null ||
    die "gcloud is not installed. See https://cloud.google.com/sdk/docs/install, or work in Google's Cloud Shell"
  gcloud auth print-access-token --quiet > /dev/null 2>&1 || die "gcloud is not logged in. Run gcloud auth login"
  project=${project:-$(gcloud config get-value project --quiet 2> /dev/null || true)}
  [[ $project ]] || die "--project is missing, and gcloud is set to none. Write --project=PROJECT"
}

require_tpu() {
  [[ ! $dry_run ]] || return 0
  look || fail "gcloud does not tell how $name in $zone is doing, as it says above. Try again"
  [[ $phase == ready ]] || fail "$name in $zone is $state. Create it with create.sh, or wait if it is on its way"
}

# tpu GROUP VERB ...: a command of gcloud about the TPU.
tpu() {
  local group=$1 verb=$2
  shift 2
  run gcloud compute tpus "$group" "$verb" "$@" --zone="$zone" ${project:+"--project=$project"} --quiet
}

create() {
  if [[ $queued ]]; then
    tpu queued-resources create "$name" --node-id="$name" --accelerator-type="$type" --runtime-version="$version" ${spot:+--spot}
  else
    tpu tpu-vm create "$name" --accelerator-type="$type" --version="$version" ${spot:+--spot}
  fi
}

delete() {
  if [[ $queued ]]; then
    tpu queued-resources delete "$name" --force
  else
    tpu tpu-vm delete "$name"
  fi
}

# attempt COMMAND: runs it, and sets `hopeless` to 1 if it fails of what another try would not change, for watch.sh.
# shellcheck disable=SC2034
attempt() {
  local errors code=0
  hopeless=''
  errors=$(mktemp)
  { "$@" 2>&1 >&3 | tee "$errors" >&2; } 3>&1 || code=$?
  ((code == 0)) || ! grep -qE 'INVALID_ARGUMENT|PERMISSION_DENIED|not present in the SSH agent' "$errors" || hopeless=1
  rm -f "$errors"
  return "$code"
}

# look: sets `state` to what Google says of the TPU, MISSING if there is none, and `phase` to what follows from it.
look() {
  state='' phase=ready
  if [[ $queued ]]; then
    describe queued-resources state.state || return
  fi
  case $state in
    '' | ACTIVE)
      local request=$state
      describe tpu-vm state || return
      # A request whose machine is gone must be deleted before another takes its name.
      [[ $request != ACTIVE || $state != MISSING ]] || state=TERMINATED
      ;;
  esac
  case $state in
    READY) phase=ready ;;
    MISSING) phase=missing ;;
    PREEMPTED | TERMINATED | SUSPENDED | FAILED | UNKNOWN) phase=gone ;;
    STOPPED | STOPPING | HIDDEN | HIDING) phase=stopped ;;
    *) phase=waiting ;;
  esac
}

describe() {
  local errors answer
  if [[ $dry_run ]]; then
    tpu "$1" describe "$name" --format="value($2)"
    return
  fi
  errors=$(mktemp)
  if answer=$(tpu "$1" describe "$name" --format="value($2)" 2> "$errors"); then
    state=$answer
  elif grep -qiE 'NOT_FOUND|not found' "$errors"; then
    state=MISSING
  else
    cat "$errors" >&2
    rm -f "$errors"
    return 1
  fi
  rm -f "$errors"
}

# on_workers COMMAND: a line for the shell of every host. A connection to a machine that has vanished ends after two
# minutes; without the flags ssh would wait for ever.
on_workers() {
  tpu tpu-vm ssh "$name" --worker=all --command="$1" \
    --ssh-flag=-oConnectTimeout=15 --ssh-flag=-oServerAliveInterval=30 --ssh-flag=-oServerAliveCountMax=4 < /dev/null
}

# Copies this checkout to every host and installs it there. 75: a job runs there, nothing was changed.
set_up() {
  local folder=/tmp code=0
  [[ $dry_run ]] || folder=$(mktemp -d)
  run tar -czf "$folder/ddx.tar.gz" --exclude=__pycache__ -C "$root" \
    README.md LICENSE setup.cfg pyproject.toml ddx launch configs &&
    tpu tpu-vm scp "$folder/ddx.tar.gz" "$name:" --worker=all --scp-flag=-oConnectTimeout=15 &&
    on_workers "mkdir -p ddx ddx-job && flock -n -E 75 ddx-job/lock sh -c 'rm -rf ddx-job/command ddx/ddx ddx/launch \
ddx/configs && tar -xzf ddx.tar.gz -C ddx && bash ddx/launch/tpu/install.sh $extras'" || code=$?
  [[ $dry_run ]] || rm -rf "$folder"
  return "$code"
}

# Starts the command on every host, or attaches to it where it runs already, and returns its exit code.
run_job() { on_workers "bash ddx/launch/tpu/job.sh run $(quote "${command[@]}")"; }

# Ctrl-C ends the connection, and the job has none.
say_at_interrupt() {
  trap 'say "no longer connected. A command that has begun runs on: the same line here attaches to it, stop.sh ends it"
    exit 130' INT TERM
}
