"""The commit that a model on the Hugging Face Hub has now, so that a run records what it was trained on."""

import os
import re
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

from mosld.common.errors import UserError, explain_hub_error
from mosld.common.network import hub_outage, is_cached
from mosld.config.schema import ModelConfig

# Of one request; without a network the answer comes from the cache, or the command ends.
TIMEOUT_SECONDS = 4.0


@cache
def resolve_revision(hub: str, revision: str | None) -> str:
    """The commit of a branch or tag (None: main): as the hub says, else as the cache of its library has it.

    Raises:
        UserError: neither has it, and what the cache has.
    """
    if revision and re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    # A sixth of a second that most commands do not need.
    from huggingface_hub import HfApi, constants, snapshot_download

    cause: Exception
    try:
        if not constants.is_offline_mode():
            return str(HfApi().model_info(hub, revision=revision, timeout=TIMEOUT_SECONDS).sha)
        cause = ConnectionError("HF_HUB_OFFLINE is set")
    except Exception as error:  # every kind of error of the network, of several libraries
        cause = error
    # A repository that the hub refuses is not taken from the cache.
    if "RepositoryNotFoundError" not in {cls.__name__ for cls in type(cause).__mro__}:
        with suppress(OSError, ValueError):
            commit = Path(snapshot_download(hub, revision=revision, local_files_only=True)).name
            # The libraries would try each file for minutes.
            constants.HF_HUB_OFFLINE = True
            os.environ["HF_HUB_OFFLINE"] = "1"
            print(f"model={hub}: the hub cannot be reached; the cached commit {commit} is used", file=sys.stderr)
            return commit
    cached = sorted(path.name for path in Path(constants.HF_HUB_CACHE).glob("models--*"))
    names = ", ".join(name.removeprefix("models--").replace("--", "/") for name in cached) or "none"
    otherwise = f"without a network take a model of the cache ({names}), or a directory as in model=my/checkpoint"
    raise UserError(f"model={hub}: {explain_hub_error(hub, cause, otherwise)}") from cause


def require_hub_model(model: ModelConfig) -> None:
    """Refuse a model that is neither cached nor reachable, before torch is imported.

    Raises:
        UserError: the hub does not answer.
    """
    if model.kind != "hub" or model.path or not model.hub or is_cached(model.hub, model.revision):
        return
    if outage := hub_outage():
        raise UserError(
            f"model={model.name}: {model.hub} (revision {model.revision}) cannot be fetched: without a network give a "
            f"local checkpoint with model.path=DIR. {outage}"
        )
