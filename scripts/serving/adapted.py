"""What an adapted model answers in mosld, in float32.

python scripts/serving/adapted.py RUN ANSWERS.json
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from mosld.recipes.load import load_trained
from mosld.runs.saved import saved_run

NEW_TOKENS = 8
TEXTS = (
    "What do plants need to grow?",
    "Question: Which gas do people breathe in to live?\nAnswer:",
    "Water boils at",
    "The capital of France is Paris, and the capital of Italy is",
    "A cat sat on the mat. Then it",
    "Ice is colder than",
)


@torch.inference_mode()
def main() -> None:
    """Write the tokens of each prompt and its greedy answer, and the log-probability of each but the first."""
    run = saved_run(sys.argv[1])
    model, tokenizer = load_trained(replace(run.config().model, dtype="float32"), run)
    answers = []
    for text in TEXTS:
        prompt_1S = tokenizer(text, return_tensors="pt").input_ids
        ids_1S = model.generate(
            input_ids=prompt_1S,
            attention_mask=torch.ones_like(prompt_1S),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=None,
        )
        logprobs_SV = model(input_ids=ids_1S).logits[0].log_softmax(-1)
        scores_S = logprobs_SV[:-1].gather(-1, ids_1S[0, 1:, None])[:, 0]
        answers.append({"prompt": prompt_1S[0].tolist(), "ids": ids_1S[0].tolist(), "logprobs": scores_S.tolist()})
    Path(sys.argv[2]).write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main()
