# Which CUDA this machine is served best with: `choose_cuda` sets $cuda, unless it is set already; scripts source this file.
# shellcheck shell=bash
driver() {  # prints the CUDA version that the driver knows at most
  nvidia-smi | sed -n 's/.*CUDA Version: *\([0-9]*\).*/\1/p'
}

capability() {  # prints ten times the smallest compute capability of the GPUs, 70 for Volta; nothing if the driver is silent
  { nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2> /dev/null || true; } \
    | sed -n 's/^\([0-9]\{1,\}\)\.\([0-9]\)$/\1\2/p' | sort -n | sed -n 1p
}

want_gpu() {  # ends the script where there is no GPU
  command -v nvidia-smi > /dev/null || { echo "no NVIDIA GPU: there is no nvidia-smi; see docs/cluster.md" >&2; exit 4; }
}

choose_cuda() {
  [ -z "$cuda" ] || return 0
  local least
  least=$(capability)
  if [ "${least:-75}" -lt 75 ]; then
    cuda=12-volta
    echo "a GPU before Turing: CUDA 12 with cuDNN 9.10, the last that knows such GPUs; see docs/cluster.md" >&2
  else
    cuda=$([ "$(driver)" -ge 13 ] && echo 13 || echo 12)
  fi
}
