#!/usr/bin/env bash
# Builds the docs with the API reference into build/docs; a warning is an error. Arguments go to mkdocs.
source "$(dirname "$0")/setup.sh"
exec python -m mkdocs build --strict --quiet "$@"
