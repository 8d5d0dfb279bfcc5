#!/usr/bin/env bash
# Make .venv, install mosld with its test and development tools, run the tests in two processes. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh dev
exec .venv/bin/python -m pytest -n 2 --dist worksteal "$@"
