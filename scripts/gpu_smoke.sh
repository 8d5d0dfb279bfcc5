#!/usr/bin/env bash
# The first thing to run on a machine with GPUs, one or many: each way of training once on a small model, in minutes.
# It ends with a table, pass or fail with seconds, and with 1 if anything failed.
#
#   bash scripts/gpu_smoke.sh                       # all GPUs of this machine, smollm2_135m
#   MODEL=tiny DEVICE=cpu bash scripts/gpu_smoke.sh # a rehearsal on two processes of a processor, over gloo
#
# PYTHON names the interpreter (default: .venv/bin/python, else python3); GPUS the number of processes; OUT a folder
# for runs and logs (default: a new one). More arguments go to every run: bash scripts/gpu_smoke.sh training.max_steps=20
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
DEVICE=${DEVICE:-cuda} MODEL=${MODEL:-smollm2_135m}
OUT=${OUT:-$(mktemp -d)}
mkdir -p "$OUT"
if [ "$DEVICE" = cpu ]; then
    export CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    GPUS=${GPUS:-2}
else
    found=$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')
    if [ "$found" = 0 ]; then
        echo "no GPU is visible to torch; DEVICE=cpu rehearses without one" >&2
        exit 2
    fi
    GPUS=${GPUS:-$found}
fi

COMMON=(method=mosld data=mixture "model=$MODEL" logger=files data.limit=16 evaluation.base=false evaluation.limit=8
    evaluation.validation_limit=2 training.max_steps=8 training.batch_size=16 training.micro_batch_size=4 "$@")
# bitsandbytes packs rows of a multiple of 64 on a processor.
[ "$MODEL" = tiny ] && COMMON+=(model.shape.hidden_size=64 model.shape.intermediate_size=128)
KEYS=$("$PYTHON" -m mosld.train --help)
rows=() failed=0

row() { # name, verdict, seconds, note
    rows+=("$(printf '%-34s %-5s %5s  %s' "$1" "$2" "$3" "$4")")
    echo "${rows[-1]}"
}

note() { # what is worth a look in a run's results.json
    "$PYTHON" - "$1/results.json" <<'PY'
import json, sys
found = json.load(open(sys.argv[1]))
shared = found["processes"]
print(f"{found['status']}, {shared['engine']} x {shared['count']}, {found['tokens_per_second']:.0f} tokens/s")
PY
}

check() { # name, engine that must have run, command...
    local name=$1 engine=$2 place started code said
    shift 2
    place=$OUT/${name// /_}
    started=$SECONDS
    "$@" "output_dir=$place" >"$place.log" 2>&1
    code=$?
    if [ $code = 0 ] && said=$(note "$place") && [[ $said == "finished, $engine x"* ]]; then
        row "$name" pass $((SECONDS - started)) "$said"
    else
        failed=1
        row "$name" FAIL $((SECONDS - started)) "$(grep -h '^error\|Error' "$place.log" | tail -1 | cut -c1-90) see $place.log"
    fi
}

skip() { row "$1" skip - "$2"; }

alone() { CUDA_VISIBLE_DEVICES=$([ "$DEVICE" = cpu ] || echo 0) "$PYTHON" -m mosld.train "${COMMON[@]}" "$@"; }
several() { # accelerate file, more keys...
    local file=$1
    shift
    "$PYTHON" -m accelerate.commands.launch --config_file "conf/accelerate/$file.yaml" --num_processes "$GPUS" \
        -m mosld.train "${COMMON[@]}" "$@"
}

echo "$DEVICE, $GPUS processes, $MODEL; logs in $OUT"
check "one process" single alone
check "bfloat16" single alone model.dtype=bfloat16
check "gradient checkpointing" single alone training.gradient_checkpointing=true
if [[ $KEYS == *training.compile* ]]; then
    check "compile" single alone training.compile=true
else
    skip "compile" "this version has no training.compile"
fi
if "$PYTHON" -c 'import bitsandbytes' 2>/dev/null; then
    check "nf4" single alone model.quantize=nf4
    check "int8" single alone model.quantize=int8
else
    skip "nf4, int8" "bitsandbytes is missing: pip install 'mosld[quant]'"
fi
if [ "$GPUS" -gt 1 ]; then
    check "DDP" ddp several ddp
    check "FSDP2" fsdp several fsdp model.dtype=bfloat16
    check "FSDP2 with checkpointing" fsdp several fsdp model.dtype=bfloat16 training.gradient_checkpointing=true
    check "FSDP2 offloaded" fsdp several fsdp_offload model.dtype=bfloat16
    check "FSDP2 of all weights" fsdp several fsdp model.dtype=bfloat16 method=full
    check "FSDP2 of all weights, offloaded" fsdp several fsdp_offload model.dtype=bfloat16 method=full
else
    skip "DDP, FSDP2" "one GPU"
fi

losses() { "$PYTHON" -c 'import json, sys; print([json.loads(l)["cross_entropy"] for l in open(sys.argv[1]) if "cross_entropy" in l])' "$1/metrics.jsonl"; }
if [ -f "$OUT/DDP/metrics.jsonl" ] && [ -f "$OUT/one_process/metrics.jsonl" ]; then
    if said=$("$PYTHON" - "$(losses "$OUT/one_process")" "$(losses "$OUT/DDP")" <<'PY'
import json, sys
one, several = map(json.loads, sys.argv[1:])
worst = max(abs(a - b) / a for a, b in zip(one, several, strict=True))
print(f"largest relative difference of a step's loss: {worst:.1e}")
sys.exit(worst > 2e-2)
PY
    ); then row "losses of DDP and one process" pass - "$said"; else
        failed=1
        row "losses of DDP and one process" FAIL - "$said"
    fi
fi
printf '\n%-34s %-5s %5s  %s\n' check "" s ""
printf '%s\n' "${rows[@]}"
exit $failed
