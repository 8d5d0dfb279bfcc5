"""Gradients, weights and optimiser state of a model, by how the processes of a run share it.

`Engine` serves whole models, on one process or several (DDP), and adapters on a sharded base. `ShardedEngine` serves
models that train in shards. A step calls its engine in this order: `backward` for each micro-batch,
`reduce_gradients` once, `update` if the gradients are finite, `zero_grad`. Checkpoints read whole tensors from it and
load them back.
"""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from mosld.adapters.load import Model, layers_without_gradient, learned_tensors, trained_parameters
from mosld.common.errors import UserError
from mosld.distributed.processes import Processes
from mosld.distributed.tensors import gather, local_shard, scatter
from mosld.training.tensor_files import SavedTensors

# Tensors by name, one after the other: whole in the main process, None in the others.
NamedTensors = Iterator[tuple[str, Tensor | None]]


class TrainingOutput(Protocol):
    """Output of a model that gets labels; adapters with a router add `aux_loss`."""

    loss: Tensor


class Engine:
    """Whole trained weights in every process; their gradients are added up in one all-reduce per step."""

    def __init__(self, model: Model, optimizer: torch.optim.Optimizer, processes: Processes) -> None:
        self.model = model
        self.optimizer = optimizer
        self.processes = processes

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def forward(self, **inputs: object) -> TrainingOutput:
        return self.model(**inputs)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-batch."""
        loss.backward()

    def layers_without_gradient(self) -> list[str]:
        """As the function of this name, after `backward`; nothing where the engine keeps gradients to itself."""
        return layers_without_gradient(self.model)

    def reduce_gradients(self, sums: Tensor, stop: bool, limit: float) -> tuple[Tensor, Tensor, Tensor]:
        """Add the gradients of all processes and clip them.

        Args:
            sums: numbers of this process [N], to be added over processes in the same all-reduce.
            stop: whether this process was asked to stop.
            limit: norm that the gradient is clipped to.

        Returns:
            The sums over all processes [N], the norm before clipping [], and how many processes were asked to stop [];
            all on the device.
        """
        flag = torch.full((), float(stop), device=sums.device)
        if self.processes.count > 1:
            sums, flag = self._all_reduce(sums, flag)
        return sums, nn.utils.clip_grad_norm_(self.parameters, limit), flag

    def _all_reduce(self, sums: Tensor, flag: Tensor) -> tuple[Tensor, Tensor]:
        gradients = []
        for parameter in self.parameters:
            # A process has none where there are fewer micro-batches than processes.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        flat = self.processes.all_reduce(torch.cat([*(g.flatten() for g in gradients), sums, flag[None]]))
        *summed, sums, flag = flat.split([*(g.numel() for g in gradients), len(sums), 1])
        for gradient, values in zip(gradients, summed, strict=True):
            gradient.copy_(values.view_as(gradient))
        return sums, flag[0]

    def update(self, learning_rate: float) -> None:
        """Take the optimiser's step."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    def finite(self) -> bool:
        """Whether all weights are finite; the same answer in every process."""
        return bool(torch.stack([local_shard(weight).isfinite().all() for weight in self.parameters]).all())

    def close(self) -> None:
        """End training: the model can be scored and saved."""

    def weights(self) -> NamedTensors:
        for name, tensor in learned_tensors(self.model).items():
            yield name, gather(tensor, self.processes)

    def optimizer_state(self) -> NamedTensors:
        """What the optimiser keeps of each weight, by "<name>|<key>"."""
        for name, parameter in trained_parameters(self.model).items():
            for key, value in self.optimizer.state[parameter].items():
                # AdamW8bit counts its steps in a plain number.
                yield f"{name}|{key}", gather(torch.as_tensor(value), self.processes)

    def load_weights(self, saved: SavedTensors | None) -> None:
        """Load saved weights, which only the main process reads."""
        for name, tensor in learned_tensors(self.model).items():
            scatter(tensor.data, saved.read(name) if saved else None, self.processes)

    def load_optimizer_state(self, saved: SavedTensors | None) -> None:
        """Load what the optimiser kept, which only the main process reads.

        Raises:
            UserError: another optimiser kept it.
        """
        trained = trained_parameters(self.model)
        indices = {name: index for index, name in enumerate(trained)}
        state: dict[int, dict[str, Tensor | float]] = {}
        entries = self.processes.broadcast(saved.entries() if saved else None)
        is_adamw = isinstance(self.optimizer, torch.optim.AdamW)
        if entries and is_adamw != any(entry.endswith("|exp_avg") for entry, _ in entries):
            raise UserError(
                "the checkpoint holds the state of another optimiser; resume with the same training.optimizer, or "
                "start anew with training.resume=never."
            )
        for entry, is_scalar in entries:
            name, _, key = entry.rpartition("|")
            source = saved.read(entry) if saved else None
            value: Tensor | float
            if is_adamw:
                value = torch.zeros(()) if is_scalar else torch.empty_like(trained[name].data)
                scatter(value, source, self.processes)
            else:
                # The tensors of AdamW8bit have shapes and types of their own.
                value = self.processes.broadcast(source)
                value = value.item() if is_scalar else value
            state.setdefault(indices[name], {})[key] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})


class ShardedEngine(Engine):
    """FSDP2 of everything that trains: weights, gradients and optimiser state in the same shards.

    FSDP has reduced each gradient by the end of its backward pass, so one small all-reduce per step remains.
    """

    def reduce_gradients(self, sums: Tensor, stop: bool, limit: float) -> tuple[Tensor, Tensor, Tensor]:
        """As `Engine.reduce_gradients`; the norm is that of all shards together."""
        shards = self.gradient_shards()
        square = nn.utils.get_total_norm(shards).square().to(sums)
        local_numbers = torch.stack([*sums, square, torch.full_like(square, float(stop))])
        *numbers, square, flag = self.processes.all_reduce(local_numbers)
        norm = square.sqrt()
        scale = torch.clamp(limit / (norm + 1e-6), max=1.0)
        torch._foreach_mul_(shards, scale.to(shards[0].device))
        return torch.stack(numbers), norm, flag

    def gradient_shards(self) -> list[Tensor]:
        """This process's shards of the gradients."""
        return [local_shard(parameter.grad) for parameter in self.parameters if parameter.grad is not None]

    def finite(self) -> bool:
        """As `Engine.finite`; each process looks at its own shards."""
        return all(self.processes.all_gather(super().finite()))
