#!/usr/bin/env bash
# All figures of docs/explanation/gpu.md on one GPU, in about ten minutes and without a network:
#
#   bash scripts/gpu_report.sh [FOLDER for the JSON files] [DIRECTORY of real rows, as for source=local]
#   bash scripts/gpu_report.sh --rehearse [FOLDER]    # the same commands at tiny sizes on CPU
#
# Each part prints a table and leaves FOLDER/<part>.json. A part whose file is there is not run again, so that the same
# command goes on where it was stopped. No part starts after LIMIT seconds (default 570), and none goes on 20 seconds
# later. FOLDER/gpu.md is the page with these figures; python benchmarks/tables.py --all FOLDER docs/explanation/gpu.md
# puts them into the page of the docs.
#
# PYTHON names the interpreter (default: .venv/bin/python, else python3); MODEL the small model that trains on real rows;
# PARTS the parts to run. Exit code 1 if a part failed or was not started.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
PARTS=${PARTS:-}
wide=llama2_7b layers=32 head=32000 long=(--batch-size 8 --length 1024) short=(--batch-size 2 --length 256) rounds=3
real=(--batch-size 64 --trainer-sizes 16,64 --methods lora,mosld,mosld+compile) grown=(--tokens 8192 --lengths 512,2048) shapes=8x1024
# LoRA comes first, and compiled LoRA after all that is eager: what is compared runs in turn.
methods=lora,mosl,mosld,mola,hydralora,lora+compile,mosl+compile,mosld+compile,mola+compile,hydralora+compile
ffn=lora+ffn,mixlora,lora+ffn+compile,mixlora+compile
if [ "${1:-}" = --rehearse ]; then
    shift
    export CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    MODEL=${MODEL:-tiny} LIMIT=${LIMIT:-3600} wide=tiny layers=4 head=260 long=(--batch-size 2 --length 16) short=("${long[@]}") rounds=1
    real=(--batch-size 2 --trainer-sizes 2 --methods lora,mosld) grown=(--tokens 16 --lengths 8,16) shapes=2x16
    methods=lora,mosld,lora+compile,mosld+compile ffn=lora+ffn,mixlora # of one shape: compiling takes long on CPU
elif ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "FAIL: no GPU is visible to torch; --rehearse runs without one" >&2
    exit 2
fi
out=${1:-outputs/gpu} data=${2:-}
MODEL=${MODEL:-smollm2_135m} LIMIT=${LIMIT:-570}
mkdir -p "$out" || exit 2
wrong=()

part() { # name of the JSON file, script, options
    local name=$1 script=$2
    shift 2
    if [ -n "$PARTS" ] && [[ " $PARTS " != *" $name "* ]]; then return; fi
    echo "== $name ($SECONDS s)"
    if [ -s "$out/$name.json" ]; then
        echo "$out/$name.json is there"
        if grep -q '"failed": [1-9]' "$out/$name.json"; then wrong+=("$name"); fi
        return
    elif [ "$SECONDS" -ge "$LIMIT" ]; then
        echo "not started: $SECONDS s are over (LIMIT=$LIMIT); the same command goes on here" >&2
        wrong+=("$name")
        return
    fi
    timeout -k 5 $((LIMIT + 20 - SECONDS)) "$PYTHON" "benchmarks/$script.py" --rounds "$rounds" --json "$out/$name.new" "$@" 2>"$out/$name.log" || {
        tail -3 "$out/$name.log" >&2
        wrong+=("$name")
    }
    if [ -s "$out/$name.new" ]; then mv "$out/$name.new" "$out/$name.json"; fi
}

wide=(--model "$wide" --layers "$layers" --vocabulary "$head")
fewer=("${wide[@]:0:2}" --layers $((layers > 8 ? 8 : layers)) --vocabulary "$head") # MixLoRA needs 106 GiB with all

part correctness gpu_correctness --checks gradients,packed,recomputing,compiled,quantized,resumed
part speed_8192 step_time "${wide[@]}" "${long[@]}" --methods "$methods"
part speed_512 step_time "${wide[@]}" "${short[@]}" --methods "$methods"
part speed_mixlora_8192 step_time "${fewer[@]}" "${long[@]}" --methods "$ffn"
part speed_mixlora_512 step_time "${fewer[@]}" "${short[@]}" --methods "$ffn"
part speed_trainer end_to_end "${wide[@]}" "${long[@]}" --trainer-sizes "${long[1]}" --methods lora,mosld
part growth growth "${wide[@]:0:2}" "${grown[@]}" --experts 2,8,64 --ranks 8,64
part memory memory_model "${wide[@]:0:2}" --shapes $shapes --methods lora,mosld,mola model.kind=random \
    "model.shape.num_hidden_layers=$layers"
part scores gpu_correctness --checks scores --model "$MODEL"
part real_rows end_to_end --model "$MODEL" "${real[@]}" ${data:+--data "$data"}

cp docs/explanation/gpu.md "$out/gpu.md" && "$PYTHON" benchmarks/tables.py --all "$out" "$out/gpu.md" || wrong+=(page)
if [ ${#wrong[@]} = 0 ]; then
    echo "PASS: $out/gpu.md, $SECONDS s"
else
    echo "FAIL: ${wrong[*]}; $out/gpu.md, $SECONDS s; logs in $out"
    exit 1
fi
