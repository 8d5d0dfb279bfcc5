"""Whether the Hugging Face Hub answers, asked once and briefly: its libraries try each file for half a minute."""

import os
import threading
from functools import cache

PROBE_SECONDS = 3.0


@cache
def hub_outage() -> str:
    """Sentences that say why nothing can be fetched from the hub, and what to do; "" if it answers.

    Without an answer the libraries are set to take from their caches alone, as with HF_HUB_OFFLINE=1.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE=1 is set and the cache does not have it; unset HF_HUB_OFFLINE to fetch it."
    if not (cause := _probe(constants.ENDPOINT)):
        return ""
    constants.HF_HUB_OFFLINE = True
    # datasets reads it when it is imported, and so do other processes.
    os.environ["HF_HUB_OFFLINE"] = "1"
    return (
        f"{constants.ENDPOINT} does not answer ({cause}) and the cache does not have it; check the network, the proxy "
        "or HF_ENDPOINT (HF_HUB_OFFLINE=1 takes what is cached without asking)."
    )


def _probe(address: str) -> str:
    """Why an address does not answer; "" if it does, whatever it says."""
    from huggingface_hub import get_session

    outcome = [f"no answer in {PROBE_SECONDS:g} s"]

    def ask() -> None:
        try:
            get_session().head(address, timeout=PROBE_SECONDS)
            outcome[0] = ""
        # Of the HTTP client, the proxy settings or the name service.
        except Exception as error:
            outcome[0] = str(error).strip() or type(error).__name__

    # A name that is not resolved has no time limit of its own.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PROBE_SECONDS)
    return outcome[0]


def is_cached(repository: str, revision: str | None) -> bool:
    """Whether the cache has the config of a model of the hub, and so probably the whole model."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repository, "config.json", revision=revision), str)
