"""Pushing what was trained to the Hugging Face Hub: only where asked for, private unless said otherwise."""

from pathlib import Path

from mosld.common.errors import UserError
from mosld.config.schema import Config


def require_token(config: Config) -> None:
    """Refuse at the start what would fail at the end.

    Raises:
        UserError: a push is asked for and no token is configured.
    """
    if not config.hub.push_to:
        return
    from huggingface_hub import get_token  # takes a third of a second that other runs need not wait for

    if not get_token():
        raise UserError(f"hub.push_to={config.hub.push_to}: needs a hub token that may write (`hf auth login`).")


def push(folder: Path, config: Config, title: str) -> str:
    """Upload the files of `folder`, the run's own config.yaml and card included; returns the repository's address."""
    from huggingface_hub import HfApi

    api, repository = HfApi(), config.hub.push_to
    assert repository is not None  # the caller's business
    url = api.create_repo(repository, private=config.hub.private, exist_ok=True)
    api.upload_folder(repo_id=repository, folder_path=folder, commit_message=title)
    return str(url)
