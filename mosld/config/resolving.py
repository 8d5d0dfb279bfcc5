"""What a config leaves to be found out: null defaults, absolute paths, the user's own tasks, a single setting's one."""

import dataclasses
from pathlib import Path

from mosld.config.data import TASKS, DataConfig
from mosld.config.data_rules import own_tasks, single_task
from mosld.config.domain_rules import with_domains
from mosld.config.errors import UserError
from mosld.config.schema import Config


def with_own_tasks(config: Config, errors: list[str]) -> Config:
    """The config with the tasks named that lie below `source.root`; what is wrong there is appended to `errors`."""
    try:
        tasks = own_tasks(config.data, config.source)
    except UserError as error:
        errors += error.messages
        return config
    return dataclasses.replace(config, data=dataclasses.replace(config.data, tasks=tasks))


def with_single_task(config: Config) -> Config:
    """The config of a `single_*` setting with its one task, where the list of tasks names it among others.

    So one list serves a sweep over mixture and single settings: the single jobs are then those of plain commands. A
    list without the task, or with a mistake in it, stays as it is: the rules say what is wrong with it.
    """
    data = config.data
    task, given = single_task(data), data.tasks
    if task not in given or len(set(given)) < len(given) or not set(given) <= set(TASKS):
        return config
    others = set(given) - {task}
    data = dataclasses.replace(
        data,
        tasks=[task],
        weights={name: weight for name, weight in data.weights.items() if name not in others},
        n_openorca=None if "openorca" in others else data.n_openorca,
    )
    return dataclasses.replace(config, data=data)


def resolved(config: Config) -> Config:
    """Fill in the keys whose null means "as the model's config says", and make paths absolute.

    `config.yaml` then records what was used, and one directory has one name wherever the command is typed.
    """
    model, source = config.model, config.source
    if model.path:
        path = Path(model.path).resolve()
        model = dataclasses.replace(model, name=path.name, path=str(path))
    if source.root:
        source = dataclasses.replace(source, root=str(Path(source.root).resolve()))
    base = model.score_base if config.evaluation.base is None else config.evaluation.base
    method = config.method
    if method.router == "domain":
        method = with_domains(method, config.data.tasks)
    return dataclasses.replace(
        config,
        model=model,
        method=method,
        data=_with_shares(config.data),
        source=source,
        evaluation=dataclasses.replace(config.evaluation, base=base),
        prompt=config.prompt or model.prompt,
    )


def _with_shares(data: DataConfig) -> DataConfig:
    """Of one task alone every share is the whole: the same run, so the same name, as without them."""
    if len(data.tasks) != 1 or data.mixing not in ("weights", "temperature"):
        return data
    return dataclasses.replace(data, mixing="concatenate", weights={}, temperature=1.0)
