# The steps from healthy scans and patients to a table, for the scripts that run them on GPUs, clusters and TPUs.
# A script sources this file, hands `option` its arguments, and then calls `steps`.
#
#   --healthy=SCANS    healthy scans to train and calibrate on: a folder, or phantom:train:COUNT
#   --patients=SCANS   scans to restore
#   --labels=SCANS     reference lesions, to evaluate with; without them nothing is evaluated
#   --output=DIR       prepared/, model/, restored/ and evaluation/ (default: runs/cohort)
#   --config=NAME      what is trained, see configs/ (default: vae; vae:smoke is small)
#   --method=M,...     what restores (default: the config's method)
#   --config.KEY=X     another value for the training
#   --dry_run          prints the commands and runs none
#
# The same command again resumes: every step skips what is finished.
# shellcheck shell=bash disable=SC2034
set -euo pipefail
exec 3>&1  # where dry runs print, also from within $(...)
healthy='' patients='' labels='' output=runs/cohort config=vae method='' values=() dry_run='' failed=0 running=()

usage() {  # shows the comment of the script, then the one above
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" | sed '/^SBATCH/d' >&2
  sed -n '3,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" | sed '/^shellcheck/,$d' >&2
  exit 2
}

option() {  # takes an option that the scripts share; no other is known
  case "$1" in
    --healthy=?* | --patients=?* | --labels=?* | --output=?* | --config=?* | --method=?*)
      local name="${1%%=*}"
      printf -v "${name#--}" %s "${1#*=}" ;;
    --config.*=*) values+=("$1") ;;
    --dry_run) dry_run=yes ;;
    *) usage ;;
  esac
}

steps() {  # makes the commands preprocess, train, calibrate, restore and evaluate
  [ -n "$healthy" ] && [ -n "$patients" ] || usage
  local small=''
  [ "${config#*:}" != smoke ] || small=:smoke
  local methods=() predictions="$output/restored" each
  [ -z "$method" ] || methods=("--method=$method")
  if [[ "$method" = *,* ]]; then  # a folder each; maps of an earlier run with one method may lie beside them
    predictions=''
    for each in ${method//,/ }; do
      predictions+="${predictions:+,}$output/restored/$each"
    done
  fi
  preprocess=(python -m lgjax.preprocess "--config=data$small" "--input=$healthy" "--output=$output/prepared")
  train=(python -m lgjax.train "--config=$config" "--config.data.source=$output/prepared" "--workdir=$output/model")
  train+=("${values[@]}")
  calibrate=(python -m lgjax.calibrate "--workdir=$output/model" "${methods[@]}")
  restore=(python -m lgjax.restore "--workdir=$output/model" "--input=$patients" "--output=$output/restored")
  restore+=("${methods[@]}")
  evaluate=(python -m lgjax.eval "--predictions=$predictions" "--labels=$labels" "--output=$output/evaluation")
}

shown() {  # prints a command as a shell would take it
  local word line=''
  for word in "$@"; do
    [[ "$word" =~ ^[A-Za-z0-9_./:=,@+-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
    line+=" $word"
  done
  echo "${line:1}" >&3
}

start() {  # starts a command in the background; a dry run prints it
  if [ -n "$dry_run" ]; then
    shown "$@"
  else
    (trap - INT TERM; exec "$@") &  # in the background, bash would have it ignore Ctrl-C
    running+=("$!")
  fi
}

await() {  # waits for all that was started; returns the worst exit code
  local process code worst=0
  for process in "${running[@]}"; do
    code=0
    wait "$process" || code=$?
    [ "$code" -le "$worst" ] || worst=$code
  done
  running=()
  return "$worst"
}

run() { start "$@"; await; }

try() {  # runs a command; exit code 3, some scans failed, does not end the script
  run "$@" || tolerate $?
}

tolerate() {
  [ "$1" = 3 ] || exit "$1"
  failed=3
}

end() {  # ends what runs as training wants to be ended: with a checkpoint
  [ ${#running[@]} = 0 ] || kill -TERM "${running[@]}" 2> /dev/null || true
  await || true
  exit 143
}
trap end TERM
trap 'await || true; exit 130' INT  # the terminal has told the commands as well
