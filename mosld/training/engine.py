"""What differs by the way in which processes share a model: adding up gradients, and where weights and moments lie.

`Engine` itself serves whole models, of one process or of several (DDP), and adapters on a shared base; `SharedEngine`
serves sharded models. A step calls its engine in this order: `backward` for each micro-batch, `reduce_gradients` once,
`update` if the gradients are finite, `zero_grad`. Checkpoints read whole tensors from it and load them back.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mosld.adapters.load import trained_parameters
from mosld.distributed.processes import Processes
from mosld.distributed.tensors import gather, local, scatter
from mosld.training.tensor_files import SavedTensors

Named = Iterator[tuple[str, Tensor | None]]


class Engine:
    """Whole trained weights in every process; their gradients are added up in one exchange a step.

    Attributes:
        model: what is trained.
        optimizer: of its trained parameters.
        processes: those of this run.
    """

    def __init__(self, model: Any, optimizer: Any, processes: Processes) -> None:
        """Keep all three."""
        self.model, self.optimizer, self.processes = model, optimizer, processes

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def forward(self, **inputs: Any) -> Any:
        """Run the model to be trained."""
        return self.model(**inputs)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-batch, in this process or in all."""
        loss.backward()

    def reduce_gradients(self, sums: Tensor, stop: bool, limit: float) -> tuple[Tensor, Tensor, Tensor]:
        """End the gathering of a step's gradients: they are those of all processes, clipped.

        Args:
            sums: numbers of this process, to be added up along with them.
            stop: whether this process was asked to stop.
            limit: norm that the gradient is clipped to.

        Returns:
            The sums over all processes, the norm before clipping, and how many were asked to stop; on the device.
        """
        flag = torch.full((), float(stop), device=sums.device)
        if self.processes.count > 1:
            sums, flag = self._exchange(sums, flag)
        return sums, nn.utils.clip_grad_norm_(self.parameters, limit), flag

    def _exchange(self, sums: Tensor, flag: Tensor) -> tuple[Tensor, Tensor]:
        for parameter in self.parameters:
            if parameter.grad is None:  # fewer micro-batches than processes
                parameter.grad = torch.zeros_like(parameter)
        gradients: list[Any] = [parameter.grad for parameter in self.parameters]
        flat = self.processes.all_reduce(torch.cat([*(g.flatten() for g in gradients), sums, flag[None]]))
        *parts, sums, flag = flat.split([*(g.numel() for g in gradients), len(sums), 1])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        return sums, flag[0]

    def update(self, rate: float) -> None:
        """Take the optimiser's step at a learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()

    def zero_grad(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad()

    def finite(self) -> bool:
        """Whether all weights are finite numbers; the same answer in every process."""
        return bool(torch.stack([local(weight).isfinite().all() for weight in self.parameters]).all())

    def close(self) -> None:
        """Training is over: the model is itself again, to be scored and saved."""

    def weights(self) -> Named:
        """The trained weights by name, one after the other: whole in the main process, None in the others."""
        for name, parameter in trained_parameters(self.model).items():
            yield name, gather(parameter, self.processes)

    def optimizer_state(self) -> Named:
        """What the optimiser keeps of each weight, as `weights` does, by "<name>|<key>"."""
        names = list(trained_parameters(self.model))
        for index, entries in self.optimizer.state_dict()["state"].items():
            for key, value in entries.items():
                yield f"{names[index]}|{key}", gather(value, self.processes)

    def load_weights(self, saved: SavedTensors | None) -> None:
        """Put saved weights back, which the main process alone reads."""
        for name, parameter in trained_parameters(self.model).items():
            scatter(parameter.data, saved.read(name) if saved else None, self.processes)

    def load_optimizer_state(self, saved: SavedTensors | None) -> None:
        """Put back what the optimiser kept, which the main process alone reads."""
        trained, state = trained_parameters(self.model), dict[int, dict[str, Tensor]]()
        places = {name: index for index, name in enumerate(trained)}
        kept: Iterable[tuple[str, bool]] = self.processes.broadcast(saved and saved.listed())
        for entry, number in kept:
            name, _, key = entry.rpartition("|")
            value = torch.zeros(()) if number else torch.empty_like(trained[name].data)
            scatter(value, saved.read(entry) if saved else None, self.processes)
            state.setdefault(places[name], {})[key] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})


class SharedEngine(Engine):
    """FSDP2 of all that trains: weights, gradients and moments in the same parts.

    FSDP has added up each gradient by the end of its backward pass, so one small exchange a step remains.
    """

    def reduce_gradients(self, sums: Tensor, stop: bool, limit: float) -> tuple[Tensor, Tensor, Tensor]:
        """As `Engine.reduce_gradients`; the norm is that of all parts together."""
        parts = self.parts()
        square = nn.utils.get_total_norm(parts).square().to(sums)
        *numbers, square, flag = self.processes.all_reduce(
            torch.stack([*sums, square, torch.full_like(square, float(stop))])
        )
        norm = square.sqrt()
        shrink = torch.clamp(limit / (norm + 1e-6), max=1.0)
        torch._foreach_mul_(parts, shrink.to(parts[0].device))
        return torch.stack(numbers), norm, flag

    def parts(self) -> list[Tensor]:
        """This process's parts of the gradients."""
        return [local(parameter.grad) for parameter in self.parameters if parameter.grad is not None]

    def finite(self) -> bool:
        """As `Engine.finite`; each process looks at its own parts."""
        return all(self.processes.all_gather(super().finite()))
