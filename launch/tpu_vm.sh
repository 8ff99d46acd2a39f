#!/usr/bin/env bash
# Makes a TPU VM or a pod of them, copies lgjax there, trains, calibrates, restores and evaluates a cohort on all its
# workers, fetches the results and deletes the TPU, whatever happens. Needs gcloud with a project. A TPU that was not made
# from this clone is neither used nor deleted.
#
#   bash launch/tpu_vm.sh --zone=us-west4-a --type=v5litepod-8 --healthy=HEALTHY --patients=PATIENTS
#   bash launch/tpu_vm.sh --zone=us-west4-a --type=v5litepod-64 --queued --spot --share=10.0.0.2:/lgjax \
#     --healthy=healthy --patients=patients --labels=patients --dry_run
#
#   --name=NAME        of the TPU (default: lgjax)
#   --zone=ZONE        where
#   --type=TYPE        accelerator type (default: v5litepod-8)
#   --version=IMAGE    runtime version (default: v2-alpha-tpuv5-lite)
#   --queued           waits in the queue for the TPU
#   --spot             takes one that may be pre-empted; wants --share, so that nothing is lost
#   --share=HOST:/DIR  NFS export that all workers mount: scans and output are paths in it. Without: scans of this
#                      machine are copied to the TPU, which may have one worker alone
#   --keep             leaves the TPU; the same command uses it again
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/steps.sh
name=lgjax zone='' type=v5litepod-8 version=v2-alpha-tpuv5-lite queued='' spot=() share='' keep=''
for argument in "$@"; do
  case "$argument" in
    --name=?* | --zone=?* | --type=?* | --version=?* | --share=?*)
      key="${argument%%=*}"
      printf -v "${key#--}" %s "${argument#*=}" ;;
    --queued) queued=yes ;;
    --spot) spot=(--spot) ;;
    --keep) keep=yes ;;
    *) option "$argument" ;;
  esac
done
[ -n "$zone" ] || usage
[ ${#spot[@]} = 0 ] || [ -n "$share" ] || { echo "--spot wants --share: a TPU that is pre-empted takes its disk along" >&2; exit 2; }

gcloud=(gcloud compute tpus)
everywhere() {  # runs a command on all workers
  "$1" "${gcloud[@]}" tpu-vm ssh "$name" "--zone=$zone" --worker=all "--command=$2"
}
of() {  # prints a command for a worker's shell, in the folder of lgjax
  local line
  printf -v line '%q ' "$@"
  echo "cd lgjax && export PATH=\$PWD/.venv/bin:\$PATH && ${line% }"
}
mark=clone$(printf %s "$(id -un)@$(uname -n):$PWD" | cksum | cut -d' ' -f1)  # a label of the TPUs of this clone
made=''
mine() {  # whether this run made the TPU, or an earlier run of this clone did
  [ -n "$made" ] || describe | grep -w "$mark" > /dev/null
}
delete() {
  if [ -n "$queued" ]; then
    run "${gcloud[@]}" queued-resources delete "$name" "--zone=$zone" --force --quiet
  else
    run "${gcloud[@]}" tpu-vm delete "$name" "--zone=$zone" --quiet
  fi
}
# shellcheck disable=SC2329  # a trap calls it
fetch() {  # copies from the first worker what was made, all that there is
  run mkdir -p "$here"
  for folder in "${results[@]}"; do
    run "${gcloud[@]}" tpu-vm scp --recurse "$name:$output/$folder" "$here" "--zone=$zone" --worker=0 \
      || echo "$folder was not fetched" >&2
  done
}
# shellcheck disable=SC2329  # a trap calls it
leave() {  # at the end, whatever it is
  code=$?
  trap - EXIT
  [ -z "$ready" ] || fetch
  [ -n "$keep" ] || { mine && delete; } \
    || echo "the TPU $name in $zone was not deleted: if it is there and yours, it costs: delete it" >&2
  exit "$code"
}
create() {
  local about=("--zone=$zone" "--accelerator-type=$type" "--labels=lgjax=$mark" "${spot[@]}")
  if [ -n "$queued" ]; then
    run "${gcloud[@]}" queued-resources create "$name" "--node-id=$name" "${about[@]}" "--runtime-version=$version"
  else
    run "${gcloud[@]}" tpu-vm create "$name" "${about[@]}" "--version=$version"
  fi
  made=yes
}
describe() {  # prints the TPU, or its place in the queue; nothing where there is none
  local what=tpu-vm
  [ -z "$queued" ] || what='queued-resources'
  run "${gcloud[@]}" $what describe "$name" "--zone=$zone" "$@" 2> /dev/null || true
}
state() {
  local field=state
  [ -z "$queued" ] || field=state.state
  describe "--format=value($field)"
}
turn() {  # returns when the TPU's turn in the queue has come
  local now
  while now=$(state); [ "$now" != ACTIVE ] && [ -z "$dry_run" ]; do
    case "$now" in '' | FAILED | SUSPEND*) echo "the queue gave no TPU: $now" >&2; exit 4 ;; esac
    sleep 60
  done
}

# Where things are on the workers, and what has to be copied there.
here=$output root=lgjax ready='' scans='' copied=() results=(model restored evaluation)
[ -z "$share" ] || root=/mnt/lgjax
for key in healthy patients labels output; do
  folder="${!key}"
  if [ -z "$folder" ] || [[ "$folder" = phantom* ]]; then
    continue
  elif [ -n "$share" ]; then
    printf -v "$key" %s "$root/$folder"
  elif [ "$key" = output ]; then
    output=results
    for inner in "${results[@]}"; do  # of an earlier run, which resumes
      [ ! -d "$folder/$inner" ] || copied+=("$folder/$inner:results/")
    done
  elif [ "$key" = labels ] && [ "$folder" = "$scans" ]; then
    labels=$patients
  else
    scans=$folder
    printf -v "$key" %s "$key/$(basename "$folder")"
    copied+=("$folder:$key/")
  fi
done
steps
[ -n "$share" ] || output=$root/$output  # as seen from the home folder

before=$(state)
if [ -n "$before" ] && ! mine; then
  echo "the TPU $name in $zone was not made from this clone: give another --name, or delete it yourself" >&2
  exit 4
fi
case "$before" in
  READY | ACTIVE | WAITING* | PROVISIONING | ACCEPTED) trap leave EXIT ;;  # kept by an earlier run
  '') trap leave EXIT; create ;;
  PREEMPTED | TERMINATED | SUSPENDED | FAILED) delete; trap leave EXIT; create ;;
  *) echo "the TPU $name in $zone is $before: wait, or give another --name" >&2; exit 4 ;;
