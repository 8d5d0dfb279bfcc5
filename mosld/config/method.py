"""The typed schema of a method, the composition of an adapter's parts, and of the experts per layer."""

from dataclasses import dataclass

from mosld.config.setting import setting


@dataclass(frozen=True)
class MethodConfig:
    """How the base model is adapted: a composition of parts (docs/methods.md)."""

    name: str = setting("", "Name in tables and run directories.")
    kind: str = setting("mixture", "Which builder reads the keys below.", choices=("mixture", "lora", "prefix", "full"))
    rank: int = setting(8, "Rank r of each expert.", minimum=1)
    alpha: float = setting(16.0, "The update is scaled by alpha / rank.", minimum=0)
    share: str | None = setting("A", "The projection that all experts of a module share.", choices=("A", "B", "none"))
    targets: str = setting(
        "qv",
        "Which layers are adapted; block: the feed-forward block as a whole, with one router.",
        choices=("qv", "attention", "ffn", "all", "block"),
    )
    plain_targets: str = setting(
        "none", "Layers that get a single LoRA beside the mixture.", choices=("none", "qv", "attention", "ffn")
    )
    experts: int | list[int] | None = setting(
        None, "Experts of a method with a number of its own; null: the allocation's.", minimum=1
    )
    init: str = setting(
        "kaiming",
        "How A starts: uniform as PEFT's LoRA, or Gaussian of deviation 1/rank or .02.",
        choices=("kaiming", "gaussian", "normal"),
    )
    dropout: float = setting(0.0, "Ratio of what is dropped in training.", minimum=0, below=1)
    dropout_on: str = setting(
        "none", "What is dropped: elements of A, of the B_i, of the input x.", choices=("A", "B", "x", "none")
    )
    router: str | None = setting(
        "topk",
        "How gates come from the softmax; domain: one expert per sequence, supervised by its task (MoA).",
        choices=("topk", "dense", "capacity", "domain"),
    )
    router_init: str = setting("kaiming", "How the router starts.", choices=("kaiming", "normal"))
    top_k: int | None = setting(2, "Experts that each token takes; null: all.", minimum=1)
    capacity_factor: float = setting(
        1.25, "Router capacity: slots of an expert relative to an even load.", minimum=0.01
    )
    gate_dropout: float = setting(
        0.0, "Router capacity: ratio of probabilities dropped before the choice, in training.", minimum=0, below=1
    )
    balance: str = setting(
        "switch",
        "Formula of the load-balancing loss.",
        choices=("switch", "paper_literal", "sira", "none"),
    )
    balance_weight: float = setting(0.01, "Weight of the load-balancing loss.", minimum=0)
    virtual_tokens: int = setting(30, "Prefix: learned keys and values before every layer.", minimum=1)
    own_learning_rate: float | None = setting(
        None, "The method's own peak rate; training.learning_rate goes before.", minimum=0, affects_results=False
    )
    domains: list[str] | None = setting(None, "Router domain: name of each expert; null: the data's tasks.")
    pool: str = setting("mean", "Router domain: which prompt states the router sees.", choices=("mean", "last"))
    inference: str = setting(
        "per_layer",
        "Router domain: each layer's arg-max, the expert most layers name, or all by their probabilities.",
        choices=("per_layer", "vote", "soft"),
    )
    router_weight: float = setting(1.0, "Router domain: weight of the router's cross entropy.", minimum=0)
    train_experts: bool = setting(True, "Router domain: whether the experts go on training in stage 2.")
    experts_from: dict[str, str] = setting({}, "Router domain: ready LoRA adapters by task, in place of stage 1.")
    from_run: str | None = setting(None, "Router domain: a finished run to which add_task is added.")
    add_task: str | None = setting(None, "Router domain: the task that becomes a new expert of from_run.")


@dataclass(frozen=True)
class AllocationConfig:
    """Experts per layer."""

    name: str = setting("", "Name of the shape.", affects_results=False)
    experts: int | list[int] = setting(
        5,
        "Experts per module: one number, or a list stretched over the depth from the first layer.",
        minimum=1,
    )
