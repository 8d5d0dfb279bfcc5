"""Adapters as a plugin of PEFT: importing this package registers the tuner of mixtures.

After `import mosld.adapters`, plain `peft` and `transformers` load saved mixtures; without it, PEFT raises
KeyError 'MOSLD'.
"""

from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

from mosld.adapters.adapt import adapt, adapt_with, peft_config
from mosld.adapters.bank import Mixture
from mosld.adapters.config import MosldConfig, experts_per_layer
from mosld.adapters.grow import drop_expert, grow, replace_expert
from mosld.adapters.tuner import MosldModel

PEFT_TYPE_TO_CONFIG_MAPPING["MOSLD"] = MosldConfig  # type: ignore[index]
PEFT_TYPE_TO_TUNER_MAPPING["MOSLD"] = MosldModel  # type: ignore[index]
PEFT_TYPE_TO_PREFIX_MAPPING["MOSLD"] = MosldModel.prefix  # type: ignore[index]

__all__ = [
    "Mixture",
    "MosldConfig",
    "MosldModel",
    "adapt",
    "adapt_with",
    "drop_expert",
    "experts_per_layer",
    "grow",
    "peft_config",
    "replace_expert",
]
