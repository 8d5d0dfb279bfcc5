"""The jobs of a sweep, composed once for all tests of a process: table 1 alone has 77."""

from functools import cache

from mosld.config.sweep import Job, plan_sweep


@cache
def jobs(*overrides: str) -> list[Job]:
    """The jobs of a sweep that no test changes, of the files in conf/."""
    return plan_sweep(list(overrides)).jobs
