"""What a run would train, counted on the meta device: shapes without weights."""

import json
from typing import Any

from mosld.adapters import adapt_with
from mosld.config import Config, identity, run_directory
from mosld.config.method_rules import experts_of
from mosld.model.shape import meta_model
from mosld.quiet import silence_libraries
from mosld.stages import parameter_counts


def estimate(config: Config) -> dict[str, Any]:
    """Model, method, where the run would lie, and its exact parameter counts."""
    silence_libraries()
    model = meta_model(config.model)
    base = sum(parameter.numel() for parameter in model.parameters())
    adapted = adapt_with(model, config.method, config.allocation, seed=None)
    mixture = config.method.kind == "mixture"
    experts = len(config.method.domains or []) or experts_of(config.method, config.allocation)
    return {
        "model": config.model.name,
        "method": config.method.name,
        "experts": experts if mixture else None,
        "parameters": {**parameter_counts(adapted), "base": base},
        "run": str(run_directory(config)),
        "config_hash": identity(config),
    }


def show(plan: dict[str, Any], as_json: bool) -> None:
    """Print the plan: for a person, or as one JSON object."""
    if as_json:
        print(json.dumps(plan))
        return
    count = plan["parameters"]
    print(f"{plan['method']} on {plan['model']}")
    if plan["experts"] is not None:
        print(f"  experts     {plan['experts']} (per module; a list is stretched over the depth)")
    print(f"  base        {count['base']:>15,} parameters")
    print(f"  trainable   {count['trainable']:>15,} ({100 * count['trainable'] / count['base']:.3f} % of the base)")
    print(f"  total       {count['total']:>15,}")
    print(f"  run         {plan['run']}")
