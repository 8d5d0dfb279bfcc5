"""What PEFT saves in `adapter_config.json` of a mixture, and what makes two mixtures differ."""

import enum
from dataclasses import dataclass, field

from peft import PeftConfig

# Equal and hash-equal to the plain string, so that PEFT finds the tuner from the JSON file.
MosldType = enum.Enum("MosldType", {"MOSLD": "MOSLD"}, type=str)


@dataclass
class MosldConfig(PeftConfig):
    """A mixture of LoRA experts as a composition of parts.

    Per adapted module with frozen weight W (d_out x d_in) and N experts of rank r, a token x gets

        W x + (alpha / r) * sum_i g_i(x) B_i A_i x,    g = top-k of softmax(W_r x), divided by their sum

    (MoSLD, arXiv 2412.08946, eq. 1-3). `share` says whether the A_i, the B_i or none are one matrix; `dropout_on`
    says what the ratio `dropout` applies to in training.

    Attributes:
        r: rank of each expert.
        alpha: the update is scaled by alpha / r.
        experts: experts per module: one number, or numbers for equal parts of the depth.
        top_k: experts that a token takes.
        share: "A" (MoSLD), "B" or "none" (MoLA).
        dropout: ratio of what is dropped, in training alone.
        dropout_on: "A" (MoSLD eq. 2), "B" (table 2), "x" or "none".
        init: "kaiming" (sqrt 5, as PEFT's LoRA) or "gaussian" (deviation 1/r), for A. Every B starts at zero.
        balance: "switch" or "none": the load-balancing loss that the tuner adds to `outputs.loss`.
        balance_weight: its weight.
        target_modules: names of the linear layers, as for PEFT's LoRA.
    """

    r: int = 8
    alpha: float = 16.0
    experts: int | list[int] = 5
    top_k: int = 2
    share: str = "A"
    dropout: float = 0.1
    dropout_on: str = "A"
    init: str = "kaiming"
    balance: str = "switch"
    balance_weight: float = 0.01
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = field(default=None)

    def __post_init__(self) -> None:
        """Set the PEFT type and refuse what cannot work."""
        super().__post_init__()
        self.peft_type = MosldType.MOSLD  # type: ignore[assignment]
        fewest = self.experts if isinstance(self.experts, int) else min(self.experts)
        if not 1 <= self.top_k <= fewest:
            raise ValueError(f"top_k must lie in [1, {fewest}] (the smallest number of experts), got {self.top_k}")
        if self.r < 1:
            raise ValueError(f"r must be at least 1, got {self.r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        for key, valid in (
            ("share", ("A", "B", "none")),
            ("dropout_on", ("A", "B", "x", "none")),
            ("init", ("kaiming", "gaussian")),
            ("balance", ("switch", "none")),
        ):
            if getattr(self, key) not in valid:
                raise ValueError(f"{key} must be one of {', '.join(valid)}, got {getattr(self, key)!r}")
