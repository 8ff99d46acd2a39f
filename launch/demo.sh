#!/usr/bin/env bash
# The whole story in minutes on a laptop: trains on synthetic healthy brains, calibrates five methods on held-out
# ones, restores synthetic patients, evaluates, and prints the table and the path of the report.
# Interrupted, it goes on where it stopped. Usage: bash launch/demo.sh [WORKDIR]
source "$(dirname "$0")/setup.sh"
workdir="${1:-runs/demo}"
input=phantom:test:3
methods=(intensity vae_reconstruction vae_lg_est_tv vae_lg_neural_tv vae_lg_neural_l1)
started=$SECONDS
list=$(IFS=,; echo "${methods[*]}")
python -m lgjax.train --config=configs/vae.py:smoke --workdir="$workdir"
python -m lgjax.calibrate --workdir="$workdir" --method="$list"
python -m lgjax.restore --workdir="$workdir" --method="$list" --input="$input" --output="$workdir/restored"
predictions=$(printf ",$workdir/restored/%s" "${methods[@]}")
python -m lgjax.eval --predictions="${predictions:1}" --labels="$input" --output="$workdir/evaluation"
echo "demo: $((SECONDS - started)) s without installation"
