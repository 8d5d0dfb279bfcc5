"""The name of a run on a dashboard: what a person chose, in words."""

from mosld.config import Config


def run_title(config: Config) -> str:
    """``<method>-<data>-<model>-r<rank>-d<dropout>-s<seed>``, as far as the method has them.

    Runs that differ in other keys share it; the W&B config beside it has every key and the run's hash.
    """
    method = config.method
    size = {"full": [], "prefix": [f"n{method.virtual_tokens}"]}.get(method.kind, [f"r{method.rank}"])
    dropped = [f"d{method.dropout:g}"] if method.kind in ("lora", "mixture") else []
    return "-".join([method.name, config.data.name, config.model.name, *size, *dropped, f"s{config.seed}"])
