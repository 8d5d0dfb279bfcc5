#!/usr/bin/env bash
# Make .venv in the checkout and install mosld with the exact versions of constraints.txt. Does nothing where neither
# pyproject.toml nor constraints.txt changed since. Usage: bash scripts/install.sh [extra, such as dev]
set -euo pipefail
cd "$(dirname "$0")/.."
target=".[train${1:+,$1}]"
stamp=".venv/installed-${1:-plain}"
wanted="$PWD $(cat pyproject.toml constraints.txt | cksum)"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi

python="${PYTHON:-python3}"
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "mosld needs Python 3.11 or newer, $python is not; name another: PYTHON=python3.12 bash $0" >&2
    exit 2
fi
[ -x .venv/bin/python ] || "$python" -m venv .venv
echo "installing mosld into $PWD/.venv (once; a few minutes)" >&2
.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e "$target"
echo "$wanted" > "$stamp"
