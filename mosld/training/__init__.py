"""Training: the loop and the guarantees around it."""

from mosld.training.checkpoint import Checkpoints
from mosld.training.dry_step import StepCost, dry_step
from mosld.training.guard import DivergedError
from mosld.training.loop import Loop
from mosld.training.optim import make_optimizer, trained_parameters
from mosld.training.ready import ready_to_train
from mosld.training.state import Progress
from mosld.training.step import Stepper
from mosld.training.stop import StopSignals

__all__ = [
    "Checkpoints",
    "DivergedError",
    "Loop",
    "Progress",
    "StepCost",
    "Stepper",
    "StopSignals",
    "dry_step",
    "make_optimizer",
    "ready_to_train",
    "trained_parameters",
]
