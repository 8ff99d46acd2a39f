#!/usr/bin/env bash
# Times lgjax against PyTorch: bash benchmarks/peers/compare.sh --device=cpu|gpu --output=F.json [--smoke] (see compare.py)
# Makes benchmarks/peers/.venv with both, once. PYTHON chooses the interpreter that makes it; PEERS_PYTHON names one that
# has both already, and nothing is installed. CUDA chooses lgjax's extra: cuda13 (default, as PyTorch's build) or cuda12.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
root="$(cd "$here/../.." && pwd)"
python="${PEERS_PYTHON:-$here/.venv/bin/python}"
device=cpu
for argument in "$@"; do
  case "$argument" in --device=*) device="${argument#--device=}" ;; esac
done
stamp="$here/.venv/.peers-$device-$(cat "$root/setup.py" "$here/requirements.txt" | cksum | cut -d' ' -f1)"
if [ -z "${PEERS_PYTHON:-}" ] && [ ! -e "$stamp" ]; then
  echo "setting up benchmarks/peers/.venv for --device=$device (minutes) ..."
  rm -rf "$here/.venv"
  "${PYTHON:-$(command -v python3.11 || command -v python3)}" -m venv "$here/.venv"
  install=("$python" -m pip install --quiet --disable-pip-version-check)
  if [ "$device" = gpu ]; then
    "${install[@]}" -r "$here/requirements.txt" -e "${root}[${CUDA:-cuda13}]"
  else
    torch="$(grep '^torch' "$here/requirements.txt")"
    "${install[@]}" --no-deps --retries 0 --extra-index-url https://download.pytorch.org/whl/cpu "$torch"
    "${install[@]}" -r "$here/requirements.txt" -e "$root"
  fi
  touch "$stamp"
fi
exec "$python" "$here/compare.py" "$@"
