"""What PEFT saves in `adapter_config.json` of a mixture, and what makes two mixtures differ."""

import enum
from dataclasses import dataclass, field

from peft import PeftConfig

# Equal and hash-equal to the plain string, so that PEFT finds the tuner from the JSON file.
MosldType = enum.Enum("MosldType", {"MOSLD": "MOSLD"}, type=str)

CHOICES = {
    "router": ("topk", "dense", "capacity", "domain"),
    "share": ("A", "B", "none"),
    "dropout_on": ("A", "B", "x", "none"),
    "init": ("kaiming", "gaussian", "normal"),
    "router_init": ("kaiming", "normal"),
    "balance": ("switch", "paper_literal", "sira", "none"),
    "pool": ("mean", "last"),
    "inference": ("per_layer", "vote", "soft"),
}


@dataclass
class MosldConfig(PeftConfig):
    """A mixture of LoRA experts as a composition of parts.

    Per adapted module with frozen weight W (d_out x d_in) and N experts of rank r, a token x gets

        W x + (alpha / r) * sum_i g_i(x) B_i A_i x

    where the router gives the gates g. MoSLD (arXiv 2412.08946, eq. 1-3) is share=A, dropout_on=A, router=topk; the
    other methods are other choices (docs/reference/methods.md).

    Attributes:
        r: rank of each expert.
        alpha: the update is scaled by alpha / r.
        experts: experts per module: one number, or numbers for equal parts of the depth.
        router: how gates come from p = softmax(W_r x). "topk": the top_k largest divided by their sum; "dense": p, or
            its top_k largest as they are; "capacity": SiRA's, see `routing.capacity_routing`; "domain": MoA's, one
            expert for the whole sequence, see `router.Router`.
        top_k: experts that a token takes; None: all (router "dense").
        share: "A" (MoSLD), "B" or "none" (MoLA).
        dropout: ratio of what is dropped, in training alone.
        dropout_on: "A" (MoSLD eq. 2), "B" (table 2), "x" or "none".
        init: "kaiming" (sqrt 5, as PEFT's LoRA), "gaussian" (deviation 1/r) or "normal" (deviation .02), for A. Every
            B starts at zero.
        router_init: "kaiming" or "normal".
        capacity_factor: slots of each expert relative to an even load (router "capacity").
        gate_dropout: ratio of router probabilities dropped before the choice, in training (router "capacity").
        balance: formula of the load-balancing loss, see `balance.balance_loss`.
        balance_weight: its weight.
        domains: name of each expert (router "domain").
        pool: the router sees the "mean" or the "last" of the prompt's hidden states (router "domain").
        inference: "per_layer": each layer's arg-max; "vote": the expert that most layers name; "soft": all experts by
            their probabilities (router "domain").
        router_weight: weight of the router's cross entropy (router "domain").
        target_modules: names of linear layers, or of feed-forward blocks (MixLoRA: one router per block).
        single_lora_modules: those among `target_modules` that get a single LoRA without a router.
    """

    r: int = 8
    alpha: float = 16.0
    experts: int | list[int] = 5
    router: str = "topk"
    top_k: int | None = 2
    share: str = "A"
    dropout: float = 0.1
    dropout_on: str = "A"
    init: str = "kaiming"
    router_init: str = "kaiming"
    capacity_factor: float = 1.25
    gate_dropout: float = 0.0
    balance: str = "switch"
    balance_weight: float = 0.01
    domains: list[str] | None = None
    pool: str = "mean"
    inference: str = "per_layer"
    router_weight: float = 1.0
    target_modules: list[str] | str | None = None
    single_lora_modules: list[str] = field(default_factory=list)
    exclude_modules: list[str] | str | None = field(default=None)

    def __post_init__(self) -> None:
        """Set the PEFT type and refuse what cannot work."""
        super().__post_init__()
        self.peft_type = MosldType.MOSLD  # type: ignore[assignment]
        fewest = self.experts if isinstance(self.experts, int) else min(self.experts)
        if self.top_k is not None and not 1 <= self.top_k <= fewest:
            raise ValueError(f"top_k must lie in [1, {fewest}] (the smallest number of experts), got {self.top_k}")
        if self.top_k is None and self.router in ("topk", "capacity"):
            raise ValueError(f"router={self.router!r} needs top_k")
        if self.router == "domain" and len(self.domains or []) != self.experts:
            raise ValueError(f"router='domain' needs the name of each of its {self.experts} experts as domains")
        if self.r < 1:
            raise ValueError(f"r must be at least 1, got {self.r}")
        if self.capacity_factor <= 0:
            raise ValueError(f"capacity_factor must be above 0, got {self.capacity_factor}")
        for key in ("dropout", "gate_dropout"):
            if not 0 <= getattr(self, key) < 1:
                raise ValueError(f"{key} must lie in [0, 1), got {getattr(self, key)}")
        for key, valid in CHOICES.items():
            if getattr(self, key) not in valid:
                raise ValueError(f"{key} must be one of {', '.join(valid)}, got {getattr(self, key)!r}")

    @property
    def auxiliary_weight(self) -> float:
        """What the auxiliary loss counts beside the cross entropy: balance, or the router's own with domains."""
        if self.router == "domain":
            return self.router_weight
        return 0.0 if self.balance == "none" else self.balance_weight
