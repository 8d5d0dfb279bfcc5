#!/usr/bin/env bash
# The first thing to run on a machine with several GPUs: whole commands under each launcher on a small model, in minutes.
# What one GPU computes, and how fast, is checked by scripts/gpu_report.sh.
#
#   bash scripts/gpu_smoke.sh                       # all GPUs of this machine, smollm2_135m
#   MODEL=tiny DEVICE=cpu bash scripts/gpu_smoke.sh # a rehearsal on two processes of a processor, over gloo
#
# Each check prints one line: pass, FAIL or skip, its seconds, what was seen or why it failed, and where its log is. Then
# the report of all runs, and on the last line the whole. The exit code is 1 if anything failed.
#
# PYTHON names the interpreter (default: .venv/bin/python, else python3); GPUS the number of processes; LIMIT the most
# seconds of a check (default 900); OUT a folder for runs and logs (default: a new one). More arguments go to every run:
# bash scripts/gpu_smoke.sh training.max_steps=20
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
DEVICE=${DEVICE:-cuda} MODEL=${MODEL:-smollm2_135m} LIMIT=${LIMIT:-900}
OUT=${OUT:-$(mktemp -d)}
mkdir -p "$OUT" || exit 2
if [ "$DEVICE" = cpu ]; then
    export CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    GPUS=${GPUS:-2}
else
    found=$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())') || {
        echo "FAIL: $PYTHON cannot import torch (its message stands above); bash scripts/install.sh, or set PYTHON" >&2
        exit 2
    }
    if [ "$found" = 0 ]; then
        echo "FAIL: no GPU is visible to torch; DEVICE=cpu rehearses without one" >&2
        exit 2
    fi
    GPUS=${GPUS:-$found}
fi
FIRST=${CUDA_VISIBLE_DEVICES-0} FIRST=${FIRST%%,*} # what one process may use: never a GPU that was hidden from us
# Four rows for each process and at least 16: the micro-batches, and with them dropout, are those of one process.
BATCH=$((GPUS > 4 ? 4 * GPUS : 16))
COMMON=(data=mixture "model=$MODEL" logger=files data.limit=16 evaluation.base=false
    evaluation.limit=8 evaluation.validation_limit=2 training.max_steps=8 "training.batch_size=$BATCH" training.micro_batch_size=4
    training.resume=never "$@")
rows=() wrong=() passed=0 skipped=0

row() { # name, verdict, seconds, note
    rows+=("$(printf '%-30s %-5s %5s  %s' "$1" "$2" "$3" "$4")")
    echo "${rows[-1]}"
    case $2 in
    pass) passed=$((passed + 1)) ;;
    skip) skipped=$((skipped + 1)) ;;
    *) wrong+=("$1") ;;
    esac
}

note() { # what is worth a look in a run's results.json
    "$PYTHON" - "$1/results.json" <<'PY'
import json, sys
found = json.load(open(sys.argv[1]))
shared = found["processes"]
print(f"{found['status']}, {shared['engine']} x {shared['count']}, {found['tokens_per_second']:.0f} tokens/s")
PY
}

reason() { # exit code, log: why a run failed, in a line
    local said
    said=$(grep -h '^error: ' "$2" | tail -1 | cut -c1-160) # what mosld says, before what a launcher says of it
    said=${said:-$(grep -hE '^[A-Za-z_.]*(Error|Exception)\b' "$2" | tail -1 | cut -c1-160)}
    case $1 in
    124) said="still running after $LIMIT s and ended (LIMIT=)" ;;
    137) said="killed (signal 9): the machine's memory, or still running 30 s after LIMIT=$LIMIT" ;;
    esac
    echo "${said:-exit code $1; its last line: $(tail -1 "$2" | cut -c1-120)}"
}

