#!/usr/bin/env bash
# Make .venv beside this folder and install mosld with the exact versions of constraints.txt; does nothing where
# neither pyproject.toml nor constraints.txt changed. Usage: bash scripts/install.sh [extras, such as dev]
set -euo pipefail
cd "$(dirname "$0")/.."
extras="${1:-dev}"
stamp=.venv/installed-$extras
wanted=$(cat pyproject.toml constraints.txt | cksum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "mosld needs Python 3.11 or newer; $python is $("$python" --version 2>&1). Set PYTHON=..." >&2
    exit 2
}
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$extras]"
echo "$wanted" > "$stamp"
