"""The benchmarks, one small block each: which splits are used, how long a row may be, how the question is put."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """One benchmark.

    Attributes:
        name: the name used everywhere (config, file names, tables).
        title: the benchmark's own name.
        test_split: the published split that serves as the test.
        holdout: share of train set aside as validation where no validation split is left.
        cutoff: longest row in tokens; a longer passage is cut, a longer solution left out of training.
        stem: the question is a sentence to be completed, and stands alone where there is no passage and no option is
            listed (lm-evaluation-harness scores OpenBookQA so).
        kind: what its rows are: "choice" among options, "solution" that ends in a number, or "reply" in free words.
        trained: whether it can be trained on; else it is for evaluation alone.
        scored: whether it has a test; else it is for training alone.
        examples_split: the published split that holds worked examples for a prompt.
        subjects: whether a row's id begins with its subject, by which scores are told apart.
    """

    name: str
    title: str
    test_split: str = "test"
    holdout: float = 0.0
    cutoff: int = 256
    stem: bool = False
    kind: str = "choice"
    trained: bool = True
    scored: bool = True
    examples_split: str | None = None
    subjects: bool = False

    @property
    def generated(self) -> bool:
        """Whether the answer is written out, not chosen."""
        return self.kind != "choice"


TASKS = {
    task.name: task
    for task in (
        Task("obqa", "OpenBookQA", stem=True),
        # The labels of the official test split were never published: the official validation is the test.
        Task("csqa", "CommonsenseQA", test_split="validation", holdout=0.1),
        Task("race", "RACE", cutoff=512),
        Task("mctest", "MCTest", cutoff=512),
        Task("arc_e", "ARC-Easy"),
        Task("arc_c", "ARC-Challenge"),
        Task("gsm8k", "GSM8K", holdout=0.1, cutoff=512, kind="solution"),
        Task("openorca", "OpenOrca", cutoff=512, kind="reply", scored=False),
        # Five examples of a subject take up to 3,000 tokens; where they pass the cutoff there are fewer of them.
        Task("mmlu", "MMLU", cutoff=2048, trained=False, examples_split="dev", subjects=True),
    )
}
