"""What vLLM answers with an exported folder, against the adapted model's answers; needs no mosld.

python scripts/serving/in_vllm.py FOLDER ANSWERS.json
"""

import json
import sys
from pathlib import Path

from vllm import LLM, SamplingParams


def main() -> None:
    """Print the folder's name, the largest difference of a log-probability, and the count of same greedy tokens."""
    folder = Path(sys.argv[1])
    answers = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    llm = LLM(
        model=str(folder),
        model_impl="transformers",
        trust_remote_code=True,
        dtype="float32",
        max_model_len=128,
        enforce_eager=True,
    )
    # One token more than asked for: vLLM gives the log-probabilities of a prompt only with an answer to it.
    whole = [{"prompt_token_ids": answer["ids"]} for answer in answers]
    scored = llm.generate(whole, SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0))
    differences = [
        abs(theirs[token].logprob - ours)
        for answer, output in zip(answers, scored, strict=True)
        for token, theirs, ours in zip(answer["ids"][1:], output.prompt_logprobs[1:], answer["logprobs"], strict=True)
    ]
    count = len(answers[0]["ids"]) - len(answers[0]["prompt"])
    prompts = [{"prompt_token_ids": answer["prompt"]} for answer in answers]
    generated = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=count, ignore_eos=True))
    same = sum(
        ours == theirs
        for answer, output in zip(answers, generated, strict=True)
        for ours, theirs in zip(answer["ids"][-count:], output.outputs[0].token_ids, strict=True)
    )
    print(f"{folder.name:<32} {max(differences):<21.1e} {same} of {count * len(answers)}")


if __name__ == "__main__":
    main()
