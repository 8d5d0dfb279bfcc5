"""The stages of a run, each a few lines that put the packages together."""

import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from peft import PeftModel

from mosld.adapters.adapt import adapt_with
from mosld.adapters.load import parameter_counts
from mosld.common.errors import UserError
from mosld.common.files import read_json, write_folder, write_json
from mosld.config.schema import Config
from mosld.data.dataset import Dataset
from mosld.data.encoding import Example, encode_train
from mosld.data.mixing import Order, quotas
from mosld.data.token_cache import CachedEncoder
from mosld.distributed.fsdp import place
from mosld.distributed.processes import processes
from mosld.distributed.tensors import in_type, whole_state
from mosld.evaluation.evaluate import Evaluation, Questions, evaluate
from mosld.evaluation.expert_use import ExpertUse
from mosld.models.load import have_weights, load_placed
from mosld.runs.console import Console
from mosld.runs.directory import RunDirectory
from mosld.runs.model_card import write_model_card
from mosld.runs.results import Results
from mosld.tracking.hub import push
from mosld.tracking.tracker import Tracker
from mosld.training.checkpoint import Checkpoints
from mosld.training.compile import compile_layers, uncompiled
from mosld.training.loop import Loop
from mosld.training.optim import make_optimizer, ready_to_train
from mosld.training.signals import StopSignals
from mosld.training.step import Stepper


def load_on_device(config: Config, console: Console | None = None) -> tuple[Any, Any]:
    """The base model on this process's device, or its part of it, and the tokenizer."""
    console = console or Console()
    with console.fetching(config.model.hub):
        have_weights(config.model)
    with console.working(f"loading {config.model.name}"):
        return load_placed(config.model, processes())


