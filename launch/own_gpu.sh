#!/usr/bin/env bash
# Runs a command on one of the GPUs of this node: the one whose place is the number of this SLURM task on the node.
#
#   srun bash launch/own_gpu.sh python -m lgjax.restore ...
set -euo pipefail
IFS=, read -ra visible <<< "${CUDA_VISIBLE_DEVICES:-}"
export CUDA_VISIBLE_DEVICES="${visible[$SLURM_LOCALID]:-$SLURM_LOCALID}"
exec "$@"
