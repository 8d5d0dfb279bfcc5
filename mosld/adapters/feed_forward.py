"""A mixture of whole feed-forward blocks (MixLoRA): one router per block, experts on all three projections.

Shapes: B batch, S sequence, I in and out of the block, F inner width, E experts, K experts per token.
"""

from typing import Any

from torch import Tensor, nn

from mosld.adapters.bank import ExpertBank
from mosld.adapters.config import MosldConfig
from mosld.adapters.context import ForwardContext
from mosld.adapters.products import products
from mosld.adapters.router import Router
from mosld.adapters.routing import Routing, one_hot
from mosld.adapters.slots import spread, total


class FeedForwardMixture(nn.Module):
    """``FFN(x) + sum_i g_i (E_i(x) - FFN(x))`` with E_i = down_i(act(gate_i x) * up_i x), each p_i = W_p + s B_i A_i.

    MixLoRA (Li et al. 2024, arXiv 2404.15159) writes sum_i g_i E_i(x), which is the same where the gates sum to 1. In
    this form an untrained block is the base model's to the last bit, and a token without an expert sees the base.
    The base's projections are computed once for all experts: W_gate x and W_up x before the experts differ, W_down,
    which is linear, on the gated sum.
    """

    def __init__(self, block: Any, experts: int, config: MosldConfig) -> None:
        """Make the weights in fp32 on the current default device, in the shapes of the base's block."""
        super().__init__()
        width, inner = block.gate_proj.in_features, block.gate_proj.out_features
        self.router = Router(width, experts, config)
        self.gate = ExpertBank(width, inner, experts, config)
        self.up = ExpertBank(width, inner, experts, config)
        self.down = ExpertBank(inner, width, experts, config)

    def forward(self, block: Any, x_BSI: Tensor, context: ForwardContext) -> tuple[Tensor, Routing]:
        """The block's output with its experts [B, S, I] in the type of the base, and how the tokens were routed."""
        reading = [self.gate.reading(x_BSI), self.up.reading(x_BSI)]
        *logits, gate_z, up_z = products(x_BSI, [*self.router.beside(x_BSI), *reading])
        routing = self.router(x_BSI, context, *logits)
        weights_KBS, slots_KBSE = self._slots(routing.gates_BSE)
        gate_BSF, up_BSF = block.gate_proj(x_BSI), block.up_proj(x_BSI)
        base_BSF = block.act_fn(gate_BSF) * up_BSF
        gate_KBSF = self._project(self.gate, gate_z, slots_KBSE, gate_BSF)
        up_KBSF = self._project(self.up, up_z, slots_KBSE, up_BSF)
        inner_KBSF = block.act_fn(gate_KBSF) * up_KBSF
        changed_KBSF = inner_KBSF - spread(base_BSF, len(slots_KBSE))
        y_BSI = block.down_proj(base_BSF + total(weights_KBS.to(base_BSF.dtype).unsqueeze(-1) * changed_KBSF))
        # Each slot's inner states meet their own expert: the one-hot slots pick it out of the bank. An expert is in one
        # slot of a token at most, so that B sees a token once.
        z_KBSER = self.down.down(inner_KBSF)
        z_BSER = total((weights_KBS.unsqueeze(-1) * slots_KBSE).unsqueeze(-1) * z_KBSER)
        return y_BSI + self.down.up(z_BSER, slots_KBSE.sum(0)).to(y_BSI.dtype), routing

    def _slots(self, gates_BSE: Tensor) -> tuple[Tensor, Tensor]:
        """The K experts of every token as weights [K, B, S] and one-hot rows [K, B, S, E]."""
        experts = gates_BSE.shape[-1]
        config = self.router.config
        weights_BSK, chosen_BSK = gates_BSE.topk(config.top_k or experts, dim=-1)
        slots_KBSE = one_hot(chosen_BSK.movedim(-1, 0), experts).to(weights_BSK)
        return weights_BSK.movedim(-1, 0), slots_KBSE

    @staticmethod
    def _project(bank: ExpertBank, z: Tensor, slots_KBSE: Tensor, base_BSF: Tensor) -> Tensor:
        """``W x + s B_i A_i x`` for the expert of every slot [K, B, S, F]; A_i x is computed once for all slots."""
        update_KBSF = bank.up(bank.by_expert(z), slots_KBSE)
        return spread(base_BSF, len(slots_KBSE)) + update_KBSF.to(base_BSF.dtype)
