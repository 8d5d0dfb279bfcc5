"""The PEFT config of a mixture, which PEFT saves as `adapter_config.json`, and questions about a model's adapter."""

import dataclasses
import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from peft import PeftConfig
from torch import nn

from mosld.config.schema import MethodConfig

# Equal and hash-equal to the plain string, so that PEFT finds the tuner from the JSON file.
MosldType = enum.Enum("MosldType", {"MOSLD": "MOSLD"}, type=str)

LATER_OPTIONS = (
    "init_weights", "layers_to_transform", "layers_pattern", "modules_to_save", "grown", "init_b", "router_input",
    "balance_over", "balance_rate", "balance_offset",
)  # fmt: skip


@dataclass
class MosldConfig(PeftConfig):
    """A mixture of LoRA experts as a composition of parts.

    Per adapted module with frozen weight W (d_out x d_in) and N experts of rank r, a token x gets

        W x + (alpha / r) * sum_i g_i(x) B_i A_i x

    where the router gives the gates g. MoSLD (arXiv 2412.08946, eq. 1-3) is share=A, dropout_on=A, router=topk; the
    other methods are other choices (docs/reference/methods.md). Options with the same name as in `MethodConfig`, where
    their help and choices are, mean the same.

    Attributes:
        r: rank of each expert.
        experts: experts per module: one number, or numbers for equal parts of the depth.
        router: how gates come from p = softmax(W_r x). "topk": the top_k largest divided by their sum; "dense": p, or
            its top_k largest as they are; "capacity": SiRA's, see `routing.capacity_routing`; "domain": MoA's, one
            expert for the whole sequence, see `router.Router`.
        init_weights: False draws the experts' B at random, too, so that an untrained adapter changes the model.
        target_modules: names of linear layers, or of feed-forward blocks (MixLoRA: one router per block). PEFT gives
            this and the next four their meaning.
        exclude_modules: names among them that are left alone.
        layers_to_transform: indices of the layers to adapt; None: all.
        layers_pattern: the name of the list of layers to which these indices belong.
        modules_to_save: names of other modules that are trained whole and saved with the adapter.
        plain_modules: those among `target_modules` that get a single LoRA without a router.
        grown: how many of the last experts `grow` added: closed as long as they are untrained (`bank.open_experts`).
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
    init_b: str = "zero"
    router_input: str = "x"
    router_init: str = "kaiming"
    capacity_factor: float = 1.25
    gate_dropout: float = 0.0
    balance: str = "switch"
    balance_weight: float = 0.01
    balance_over: str = "micro_batch"
    balance_rate: float = 0.001
    balance_offset: float = 0.1
    domains: list[str] | None = None
    pool: str = "mean"
    inference: str = "per_layer"
    router_weight: float = 1.0
    init_weights: bool = True
    target_modules: list[str] | set[str] | str | None = None
    plain_modules: list[str] = field(default_factory=list)
    exclude_modules: list[str] | set[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    grown: int = 0

    def __post_init__(self) -> None:
        """Set the PEFT type and refuse what cannot work."""
        super().__post_init__()
        self.peft_type = MosldType.MOSLD  # type: ignore[assignment]
        for key in ("target_modules", "exclude_modules"):
            names = getattr(self, key)
            setattr(self, key, set(names) if isinstance(names, list | tuple) else names)
        fewest = self.experts if isinstance(self.experts, int) else min(self.experts)
        if self.top_k is not None and not 1 <= self.top_k <= fewest:
            raise ValueError(f"top_k must be in [1, {fewest}] (the smallest number of experts), got {self.top_k}")
        for key, choosing in (("router", ("topk", "capacity", "magnitude")), ("balance", ("bias",))):
            if self.top_k is None and getattr(self, key) in choosing:
                raise ValueError(f"{key}={getattr(self, key)!r} needs top_k")
        if self.router == "magnitude" and (self.r, self.share) != (1, "none"):
            raise ValueError("router='magnitude' compares single numbers: it needs r=1 and share='none'")
        if self.router_input == "Ax" and self.share not in ("A", "both"):
            raise ValueError("router_input='Ax' needs an A that all experts share")
        if self.router == "domain" and len(self.domains or []) != self.experts:
            raise ValueError(f"router='domain' needs the name of each of its {self.experts} experts as domains")
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError(f"layers_pattern={self.layers_pattern!r} needs layers_to_transform")
        if isinstance(self.target_modules, str) and self.layers_to_transform is not None:
            raise ValueError("layers_to_transform needs target_modules as a list; a regex can name the layers itself")
        if self.r < 1:
            raise ValueError(f"r must be at least 1, got {self.r}")
        if self.capacity_factor <= 0:
            raise ValueError(f"capacity_factor must be above 0, got {self.capacity_factor}")
        for key in ("dropout", "gate_dropout"):
            if not 0 <= getattr(self, key) < 1:
                raise ValueError(f"{key} must be in [0, 1), got {getattr(self, key)}")
        for option in _shared_options():
            choices = option.metadata["choices"]
            value = getattr(self, option.name)
            if choices and value not in choices:
                raise ValueError(f"{option.name} must be one of {', '.join(choices)}, got {value!r}")

    def to_dict(self) -> dict:
        """As PEFT's, for saved files that are the same in every process and, at the defaults, in older versions."""
        defaults = {option.name: option.default for option in dataclasses.fields(self) if option.name in LATER_OPTIONS}
        return {
            name: sorted(value) if isinstance(value, set) else value
            for name, value in super().to_dict().items()
            if defaults.get(name, ...) != value
        }

    @classmethod
    def from_method(
        cls, method: MethodConfig, experts: int | list[int], targets: list[str] | str, single_lora: list[str]
    ) -> "MosldConfig":
        """The config of a method: options of the same name are copied.

        Args:
            experts: experts per module, where an allocation gives them.
            targets: names of all modules to adapt, or a regular expression.
            single_lora: those among them that get a single LoRA.
        """
        options = {option.name: getattr(method, option.name) for option in _shared_options()}
        return cls(
            **options | {"experts": experts},
            r=method.rank,
            target_modules=targets,
            plain_modules=single_lora,
            task_type="CAUSAL_LM",
        )

    @property
    def auxiliary_weight(self) -> float:
        """Weight of the auxiliary loss beside the cross entropy: the balance loss, or the routers' with domains."""
        if self.router == "domain":
            return self.router_weight
        return 0.0 if self.balance in ("none", "bias") else self.balance_weight