esac
[ -z "$queued" ] || turn
second=("${gcloud[@]}" tpu-vm ssh "$name" "--zone=$zone" --worker=1 --command=true)
if [ -z "$share" ] && run "${second[@]}" 2> /dev/null && [ -z "$dry_run" ]; then
  echo "$type has several workers, which must share a disk: give --share" >&2
  exit 2
fi
run mkdir -p build
run git archive --format=tar.gz --output=build/lgjax.tar.gz HEAD
run "${gcloud[@]}" tpu-vm scp build/lgjax.tar.gz "$name:" "--zone=$zone" --worker=all
everywhere run "mkdir -p lgjax/{healthy,patients,labels,results} && tar -xzf lgjax.tar.gz -C lgjax"
everywhere run "for wait in 60 60 60 60 60 0; do sudo apt-get update -q && break; sleep \$wait; done;\
 sudo apt-get install -qy -o DPkg::Lock::Timeout=600 python3.11-venv nfs-common"  # after the first boot, updates hold the locks
everywhere run "cd lgjax && extras=tpu bash launch/setup.sh"
if [ -n "$share" ]; then
  everywhere run "sudo mkdir -p $root && (mountpoint -q $root || sudo mount -t nfs $share $root)"
fi
for pair in "${copied[@]}"; do
  run "${gcloud[@]}" tpu-vm scp --recurse "${pair%:*}" "$name:lgjax/${pair##*:}" "--zone=$zone" --worker=0
done
ready=yes
everywhere try "$(of "${preprocess[@]}" --config.workers=16)"
everywhere run "$(of "${train[@]}" --hosts=auto)"
everywhere run "$(of "${calibrate[@]}" --hosts=auto)"
everywhere try "$(of "${restore[@]}" --hosts=auto)"
if [ -n "$labels" ]; then
  try "${gcloud[@]}" tpu-vm ssh "$name" "--zone=$zone" --worker=0 "--command=$(of "${evaluate[@]}")"
fi
exit $failed
