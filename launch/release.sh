#!/usr/bin/env bash
# Makes the model that travels with lgjax, lgjax/shipped/restorer, from nothing: trains the restorer on synthetic brains
# with the heads of people's label maps, calibrates it on brains of other heads, and writes released/restorer.
# An hour on two CPU cores. Run again, it resumes. No lesion label is read.
#
#   bash launch/release.sh LABELS            # folder with SynthSeg's 20 training label maps (github.com/BBillot/SynthSeg)
#   bash launch/release.sh LABELS --config.train.steps=10 ...                    # other values for the training
#
# It changes nothing in lgjax/shipped: replace the folder there once you have evaluated the new one.
[ $# -gt 0 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
labels=$(realpath -m "$1") training=("${@:2}")
source "$(dirname "$0")/setup.sh"
workdir=runs/release model=released/restorer
methods=(restorer_reconstruction_mirror_tv3d restorer_reconstruction restorer_reconstruction_tv3d
  restorer_lg_neural_mirror_tv3d restorer_lg_neural_tv3d)
[ ! -e $model ] || { echo "$model is there already"; exit 0; }
python -m lgjax.train --config=configs/restorer.py --config.data.source="phantom@2+3:$labels" --workdir=$workdir "${training[@]}"
python -m lgjax.export --workdir=$workdir --config.restore.checkpoint=last --dtype=float16 --notes=docs/released \
  --method="$(IFS=,; echo "${methods[*]}")" --output=$model
echo "lgjax restore --model=$model takes it; sha256sum $model/model.safetensors tells whether it is the shipped one"
