"""What a run would train and need, without loading anything: ``python -m mosld.plan model=llama2_7b method=mosld``."""

import json
import sys
from collections.abc import Sequence

from mosld.cli import run_command, show_config
from mosld.common.errors import ExitCode
from mosld.config.compose import load_config
from mosld.config.revisions import require_hub_model
from mosld.config.schema import Config
from mosld.config.sweep import is_sweep, plan_sweep
from mosld.planning.arguments import PlanKeys, describe, split_keys
from mosld.runs.console import Console

USAGE = f"""Parameters, memory for each GPU, FLOPs, hours, and which file of conf/accelerate fits.

  python -m mosld.plan model=llama2_7b method=mosld
  python -m mosld.plan model=llama2_13b method=mosld training=paper gpus=16 gpu_memory=40GiB
  python -m mosld.plan model=llama2_7b method=mosld json=true    # one JSON object
  python -m mosld.plan experiment=table1 gpus=16 gpu_memory=40GiB  # every run of a sweep, a line each, and the sum
  python -m mosld.plan model=llama2_7b sweep=rank json=true      # a JSON list

Nothing is loaded or fetched: one step runs in shapes alone, which stand in conf/model. Takes the groups and keys of
mosld.train, and its own:

{describe()}"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_command(plan, USAGE, argv)


def plan(arguments: list[str]) -> int:
    """Config, shapes, counts; of a sweep those of every run."""
    keys, overrides = split_keys(arguments)
    if show_config(overrides):
        return ExitCode.FINISHED
    if is_sweep(overrides):
        return _plan_jobs(overrides, keys)
    config = load_config(overrides)
    _require_shape(config)
    # These import torch, transformers and peft: only now is everything checked.
    from mosld.planning import estimate, view

    estimated = estimate.estimate(config, keys)
    print(json.dumps(estimated) if keys.json else "\n".join(view.plan_lines(estimated)))
    return ExitCode.FINISHED


def _plan_jobs(overrides: list[str], keys: PlanKeys) -> int:
    sweep = plan_sweep(overrides)
    for job in sweep.jobs:
        _require_shape(job.config)
    from mosld.planning import jobs, view

    plans = jobs.estimate_jobs(sweep, keys, track=Console().track("planning"))
    print(json.dumps(plans) if keys.json else "\n".join(view.job_lines(plans, len(sweep.jobs))))
    return ExitCode.FINISHED


def _require_shape(config: Config) -> None:
    """Refuse a model whose shape is on the hub alone and cannot be fetched."""
    if not config.model.shape:
        require_hub_model(config.model)


if __name__ == "__main__":
    sys.exit(main())
