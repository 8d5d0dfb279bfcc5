"""Scoring a model on the tasks."""

from mosld.evaluation.evaluate import Evaluation, Questions, evaluate
from mosld.evaluation.expert_use import ExpertUse
from mosld.evaluation.metrics import accuracy, average, task_score
from mosld.evaluation.multiple_choice import Prediction, predict

__all__ = [
    "Evaluation",
    "ExpertUse",
    "Prediction",
    "Questions",
    "accuracy",
    "average",
    "evaluate",
    "predict",
    "task_score",
]