check() { # name, engine that must have run, command...
    local name=$1 engine=$2 place log started code said
    shift 2
    place=$OUT/${name//[^A-Za-z0-9]/_} log=$OUT/${name//[^A-Za-z0-9]/_}.log
    started=$SECONDS
    "$@" "output_dir=$place" >"$log" 2>&1
    code=$?
    if [ $code != 0 ]; then
        row "$name" FAIL $((SECONDS - started)) "$(reason $code "$log"); log: $log"
    elif ! said=$(note "$place" 2>>"$log"); then
        row "$name" FAIL $((SECONDS - started)) "left no results.json that can be read; log: $log"
    elif [[ $said != "finished, $engine x"* ]]; then
        row "$name" FAIL $((SECONDS - started)) "wanted $engine, was: $said; log: $log"
    else
        row "$name" pass $((SECONDS - started)) "$said; log: $log"
    fi
}

skip() { row "$1" skip - "$2"; }

limited() { if command -v timeout >/dev/null; then timeout -k 30 "$LIMIT" "$@"; else "$@"; fi; }
alone() { CUDA_VISIBLE_DEVICES=$FIRST limited "$PYTHON" -m mosld.train "${COMMON[@]}" "$@"; }
plain() { CUDA_VISIBLE_DEVICES=$FIRST limited "$PYTHON" -m mosld.train method=lora "${COMMON[@]}" "$@"; }
several() { # accelerate file, more keys...
    local file=$1
    shift
    limited "$PYTHON" -m accelerate.commands.launch --config_file "conf/accelerate/$file.yaml" --num_processes "$GPUS" \
        -m mosld.train "${COMMON[@]}" "$@"
}

echo "$DEVICE, $GPUS processes, $MODEL; runs and logs in $OUT"
check "one process" single alone
check "lora" single plain
if [ "$GPUS" -gt 1 ]; then
    check "DDP" ddp several ddp
    check "FSDP2" fsdp several fsdp model.dtype=bfloat16
    check "FSDP2 with checkpointing" fsdp several fsdp model.dtype=bfloat16 training.gradient_checkpointing=true
    check "FSDP2 offloaded" fsdp several fsdp_offload model.dtype=bfloat16
    check "FSDP2 of all weights" fsdp several fsdp model.dtype=bfloat16 method=full
    check "FSDP2 of all weights, offloaded" fsdp several fsdp_offload model.dtype=bfloat16 method=full
    if "$PYTHON" -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("deepspeed"))'; then
        check "DeepSpeed ZeRO-2 of all weights" zero2 several deepspeed_zero2 model.dtype=bfloat16 method=full
        check "DeepSpeed ZeRO-3" zero3 several deepspeed_zero3 model.dtype=bfloat16
        check "DeepSpeed ZeRO-3 of all weights" zero3 several deepspeed_zero3 model.dtype=bfloat16 method=full
    else
        skip "DeepSpeed" "it is missing: pip install 'mosld[deepspeed]'"
    fi
else
    for name in DDP FSDP2 "FSDP2 with checkpointing" "FSDP2 offloaded" DeepSpeed; do skip "$name" "needs two GPUs"; done
fi

same() { # name, run, the other run: step by step the same loss, but for rounding
    local said
    if [ ! -f "$2/metrics.jsonl" ] || [ ! -f "$3/metrics.jsonl" ]; then
        skip "$1" "one of the two runs is not there"
    elif said=$("$PYTHON" - "$2/metrics.jsonl" "$3/metrics.jsonl" 2>&1 <<'PY'
import json, sys
one, other = ([json.loads(line)["cross_entropy"] for line in open(path) if "cross_entropy" in line] for path in sys.argv[1:])
if not one or len(one) != len(other):
    sys.exit(f"{len(one)} and {len(other)} steps")
worst = max(abs(a - b) / a for a, b in zip(one, other))
print(f"largest relative difference of a step's loss: {worst:.1e} (at most 2e-2)")
sys.exit(worst > 2e-2)
PY
    ); then
        row "$1" pass - "$said"
    else
        row "$1" FAIL - "$(tail -1 <<<"$said"); files: $2/metrics.jsonl $3/metrics.jsonl"
    fi
}
same "losses: DDP, one process" "$OUT/one_process" "$OUT/DDP"

started=$SECONDS log=$OUT/report.log
limited "$PYTHON" -m mosld.report "$OUT/one_process" "$OUT/lora" --output "$OUT/report" >"$log" 2>&1
code=$?
if [ $code = 0 ] && [ -s "$OUT/report/report.html" ]; then
    cat "$log"
    row "table" pass $((SECONDS - started)) "lora and mosld; $OUT/report/report.html; log: $log"
else
    row "table" FAIL $((SECONDS - started)) "$(reason $code "$log"); log: $log"
fi

printf '\n%-30s %-5s %5s  %s\n' check "" s ""
printf '%s\n' "${rows[@]}"
if [ ${#wrong[@]} = 0 ]; then
    echo "PASS: $passed checks passed, $skipped skipped; $DEVICE, $GPUS processes; $SECONDS s; logs in $OUT"
else
    printf -v names ', %s' "${wrong[@]}"
    echo "FAIL: ${#wrong[@]} checks failed (${names:2}), $passed passed, $skipped skipped; logs in $OUT"
    exit 1
fi
