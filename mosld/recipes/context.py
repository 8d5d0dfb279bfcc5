"""What the recipes of one run share: config, rows, tokenizer, console, and the steps from them to a trained model.

1. `RunContext` encodes rows and scores models;
2. `prepare` puts the adapter on the base model and makes the stepper and the train examples;
3. `make_loop` builds the training loop.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

from accelerate.utils import set_seed
from peft import LoraConfig, PeftModel
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from mosld.adapters.adapt import adapt_with, check_targets
from mosld.adapters.load import Model, base_model_of, load_into, parameter_counts
from mosld.common.errors import UserError
from mosld.common.terminal import counted
from mosld.config.checks import check_depth
from mosld.config.method_checks import TARGETS, row_indices
from mosld.config.schema import Config, EvaluationConfig, MethodConfig
from mosld.data.dataset import Dataset
from mosld.data.mixing import Order, quotas
from mosld.data.rows import AnyRow
from mosld.data.splits import sample
from mosld.data.tokens.encoding import Example, Examples, TrainRows, encode_train
from mosld.data.tokens.token_cache import CachedEncoder
from mosld.data.tokens.too_long import messages
from mosld.distributed.fsdp import move_to_device
from mosld.distributed.processes import processes
from mosld.evaluation.evaluate import Evaluation, Questions, evaluate
from mosld.evaluation.expert_use import ExpertUse
from mosld.evaluation.validation import Validation, chosen_by, validation_losses
from mosld.models.config import empty_model
from mosld.models.load import load_shape, load_tokenizer
from mosld.recipes.load import load_base_model
from mosld.runs.console import Console
from mosld.runs.directory import RunDirectory
from mosld.runs.routing_watch import RoutingWatch, chooses_experts
from mosld.runs.starting_weights import starting_weights
from mosld.training.checkpoint import Checkpoints
from mosld.training.compile import compile_layers, uncompiled
from mosld.training.loop import Loop
from mosld.training.optim import make_optimizer, ready_to_train, recipe_warnings, total_steps
from mosld.training.signals import StopSignals
from mosld.training.step import Stepper


@dataclass(frozen=True)
class RunContext:
    """Config, rows, tokenizer and console of one run.

    Attributes:
        context_length: the most tokens that the model reads; None: any number.
    """

    config: Config
    dataset: Dataset
    tokenizer: PreTrainedTokenizerBase
    console: Console
    context_length: int | None = None

    @cached_property
    def encoder(self) -> CachedEncoder:
        """The run's prompt format with its tokenizer; tokens are read from the cache where they are known."""
        # The prompt is filled in when the config is checked.
        assert self.config.prompt is not None
        encoder = CachedEncoder(
            self.tokenizer,
            self.config.prompt,
            self.dataset.known,
            self.dataset.examples,
            all_turns=self.config.data.train_turns == "all",
            context_length=self.context_length,
        )
        if encoder.style == "chat":
            form = (
                "the tokenizer's chat template"
                if encoder.template
                else "the plain form: this tokenizer has no template"
            )
            self.console.say(f"prompt=chat: rows are put in {form}")
        encoder.progress = self.console.track("tokenising")
        return encoder

    def encode_questions(self, split: str, limit: int | None) -> Questions:
        """The questions of a split as tokens, at most `limit` per task."""
        questions = Questions(self.dataset.tasks, split, limit, self.encoder, self.config.data.too_long)
        self._say(messages(questions.too_long))
        return questions

    def encode_train(self) -> Examples:
        """The train rows as tokens.

        Raises:
            UserError: no train row fits into its task's cutoff.
        """
        rows = self._encode(self.dataset.train, "train")
        self._say(messages(rows.too_long))
        if not rows.examples:
            raise UserError(f"data.tasks={self.config.data.tasks}: no train row fits into its task's cutoff.")
        return rows.examples

    def _encode(self, rows: Sequence[AnyRow], split: str) -> TrainRows:
        return encode_train(rows, self.encoder, self.tokenizer.eos_token_id, self.config.data.too_long, split)

    def _task_counts(self, examples: Examples) -> dict[str, int]:
        return examples.task_counts(list(self.dataset.known))

    def encode_validation(self) -> dict[str, Examples]:
        """By task, the validation rows as train rows are encoded, at most `evaluation.validation_limit` of each.

        A task without validation rows, or none that fits into its cutoff, is left out.
        """
        limit = self.config.evaluation.validation_limit
        known = self.dataset.known
        encoded = {
            name: self._encode(sample(data.validation, limit, "validation"), "validation")
            for name, data in self.dataset.tasks.items()
        }
        # The questions of a scored task say what is too long.
        self._say(messages(one for rows in encoded.values() for one in rows.too_long if not known[one.task].scored))
        return {name: rows.examples for name, rows in encoded.items() if rows.examples}

    def describe_steps(self, order: Order, examples: Examples, parameters: int) -> None:
        """Say how many steps are trained on how many rows, how many are never seen, and what does not fit.

        Args:
            parameters: of the base model.
        """
        training = self.config.training
        tasks = ", ".join(self._task_counts(examples))
        steps = order.steps_per_epoch
        planned = steps * training.epochs
        total = total_steps(steps, training)
        max_steps = f"training.max_steps={training.max_steps}"
        self.console.say(
            f"{tasks}: {len(examples):,} train rows, {counted(training.epochs, 'epoch')} of "
            f"{counted(steps, 'step')} = {counted(planned, 'step')}"
            + (f"; it ends at step {total:,} ({max_steps})" if total < planned else "")
        )
        if unseen := len(examples) - order.distinct_rows(total):
            reason = max_steps if total < planned else f"data.mixing={self.config.data.mixing}"
            self.console.say(f"{unseen:,} of {len(examples):,} rows are never seen ({reason})")
        self._say(recipe_warnings(training, self.config.method.kind == "full", parameters, steps))

    def mix_tasks(self, examples: Examples) -> Order:
        """Which rows each step takes, the tasks mixed as `data.mixing` says."""
        config = self.config
        # In the order of the tasks, as the rows lie.
        counts = self._task_counts(examples)
        shares = quotas(counts, config.data)
        if shares != counts:
            listed = ", ".join(f"{task} {count}" for task, count in shares.items())
            self.console.say(f"rows per epoch (data.mixing={config.data.mixing}): {listed}")
        return Order(tuple(counts.values()), tuple(shares.values()), config.training.batch_size, config.seed)

    def score(
        self, model: Model, questions: Questions, title: str, use: ExpertUse | None = None, trained: bool = True
    ) -> Evaluation:
        """Accuracy of a model, in eval mode; `use` records the experts of each task."""
        track = self.console.track(title)
        with uncompiled(self.config.training.compile):
            return evaluate(model, questions, self.tokenizer, self.config.evaluation, track, use, trained)

    def _say(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.console.say(line)


def readable_tokens(method: MethodConfig, shape: PretrainedConfig) -> int | None:
    """The most tokens of a row that the base model will read with the method's adapter; None: any number.

    Args:
        method: the method group.
        shape: the transformers config of the base model.
    """
    length: int | None = getattr(shape.get_text_config(), "max_position_embeddings", None)
    return length - method.virtual_tokens if length and method.kind == "prefix" else length


def refuse_too_long(config: Config, dataset: Dataset, console: Console, trains: bool) -> None:
    """With data.too_long=error, end before weights are read: the tokenizer and the shape of the model are enough.

    Args:
        trains: whether the rows for training and validation are read, too.

    Raises:
        UserError: rows that are too long, and the keys that decide.
    """
    if config.data.too_long != "error":
        return
    shape = load_shape(config.model)
    context = RunContext(config, dataset, load_tokenizer(config.model), console, readable_tokens(config.method, shape))
    context.encode_questions("test", config.evaluation.limit)
    if trains:
        context.encode_train()
        context.encode_questions("validation", config.evaluation.validation_limit)
        context.encode_validation()


def refuse_missing_targets(config: Config) -> None:
    """End before weights are read if the model has none of the modules in method.targets, or too few layers.

    Raises:
        UserError: as `check_targets` and `check_depth`.
    """
    method, model = config.method, config.model
    # The shapes of conf/model have the modules that the names of targets stand for.
    known = model.shape and not model.path and isinstance(method.targets, str) and method.targets in TARGETS
    if method.kind in ("lora", "mixture") and not known:
        shape = load_shape(model)
        check_targets(empty_model(shape, dtype=None, attn_implementation=None), method)
        depth = {"num_hidden_layers": shape.get_text_config().num_hidden_layers}
        if errors := list(check_depth(method, config.allocation, replace(model, path=None, shape=depth))):
            raise UserError(*errors)


def add_adapter(context: RunContext, model: Model) -> Model:
    """The base model with the method's adapter, ready to train; full fine-tuning returns a trainable copy.

    The weights are those of `init_from` where that is given.
    """
    config = context.config
    weights = starting_weights(config)
    if weights and config.method.kind == "full":
        model, _ = load_base_model(replace(config.model, path=str(weights)), context.console)
    set_seed(config.seed)
    adapted = adapt_with(base_model_of(model), config.method, config.allocation, config.seed)
    if weights:
        if isinstance(adapted, PeftModel):
            load_into(adapted, weights)
        context.console.say(f"starting from the weights in {weights} (init_from)")
    adapted = ready_to_train(adapted, config.training.gradient_checkpointing)
    if config.training.compile:
        compile_layers(base_model_of(adapted), context.console.say)
    if config.method.match and isinstance(adapted, PeftModel):
        rank = cast(LoraConfig, adapted.active_peft_config).r
        context.console.say(f"rank {rank}: as many weights as {config.method.match} with rank {config.method.rank}")
    trainable, total = parameter_counts(adapted).values()
    context.console.say(f"trainable parameters: {trainable:,} of {total:,} ({100 * trainable / total:.3f} %)")
    return adapted


def make_stepper(
    context: RunContext, model: Model, adapt: Callable[[RunContext, Model], Model] = add_adapter
) -> Stepper:
    """The adapted model on its device, with an optimiser."""
    config = context.config
    # Full fine-tuning trains a float32 copy and saves the type of the base.
    base_dtype = model.dtype
    adapted = move_to_device(adapt(context, model), processes())
    return Stepper(
        adapted,
        make_optimizer(adapted, config.training),
        processes=processes(),
        seed=config.seed,
        pad_token_id=context.tokenizer.pad_token_id,
        max_norm=config.training.max_grad_norm,
        domains=row_indices(config.method, config.data.tasks),
        low_precision=base_dtype if adapted.dtype != base_dtype else None,
    )


def prepare(
    context: RunContext, model: Model, adapt: Callable[[RunContext, Model], Model] = add_adapter
) -> tuple[Stepper, Examples]:
    """Everything a training step needs: the stepper, and the train rows as tokens."""
    return make_stepper(context, model, adapt), context.encode_train()


def _validation_batches(stepper: Stepper, examples: Sequence[Example], config: EvaluationConfig) -> list[list[Example]]:
    """The validation rows of one task in forward passes of at most `evaluation.batch_tokens` padded tokens."""
    longest = max(len(example.tokens) for example in examples)
    return stepper.batches.split(examples, max(1, config.batch_tokens // longest))


def make_loop(
    context: RunContext,
    stepper: Stepper,
    examples: Examples,
    run: RunDirectory,
    stop: StopSignals,
    track: Callable[[dict[str, object]], None] = lambda _: None,
) -> Loop:
    """The training loop of a run, which starts from the newest checkpoint of `run`.

    Args:
        stop: the signals that ask the run to stop.
        track: gets a copy of each line of metrics.jsonl.
    """
    config = context.config
    questions = context.encode_questions("validation", config.evaluation.validation_limit)
    held_out = context.encode_validation()
    batches = {task: _validation_batches(stepper, rows, config.evaluation) for task, rows in held_out.items()}

    def validate() -> Validation:
        with stepper.autocast():
            evaluation = context.score(stepper.model, questions, "validating")
            with uncompiled(config.training.compile):
                losses = validation_losses(stepper.model, batches, stepper.batches.inputs)
        return Validation({task: score["accuracy"] for task, score in evaluation.scores.items()}, losses)

    order = context.mix_tasks(examples)
    context.describe_steps(order, examples, parameter_counts(base_model_of(stepper.model))["total"])
    return Loop(
        stepper,
        examples,
        order,
        config.training,
        validate=validate,
        best_by=chosen_by(context.dataset.known, held_out),
        checkpoints=Checkpoints(run.checkpoints, config.training.keep_last, run.seal),
        metrics_path=run.metrics,
        log_every=config.logger.every,
        expert_load_every=config.logger.expert_load_every,
        routing=RoutingWatch(config.logger, config.method, config.training.learning_rate)
        if chooses_experts(config.method)
        else None,
        console=context.console,
        stop=stop,
        track=track,
        auxiliary="router_loss" if config.method.router == "domain" else "balance_loss",
    )
