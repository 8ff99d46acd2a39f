#!/usr/bin/env bash
# Measures, one at a time, what each value in which the preset `authors` differs from `paper` does to vae_lg_neural_tv:
# same data, same training length, same protocol. Usage: bash benchmarks/presets.sh WORKDIR [DATA]; resumes.
workdir="$(realpath -m "${1:?usage: presets.sh WORKDIR [DATA]}")" data="${2:-phantom:test:2}"
[ ! -e "$data" ] || data="$(realpath "$data")"
source "$(dirname "$0")/../launch/setup.sh"
config=configs/vae.py:smoke predictions=
training=(--config.train.steps=700 --config.data.train_subjects=120)
step=8
[ "${data#phantom:}" = "$data" ] || step=3
slices=(--config.restore.slice_step=$step --config.restore.batch_size=8)
output="$workdir/results-$(basename "${data//:/-}")"
weight=$(python -c "from configs import vae; print(5 * vae.smoke().model.reconstruction_weight)")

# measure NAME WEIGHTS [FLAGS]: calibrates and restores with the weights trained under another name.
measure() {
  local name=$1 weights=$2
  shift 2
  if [ "$weights" != "$name" ] && [ ! -e "$workdir/$name" ]; then  # other settings of restore: a calibration of their own
    rm -rf "$workdir/.$name" && mkdir -p "$workdir/.$name"
    cp -r "$workdir/$weights"/{config.json,training.json,checkpoints} "$workdir/.$name/"
    mv "$workdir/.$name" "$workdir/$name"
  fi
  python -m lgjax.restore --workdir="$workdir/$name" --method=vae_lg_neural_tv --input="$data" \
    --output="$output/$name" "${slices[@]}" "$@"
  predictions+=",$output/$name"
}

python -m lgjax.train --config=$config --workdir="$workdir/paper" "${training[@]}"
measure paper paper
measure variance_at_observation paper --config.restore.variance_at=observed
measure deviation_limit paper --config.restore.deviation_limit=70.7
python -m lgjax.train --config=$config --workdir="$workdir/weight" "${training[@]}" \
  --config.model.reconstruction_weight="$weight"
measure weight weight
python -m lgjax.train --config=$config --workdir="$workdir/variance_target" "${training[@]}" \
  --config.model.variance_target=absolute
measure variance_target variance_target
python -m lgjax.train --config=configs/vae.py:smoke_authors --workdir="$workdir/authors" "${training[@]}"
measure authors authors
python -m lgjax.eval --against=vae_lg_neural_tv-paper --predictions="${predictions:1}" --labels="$data" --output="$output"
