"""The engine of a run under DeepSpeed: what trains is updated in parts (ZeRO stage 2), and lies in parts (stage 3).

DeepSpeed shares out gradients, optimiser and weights, and takes the optimiser's step. The rest stays with the loop, as
under any engine: gradients are summed and not averaged, their norm is clipped here, and checkpoints hold whole tensors
by name, so that a run goes on under any launcher. DeepSpeed's own checkpoints are pickles and are not used.
"""

from typing import Any

import torch
from torch import Tensor

from mosld.adapters.load import trained_parameters
from mosld.distributed import zero
from mosld.distributed.launch import launch
from mosld.distributed.processes import Processes
from mosld.distributed.tensors import is_sharded, scatter
from mosld.training.engine import Engine, Named, SharedEngine
from mosld.training.tensor_files import SavedTensors


class ZeroEngine(SharedEngine):
    """ZeRO of the trained weights. At stage 3 every process must run the model at the same time as the others.

    DeepSpeed computes the norm once more and reads it on the host: a step has one such read besides our own.
    """

    def __init__(self, model: Any, optimizer: Any, processes: Processes, products: torch.dtype | None = None) -> None:
        """Share what the optimiser trains.

        Args:
            model: its trained weights are whole and the same in all processes, or shared already.
            optimizer: of the trained weights; DeepSpeed gives it its parts of them instead.
            processes: those of this run.
            products: type of the products, where the weights are float32 and train as a whole.
        """
        super().__init__(model, optimizer, processes)
        if products:  # DeepSpeed switches off what is on around its own forward
            model.forward = torch.autocast(processes.device.type, dtype=products)(model.forward)
        self._engine = zero.start(model, optimizer)
        self._sharing = any(map(zero.is_shared, model.parameters()))
        self._shared = self._engine.optimizer
        self._pending = False

    def forward(self, **inputs: Any) -> Any:
        """Run the model to be trained."""
        return self._engine(**inputs)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-batch; DeepSpeed takes the mean over processes, which makes it the sum."""
        self._pending = True
        self._engine.backward(loss * self.processes.count)

    def parts(self) -> list[Tensor]:
        """The gradients of this process's parts."""
        if self._pending:
            self._shared.finalize_gradient_accumulation_boundary()
            self._pending = False
        return [part for parts in self._shared.averaged_gradients.values() for part in parts or ()]

    def update(self, rate: float) -> None:
        """Take the optimiser's step at a learning rate."""
        for group in self._shared.param_groups:
            group["lr"] = rate
        self._shared.step()

    def zero_grad(self) -> None:
        """Drop the gradients: DeepSpeed has no call for this, but leaves out a step that is not finite, as a whole."""
        left = self.parts()  # none, where the step was taken
        if left:
            torch._foreach_add_(left, torch.nan)
            self._shared.step()
            torch._foreach_zero_(left)  # where no gradient is ever written, it would stay so

    def finite(self) -> bool:
        """As `Engine.finite`."""
        parts = [getattr(own, "ds_tensor", own) for own in trained_parameters(self.model).values()]
        return all(self.processes.all_gather(bool(torch.stack([part.isfinite().all() for part in parts]).all())))

    def optimizer_state(self) -> Named:
        """What the optimiser keeps of each weight; see `Engine.moments`."""
        for entries in list(self._shared.optimizer.state.values())[:1]:  # one for all weights of this process
            for name, own in trained_parameters(self.model).items():
                for key, value in entries.items():
                    number = value.ndim == 0
                    full = value.clone() if number else zero.library().utils.safe_get_full_optimizer_state(own, key)
                    yield f"{name}|{key}", full.detach().cpu().contiguous() if self.processes.main else None

    def load_weights(self, saved: SavedTensors | None) -> None:
        """Put saved weights back, which the main process alone reads."""
        tools = zero.library()
        for name, own in trained_parameters(self.model).items():
            full = self._received(own, saved.read(name) if saved else None)
            with tools.zero.GatheredParameters([own], modifier_rank=0), torch.no_grad():
                own.copy_(full)
            self._put(own, full)

    def load_optimizer_state(self, saved: SavedTensors | None) -> None:
        """Put back what the optimiser kept, which the main process alone reads."""
        kept = self.processes.broadcast(saved and saved.listed())
        trained, state = trained_parameters(self.model), self._shared.optimizer.state
        keys = {entry.rpartition("|")[2]: number for entry, number in kept}
        for flat in self._flat() if kept else ():
            state[flat] = {key: torch.zeros(()) if number else torch.zeros_like(flat) for key, number in keys.items()}
        if kept and not self._sharing:  # as it does after its first step
            self._shared._lazy_init_hp_params_optimizer_state()
        for entry, number in kept:
            name, _, key = entry.rpartition("|")
            value = saved.read(entry) if saved else None
            if number:
                value = self.processes.broadcast(value)
                for flat in self._flat():
                    state[flat][key].copy_(value)
            else:
                self._put(trained[name], self._received(trained[name], value), key)

    def close(self) -> None:
        """End DeepSpeed's part in training; a model that is shared can still run."""
        self._engine.destroy()
        self.model.__dict__.pop("forward", None)
        if self._sharing:
            zero.serve(self.model)

    def _flat(self) -> list[Tensor]:
        """The flat tensors that DeepSpeed's optimiser works on: this process's parts."""
        if self._sharing:
            return list(self._shared.fp32_partitioned_groups_flat)
        return list(self._shared.single_partition_of_fp32_groups)

    def _received(self, own: Any, value: Tensor | None) -> Tensor:
        """A whole tensor in the shape of a weight, from the main process."""
        full = torch.empty(getattr(own, "ds_shape", own.shape), dtype=own.dtype, device=self.processes.device)
        scatter(full, value, self.processes)
        return full

    def _put(self, own: Any, full: Tensor, key: str | None = None) -> None:
        """Overwrite DeepSpeed's own copy of a weight, or what the optimiser keeps of it, with this process's part."""
        tools = zero.library().utils
        if not self._sharing:
            put: Any = tools.safe_set_full_fp32_param if key is None else tools.safe_set_full_optimizer_state
        else:
            put = tools.safe_set_local_fp32_param if key is None else tools.safe_set_local_optimizer_state
            size = own.ds_tensor.numel()
            padded = torch.nn.functional.pad(full.flatten(), (0, size * self.processes.count - full.numel()))
            full = padded[size * self.processes.rank :][:size]
        put(*((own, full) if key is None else (own, full, key)))


def make_engine(model: Any, optimizer: Any, processes: Processes, products: torch.dtype | None = None) -> Engine:
    """The engine for a model as it lies in the processes; `products` as in `ZeroEngine`."""
    trained = trained_parameters(model).values()
    if (processes.sharded and launch().engine == "zero2") or any(map(zero.is_shared, trained)):
        return ZeroEngine(model, optimizer, processes, products)
    return (SharedEngine if any(map(is_sharded, trained)) else Engine)(model, optimizer, processes)
