"""The directory of one run: where each file lies, and whether the run is new, unfinished or finished."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile

import yaml

from mosld.common.errors import UserError
from mosld.common.files import MANIFEST, JsonObject, locked, remove
from mosld.common.reading import load_json, load_yaml
from mosld.common.seal import Seal
from mosld.config.identity import all_results_keys, identity, unhashed_defaults
from mosld.config.schema import Config
from mosld.config.unread import key_value

# In the order of removal: config.yaml and data.json, which mark the directory as a run, go last.
RUN_FILES = (
    "results.json", "metrics.jsonl", "train.log", "base_scores.json", "wandb_id", "routing.json", "checkpoints",
    "adapter", "model", "experts", "predictions", "figures", "eval", "inspect", "wandb", "rows.json", "before",
    "lengthened.json", "config.yaml", "data.json",
)  # fmt: skip
# What the end of a run writes: it is made again from the last checkpoint where it is damaged.
END_FILES = ("results.json", "adapter", "model", "predictions", "routing.json", "rows.json", "base_scores.json")
# Of a run without a manifest.
UNSEALED = "not sealed, as it was made by an earlier mosld"

OTHER_RUN = (
    "{} holds another run; give another output_dir, start it anew with training.resume=never, or resume in spite of "
    "the difference with training.resume=force."
)

# Keys that a run may go on with where they have only grown.
LENGTH_KEYS = ("training.max_steps", "training.epochs")


class RunDirectory:
    """The files of one run. Naming a directory reads and writes nothing.

    Attributes:
        path: the directory.
        config: the resolved config.
        data: what identifies the run's rows: fingerprint, counts, notes.
        rows: hashes of the rows that it is trained on.
        metrics: one JSON object per logged step.
        log: what the run printed.
        figures: pictures: loss.png and those of `mosld.inspect`.
        checkpoints: all that resuming needs.
        adapter: the best adapter, in PEFT's format.
        model: the whole model, in transformers' format, if all its weights were trained.
        routing: which experts each task used.
        lengthened: each time that the run was made longer: the step, and the keys as they were and are.
        base_scores: scores of the untrained model, which a resumed run reads instead of computing them again.
        results: the results, written last.
        seal: the manifest of all these files.
    """

    def __init__(self, path: Path, root: Path | None = None) -> None:
        """Name the files; `root` is the run directory in which this one lies, where it is a part of a run."""
        self.path = path
        self.root = root or path
        self.seal = Seal(self.root)
        self.config = path / "config.yaml"
        self.data = path / "data.json"
        self.rows = path / "rows.json"
        self.metrics = path / "metrics.jsonl"
        self.log = path / "train.log"
        self.figures = path / "figures"
        self.checkpoints = path / "checkpoints"
        self.adapter = path / "adapter"
        self.model = path / "model"
        self.routing = path / "routing.json"
        self.lengthened = path / "lengthened.json"
        self.base_scores = path / "base_scores.json"
        self.results = path / "results.json"

    def expert(self, task: str) -> "RunDirectory":
        """The directory of one task's own LoRA, trained in stage 1 of a mixture of domains."""
        return RunDirectory(self.path / "experts" / task, self.root)

    def finished(self) -> JsonObject | None:
        """The results of a finished run, else None, also where results.json is damaged."""
        if not self.results.is_file() or self.seal.fault(self.results):
            return None
        # It imports pydantic, which a new run need not wait for.
        from mosld.runs.record import whole_results

        return whole_results(self.results)

    @contextmanager
    def locked(self, wait: bool = False) -> Iterator[None]:
        """Create the directory and lock out other commands; the lock ends with the process, however it ends.

        Args:
            wait: wait for another process that holds the lock, as two sweeps that share a run do.

        Raises:
            UserError: another process holds the lock, or the directory cannot be a run's.
        """
        self._refuse_foreign_files()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be made a run directory: {error.strerror}.") from error
        try:
            TemporaryFile(dir=self.path, prefix=".").close()
        except OSError as error:
            # A finished run of somebody else is only read.
            if not self.finished():
                text = f"{self.path}: cannot be written: {error.strerror}; choose another output_dir."
                raise UserError(text) from error
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.path / ".lock", wait))
            except TimeoutError as error:
                raise UserError(f"{self.path}: another process works on this run; wait for it or stop it.") from error
            yield

    def refuse_unusable(self, config: Config, data: JsonObject) -> None:
        """Check without a change to the disk that a run of this config and these rows could start or resume there.

        Raises:
            UserError: the directory cannot be written, or holds something else.
        """
        self._refuse_foreign_files()
        place = next(path for path in (self.path.absolute(), *self.path.absolute().parents) if path.exists())
        try:
            TemporaryFile(dir=place, prefix=".").close()
        except OSError as error:
            text = f"{self.path}: cannot be written: {place}: {error.strerror}; choose another output_dir."
            raise UserError(text) from error
        if self.exists() and config.training.resume == "auto":
            differences = self.differences(config, data)
            if differences and not self._only_longer(config, data):
                raise UserError(OTHER_RUN.format(self.path), *differences)

    def open(self, config: Config, data: JsonObject, say: Callable[[str], None]) -> None:
        """Start a run in the directory, or resume the one that is there, as `training.resume` says.

        Args:
            config: the run's config.
            data: what identifies the run's rows: fingerprint, counts, notes.
            say: prints what differs from before, if the run resumes in spite of it.

        Raises:
            UserError: the directory holds a run with another config or other rows.
        """
        if self.exists() and config.training.resume == "never":
            self._remove_run()
        resuming = self.exists()
        if resuming:
            self._check_same_run(config, data, say)
            self._say_damage(say)
        if not self.finished():
            self.seal.begin(identity(config), data["fingerprint"], anew=not resuming)
            # It grows from here on.
            self.seal.forget(self.metrics)
            self.seal.write_json(self.data, {**data, "sealed": True})
            self.seal.write_text(self.config, yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))
            # How an earlier start ended says nothing about this one.
            self.seal.remove(self.results)
            for stale in self.path.glob(".*.tmp"):
                stale.unlink()

    def _say_damage(self, say: Callable[[str], None]) -> None:
        """Say what of an earlier start is damaged and made again.

        Raises:
            UserError: it can only be made again by training from step 0.
        """
        if self.seal.tree() is None:
            say(f"{self.path} is {UNSEALED}: its files are taken as they are")
        faults = self.end_faults()
        if not faults:
            return
        ended = self.results.exists() or any(fault.startswith(self.results.name) for fault in faults)
        if ended and all(map(self.seal.folder_faults, self.checkpoints.glob("step-*"))):
            raise UserError(
                *(f"{self.path}/{fault}." for fault in faults),
                f"{self.path}: no checkpoint is whole, so this can be made again only from step 0: "
                "training.resume=never does that.",
            )
        for fault in faults:
            say(f"{fault}; it is made again" + (" from the last checkpoint" if ended else ""))
        self.seal.remove(self.results)

    def end_faults(self) -> list[str]:
        """What is wrong with the files that scoring and saving write."""
        return self.seal.faults(*END_FILES)

    def differences(self, config: Config, data: JsonObject) -> list[str]:
        """What differs between the run in the directory and one of this config and these rows, one line each.

        Raises:
            UserError: the recorded config or rows cannot be read, and `training.resume` is not `force`.
        """
        recorded, recorded_data = self._recorded(ignore_damage=config.training.resume == "force")
        lines = [f"{key}: was {before}, is {now}" for key, (before, now) in _changed(recorded, config).items()]
        if recorded_data.get("fingerprint") != data["fingerprint"]:
            lines.append(
                f"data: the rows changed (fingerprint was {recorded_data.get('fingerprint')}, is "
                f"{data['fingerprint']}; counts were {recorded_data.get('counts')}, are {data['counts']})"
            )
        return lines

    def write_predictions(self, predictions: dict[str, list[JsonObject]], subfolder: str = "") -> None:
        """Write one file per task: id, prediction, correct, scores; no question text."""
        folder = self.path / "predictions" / subfolder
        folder.mkdir(parents=True, exist_ok=True)
        for task, records in predictions.items():
            self.seal.write_lines(folder / f"{task}.jsonl", records)

    def exists(self) -> bool:
        """Whether a run was started there."""
        return self.config.is_file() and self.data.is_file()

    def _refuse_foreign_files(self) -> None:
        """Refuse a directory that holds more than a run leaves that was killed at its start, and no run."""
        if self.exists() or not self.path.is_dir():
            return
        names = {path.name for path in self.path.iterdir() if not path.name.startswith(".")}
        if names - {"data.json", MANIFEST}:
            raise UserError(f"{self.path}: is not empty and holds no run; choose another output_dir.")

    def _remove_run(self) -> None:
        links = [name for name in RUN_FILES if (self.path / name).is_symlink()]
        if links:
            raise UserError(
                f"{self.path}: {', '.join(links)} {'is a link' if len(links) == 1 else 'are links'}, and "
                "training.resume=never does not delete what a link names; nothing was deleted. Remove the links."
            )
        self.seal.remove(*(self.path / name for name in RUN_FILES))
        remove(self.path / MANIFEST)

    def _check_same_run(self, config: Config, data: JsonObject, say: Callable[[str], None]) -> None:
        differences = self.differences(config, data)
        if not differences or self._lengthen(config, data, say):
            return
        if config.training.resume != "force":
            raise UserError(OTHER_RUN.format(self.path), *differences)
        say(f"resuming in spite of what differs (training.resume=force): {'; '.join(differences)}")
        # They were computed with the former config and rows.
        self.seal.remove(self.results, self.base_scores)

    def _lengthen(self, config: Config, data: JsonObject, say: Callable[[str], None]) -> bool:
        """Make the run longer if the config asks for more steps and for nothing else; returns whether it does.

        Raises:
            UserError: it is finished, and its checkpoints are gone.
        """
        changed = self._only_longer(config, data)
        if not changed:
            return False
        listed = ", ".join(f"{key}: was {before}, is {now}" for key, (before, now) in changed.items())
        names = [folder.name.removeprefix("step-") for folder in self.checkpoints.glob("step-*")]
        step = max((int(name) for name in names if name.isdecimal()), default=0)
        if not step and self.finished():
            raise UserError(f"{self.path}: has no checkpoint to go on from ({listed}); use init_from=RUN.")
        say(f"{listed}: going on from step {step}, at the learning rates of a run of the new length")
        if step:
            entry = {"step": step, **{key: list(values) for key, values in changed.items()}}
            before = [one for one in self.times_lengthened() if one != entry]
            self.seal.write_json(self.lengthened, [*before, entry])
        self._put_aside(self.path / "before" / f"step-{step:06d}")
        self.seal.remove(self.results)
        return True

    def _only_longer(self, config: Config, data: JsonObject) -> dict[str, tuple[object, object]]:
        """The keys by which the config asks for more steps, with the value before and now; empty if more differs."""
        recorded, rows = self._recorded(ignore_damage=True)
        changed = _changed(recorded, config)
        longer = all(key in LENGTH_KEYS and _is_longer(*values) for key, values in changed.items())
        return changed if longer and rows.get("fingerprint") == data["fingerprint"] else {}

    def _put_aside(self, target: Path) -> None:
        """Move what was made from the weights so far to `target`, where no report takes it for the new ones."""
        for folder in (self.path / "eval", self.path / "inspect"):
            if folder.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(target / folder.name, ignore_errors=True)
                self.seal.forget(folder)
                folder.rename(target / folder.name)

    def times_lengthened(self) -> list[JsonObject]:
        """The entries of lengthened.json; none where the run has kept its length."""
        return load_json(self.lengthened, list[JsonObject]) if self.lengthened.is_file() else []

    def _recorded(self, ignore_damage: bool) -> tuple[JsonObject, JsonObject]:
        """The config and the description of the rows that the run started with."""
        problem = self.seal.problem()
        faults = [problem] if problem else self.seal.faults(self.config.name, self.data.name)
        try:
            if not faults:
                return load_yaml(self.config), load_json(self.data, JsonObject)
        except UserError:
            faults = ["config.yaml or data.json cannot be read"]
        if ignore_damage:
            return {}, {}
        raise UserError(
            f"{self.path} is damaged: {'; '.join(faults)}. The checkpoints are checked one by one: "
            "training.resume=force resumes with the config and the rows of this command, training.resume=never starts "
            f"anew; after an edit of your own, python -m mosld.verify {self.path} --accept FILE."
        )


def run_name(config: Config, path: Path) -> str:
    """The name in tables and dashboards: the directory's own, which ends in the hash of what affects results."""
    return path.name if not config.output_dir else f"{path.name}-{identity(config)}"


def _changed(recorded: JsonObject, config: Config) -> dict[str, tuple[object, object]]:
    """The keys that affect results and have changed, dotted, with the value before and now."""
    # A run that is older than a key did what its default says.
    before = {
        key: unhashed_defaults().get(key) if (value := key_value(recorded, key)) is None else value
        for key in all_results_keys(config)
    }
    return {key: (before[key], now) for key, now in all_results_keys(config).items() if before[key] != now}


def _is_longer(before: object, now: object) -> bool:
    """Whether a number of steps or epochs has grown; None: no limit."""
    return now is None or (isinstance(before, int) and isinstance(now, int) and before < now)