@dataclass(frozen=True)
class Stages:
    """What every stage needs: the run's config, rows and tokenizer, and where a person looks."""

    config: Config
    dataset: Dataset
    tokenizer: Any
    console: Console
    stop: StopSignals = field(default_factory=StopSignals)

    @cached_property
    def encoder(self) -> CachedEncoder:
        """The run's prompt format with its tokenizer; what was tokenised once is read from the cache."""
        assert self.config.prompt is not None  # filled in when the config was checked
        made = CachedEncoder(self.tokenizer, self.config.prompt, self.dataset.known, self.dataset.examples)
        made.progress = self.console.track("tokenising")
        return made

    def questions(self, split: str, limit: int | None) -> Questions:
        """The questions of a split as tokens."""
        made = Questions(self.dataset.tasks, split, limit, self.encoder)
        self._say(made.shortened(split))
        return made

    def encode_train(self) -> list[Example]:
        """The train rows as tokens."""
        rows = encode_train(self.dataset.train, self.encoder, self.tokenizer.eos_token_id)
        self._say(rows.shortened())
        if not rows.examples:
            raise UserError(f"data.tasks={self.config.data.tasks}: no train row fits into its task's cutoff.")
        return rows.examples

    def score(self, model: Any, questions: Questions, title: str, use: ExpertUse | None = None) -> Evaluation:
        """Accuracy of a model, in eval mode; `use` takes note of the experts that each task takes."""
        with uncompiled(self.config.training.compile):
            return evaluate(model, questions, self.tokenizer, self.config.evaluation, self.console.track(title), use)

    def base_scores(self, model: Any, questions: Questions, run: RunDirectory) -> dict[str, Any]:
        """Scores of the untrained model; a resumed run reads them back."""
        if kept := processes().broadcast(read_json(run.base_scores)):
            return kept
        before = self.score(model, questions, "scoring the untrained model")
        run.write_predictions(before.records(), "base")
        found = {"base_scores": before.scores, "base_average": before.average}
        write_json(run.base_scores, found)
        return found

    def adapt(self, model: Any) -> Any:
        """The model with the method's adapter, ready to be trained."""
        config = self.config
        set_seed(config.seed)
        adapted: Any = adapt_with(model, config.method, config.allocation, config.seed)
        adapted = ready_to_train(adapted, config.training.gradient_checkpointing)
        if config.training.compile:
            compile_layers(adapted.get_base_model() if isinstance(adapted, PeftModel) else adapted, self.console.say)
        trained, total = parameter_counts(adapted).values()
        self.console.say(f"trainable parameters: {trained:,} of {total:,} ({100 * trained / total:.3f} %)")
        return adapted

    def make_stepper(self, adapted: Any, base_dtype: torch.dtype) -> Stepper:
        """The adapted model on its device, with an optimiser."""
        config = self.config
        place(adapted, processes())
        adapter = adapted.active_peft_config if isinstance(adapted, PeftModel) else None
        return Stepper(
            adapted,
            make_optimizer(adapted, config.training),
            processes=processes(),
            seed=config.seed,
            pad=self.tokenizer.pad_token_id,
            max_norm=config.training.max_grad_norm,
            weight=getattr(adapter, "auxiliary_weight", 0.0),
            domains=config.method.domains or (),
            low_precision=base_dtype if adapted.dtype != base_dtype else None,
        )

    def make_loop(self, stepper: Stepper, run: RunDirectory, tracker: Tracker) -> Loop:
        """The training loop with everything it works with."""
        config, examples = self.config, self.encode_train()
        validation = self.questions("validation", config.evaluation.validation_limit)
        tuner: Any = getattr(stepper.model, "base_model", None)

        def load() -> dict[str, dict[str, Any]]:
            """Rounded shares of assignments, taken and dropped, by module; empty without a router."""
            counted = tuner.pop_load() if hasattr(tuner, "pop_load") else {"expert_load": {}}
            shares = [share.flatten() for modules in counted.values() for share in modules.values()]
            flat = iter(torch.cat(shares).tolist() if shares else [])  # one host read for all modules
            return {
                name: {
                    module: [round(next(flat), 4) for _ in share] if share.ndim else round(next(flat), 4)
                    for module, share in modules.items()
                }
                for name, modules in counted.items()
            }

        def validate() -> Evaluation:
            """Scores of the validation split."""
            with stepper.autocast():
                return self.score(stepper.model, validation, "validating")

        return Loop(
            stepper=stepper,
            examples=examples,
            order=self.make_order(examples),
            config=config.training,
            validate=validate,
            load=load,
            checkpoints=Checkpoints(run.checkpoints, config.training.keep_last),
            metrics_path=run.metrics,
            every=config.logger.every,
            console=self.console,
            stop=self.stop,
            auxiliary="router_loss" if config.method.router == "domain" else "balance_loss",
            track=tracker.step,
        )

    def make_order(self, examples: list[Example]) -> Order:
        """Which rows each step sees, the tasks mixed as the config says."""
        counts = dict(Counter(example.row.task for example in examples))  # in the order of the tasks, as the rows lie
        taken = quotas(counts, self.config.data)
        if taken != counts:
            listed = ", ".join(f"{task} {count}" for task, count in taken.items())
            self.console.say(f"an epoch takes (data.mixing={self.config.data.mixing}): {listed}")
        return Order(tuple(counts.values()), tuple(taken.values()), self.config.training.batch_size, self.config.seed)

    @staticmethod
    def settle(stepper: Stepper, dtype: torch.dtype) -> Any:
        """The trained model as it is scored and saved: a whole model in the type that it was loaded in."""
        stepper.engine.close()
        return stepper.model if isinstance(stepper.model, PeftModel) else in_type(stepper.model, dtype)

    def save_trained(self, model: Any, run: RunDirectory, results: Results) -> Path:
        """What was trained, with card, config and checksums, whole or not there: the adapter, or the whole model."""

        def write(folder: Path) -> None:
            """Fill the folder that is renamed when it is whole."""
            if isinstance(model, PeftModel):
                model.save_pretrained(str(folder))
            else:
                model.save_pretrained(folder, state_dict=whole_state(model, processes()))
                self.tokenizer.save_pretrained(folder)
            shutil.copy(run.config, folder / "config.yaml")
            write_model_card(folder, self.config, results.tree)

        adapter = isinstance(model, PeftModel)
        target = run.adapter if adapter else run.model
        send: Any = (lambda: None) if adapter else (lambda: whole_state(model, processes()))
        with self.console.working(f"saving {target.name}/"):
            write_folder(target, write, prose=("README.md",), meanwhile=send)
        return target

    def push(self, folder: Path) -> str | None:
        """Push what was saved to the hub; a failure costs the push and not the run."""
        try:
            with self.console.working(f"pushing to {self.config.hub.push_to}"):
                address = push(folder, self.config, f"{self.config.method.name} trained by mosld")
        except Exception as error:  # whatever the hub or the network says: the files lie here
            self.console.say(f"not pushed to {self.config.hub.push_to}: {str(error).splitlines()[0]}")
            return None
        self.console.say(f"pushed to {address}")
        return address

    def _say(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.console.say(line)
