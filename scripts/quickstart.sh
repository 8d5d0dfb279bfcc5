#!/usr/bin/env bash
# From nothing to a fine-tuned model: make .venv, install, train MoSLD on the bundled six-task mixture, show the table.
# Needs Python 3.11 with pip and a package index, nothing else. Arguments are passed on to mosld.train.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
.venv/bin/python -m mosld.train method=mosld data=mixture "$@" | tee "$log"
run="$(tail -n 1 "$log")"
cat <<TEXT

The adapter lies in $run/adapter (README.md there says how to load it).
Try next, from $PWD:
  .venv/bin/python -m mosld.chat $run                             # talk to it
  .venv/bin/python -m mosld.eval run=$run data=single_arc_c       # score it on other data
  .venv/bin/python -m mosld.train method=lora data=mixture        # another method, same data
  .venv/bin/python -m mosld.train --help                          # every option
TEXT
