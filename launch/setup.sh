# Makes .venv with the needs of lgjax, once, and again when setup.py changes. The other scripts source it.
# extras=test,docs is installed beside by default; on machines with such devices: extras=cuda12 or extras=cuda13 or extras=tpu
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras="${extras:-test,docs}"
python="${PYTHON:-$(command -v python3.11 || command -v python3)}"
sum=$(cksum setup.py | cut -d' ' -f1)
stamp=.venv/.lgjax-$sum-$extras
if [ ! -e "$stamp" ]; then
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
    || { echo "lgjax needs Python 3.11 or newer, $python is older: set PYTHON" >&2; exit 4; }
  echo "setting up .venv (a minute or two) ..."
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[$extras]"
  find .venv -maxdepth 1 -name '.lgjax-*' ! -name ".lgjax-$sum-*" -delete
  touch "$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
if [ "${BASH_SOURCE[0]}" = "$0" ]; then  # run, not sourced: the caller's PATH is as it was
  echo "ready: source $PWD/.venv/bin/activate, and then lgjax --help"
fi
