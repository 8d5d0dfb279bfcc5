"""The engine of a run under DeepSpeed: ZeRO stage 2 shards the optimiser, stage 3 also the weights.

DeepSpeed shards gradients, optimiser and weights, and takes the optimiser's step. The rest stays with the loop, as
under any engine: gradients are summed and not averaged, their norm is clipped here, and checkpoints hold whole tensors
by name, so that a run can resume under any launcher. DeepSpeed's own checkpoints are pickles and are not used.
"""

import torch
from torch import Tensor

from mosld.adapters.load import Model, router_biases, trained_parameters
from mosld.distributed import zero
from mosld.distributed.launch import launch
from mosld.distributed.processes import Processes
from mosld.distributed.tensors import full_shape, is_sharded, scatter
from mosld.training.engine import Engine, NamedTensors, ShardedEngine, TrainingOutput
from mosld.training.tensor_files import SavedTensors


class ZeroEngine(ShardedEngine):
    """ZeRO of the trained weights. At stage 3 every process must run the model at the same time as the others.

    DeepSpeed computes the norm once more and reads it on the host: a step has one such read besides our own.
    """

    def __init__(
        self,
        model: Model,
        optimizer: torch.optim.Optimizer,
        processes: Processes,
        autocast_dtype: torch.dtype | None = None,
    ) -> None:
        """Hand the optimiser's weights to DeepSpeed.

        Args:
            model: its trained weights are whole and equal in all processes, or sharded already.
            optimizer: of the trained weights; DeepSpeed gives it its shards of them instead.
            autocast_dtype: type of matrix products where the weights are float32 and train as a whole.
        """
        super().__init__(model, optimizer, processes)
        if autocast_dtype:
            # DeepSpeed switches off an autocast that is on around its own forward.
            forward = torch.autocast(processes.device.type, dtype=autocast_dtype)(model.forward)
            model.__dict__["forward"] = forward
        self._engine = zero.start_engine(model, optimizer)
        self._weights_sharded = any(map(zero.is_partitioned, model.parameters()))
        self._zero_optimizer = self._engine.optimizer
        self._pending = False

    def forward(self, **inputs: object) -> TrainingOutput:
        return self._engine(**inputs)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-batch; DeepSpeed averages over processes, which makes it the sum."""
        self._pending = True
        self._engine.backward(loss * self.processes.count)

    def layers_without_gradient(self) -> list[str]:
        return []

    def gradient_shards(self) -> list[Tensor]:
        if self._pending:
            self._zero_optimizer.finalize_gradient_accumulation_boundary()
            self._pending = False
        return [shard for shards in self._zero_optimizer.averaged_gradients.values() for shard in shards or ()]

    def update(self, learning_rate: float) -> None:
        for group in self._zero_optimizer.param_groups:
            group["lr"] = learning_rate
        self._zero_optimizer.step()

    def zero_grad(self) -> None:
        """Drop the gradients: DeepSpeed has no call for this, but skips a step that is not finite as a whole."""
        # There are none where the step was taken.
        shards = self.gradient_shards()
        if shards:
            torch._foreach_add_(shards, torch.nan)
            self._zero_optimizer.step()
            # Where no gradient is ever written the NaN would stay.
            torch._foreach_zero_(shards)

    def finite(self) -> bool:
        shards = [getattr(weight, "ds_tensor", weight) for weight in trained_parameters(self.model).values()]
        return all(self.processes.all_gather(bool(torch.stack([shard.isfinite().all() for shard in shards]).all())))

    def optimizer_state(self) -> NamedTensors:
        utils = zero.deepspeed_library().utils
        # DeepSpeed's optimiser has one entry for all weights of this process.
        for entries in list(self._zero_optimizer.optimizer.state.values())[:1]:
            for name, weight in trained_parameters(self.model).items():
                for key, value in entries.items():
                    is_scalar = value.ndim == 0
                    whole = value.clone() if is_scalar else utils.safe_get_full_optimizer_state(weight, key)
                    yield f"{name}|{key}", whole.detach().cpu().contiguous() if self.processes.main else None

    def load_weights(self, saved: SavedTensors | None) -> None:
        library = zero.deepspeed_library()
        for name, weight in trained_parameters(self.model).items():
            whole = self._receive(weight, saved.read(name) if saved else None)
            with library.zero.GatheredParameters([weight], modifier_rank=0), torch.no_grad():
                weight.copy_(whole)
            self._write_shard(weight, whole)
        for name, bias in router_biases(self.model).items():
            scatter(bias, saved.read(name) if saved else None, self.processes)

    def load_optimizer_state(self, saved: SavedTensors | None) -> None:
        saved_entries = self.processes.broadcast(saved.entries() if saved else None)
        if not saved_entries:
            return
        trained = trained_parameters(self.model)
        state = self._zero_optimizer.optimizer.state
        scalar_keys = {entry.rpartition("|")[2]: is_scalar for entry, is_scalar in saved_entries}
        for flat in self._flat_weights():
            state[flat] = {
                key: torch.zeros(()) if is_scalar else torch.zeros_like(flat) for key, is_scalar in scalar_keys.items()
            }
        if not self._weights_sharded:
            # As DeepSpeed does after its first step.
            self._zero_optimizer._lazy_init_hp_params_optimizer_state()
        for entry, is_scalar in saved_entries:
            name, _, key = entry.rpartition("|")
            value = saved.read(entry) if saved else None
            if is_scalar:
                number = self.processes.broadcast(value)
                for flat in self._flat_weights():
                    state[flat][key].copy_(number)
            else:
                self._write_shard(trained[name], self._receive(trained[name], value), key)

    def close(self) -> None:
        """End DeepSpeed's part in training; a sharded model can still run."""
        self._engine.destroy()
        self.model.__dict__.pop("forward", None)
        if self._weights_sharded:
            zero.start_inference(self.model)

    def _flat_weights(self) -> list[Tensor]:
        """The flat tensors that DeepSpeed's optimiser works on: this process's shards."""
        if self._weights_sharded:
            return list(self._zero_optimizer.fp32_partitioned_groups_flat)
        return list(self._zero_optimizer.single_partition_of_fp32_groups)

    def _receive(self, weight: Tensor, value: Tensor | None) -> Tensor:
        """A whole tensor in the shape of a weight, from the main process."""
        whole = torch.empty(full_shape(weight), dtype=weight.dtype, device=self.processes.device)
        scatter(whole, value, self.processes)
        return whole

    def _write_shard(self, weight: Tensor, whole: Tensor, key: str | None = None) -> None:
        """Overwrite DeepSpeed's copy of a weight, or the optimiser's `key` of it, with this process's shard."""
        utils = zero.deepspeed_library().utils
        if self._weights_sharded:
            size = weight.ds_tensor.numel()  # type: ignore[attr-defined]
            padded = torch.nn.functional.pad(whole.flatten(), (0, size * self.processes.count - whole.numel()))
            shard = padded[size * self.processes.rank :][:size]
            if key is None:
                utils.safe_set_local_fp32_param(weight, shard)
            else:
                utils.safe_set_local_optimizer_state(weight, shard, key)
        elif key is None:
            utils.safe_set_full_fp32_param(weight, whole)
        else:
            utils.safe_set_full_optimizer_state(weight, whole, key)


def make_engine(
    model: Model,
    optimizer: torch.optim.Optimizer,
    processes: Processes,
    autocast_dtype: torch.dtype | None = None,
) -> Engine:
    """The engine for a model as it lies in the processes; `autocast_dtype` as in `ZeroEngine`."""
    trained = trained_parameters(model).values()
    if (processes.sharded and launch().engine == "zero2") or any(map(zero.is_partitioned, trained)):
        return ZeroEngine(model, optimizer, processes, autocast_dtype)
    return (ShardedEngine if any(map(is_sharded, trained)) else Engine)(model, optimizer, processes)
