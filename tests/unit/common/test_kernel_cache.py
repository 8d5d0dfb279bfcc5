import os
import subprocess
import sys

import pytest

from mosld.common.kernel_cache import KERNELS, LAYER, OLD_PRIMITIVES, PRIMITIVES, limit_kernel_cache

# Images of every height: oneDNN computes convolutions on any CPU, with a kernel for each shape and for its layout.
SHAPES = """
from mosld import cli
cli.run_flags(lambda flags: 0, cli.FlagParser("x", "x"), [])
import torch
for height in [*range(8, 8 + {shapes}), 8]:
    torch.nn.functional.conv2d(torch.zeros(2, 16, height, 8), torch.zeros(16, 16, 3, 3))
"""


@pytest.fixture(autouse=True)
def no_user_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which nothing is set for oneDNN."""
    for name in (PRIMITIVES, OLD_PRIMITIVES, LAYER):
        # Set first, so that what a test sets is undone too.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def chosen() -> dict[str, str]:
    return {name: os.environ[name] for name in (PRIMITIVES, OLD_PRIMITIVES, LAYER) if name in os.environ}


def test_few_kernels_are_kept():
    limit_kernel_cache()
    assert chosen() == {PRIMITIVES: str(KERNELS), LAYER: str(KERNELS)}


@pytest.mark.parametrize("name", [PRIMITIVES, OLD_PRIMITIVES])
def test_numbers_of_the_user_stand(name, monkeypatch):
    monkeypatch.setenv(name, "7")
    monkeypatch.setenv(LAYER, "9")
    limit_kernel_cache()
    assert chosen() == {name: "7", LAYER: "9"}


@pytest.mark.parametrize(("shapes", "kept"), [(KERNELS // 8, True), (2 * KERNELS, False)])
def test_a_command_forgets_kernels_of_shapes_that_it_saw_long_ago(shapes, kept):
    done = subprocess.run(
        [sys.executable, "-c", SHAPES.format(shapes=shapes)],
        env={**os.environ, "ONEDNN_VERBOSE": "2"}, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    made = [line for line in done.stdout.splitlines() if ",create:" in line and ",convolution," in line]
    last = made[-1].split(",create:")[1].split(",")[0]
    assert {line.rsplit(",", 2)[1] for line in (made[0], made[-1])} == {made[0].rsplit(",", 2)[1]}
    assert last == ("cache_hit" if kept else "cache_miss")
