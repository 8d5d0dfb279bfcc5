#!/usr/bin/env bash
# All figures of docs/explanation/performance.md and the measured ones of docs/reference/scaling.md, on an idle machine
# (about twenty minutes on two cores):
#   bash benchmarks/all.sh [FOLDER for the JSON files] [DIRECTORY of real rows, as for source=local]
# PYTHON names another interpreter than .venv's. A benchmark that fails is named, and the others run.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-outputs/benchmarks}
data=${2:-}
python=${PYTHON:-.venv/bin/python}
mkdir -p "$out"
measure() { # name of the JSON file, script, options
  local name=$1 script=$2
  shift 2
  echo "== $name ($(date +%T))"
  "$python" "benchmarks/$script.py" --json "$out/$name.json" "$@" || echo "$name failed" >&2
}
measure step_time_wide step_time --model llama2_7b --layers 2 --batch-size 4 --rounds 3
measure end_to_end end_to_end ${data:+--data "$data"} --trainer-sizes 4,8,16 --rounds 3
measure step_time step_time --rounds 7
measure growth growth --rounds 3
measure profile where_time_goes
measure before_after before_after
measure compiled step_time --methods lora,lora+compile,mosld,mosld+compile --rounds 9
measure memory memory
measure saving saving --rounds 3
measure startup startup --rounds 3
measure shared_cores shared_cores --rounds 3
measure kernel_cache kernel_cache
measure data_reading data_reading
measure crossover crossover --choices 2 --rounds 5
measure memory_model memory_model
"$python" benchmarks/tables.py "$out" docs/explanation/performance.md docs/reference/scaling.md
