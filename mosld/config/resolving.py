"""What a config leaves to be found out: null defaults, absolute paths, the tasks among the user's own files."""

import dataclasses
from pathlib import Path

from mosld.config.data_rules import own_tasks
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
        source=source,
        evaluation=dataclasses.replace(config.evaluation, base=base),
        prompt=config.prompt or model.prompt,
    )
