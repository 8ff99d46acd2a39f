#!/usr/bin/env bash
# Trains, calibrates, restores and evaluates a cohort on all GPUs of this machine; sets up .venv for them first.
#
#   bash launch/gpu.sh --healthy=HEALTHY --patients=PATIENTS --labels=PATIENTS --output=runs/cohort
#   bash launch/gpu.sh --healthy=HEALTHY --patients=PATIENTS --dry_run
#
#   --config.train.precision=tensorfloat32 --config.restore.precision=tensorfloat32
#                      computes networks faster than in float32, on GPUs from Ampere on; see docs/cluster.md
#   --gpus=N           takes N GPUs (default: those of CUDA_VISIBLE_DEVICES, or all)
#   --cuda=12|13|12-volta    which CUDA to install (default: the newest that driver and GPUs know)
#
# Asks one GPU all about speed, see launch/gpu_bench.sh:
#
#   bash launch/gpu.sh bench [--output=DIR] [--only=PHASES] [--seconds=N] [--patience=N] [--again] [--dry_run]
#   bash launch/gpu.sh bench --device=cpu --smoke
set -euo pipefail
cd "$(dirname "$0")/.."
[ "${1-}" != bench ] || exec bash launch/gpu_bench.sh "${@:2}"
source launch/steps.sh
source launch/cuda.sh
gpus='' cuda=''
for argument in "$@"; do
  case "$argument" in
    --gpus=[1-9]*) gpus="${argument#*=}" ;;
    --cuda=12 | --cuda=13 | --cuda=12-volta) cuda="${argument#*=}" ;;
    *) option "$argument" ;;
  esac
done
steps

if [ -z "$gpus" ] || [ -z "$cuda" ]; then
  want_gpu
fi
choose_cuda
visible="${CUDA_VISIBLE_DEVICES:-$(seq -s, 0 $((${gpus:-$(nvidia-smi -L | wc -l)} - 1)))}"
IFS=, read -ra visible <<< "$visible"
visible=("${visible[@]:0:${gpus:-${#visible[@]}}}")

if [ -n "$dry_run" ]; then
  shown env "extras=cuda$cuda" bash launch/setup.sh
else
  extras=cuda$cuda
  source launch/setup.sh
fi
CUDA_VISIBLE_DEVICES=$(IFS=,; echo "${visible[*]}")
export CUDA_VISIBLE_DEVICES
try "${preprocess[@]}" "--config.workers=$(nproc)"
run "${train[@]}"
run "${calibrate[@]}"
for gpu in "${visible[@]}"; do  # a process each: they share the scans out among themselves
  start env "CUDA_VISIBLE_DEVICES=$gpu" "${restore[@]}"
done
await || tolerate $?
[ -z "$labels" ] || try "${evaluate[@]}"
exit $failed
