# Which CUDA this machine is served best with: `choose_cuda` sets $cuda, unless it is set already; scripts source this file.
# shellcheck shell=bash
driver() {  # prints the CUDA version that the driver knows at most
  nvidia-smi | sed -n 's/.*CUDA Version: *\([0-9]*\).*/\1/p'
}

want_gpu() {  # ends the script where there is no GPU
  command -v nvidia-smi > /dev/null || { echo "no NVIDIA GPU: there is no nvidia-smi; see docs/cluster.md" >&2; exit 4; }
}

choose_cuda() {
  [ -n "$cuda" ] || cuda=$([ "$(driver)" -ge 13 ] && echo 13 || echo 12)
}
