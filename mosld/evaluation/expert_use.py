"""Which experts tokens take: counted over the questions of each task (routing.json), and for each token of an answer.

Shapes: M modules, L layers, B sequences, S tokens, E experts, K tasks, F measures per token.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypedDict

import torch
from torch import Tensor

from mosld.adapters.forward_tracker import ForwardTracker
from mosld.adapters.load import Model
from mosld.adapters.routing import Routing, gate_entropy
from mosld.distributed.processes import Processes
from mosld.evaluation.forward import adapter_config, by_prompt, unwrapped
from mosld.evaluation.packing import Packed, questions_per_token

Taken = list[tuple[int, float]]
"""The experts of one token and their gates, largest gate first."""


class ModuleUse(TypedDict):
    """The experts of one module over the tokens of one task, or over its sequences where each takes one expert.

    For each expert the share of tokens that take it and its mean gate (weight); the mean entropy of the router's
    probabilities as a share of the largest possible; the share of choices that were dropped for lack of capacity.
    """

    tokens: int
    share: list[float]
    weight: list[float]
    entropy: float
    dropped: float


class ExpertUse:
    """Sums over the scored sequences, by task and module.

    In a mixture of domains a sequence takes one expert; sequences are counted in place of tokens.
    """

    def __init__(self, domains: Sequence[str] | None = None) -> None:
        """Start with no counts; `domains` are the tasks that have an expert each, in the order of the experts."""
        self.domains = list(domains or [])
        # task -> module -> sums of the measures per token [F]
        self._sums: dict[str, dict[str, Tensor]] = {}
        # task -> for each sequence, the share of layers that chose the task's expert, and whether most layers did
        self._domain_choices: dict[str, list[tuple[float, bool]]] = {}

    @contextmanager
    def record(self, model: Model, batch: Sequence[Packed]) -> Iterator[None]:
        """Count the routing of the forward pass on a batch; without experts, nothing."""
        context = _forward_tracker(model)
        if context is None:
            yield
            return
        with context.recording() as routings:
            yield
        self._add(dict(routings), batch)

    def _add(self, routings: dict[str, Routing], batch: Sequence[Packed]) -> None:
        # Modules with equally many experts are summed at once.
        modules_by_size: dict[int, list[str]] = {}
        for module, routing in routings.items():
            modules_by_size.setdefault(routing.probs_BSE.shape[-1], []).append(module)
        tasks = sorted({packed.task for packed in batch})
        is_task_BK = torch.tensor([[packed.task == task for task in tasks] for packed in batch])
        for modules in modules_by_size.values():
            # Some models have flattened their tokens, as OPT before its feed-forward layers.
            by_module = (_measures(routings[module]) for module in modules)
            measures_MBSF = torch.stack([one.reshape(len(batch), -1, one.shape[-1]) for one in by_module])
            whole_sequences = measures_MBSF.shape[2] == 1
            counts_BS = torch.ones(len(batch), 1) if whole_sequences else questions_per_token(batch)
            counts_BSK = torch.einsum("bs,bk->bsk", counts_BS.float(), is_task_BK.float()).to(measures_MBSF)
            sums_KMF = torch.einsum("mbsf,bsk->kmf", measures_MBSF, counts_BSK).double().cpu()
            for task, sums_MF in zip(tasks, sums_KMF, strict=True):
                self._add_sums(task, dict(zip(modules, sums_MF, strict=True)))
        if self.domains and routings:
            self._add_domain_choices(routings, batch)

    def _add_sums(self, task: str, sums: dict[str, Tensor]) -> None:
        totals = self._sums.setdefault(task, {})
        for module, sums_F in sums.items():
            totals[module] = totals.get(module, 0) + sums_F

    def _add_domain_choices(self, routings: dict[str, Routing], batch: Sequence[Packed]) -> None:
        """Compare the layers' choices with the expert of each sequence's task."""
        choices_LB = torch.stack([routing.probs_BSE[:, 0].argmax(-1) for routing in routings.values()]).cpu()
        votes_B = choices_LB.mode(dim=0).values.tolist()
        for packed, choices_L, vote in zip(batch, choices_LB.T, votes_B, strict=True):
            if packed.task in self.domains:
                expert = self.domains.index(packed.task)
                choice = ((choices_L == expert).float().mean().item(), vote == expert)
                self._domain_choices.setdefault(packed.task, []).append(choice)

    def all_reduce(self, group: Processes) -> None:
        """Add the counts of the other processes; called once by all of them."""
        if group.count == 1:
            return
        gathered = group.all_gather((self._sums, self._domain_choices))
        self._sums = {}
        self._domain_choices = {}
        for sums_by_task, choices_by_task in gathered:
            for task, sums in sums_by_task.items():
                self._add_sums(task, sums)
            for task, choices in choices_by_task.items():
                self._domain_choices.setdefault(task, []).extend(choices)

    def table(self) -> dict[str, dict[str, ModuleUse]]:
        """The counts by task and module, as in routing.json; empty without a router."""
        return {
            task: {module: _module_use(sums_F) for module, sums_F in modules.items()}
            for task, modules in sorted(self._sums.items())
        }

    def accuracy(self) -> dict[str, dict[str, dict[str, float]]]:
        """For a mixture of domains {"routing_accuracy": {task: {"per_layer", "vote", "n"}}}; else empty."""
        by_task = {
            task: {
                "per_layer": sum(share for share, _ in choices) / len(choices),
                "vote": sum(right for _, right in choices) / len(choices),
                "n": len(choices),
            }
            for task, choices in sorted(self._domain_choices.items())
        }
        return {"routing_accuracy": by_task} if by_task else {}


def has_experts(model: Model) -> bool:
    """Whether the model has an adapter with experts."""
    return _forward_tracker(model) is not None


def _forward_tracker(model: Model) -> ForwardTracker | None:
    return getattr(unwrapped(model), "context", None)


def _measures(routing: Routing) -> Tensor:
    """For each token 1, the router's entropy, choices without capacity, then choices and gates by expert [B, S, F]."""
    dropped_BS = routing.dropped_BS
    head_BSF = torch.stack([torch.ones_like(dropped_BS), gate_entropy(routing.probs_BSE), dropped_BS], dim=-1)
    return torch.cat([head_BSF, routing.taken_BSE, routing.gates_BSE.float()], dim=-1)


