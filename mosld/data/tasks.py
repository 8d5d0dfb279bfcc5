"""The benchmarks, one entry each: splits, cutoff, prompt, the published set and its size."""

from dataclasses import dataclass


@dataclass(frozen=True)
class HubSet:
    """A set on the Hugging Face Hub.

    Attributes:
        repository: its name on the hub.
        revision: the commit that is read.
        configs: the configurations to read; their rows are joined.
        train_sample: rows taken of each configuration's train split, always the same ones; None: all.
        parquet: read the converted parquet files, because the repository holds a loading script.
    """

    repository: str
    revision: str
    configs: tuple[str, ...] = ("default",)
    train_sample: int | None = None
    parquet: bool = False


@dataclass(frozen=True)
class Task:
    """A benchmark, or a task of the user's own.

    Attributes:
        name: the name in the config, file names and tables.
        title: the benchmark's own name.
        test_split: the published split that serves as the test.
        holdout: share of train held out as validation where no validation split is left.
        cutoff: longest row in tokens; a longer passage is truncated, a longer solution left out of training.
        stem: the question is a sentence to complete; a cloze prompt without a passage is the question alone, as
            lm-evaluation-harness scores OpenBookQA.
        kind: "choice" among options, "solution" that ends in a number, "reply" in free text, or "text": plain text, a
            reply to the empty question.
        trained: False: for evaluation only.
        scored: False: for training only.
        examples_split: the published split with the solved examples for a prompt.
        subjects: a row's id begins with its subject, and scores are reported by subject.
        hub: the published set.
        lm_eval: the name of the task in lm-evaluation-harness, or "".
        train_rows: train rows of the published set, without those held out.
        row_tokens: mean tokens of such a row with a letter prompt and SmolLM2's tokenizer; the cutoff for sets with
            passages, which no row exceeds.
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
    hub: HubSet | None = None
    lm_eval: str = ""
    train_rows: int = 0
    row_tokens: int = 0

    @property
    def generated(self) -> bool:
        """Whether the model writes the answer, rather than choosing it."""
        return self.kind != "choice"


_ARC = ("allenai/ai2_arc", "210d026faf9955653af8916fad021475a3f00453")
_TASKS = (
    Task(
        "obqa", "OpenBookQA", stem=True, lm_eval="openbookqa", train_rows=4_957, row_tokens=44,
        hub=HubSet("allenai/openbookqa", "388097ea7776314e93a529163e0fea805b8a6454", ("main",)),
    ),
    Task(
        # The labels of the official test were never published: the official validation serves as the test.
        "csqa", "CommonsenseQA", test_split="validation", holdout=0.1,
        lm_eval="commonsense_qa", train_rows=8_767, row_tokens=46,
        hub=HubSet("tau/commonsense_qa", "94630fe30dad47192a8546eb75f094926d47e155"),
    ),
    Task(
        # As many rows as the paper samples; it does not disclose which.
        "race", "RACE", cutoff=512, train_rows=10_083, row_tokens=512,
        hub=HubSet("ehovy/race", "2fec9fd81f1dc971569a9b729c43f2f0e6436637", ("all",), train_sample=10_083),
    ),
    Task(
        "mctest", "MCTest", cutoff=512, train_rows=1_480, row_tokens=512,
        hub=HubSet("sagnikrayc/mctest", "0183bcd8760435c2c2655fec82c0bceb15a01c07", ("mc160", "mc500"), parquet=True),
    ),
    Task(
        "arc_e", "ARC-Easy", lm_eval="arc_easy", train_rows=2_251, row_tokens=58, hub=HubSet(*_ARC, ("ARC-Easy",)),
    ),
    Task(
        "arc_c", "ARC-Challenge", lm_eval="arc_challenge", train_rows=1_119, row_tokens=67,
        hub=HubSet(*_ARC, ("ARC-Challenge",)),
    ),
    Task(
        "gsm8k", "GSM8K", holdout=0.1, cutoff=512, kind="solution",
        lm_eval="gsm8k", train_rows=6_726, row_tokens=157,
        hub=HubSet("openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866", ("main",)),
    ),
    Task(
        # The largest sample of the paper's figure 6.
        "openorca", "OpenOrca", cutoff=512, kind="reply", scored=False, train_rows=22_000, row_tokens=512,
        hub=HubSet("Open-Orca/OpenOrca", "e9c87b4abb2609913751f9b26553fdb9c061796c", train_sample=22_000),
    ),
    Task(
        # Five examples of a subject take up to 3,000 tokens; a prompt that exceeds the cutoff has fewer examples.
        "mmlu", "MMLU", cutoff=2048, trained=False, examples_split="dev", subjects=True, lm_eval="mmlu",
        hub=HubSet("cais/mmlu", "c30699e8356da336a370243923dbaf21066bb9fe", ("all",)),
    ),
)  # fmt: skip
TASKS = {task.name: task for task in _TASKS}
