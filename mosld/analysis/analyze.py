"""All numbers of an inspection as one JSON tree: what the figures draw and the table lists.

Shapes: T tasks, E experts.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mosld.analysis.adapter_files import AdapterRun, Array, Bank, layer_and_kind
from mosld.analysis.metrics import (
    Use,
    divergence,
    moved,
    norms,
    overlaps,
    pair_mean,
    random_similarity,
    similarities,
    specialisation,
)

SCHEMA_VERSION = 1


def numbers(runs: Mapping[str, AdapterRun], evaluation: str | None = None) -> dict[str, Any]:
    """Everything that can be said of these runs, by the name of each.

    Args:
        runs: by the name that tables and figures give them.
        evaluation: the evaluation whose routing.json is read; None: that of the run itself.

    Returns:
        {"schema_version", "runs": [one object a run], "subspaces": [one object a pair of runs that have one A a layer]}

    Raises:
        UserError: files are missing or damaged.
    """
    starts = _starts(runs)
    return {
        "schema_version": SCHEMA_VERSION,
        "runs": [_run(name, run, starts[name], evaluation) for name, run in runs.items()],
        "subspaces": overlaps(runs, starts),
    }


def _starts(runs: Mapping[str, AdapterRun]) -> dict[str, dict[str, Array] | None]:
    """What each A was before training, where A's are to be compared."""
    if not compares_A(runs.values()):
        return dict.fromkeys(runs)
    from mosld.analysis.initial_weights import starting_A  # transformers and peft, seconds

    return {name: starting_A(run) if run.one_A else None for name, run in runs.items()}


def compares_A(runs: Iterable[AdapterRun]) -> bool:
    """Whether two of the runs have one A a layer."""
    return sum(run.one_A for run in runs) > 1


def _run(name: str, run: AdapterRun, start: Mapping[str, Array] | None, evaluation: str | None) -> dict[str, Any]:
    config, use = run.config, run.routing(evaluation) if run.mixture else None
    return {
        "name": name,
        "path": str(run.directory),
        "method": config.method.name,
        "model": config.model.name,
        "data": config.data.name,
        "seed": config.seed,
        "share": config.method.share,
        "experts": config.method.domains,  # their names, where they have one
        "modules": {key: _module(run, bank, start) for key, bank in run.banks.items()},
        "use_of": evaluation or config.data.name,
        **(_routed(use, bool(config.method.domains)) if use else {"use": {}, "specialisation": {}, "divergence": None}),
    }


def _module(run: AdapterRun, bank: Bank, start: Mapping[str, Array] | None) -> dict[str, Any]:
    rank = bank.A_ERI.shape[1]
    pairs = similarities(bank) if bank.experts > 1 else {}
    return {
        "layer": bank.layer,
        "module": bank.kind,
        "norm": [round(norm, 6) for norm in norms(bank, run.config.method.alpha / rank)],
        "moved": _rounded(moved(bank.A_ERI[0], start[bank.key])) if start and bank.key in start else None,
        "similarity": {measure: _rounded(pair_mean(found_EE)) for measure, found_EE in pairs.items()},
        "random": {measure: _rounded(value) for measure, value in random_similarity(bank).items()} if pairs else {},
        "pairs": {measure: _plain(found_EE) for measure, found_EE in pairs.items()},
    }


def _routed(use: Use, by_layer: bool) -> dict[str, Any]:
    """`by_layer`: one module decides for its whole layer."""
    places = {key: layer_and_kind(key) for modules in use.values() for key in modules}
    return {
        "use": {task: {module: _plain(part_E) for module, part_E in modules.items()} for task, modules in use.items()},
        "specialisation": {
            key: {"layer": places[key][0], "module": "layer" if by_layer else places[key][1], "score": _rounded(score)}
            for key, score in specialisation(use).items()
        },
        "divergence": {"tasks": list(use), "bits": _plain(divergence(use))} if len(use) > 1 else None,
    }


def _plain(values: Array) -> Any:
    """Nested lists of rounded numbers."""
    return [_plain(row) for row in values] if np.ndim(values) else _rounded(float(values))


def _rounded(value: float | None) -> float | None:
    """Six digits; None for what has no value, since JSON knows no NaN."""
    return None if value is None or not math.isfinite(value) else round(value, 6)
