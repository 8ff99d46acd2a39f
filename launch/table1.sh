#!/usr/bin/env bash
# Every system of the paper's Table 1, and three that it lacks, on one data set under one protocol: trains what is
# needed, calibrates, restores, evaluates, and writes table1.md, table1.json and table1.html.
#
#   bash launch/table1.sh                          # the paper's size and schedule: wants a GPU
#   bash launch/table1.sh --smoke                  # half the resolution: two CPU cores, under half an hour
#   bash launch/table1.sh --smoke --data=FOLDER    # patients of a BIDS or BraTS folder in place of synthetic ones
#
# --workdir=DIR keeps models and results (default: runs/table1 or runs/table1-smoke). Interrupted, it goes on where it
# stopped; what is finished is not done again.
smoke=no data= workdir=
for argument in "$@"; do
  case "$argument" in
    --smoke) smoke=yes ;;
    --data=*) data="${argument#--data=}" ;;
    --workdir=*) workdir="${argument#--workdir=}" ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
done
for path in data workdir; do  # given from where the user stands
  value="${!path}"
  if [ -n "$value" ] && [ "${value#/}" = "$value" ] && [ "$value" != phantom ] && [ "${value#phantom:}" = "$value" ]; then
    printf -v "$path" '%s' "$PWD/$value"
  fi
done
source "$(dirname "$0")/setup.sh"

if [ $smoke = yes ]; then
  variant=smoke input="${data:-phantom:test:2}" workdir="${workdir:-runs/table1-smoke}"
  training=(--config.train.steps=700 --config.data.train_subjects=120)
  # A stated choice of axial slices, the same for every row: every 3rd of a synthetic scan, every 8th of a real one.
  step=8
  [ "${input#phantom:}" = "$input" ] || step=3
  slices=(--config.restore.slice_step=$step --config.restore.batch_size=8)
else
  variant=paper input="${data:-phantom:test:20}" workdir="${workdir:-runs/table1}"
  training=() slices=()
fi
output="$workdir/results-$(basename "${input//:/-}")"
declare -A methods=(
  [vae]=intensity,gmm,vae_reconstruction,vae_elbo_tv,vae_lg_est_l1,vae_lg_neural_l1,vae_lg_est_tv,vae_lg_neural_tv
  [aae]=aae_reconstruction,aae_lg_neural_tv
  [gmvae]=gmvae_elbo_tv
  [anogan]=anogan
  [dae]=dae_reconstruction
)
started=$SECONDS failed=0 predictions=

# Goes on where something failed for good (exit code 3): the others count, and eval names what is missing.
try() {
  local code=0
  "$@" || code=$?
  if [ $code -eq 3 ]; then failed=3; elif [ $code -ne 0 ]; then exit $code; fi
}

for model in vae aae gmvae anogan dae; do
  echo "== $model, $((SECONDS - started)) s after the start"
  try python -m lgjax.train --config="configs/$model.py:$variant" --workdir="$workdir/$model" "${training[@]}"
  list="${methods[$model]}"
  folder="$output"
  [ "${list/,/}" != "$list" ] || folder+="/$list"  # several methods get a folder each by themselves
  try python -m lgjax.restore --workdir="$workdir/$model" --method="$list" --input="$input" --output="$folder" \
    "${slices[@]}"
  predictions+=",$output/${list//,/,$output/}"
done
try python -m lgjax.eval --paper --predictions="${predictions:1}" --labels="$input" --output="$output"
echo "table1: $((SECONDS - started)) s without installation -> $output/table1.html"
exit $failed
