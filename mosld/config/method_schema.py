"""The typed schema of the groups method and allocation: what is trained. No heavy imports here, as in `schema`."""

import math
from dataclasses import dataclass

from mosld.config.fields import setting

# The names of `method.targets`; all-linear is PEFT's.
TARGET_NAMES = ("qv", "attention", "ffn", "all", "block", "all-linear")


@dataclass(frozen=True)
class MethodConfig:
    """How the base model is adapted: a composition of parts (docs/reference/methods.md)."""

    name: str = setting("", "Name in tables and run directories.")
    kind: str = setting(
        "mixture", "Which builder reads the keys of this group.", choices=("mixture", "lora", "prefix", "full")
    )
    rank: int = setting(8, "Rank r of each expert.", minimum=1)
    alpha: float = setting(16.0, "The update is scaled by alpha / rank.", minimum=0)
    share: str | None = setting(
        "A",
        "The projection that all experts of a module share; both: each expert is a small matrix between them (CoMoL).",
        choices=("A", "B", "both", "none"),
    )
    targets: str | list[str] = setting(
        "qv",
        "Which layers are adapted: a name (block: the whole feed-forward block, with one router), a list of module "
        "names, all-linear, or a regular expression of whole module names.",
        choices=TARGET_NAMES,
        other_values=True,
    )
    plain_targets: str = setting(
        "none", "Layers that get a single LoRA next to the mixture.", choices=("none", "qv", "attention", "ffn")
    )
    experts: int | list[int] | None = setting(
        None, "Number of experts fixed by the method; null: the allocation decides.", minimum=1
    )
    init: str = setting(
        "kaiming",
        "Initial A: uniform as in PEFT's LoRA, or Gaussian with standard deviation 1/rank or .02. pissa (kind lora): A "
        "and B from the largest singular vectors of the frozen weight, which gives them up. sparse: random, mostly 0, "
        "and never trained (FlyLoRA).",
        choices=("kaiming", "gaussian", "normal", "sparse", "pissa"),
    )
    init_b: str = setting(
        "zero",
        "Initial B_i: zero, or random with a mean of zero over the experts (R-LoRA).",
        choices=("zero", "random"),
        hash_default=False,
    )
    rslora: bool = setting(False, "Kind lora: scale the update by alpha / sqrt(rank) (rsLoRA).", hash_default=False)
    dora: bool = setting(
        False,
        "Kind lora: learn the length of each output's weight apart from its direction (DoRA).",
        hash_default=False,
    )
    match: str | None = setting(
        None,
        "Kind lora: the mixture whose number of trained weights the LoRA's rank is chosen for, at method.rank and the "
        "same targets; alpha / rank stays as it is.",
        choices=("mosld", "mola"),
        hash_default=False,
    )
    dropout: float = setting(0.0, "Dropout probability in training.", minimum=0, below=1)
    dropout_on: str = setting(
        "none",
        "What dropout acts on: elements of A, of the B_i, of the input x, of each expert's own copy of A x (heads), or "
        "of the experts between a shared A and B (cores).",
        choices=("A", "B", "x", "heads", "cores", "none"),
    )
    router: str | None = setting(
        "topk",
        "How gates follow from the softmax; domain: one expert per sequence, supervised by its task (MoA); magnitude: "
        "nothing is learned, the experts of rank 1 with the largest abs(A_i x) have gate 1 (FlyLoRA).",
        choices=("topk", "dense", "capacity", "domain", "magnitude"),
    )
    router_input: str = setting(
        "x",
        "What the router reads: the layer's input, or what a shared A makes of it.",
        choices=("x", "Ax"),
        hash_default=False,
    )
    router_init: str = setting("kaiming", "Initial router weights.", choices=("kaiming", "normal", "zero"))
    top_k: int | None = setting(2, "Experts per token; null: all.", minimum=1)
    capacity_factor: float = setting(1.25, "Router capacity: slots per expert relative to an even load.", minimum=0.01)
    gate_dropout: float = setting(
        0.0,
        "Router capacity: share of router probabilities dropped before the top-k choice, in training.",
        minimum=0,
        below=1,
    )
    balance: str = setting(
        "switch",
        "Formula of the load-balancing loss. bias: no loss; after each step the experts that few tokens took get a "
        "larger bias in the top-k choice. localised: two kinds of tasks have half of the experts each (LoRAMoE).",
        choices=("switch", "paper_literal", "sira", "bias", "localised", "none"),
    )
    balance_weight: float = setting(0.01, "Weight of the load-balancing loss.", minimum=0)
    balance_over: str = setting(
        "micro_batch",
        "The tokens whose load the balance loss counts: of each forward pass, or of the whole optimiser step, which "
        "takes one more forward pass.",
        choices=("micro_batch", "step"),
        hash_default=False,
    )
    balance_rate: float = setting(
        0.001, "Balance bias: how far the bias of an expert moves in a step.", minimum=0, hash_default=False
    )
    balance_offset: float = setting(
        0.1,
        "Balance localised: how much more the experts of a row's own kind should get, 0 to 1.",
        minimum=0,
        below=1,
        hash_default=False,
    )
    first_kind: list[str] | None = setting(
        None,
        "Balance localised: the tasks of the first half of the experts; null: the first half of data.tasks.",
        hash_default=False,
    )
    virtual_tokens: int = setting(30, "Prefix: number of learned keys and values in every layer.", minimum=1)
    own_learning_rate: float | None = setting(
        None,
        "The method's own peak learning rate; training.learning_rate overrides it.",
        minimum=0,
        affects_results=False,
    )
    domains: list[str] | None = setting(None, "Router domain: names of the experts; null: the data's tasks.")
    pool: str = setting(
        "mean",
        "Router domain: the router sees the mean of the prompt's hidden states, or the last one.",
        choices=("mean", "last"),
    )
    inference: str = setting(
        "per_layer",
        "Router domain: each layer's arg-max, the majority vote of the layers, or all experts by probability.",
        choices=("per_layer", "vote", "soft"),
    )
    router_weight: float = setting(1.0, "Router domain: weight of the router's cross entropy.", minimum=0)
    train_experts: bool = setting(True, "Router domain: train the experts in stage 2 too.")
    experts_from: dict[str, str] = setting(
        {},
        "Trained LoRA adapters that become experts: with router domain by task, in place of stage 1; else (mola, "
        "molora) all experts, by any names.",
    )
    from_run: str | None = setting(None, "Router domain: a finished run to add add_task to.")
    add_task: str | None = setting(None, "Router domain: the task that becomes a new expert of from_run.")

    @property
    def scale(self) -> float:
        """The factor of ``B A x``."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


@dataclass(frozen=True)
class AllocationConfig:
    """How many experts each layer has."""

    name: str = setting("", "Name of the shape.", affects_results=False)
    experts: int | list[int] = setting(
        5, "Experts per module: one number, or a list spread over the depth from the first layer.", minimum=1
    )
