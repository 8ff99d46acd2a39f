#!/usr/bin/env bash
# Runs a command on one of the GPUs of this node: the one that SLURM has bound to this task, or, where all tasks see all
# GPUs, the one whose place is the number of the task on the node.
#
#   srun bash launch/own_gpu.sh python -m lgjax.restore ...
set -euo pipefail
numbers() { nvidia-smi --query-gpu=index --format=csv,noheader 2> /dev/null | grep -x '[0-9]*' | paste -sd, -; }
all=${CUDA_VISIBLE_DEVICES-$(numbers || true)}
IFS=, read -ra visible <<< "$all"
place=$SLURM_LOCALID
[ ${#visible[@]} != 1 ] || place=0
if [ "$place" -ge ${#visible[@]} ]; then
  echo "task $place of this node has no GPU: ${#visible[@]} are visible; --ntasks-per-node must be --gpus-per-node" >&2
  exit 4
fi
CUDA_VISIBLE_DEVICES=${visible[$place]} exec "$@"
