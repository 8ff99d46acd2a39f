#!/usr/bin/env bash
# Asks one GPU all that is to be known of speed there, 8 minutes at most a call: benchmarks/gpu.py, which has the options.
#
#   bash launch/gpu.sh bench
#   bash launch/gpu.sh bench --device=cpu --smoke
#
# Runs in PYTHON (default: python3) where that has JAX for the device and all that lgjax needs; else sets up .venv.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/cuda.sh
device=gpu cuda='' own="${PYTHON:-python3}"
for argument in "$@"; do
  case "$argument" in
    --device=*) device="${argument#*=}" ;;
    --dry_run | --help | -h) exec "$own" benchmarks/gpu.py "$@" ;;
  esac
done
ready='import sys; from lgjax.runtime import devices; from lgjax.speed import record; devices.start(sys.argv[1])'
if ! lacking=$(PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" timeout 60 "$own" -c "$ready" "$device" 2>&1); then
  echo "$own lacks what lgjax needs, so .venv is set up: $(tail -n 1 <<< "$lacking")" >&2
  extras="test"
  if [ "$device" = gpu ]; then
    want_gpu
    choose_cuda
    extras=cuda$cuda
  fi
  source launch/setup.sh
  own=python
fi
exec "$own" benchmarks/gpu.py "$@"
