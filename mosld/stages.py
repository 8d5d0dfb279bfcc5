"""The stages of a run, each a few lines that put the packages together."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import set_seed

from mosld.adapters import adapt_with
from mosld.config import Config
from mosld.data import Dataset
from mosld.data.batches import Example, Order, encode_train
from mosld.data.prompts import PromptEncoder
from mosld.evaluation import Evaluation, Questions, evaluate
from mosld.logging import Console, Results, RunDirectory
from mosld.logging.atomic import write_json
from mosld.logging.manifest import write_folder
from mosld.logging.model_card import write_model_card
from mosld.logging.tracker import Tracker
from mosld.model import load_model
from mosld.training import Checkpoints, Loop, Stepper, make_optimizer, trained_parameters


def load_on_device(config: Config) -> tuple[Any, Any]:
    """The base model on this process's device, and its tokenizer."""
    model, tokenizer = load_model(config.model)
    return model.to(PartialState().device), tokenizer


@dataclass(frozen=True)
class Stages:
    """What every stage needs: the run's config, rows and tokenizer, and where a person looks."""

    config: Config
    dataset: Dataset
    tokenizer: Any
    console: Console

    @property
    def encoder(self) -> PromptEncoder:
        """The run's prompt format with its tokenizer."""
        assert self.config.prompt is not None  # filled in when the config was checked
        return PromptEncoder(self.tokenizer, self.config.prompt)

    def questions(self, split: str, limit: int | None) -> Questions:
        """The questions of a split as tokens."""
        made = Questions(self.dataset.tasks, split, limit, self.encoder)
        self._say_cut(made.cut, split)
        return made

    def encode_train(self) -> list[Example]:
        """The train rows as tokens."""
        examples, cut = encode_train(self.dataset.train, self.encoder, self.tokenizer.eos_token_id)
        self._say_cut(cut, "train")
        return examples

    def score(self, model: Any, questions: Questions, title: str) -> Evaluation:
        """Accuracy of a model, in eval mode."""
        batch_tokens = self.config.evaluation.batch_tokens
        return evaluate(model, questions, self.tokenizer.pad_token_id, batch_tokens, self.console.track(title))

    def base_scores(self, model: Any, questions: Questions, run: RunDirectory) -> dict[str, Any]:
        """Scores of the untrained model; a resumed run reads them back."""
        if run.base_scores.is_file():
            return json.loads(run.base_scores.read_text())
        before = self.score(model, questions, "scoring the untrained model")
        run.write_predictions(before.records(), "base")
        found = {"base_scores": before.scores, "base_average": before.average}
        write_json(run.base_scores, found)
        return found

    def make_stepper(self, model: Any) -> Stepper:
        """The model with the method's adapter, on its device, with an optimiser."""
        config = self.config
        set_seed(config.seed)
        adapted: Any = adapt_with(model, config.method, config.allocation, config.seed)
        if config.training.gradient_checkpointing:
            adapted.enable_input_require_grads()
            adapted.base_model.model.activation_checkpointing_enable(
                activation_checkpointing_kwargs={"use_reentrant": False}
            )
        count = self.count(adapted)
        share = 100 * count["trainable"] / count["total"]
        self.console.say(f"trainable parameters: {count['trainable']:,} of {count['total']:,} ({share:.3f} %)")
        accelerator = Accelerator(mixed_precision="no")
        prepared = accelerator.prepare_model(adapted)
        optimizer = make_optimizer(prepared, config.training)
        weight = config.method.balance_weight if config.method.balance != "none" else 0.0
        pad = self.tokenizer.pad_token_id
        return Stepper(prepared, optimizer, accelerator, pad, config.training.max_grad_norm, weight)

    def make_loop(self, stepper: Stepper, run: RunDirectory, tracker: Tracker) -> Loop:
        """The training loop with everything it works with."""
        config, examples = self.config, self.encode_train()
        validation = self.questions("validation", config.evaluation.validation_limit)
        tuner = stepper.model.base_model

        def load() -> dict[str, list[float]]:
            """Rounded shares of assignments by module; empty without a router."""
            shares = tuner.pop_load() if hasattr(tuner, "pop_load") else {}
            flat = iter(torch.cat(list(shares.values())).tolist() if shares else [])  # one host read for all modules
            return {module: [round(next(flat), 4) for _ in found] for module, found in shares.items()}

        return Loop(
            stepper=stepper,
            examples=examples,
            order=Order(len(examples), config.training.batch_size, config.seed),
            config=config.training,
            validate=lambda: self.score(stepper.model, validation, "validating"),
            load=load,
            checkpoints=Checkpoints(run.checkpoints, config.training.keep_last),
            metrics_path=run.metrics,
            every=config.logger.every,
            console=self.console,
            track=tracker.step,
        )

    def save_adapter(self, model: Any, run: RunDirectory, results: Results) -> None:
        """The adapter in PEFT's format with card, config and checksums; whole or not there."""

        def write(folder: Path) -> None:
            """Fill the folder that is renamed when it is whole."""
            model.save_pretrained(folder)
            shutil.copy(run.config, folder / "config.yaml")
            write_model_card(folder, self.config, results.tree)

        write_folder(run.adapter, write, prose=("README.md",))

    @staticmethod
    def count(model: Any) -> dict[str, int]:
        """Trained parameters and all parameters."""
        trainable = sum(parameter.numel() for parameter in trained_parameters(model).values())
        return {"trainable": trainable, "total": sum(parameter.numel() for parameter in model.parameters())}

    def _say_cut(self, count: int, split: str) -> None:
        if count:
            self.console.say(f"{count} {split} rows had their passage cut to the task's cutoff")
