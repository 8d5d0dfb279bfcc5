"""Pushing what was trained to the Hugging Face Hub: only if asked for, private by default."""

from pathlib import Path

from mosld.common.errors import UserError
from mosld.config.schema import HubConfig


def require_token(hub: HubConfig) -> None:
    """Check at the start that a push at the end can work.

    Raises:
        UserError: a push is asked for and no token is configured.
    """
    if not hub.push_to:
        return
    # Importing it takes a third of a second, which other runs are spared.
    from huggingface_hub import get_token

    if not get_token():
        raise UserError(f"hub.push_to={hub.push_to}: needs a hub token that may write (`hf auth login`).")


def push(folder: Path, hub: HubConfig, title: str) -> str:
    """Upload the files of `folder` and return the repository's address."""
    from huggingface_hub import HfApi

    assert hub.push_to is not None
    api = HfApi()
    url = api.create_repo(hub.push_to, private=hub.private, exist_ok=True)
    api.upload_folder(repo_id=hub.push_to, folder_path=folder, commit_message=title)
    return str(url)
