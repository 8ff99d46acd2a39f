#!/usr/bin/env bash
# Every system of the paper's Table 1, and those that it lacks, on one data set under one protocol: trains what is
# needed, calibrates, restores, evaluates, and writes table1.md, table1.json and table1.html. Run again, it resumes.
# detection trains nothing; the rows of tv3d are solved in closed form or by the proximal solver, as their configs say.
#
#   bash launch/table1.sh                          # the paper's size and schedule: wants a GPU
#   bash launch/table1.sh --smoke                  # half the resolution: two CPU cores, under half an hour
#   bash launch/table1.sh --smoke --data=FOLDER    # patients of a BIDS or BraTS folder in place of synthetic ones
#
# --workdir=DIR keeps models and results (default: runs/table1 or runs/table1-smoke).
variant=paper count=20 step=3 data='' workdir="$(dirname "$0")/../runs/table1" training=() slices=() failed=0
for argument in "$@"; do
  case "$argument" in
    --smoke) variant=smoke count=2 workdir+=-smoke ;;
    --data=phantom*) data="${argument#*=}" ;;
    --data=*) data=$(realpath -m "${argument#*=}") step=8 ;;
    --workdir=*) own=$(realpath -m "${argument#*=}") ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
done
data="${data:-phantom:test:$count}" workdir=$(realpath -m "${own:-$workdir}")
output="$workdir/results-$(basename "${data//:/-}")"
if [ $variant = smoke ]; then  # every 3rd slice of a synthetic scan, every 8th of a real one: the same for each row
  training=(--config.train.steps=700 --config.data.train_subjects=120)
  slices=("--config.restore.slice_step=$step")
fi
source "$(dirname "$0")/setup.sh"

try() { "$@" || { code=$?; [ $code = 3 ] || exit $code; failed=3; }; }  # 3: some scans failed, the others count

restore=(python -m lgjax.restore --input="$data" --output="$output" "${slices[@]}")
echo "== detection"  # plain intensity, without saturation, comes with the vae
try "${restore[@]}" --config=detection --workdir="$workdir/detection" --method=intensity_tv3d,mirror_tv3d
for model in vae aae gmvae anogan dae restorer; do
  echo "== $model, after $SECONDS s"
  try python -m lgjax.train --config="$model:$variant" --workdir="$workdir/$model" "${training[@]}"
  try "${restore[@]}" --workdir="$workdir/$model" --method=table1
done
try python -m lgjax.eval --paper --predictions="$output" --labels="$data" --output="$output"
echo "table1: $SECONDS s -> $output/table1.html"
exit $failed
