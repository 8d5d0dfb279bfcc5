"""Scoring a model on the tasks."""

from mosld.evaluation.evaluate import Evaluation, Questions, evaluate
from mosld.evaluation.expert_use import ExpertUse
from mosld.evaluation.generation import FinalNumber, end_tokens, solve
from mosld.evaluation.multiple_choice import Prediction, predict
from mosld.evaluation.scores import Outcome, average, task_score

__all__ = [
    "Evaluation",
    "ExpertUse",
    "FinalNumber",
    "Outcome",
    "Prediction",
    "Questions",
    "average",
    "end_tokens",
    "evaluate",
    "predict",
    "solve",
    "task_score",
]
