"""Which experts the tokens of each task take, and how sure the routers are of it.

Shapes: M modules, B sequences, S tokens, E experts, K tasks.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mosld.adapters.routing import Routing, gate_entropy
from mosld.distributed.processes import Processes
from mosld.evaluation.packing import Packed, questions_served

# PART: Which experts the tokens of each task take, and how sure the routers are of it. Shapes: M modules, B
# sequences, S tokens, E experts, K tasks.


class ExpertUse:
    """Sums over scored sequences, by task and module.

    With a mixture of domains a whole sequence takes one expert: sequences are counted in place of tokens.
    """

    def __init__(self, domains: Sequence[str] | None = None) -> None:
        """Start with no counts; `domains` are the tasks that have an expert of their own."""
        self.domains = list(domains or [])
        self._sums: dict[str, dict[str, Tensor]] = {}  # task -> module -> [3 + 2 E] sums
        self._right: dict[str, list[tuple[float, bool]]] = {}

    @staticmethod
    def watches(model: Any) -> bool:
        """Whether the model has experts."""
        return getattr(getattr(model, "module", model), "context", None) is not None

    @contextmanager
    def watch(self, model: Any, batch: Sequence[Packed]) -> Iterator[None]:
        """Take note of the routings of one forward pass on this batch."""
        if not self.watches(model):
            yield
            return
        with getattr(model, "module", model).context.recording() as routings:
            yield
        self._add(dict(routings), batch)

    def _add(self, routings: dict[str, Routing], batch: Sequence[Packed]) -> None:
        groups: dict[int, list[str]] = {}
        for module, routing in routings.items():
            groups.setdefault(routing.probs_BSE.shape[-1], []).append(module)
        names = sorted({packed.task for packed in batch})
        own_BK = torch.tensor([[packed.task == name for name in names] for packed in batch])
        for modules in groups.values():
            found = [_measures(routings[module]) for module in modules]
            measures_MBSF = torch.stack(found)
            mask_BS = questions_served(batch) if measures_MBSF.shape[2] > 1 else torch.ones(len(batch), 1)
            weights = torch.einsum("bs,bk->bsk", mask_BS.float(), own_BK.float()).to(measures_MBSF)
            sums_KMF = torch.einsum("mbsf,bsk->kmf", measures_MBSF, weights).double().cpu()
            for name, sums_MF in zip(names, sums_KMF, strict=True):
                kept = self._sums.setdefault(name, {})
                for module, sums_F in zip(modules, sums_MF, strict=True):
                    kept[module] = kept.get(module, 0) + sums_F
        if self.domains and routings:
            self._judge(routings, batch)

    def _judge(self, routings: dict[str, Routing], batch: Sequence[Packed]) -> None:
        """Compare the layers' choices with the task of each sequence."""
        choices_LB = torch.stack([routing.probs_BSE[:, 0].argmax(-1) for routing in routings.values()]).cpu()
        elected_B = choices_LB.mode(dim=0).values.tolist()
        for packed, choices_L, elected in zip(batch, choices_LB.T, elected_B, strict=True):
            task = packed.task
            if task in self.domains:
                own = self.domains.index(task)
                outcome = ((choices_L == own).float().mean().item(), elected == own)
                self._right.setdefault(task, []).append(outcome)

    def add_up(self, group: Processes) -> None:
        """Add what the other processes saw; to be called once, in all of them."""
        if group.count == 1:
            return
        everywhere = group.all_gather((self._sums, self._right))
        self._sums, self._right = {}, {}
        for sums, right in everywhere:
            for task, modules in sums.items():
                kept = self._sums.setdefault(task, {})
                for module, found in modules.items():
                    kept[module] = kept.get(module, 0) + found
            for task, outcomes in right.items():
                self._right.setdefault(task, []).extend(outcomes)

    def table(self) -> dict[str, Any]:
        """{task: {module: {"tokens", "share", "weight", "entropy", "dropped"}}}; empty without a router.

        `share`: of the tokens, by expert, how many take it; `weight`: its mean gate; `entropy`: mean entropy of the
        router's probabilities as a share of the largest possible; `dropped`: share of choices that found no room.
        """
        return {
            task: {module: _entry(sums) for module, sums in modules.items()}
            for task, modules in sorted(self._sums.items())
        }

    def accuracy(self) -> dict[str, Any]:
        """{"routing_accuracy": {task: {"per_layer", "vote", "n"}}} of a mixture of domains; else nothing."""
        found = {
            task: {
                "per_layer": sum(share for share, _ in outcomes) / len(outcomes),
                "vote": sum(right for _, right in outcomes) / len(outcomes),
                "n": len(outcomes),
            }
            for task, outcomes in sorted(self._right.items())
        }
        return {"routing_accuracy": found} if found else {}


def _measures(routing: Routing) -> Tensor:
    """Per token [B, S, 3 + 2 E]: 1, the entropy, choices without room, then choices and gates by expert."""
    gates_BSE, taken_BSE, dropped_BS = routing.gates_BSE.float(), routing.taken_BSE, routing.dropped_BS
    head = torch.stack([torch.ones_like(dropped_BS), gate_entropy(routing.probs_BSE), dropped_BS], dim=-1)
    return torch.cat([head, taken_BSE, gates_BSE], dim=-1)


def _entry(sums: Tensor) -> dict[str, Any]:
    tokens, entropy, dropped = sums[:3].tolist()
    taken, gates = sums[3:].chunk(2)
    return {
        "tokens": round(tokens),
        "share": [round(value, 6) for value in (taken / tokens).tolist()],
        "weight": [round(value, 6) for value in (gates / tokens).tolist()],
        "entropy": round(entropy / tokens, 6),
        "dropped": round(dropped / max(taken.sum().item(), 1), 6),
    }


# PART: Which experts each token of one answer takes, in every routed module. Shapes: B is 1, S tokens, E experts.


Taken = list[tuple[int, float]]
"""The experts of one token with their gates, the largest gate first."""


@torch.inference_mode()
def token_experts(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> dict[str, list[Taken]]:
    """By module, the experts of each token of `answer`; a mixture of domains has one entry for the whole answer.

    One forward pass over prompt and answer is recorded. In eval mode a token's gates depend on it and on what stands
    before it, so they are those of the generation, up to rounding. The experts of a token are those that it takes as
    an input, from which the next token is predicted.

    Returns:
        Nothing for a model without a router.
    """
    context = getattr(model, "context", None)
    if context is None:
        return {}
    ids_BS = torch.tensor([[*prompt, *answer]], device=model.device)
    inputs = {"input_ids": ids_BS, "attention_mask": torch.ones_like(ids_BS)}
    whole = model.active_peft_config.router == "domain"
    if whole:  # the prompt alone decides
        inputs["prompt_mask"] = (torch.arange(ids_BS.shape[1], device=ids_BS.device) < len(prompt)).long()[None]
    with context.recording() as routings:
        model(**inputs, use_cache=False)
    first = 0 if whole else len(prompt)
    return {name: [_taken(gates) for gates in found.gates_BSE[0, first:].tolist()] for name, found in routings.items()}


def _taken(gates: list[float]) -> Taken:
    return sorted(((expert, gate) for expert, gate in enumerate(gates) if gate > 0), key=lambda pair: -pair[1])
