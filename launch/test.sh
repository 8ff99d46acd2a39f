#!/usr/bin/env bash
# Runs the test suite in .venv, which it sets up; arguments go to pytest.
source "$(dirname "$0")/setup.sh"
ruff check lgjax configs tests benchmarks
ruff format --check --quiet lgjax configs tests benchmarks
bash launch/docs.sh &
docs=$!
mypy
wait "$docs"
if ! command -v chromium chromium-browser google-chrome chrome >/dev/null; then  # which tests look at pages with
  timeout 120 python -m playwright install chromium >/dev/null 2>&1 \
    || echo "no Chromium could be installed: the tests that look at pages in a browser are skipped" >&2
fi
exec python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"  # long files are not left for the end