def _module_use(sums_F: Tensor) -> ModuleUse:
    tokens, entropy, dropped = sums_F[:3].tolist()
    taken_E, gates_E = sums_F[3:].chunk(2)
    return {
        "tokens": round(tokens),
        "share": [round(value, 6) for value in (taken_E / tokens).tolist()],
        "weight": [round(value, 6) for value in (gates_E / tokens).tolist()],
        "entropy": round(entropy / tokens, 6),
        "dropped": round(dropped / max(taken_E.sum().item(), 1), 6),
    }


@torch.inference_mode()
def token_experts(model: Model, prompt: Sequence[int], answer: Sequence[int]) -> dict[str, list[Taken]]:
    """By module, the experts of each token of an answer, from one forward pass over prompt and answer.

    In eval mode the gates of a token depend only on it and the tokens before it, so they equal those of the generation
    up to rounding. The experts of a token are those it takes as an input, where the next token is predicted.

    Returns:
        One entry per token, or one for the whole answer in a mixture of domains; empty for a model without experts.
    """
    context = _forward_tracker(model)
    if context is None:
        return {}
    ids_BS = torch.tensor([[*prompt, *answer]], device=model.device)
    inputs = {"input_ids": ids_BS, "attention_mask": torch.ones_like(ids_BS)}
    first = len(prompt)
    if by_prompt(adapter_config(model)):
        inputs["prompt_mask"] = (torch.arange(ids_BS.shape[1], device=ids_BS.device) < len(prompt)).long()[None]
        first = 0
    with context.recording() as routings:
        model(**inputs, use_cache=False)
    return {
        module: [_taken(gates_E) for gates_E in routing.gates_BSE[0, first:].tolist()]
        for module, routing in routings.items()
    }


def _taken(gates_E: list[float]) -> Taken:
    return sorted(((expert, gate) for expert, gate in enumerate(gates_E) if gate > 0), key=lambda pair: -pair[1])
