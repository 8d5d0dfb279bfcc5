"""Training: the loop and the guarantees around it."""

from mosld.training.checkpoint import Checkpoints
from mosld.training.loop import DivergedError, Loop
from mosld.training.optim import make_optimizer, trained_parameters
from mosld.training.state import Progress
from mosld.training.step import Stepper

__all__ = [
    "Checkpoints",
    "DivergedError",
    "Loop",
    "Progress",
    "Stepper",
    "make_optimizer",
    "trained_parameters",
]
