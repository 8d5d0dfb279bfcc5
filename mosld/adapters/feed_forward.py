"""A mixture of whole feed-forward blocks (MixLoRA): one router per block, experts on all three projections.

Shapes: B batch, S sequence, I in and out of the block, F inner width, E experts, K experts per token.
"""

from typing import Any

from torch import Tensor, nn

from mosld.adapters.bank import ExpertBank
from mosld.adapters.config import MosldConfig
from mosld.adapters.context import ForwardContext
from mosld.adapters.router import Router
from mosld.adapters.routing import Routing, one_hot


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
        routing = self.router(x_BSI, context)
        weights_BSK, slots_BSKE = self._slots(routing.gates_BSE)
        gate_BSF, up_BSF = block.gate_proj(x_BSI), block.up_proj(x_BSI)
        base_BSF = block.act_fn(gate_BSF) * up_BSF
        gate_BSKF = self._project(self.gate, x_BSI, slots_BSKE, gate_BSF)
        up_BSKF = self._project(self.up, x_BSI, slots_BSKE, up_BSF)
        inner_BSKF = block.act_fn(gate_BSKF) * up_BSKF
        moved_BSF = (weights_BSK.to(base_BSF.dtype).unsqueeze(-1) * (inner_BSKF - base_BSF.unsqueeze(-2))).sum(-2)
        y_BSI = block.down_proj(base_BSF + moved_BSF)
        # Each slot's inner states meet their own expert: the one-hot slots pick it out of the bank.
        gated_BSKE = weights_BSK.unsqueeze(-1) * slots_BSKE
        update_BSKI = self.down.up(self.down.down(inner_BSKF), gated_BSKE)
        return y_BSI + update_BSKI.sum(-2).to(y_BSI.dtype), routing

    def _slots(self, gates_BSE: Tensor) -> tuple[Tensor, Tensor]:
        """The K experts of every token as weights [B, S, K] and one-hot rows [B, S, K, E]."""
        experts = gates_BSE.shape[-1]
        config = self.router.config
        weights_BSK, chosen_BSK = gates_BSE.topk(config.top_k or experts, dim=-1)
        return weights_BSK, one_hot(chosen_BSK, experts).to(weights_BSK)

    @staticmethod
    def _project(bank: ExpertBank, x_BSI: Tensor, slots_BSKE: Tensor, base_BSF: Tensor) -> Tensor:
        """``W x + s B_i A_i x`` for the expert of every slot [B, S, K, F]; A_i x is computed once for all slots."""
        z_BSER = bank.down(x_BSI)
        update_BSKF = bank.up(z_BSER.unsqueeze(-3), slots_BSKE)
        return base_BSF.unsqueeze(-2) + update_BSKF.to(base_BSF.dtype)
