#!/usr/bin/env bash
# Runs the test suite in .venv, which it sets up; arguments go to pytest.
source "$(dirname "$0")/setup.sh"
ruff check lgjax configs tests benchmarks
ruff format --check --quiet lgjax configs tests benchmarks
mypy
bash launch/docs.sh
exec python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"  # long files are not left for the end
