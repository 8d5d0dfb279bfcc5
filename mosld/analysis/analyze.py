"""All numbers of an inspection as one JSON tree, inspect.json: what the figures draw and the table lists."""

import math
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import TypedDict

from mosld.analysis.adapter_files import AdapterRun, Array, Bank, ExpertUsage, layer_and_module
from mosld.analysis.metrics import (
    cosines,
    divergence,
    norms,
    overlap,
    pair_mean,
    random_overlap,
    random_similarity,
    relative_change,
    similarities,
    specialisation,
)

SCHEMA_VERSION = 1

Initial = Mapping[str, Array] | None
"""The A of each layer before training; None if it is unknown."""


class Module(TypedDict):
    """A module of the model: the number of its layer, and its kind, such as q_proj."""

    layer: int
    module: str


class ModuleNumbers(Module):
    """The experts of one linear layer; `similarity`, `random` and `pairs` by measure."""

    norm: list[float]
    moved: float | None
    similarity: dict[str, float | None]
    random: dict[str, float | None]
    pairs: dict[str, list[list[float | None]]]


class ModuleScore(Module):
    """The specialisation of one router."""

    score: float | None


class ModuleOverlap(Module):
    """The overlap of two runs' A in one layer: as saved, of random ones, before training, of what training added."""

    overlap: float
    random: float
    cosines: list[float]
    start: float | None
    learned: float | None


class Divergence(TypedDict):
    """Jensen-Shannon divergence of every two tasks."""

    tasks: list[str]
    bits: list[list[float]]


class RunNumbers(TypedDict):
    """One run; `use` is by task and module, a share for each expert; `experts` are their names, if they have one."""

    name: str
    path: str
    method: str
    model: str
    data: str
    seed: int
    share: str | None
    experts: list[str] | None
    modules: dict[str, ModuleNumbers]
    use_of: str
    use: dict[str, dict[str, list[float]]]
    specialisation: dict[str, ModuleScore]
    divergence: Divergence | None


class PairNumbers(TypedDict):
    """Two runs with a single A a layer."""

    a: str
    b: str
    modules: dict[str, ModuleOverlap]


class Inspection(TypedDict):
    """The whole tree."""

    schema_version: int
    runs: list[RunNumbers]
    subspaces: list[PairNumbers]


def analyze(runs: Mapping[str, AdapterRun], evaluation: str | None = None) -> Inspection:
    """All numbers of these runs.

    Args:
        runs: by the name that tables and figures give them.
        evaluation: the evaluation whose routing.json is read; None: that of the run itself.

    Raises:
        UserError: files are missing or damaged.
    """
    initial = _initial_weights(runs)
    return {
        "schema_version": SCHEMA_VERSION,
        "runs": [_run_numbers(name, run, initial[name], evaluation) for name, run in runs.items()],
        "subspaces": _subspaces(runs, initial),
    }


def compares_a(runs: Iterable[AdapterRun]) -> bool:
    """Whether two of the runs have a single A a layer."""
    return sum(run.has_single_a for run in runs) > 1


def _initial_weights(runs: Mapping[str, AdapterRun]) -> dict[str, Initial]:
    if not compares_a(runs.values()):
        return dict.fromkeys(runs)
    # It imports transformers and peft, which take seconds.
    from mosld.analysis.initial_weights import initial_a

    return {name: initial_a(run) if run.has_single_a else None for name, run in runs.items()}


def _run_numbers(name: str, run: AdapterRun, initial: Initial, evaluation: str | None) -> RunNumbers:
    config = run.config
    usage = (run.routing(evaluation) if run.is_mixture else None) or {}
    return {
        "name": name,
        "path": str(run.directory),
        "method": config.method.name,
        "model": config.model.name,
        "data": config.data.name,
        "seed": config.seed,
        "share": config.method.share,
        "experts": config.method.domains,
        "modules": {key: _module_numbers(bank, initial, config.method.scale) for key, bank in run.banks.items()},
        "use_of": evaluation or config.data.name,
        "use": {task: {key: _rounded_list(share_E) for key, share_E in keys.items()} for task, keys in usage.items()},
        "specialisation": _specialisation(usage, one_router_a_layer=bool(config.method.domains)),
        "divergence": _divergence(usage) if len(usage) > 1 else None,
    }


def _module_numbers(bank: Bank, initial: Initial, scale: float) -> ModuleNumbers:
    layer, module = layer_and_module(bank.key)
    pairs = similarities(bank) if bank.experts > 1 else {}
    random = random_similarity(bank) if pairs else {}
    initial_RI = (initial or {}).get(bank.key)
    return {
        "layer": layer,
        "module": module,
        "norm": [round(norm, 6) for norm in norms(bank, scale)],
        "moved": None if initial_RI is None else _rounded(relative_change(bank.A_ERI[0], initial_RI)),
        "similarity": {measure: _rounded(pair_mean(values_EE)) for measure, values_EE in pairs.items()},
        "random": {measure: _rounded(value) for measure, value in random.items()},
        "pairs": {measure: [[_rounded(x) for x in row] for row in values_EE] for measure, values_EE in pairs.items()},
    }


def _specialisation(usage: ExpertUsage, one_router_a_layer: bool) -> dict[str, ModuleScore]:
    scores: dict[str, ModuleScore] = {}
    for key, score in specialisation(usage).items():
        layer, module = layer_and_module(key)
        scores[key] = {"layer": layer, "module": "layer" if one_router_a_layer else module, "score": _rounded(score)}
    return scores


def _divergence(usage: ExpertUsage) -> Divergence:
    return {"tasks": list(usage), "bits": [_rounded_list(bits_T) for bits_T in divergence(usage)]}


def _subspaces(runs: Mapping[str, AdapterRun], initial: Mapping[str, Initial]) -> list[PairNumbers]:
    """Every two runs with a single A a layer, on the same base model, in the layers that both adapt."""
    pairs: list[PairNumbers] = []
    for (name, run), (other_name, other) in combinations(runs.items(), 2):
        if not compares_a((run, other)) or run.config.model.name != other.config.model.name:
            continue
        one, two = run.single_a, other.single_a
        shared = [key for key in one if key in two and one[key].shape[1] == two[key].shape[1]]
        starts = initial[name], initial[other_name]
        modules = {key: _module_overlap(key, one[key], two[key], *starts) for key in shared}
        if modules:
            pairs.append({"a": name, "b": other_name, "modules": modules})
    return pairs


def _module_overlap(key: str, A_RI: Array, other_RI: Array, initial: Initial, other_initial: Initial) -> ModuleOverlap:
    layer, module = layer_and_module(key)
    start = learned = None
    if initial is not None and other_initial is not None:
        start = overlap(initial[key], other_initial[key])
        added_RI, other_added_RI = A_RI - initial[key], other_RI - other_initial[key]
        learned = overlap(added_RI, other_added_RI) if added_RI.any() and other_added_RI.any() else None
    return {
        "layer": layer,
        "module": module,
        "overlap": overlap(A_RI, other_RI),
        "random": random_overlap(A_RI, other_RI),
        "cosines": _rounded_list(cosines(A_RI, other_RI)),
        "start": start,
        "learned": learned,
    }


def _rounded_list(values: Array) -> list[float]:
    return [round(float(value), 6) for value in values]


def _rounded(value: float | None) -> float | None:
    """Six digits; None for NaN, which JSON does not have."""
    return None if value is None or not math.isfinite(value) else round(float(value), 6)