def _shared_options() -> list[dataclasses.Field]:
    names = {option.name for option in dataclasses.fields(MosldConfig)}
    return [option for option in dataclasses.fields(MethodConfig) if option.name in names]


def adapter_config(model: nn.Module) -> PeftConfig:
    """The config of the model's adapter, inside DDP or not; an empty one where it has none."""
    configs = getattr(getattr(model, "module", model), "peft_config", None) or {}
    return next(iter(configs.values()), PeftConfig())


def by_prompt(adapter: PeftConfig) -> bool:
    """Whether each sequence has one expert, which its prompt decides (router "domain")."""
    return getattr(adapter, "router", None) == "domain"


def needs_whole_rows(adapter: PeftConfig) -> bool:
    """Whether the forward pass must know each row of the batch and its task (router "domain", balance "localised")."""
    return by_prompt(adapter) or getattr(adapter, "balance", None) == "localised"


def experts_per_layer(shape: int | Sequence[int], depth: int) -> list[int]:
    """Experts of each layer from the first to the last (MoLA, Gao et al. 2024; MoSLD section 4.3).

    Args:
        shape: one number for all layers, or numbers for equal parts of the depth: [8, 6, 4, 2] gives the first
            quarter of the layers 8 experts each.

    Raises:
        ValueError: the shape has more parts than the model has layers.
    """
    if isinstance(shape, int):
        return [shape] * depth
    if len(shape) > depth:
        raise ValueError(f"allocation.experts={list(shape)} has {len(shape)} parts, the model only {depth} layers")
    return [shape[layer * len(shape) // depth] for layer in range(depth)]


def experts_of_module(key: str, config: MosldConfig, model: nn.Module) -> int:
    """The number of experts of the module `key`, from the index of its layer and the length of the list it is in."""
    if isinstance(config.experts, int):
        return config.experts
    place = re.match(r"(.*?)\.(\d+)\.", key)
    if place is None:
        raise ValueError(f"experts={config.experts} needs numbered layers, {key} has no number; give one number")
    depth = len(list(model.get_submodule(place[1]).children()))
    return experts_per_layer(config.experts, depth)[int(place[2])]
