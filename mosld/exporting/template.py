"""The modelling file of an exported mixture: its text, of which each method takes the parts that it needs.

Whoever opens the file reads the method's formula and the code of nothing else. ``$name`` is filled in by `standalone`.
"""

FILE = '''\
"""$base with a mixture of LoRA experts. This file needs torch and transformers alone.

$formula

An adapted layer keeps the frozen one of the base inside it; "mixture" in config.json says which layers are adapted.
"""

${imports}import torch
import torch.nn.functional as F
from torch import nn
from transformers import $config_class, $causal_class, $model_class


class Experts(nn.Module):
    """The A_i and B_i of all experts of one linear layer, side by side in two matrices."""

    def __init__(self, inputs, outputs, experts, mixture):
        super().__init__()
        rank = mixture["rank"]
        self.rank = rank
        self.scale = mixture["alpha"] / rank
        self.A = nn.Parameter(torch.zeros($rows, inputs))
        self.B = nn.Parameter(torch.zeros(outputs, $columns))$make_cores

    def down(self, x):
        """A_i x of every expert."""
        return F.linear(x.to(self.A.dtype), self.A).unflatten(-1, (-1, self.rank))

    def up(self, z, gates):
        """The sum of gate_i (alpha / r) B_i z_i over the experts."""
        gates = self.scale * gates.to(z.dtype)$apply_cores
        return F.linear((gates.unsqueeze(-1) * z).$join, self.B)


$layers


class ${name}Config($config_class):
    model_type = "$model_type"


class ${name}Model($model_class):
    config_class = ${name}Config
    _keep_in_fp32_modules_strict = {"mixture"}

    def __init__(self, config):
        super().__init__(config)
        mixture = config.mixture
$adapt
        self.post_init()
$forward

class ${name}ForCausalLM($causal_class):
    config_class = ${name}Config
    _keep_in_fp32_modules_strict = {"mixture"}

    def __init__(self, config):
        super().__init__(config)
        self.$prefix = ${name}Model(config)
        self.post_init()
$generate

# save_pretrained copies this file.
${name}Config.register_for_auto_class()
${name}Model.register_for_auto_class("AutoModel")
${name}ForCausalLM.register_for_auto_class("AutoModelForCausalLM")
'''

GATES = {
    "topk": '''def gates_of(logits, top_k):
    """g: the softmax of the top_k largest logits; the other experts get 0."""
    top, chosen = logits.topk(top_k, dim=-1)
    return torch.zeros_like(logits).scatter(-1, chosen, top.softmax(-1))''',
    "dense": '''def gates_of(logits, top_k):
    """g: the softmax of the logits; every token takes all experts."""
    return logits.softmax(-1)''',
    "masked": '''def gates_of(logits, top_k):
    """g: the top_k largest of the softmax of the logits, as they are; the other experts get 0."""
    probabilities = logits.softmax(-1)
    top, chosen = probabilities.topk(top_k, dim=-1)
    return torch.zeros_like(probabilities).scatter(-1, chosen, top)''',
    "biased topk": '''def gates_of(logits, top_k, bias):
    """g: the softmax of the logits of the top_k experts whose logit + bias is largest; the others get 0."""
    chosen = (logits + bias).topk(top_k, dim=-1).indices
    return torch.zeros_like(logits).scatter(-1, chosen, logits.gather(-1, chosen).softmax(-1))''',
    "biased masked": '''def gates_of(logits, top_k, bias):
    """g: the softmax of all logits, as it is for the top_k experts whose logit + bias is largest; the others get 0."""
    probabilities = logits.softmax(-1)
    chosen = (logits + bias).topk(top_k, dim=-1).indices
    return torch.zeros_like(probabilities).scatter(-1, chosen, probabilities.gather(-1, chosen))''',
    "magnitude": '''def gates_of(sizes, top_k):
    """g: 1 for the top_k largest sizes, else 0."""
    return torch.zeros_like(sizes).scatter(-1, sizes.topk(top_k, dim=-1).indices, 1.0)''',
    "biased magnitude": '''def gates_of(sizes, top_k, bias):
    """g: 1 for the top_k largest sizes + bias, else 0."""
    return torch.zeros_like(sizes).scatter(-1, (sizes + bias).topk(top_k, dim=-1).indices, 1.0)''',
}

# What the router reads, by `router_input`, and with router "magnitude".
LOGITS = {
    "x": "F.linear(x.float(), self.mixture_router.float())",
    "Ax": "F.linear(z.squeeze(-2).float(), self.mixture_router.float())",
    "magnitude": "z.squeeze(-1).float().abs()",
}
MAKE_ROUTER = "\n        self.mixture_router = nn.Parameter(torch.zeros(experts, {}))"
MAKE_BIAS = "\n        self.mixture_bias = nn.Parameter(torch.zeros(experts))"
MAKE_CORES = "\n        self.M = nn.Parameter(torch.zeros(experts * rank, rank))"
APPLY_CORES = "\n        z = F.linear(z.squeeze(-2), self.M).unflatten(-1, (-1, self.rank))"

FORMULAS = {
    "experts": """\
Each adapted linear layer W computes, for every token x, W x + (alpha / r) sum_i g_i $product x. The gates g come from
the logits W_r x of the layer's router: see `gates_of`.""",
    "feed_forward": """\
Each adapted feed-forward block FFN computes, for every token x, sum_i g_i E_i(x), where the experts E_i are the block
with a LoRA in each projection. The gates g come from the logits W_r x of the block's router: see `gates_of`.""",
    "lora": """\
Each linear layer W with a single LoRA computes W x + (alpha / r) B A x.""",
    "sequence": """\
Each adapted linear layer W computes W x + (alpha / r) sum_i g_i $product x. The gates g are those of the whole
sequence: the router of each decoder layer decides when the prompt is read, and the cache keeps what it decided.""",
}

LINEAR = '''class MixtureLinear(nn.Module):
    """y = W x + (alpha / r) sum_i g_i $product x"""

    def __init__(self, base, experts, mixture):
        super().__init__()
        self.base = base
        self.top_k = mixture["top_k"]
        self.mixture = Experts(base.in_features, base.out_features, experts, mixture)$make_router$make_bias

    def forward(self, x):
        z = self.mixture.down(x)
        gates = gates_of($logits, self.top_k$bias)
        y = self.base(x)
        return y + self.mixture.up(z, gates).to(y.dtype)'''

LORA = '''class LoraLinear(nn.Module):
    """y = W x + (alpha / r) B A x"""

    def __init__(self, base, mixture):
        super().__init__()
        self.base = base
        self.mixture = Experts(base.in_features, base.out_features, 1, mixture)

    def forward(self, x):
        z = self.mixture.down(x)
        y = self.base(x)
        return y + self.mixture.up(z, torch.ones_like(z[..., 0])).to(y.dtype)'''

FEED_FORWARD = '''class MixtureFeedForward(nn.Module):
    """FFN(x) + sum_i g_i (E_i(x) - FFN(x)), which is sum_i g_i E_i(x), since the gates sum to 1.

    E_i(x) = down_i(act(gate_i x) * up_i x), where each projection p_i = W_p + (alpha / r) B_i A_i. W_down is linear, so
    it is applied once, to the sum.
    """

    def __init__(self, block, experts, mixture):
        super().__init__()
        width, inner = block.gate_proj.in_features, block.gate_proj.out_features
        self.top_k = mixture["top_k"] or experts
        self.base = nn.ModuleDict({name: getattr(block, name) for name in ("gate_proj", "up_proj", "down_proj")})
        self.act_fn = block.act_fn
        self.mixture = nn.ModuleDict()
        for name, sizes in {"gate": (width, inner), "up": (width, inner), "down": (inner, width)}.items():
            self.mixture[name] = Experts(*sizes, experts, mixture)
        self.mixture_router = nn.Parameter(torch.zeros(experts, width))$make_bias

    def forward(self, x):
        gates = gates_of(F.linear(x.float(), self.mixture_router.float()), self.top_k$bias)
        weights, chosen = (part.movedim(-1, 0) for part in gates.topk(self.top_k, dim=-1))  # [top_k, ...]
        one_hot = F.one_hot(chosen, gates.shape[-1]).to(gates.dtype)
        gate, up = self.base["gate_proj"](x), self.base["up_proj"](x)
        base = self.act_fn(gate) * up
        gate_i = gate + self.mixture["gate"].up(self.mixture["gate"].down(x), one_hot).to(gate.dtype)
        up_i = up + self.mixture["up"].up(self.mixture["up"].down(x), one_hot).to(up.dtype)
        inner_i = self.act_fn(gate_i) * up_i
        change = sum((weights.to(base.dtype).unsqueeze(-1) * (inner_i - base)).unbind(0))
        y = self.base["down_proj"](base + change)
        z = sum(((weights.unsqueeze(-1) * one_hot).unsqueeze(-1) * self.mixture["down"].down(inner_i)).unbind(0))
        return y + self.mixture["down"].up(z, one_hot.sum(0)).to(y.dtype)'''

LAYERS = {"experts": LINEAR, "feed_forward": FEED_FORWARD, "lora": LORA}

ADAPT = {
    "experts": """\
        for name, experts in mixture["experts"].items():
            self.set_submodule(name, MixtureLinear(self.get_submodule(name), experts, mixture))""",
    "feed_forward": """\
        for name, experts in mixture["feed_forward"].items():
            self.set_submodule(name, MixtureFeedForward(self.get_submodule(name), experts, mixture))""",
    "lora": """\
        for name in mixture["lora"]:
            self.set_submodule(name, LoraLinear(self.get_submodule(name), mixture))""",
    "sequence": """\
        if config._attn_implementation == "vllm":
            raise ValueError("vLLM mixes sequences in one pass: serve each expert of this model as a plain LoRA")
        for name, experts in mixture["experts"].items():
            layer = next(part for part in name.split(".") if part.isdigit())
            self.set_submodule(name, SequenceLinear(self.get_submodule(name), layer, experts, mixture))
        routers = {layer: torch.zeros(experts, width) for layer, width in mixture["router_widths"].items()}
        self.mixture_routers = nn.ParameterDict(routers)""",
}

SEQUENCE = '''PASS = ContextVar("PASS")  # the forward pass under way


class Pass:
    """One forward pass: which tokens decide, and the gates of every sequence by layer."""

    def __init__(self, model, tokens=None, gates=None, elected=None):
        self.routers = model.mixture_routers
        self.tokens = tokens
        self.gates = dict(gates or {})
        self.elected = elected
        self.choices = []

    def gates_of(self, layer, x):
        """g [B, 1, E]: $gates; p = softmax(W_r norm(h)), h the $pool of the prompt."""
        if layer not in self.gates:
            x = x.float()
            tokens = torch.ones_like(x[..., 0])
            for known in self.tokens:
                tokens = tokens * known.to(x)
$pooled
            p = F.linear(F.rms_norm(h, h.shape[-1:]), self.routers[layer].float()).softmax(-1)
            self.choices.append(p.argmax(-1))
$choose
            self.gates[layer] = gates.unsqueeze(1)
        return self.gates[layer]


class SequenceLinear(nn.Module):
    """y = W x + (alpha / r) B_j A_j x, where all tokens of a sequence take its expert j"""

    def __init__(self, base, layer, experts, mixture):
        super().__init__()
        self.base = base
        self.layer = layer
        self.mixture = Experts(base.in_features, base.out_features, experts, mixture)

    def forward(self, x):
        gates = PASS.get().gates_of(self.layer, x)
        y = self.base(x)
        return y + self.mixture.up(self.mixture.down(x), gates).to(y.dtype)


class CacheWithGates:
    """Put before the class of a cache, so that what moves the rows of the cache moves their gates."""

    def reorder_cache(self, beam_idx):
        super().reorder_cache(beam_idx)
        self.gates = {layer: gates[beam_idx.to(gates.device)] for layer, gates in self.gates.items()}

    def batch_select_indices(self, indices):
        super().batch_select_indices(indices)
        self.gates = {layer: gates[indices.to(gates.device)] for layer, gates in self.gates.items()}

    def batch_repeat_interleave(self, repeats):
        super().batch_repeat_interleave(repeats)
        self.gates = {layer: gates.repeat_interleave(repeats, dim=0) for layer, gates in self.gates.items()}


def keep_with_cache(cache, gates):
    """The answer to a prompt goes on with the prompt's experts."""
    if cache is not None:
        if not isinstance(cache, CacheWithGates):
            cache.__class__ = type(type(cache).__name__, (CacheWithGates, type(cache)), {})
        cache.gates = {layer: known.detach() for layer, known in gates.items()}'''

SEQUENCE_FORWARD = """
    def forward(self, input_ids=None, attention_mask=None, past_key_values=None, prompt_mask=None, **kwargs):
        # The tokens of prompt_mask [B, S] decide on the experts, by default all that are no pads.
        inputs = kwargs | {"input_ids": input_ids, "attention_mask": attention_mask}
        inputs["past_key_values"] = past_key_values
        if past_key_values is not None and past_key_values.get_seq_length() > 0:
            if not hasattr(past_key_values, "gates"):
                raise ValueError("past_key_values holds no expert: fill the cache with this model")
            return self.run(Pass(self, gates=past_key_values.gates), inputs)
        rows = (kwargs["inputs_embeds"] if input_ids is None else input_ids).shape[:2]
        tokens = []
        if getattr(attention_mask, "shape", None) == rows:
            tokens.append(attention_mask)
        if prompt_mask is not None:
            tokens.append(F.pad(prompt_mask.long(), (0, rows[1] - prompt_mask.shape[1])))
        current = Pass(self, tokens)
$vote
        outputs = self.run(current, inputs)
        keep_with_cache(outputs.past_key_values, current.gates)
        return outputs

    def run(self, current, inputs):
        token = PASS.set(current)
        try:
            return super().forward(**inputs)
        finally:
            PASS.reset(token)
"""

POOLED = {
    "mean": """\
            h = (x * tokens.unsqueeze(-1)).sum(1) / tokens.sum(1, keepdim=True).clamp(min=1)""",
    "last": """\
            last = (tokens * torch.arange(1, x.shape[1] + 1, device=x.device)).argmax(-1)
            h = x[torch.arange(len(x), device=x.device), last]""",
}

CHOOSE = {
    "per_layer": (
        "1 for the arg-max of p",
        "            gates = F.one_hot(self.choices[-1], p.shape[-1]).to(p.dtype)",
    ),
    "vote": (
        "1 for the arg-max of p in most layers",
        """\
            best = self.choices[-1] if self.elected is None else self.elected
            gates = F.one_hot(best, p.shape[-1]).to(p.dtype)""",
    ),
    "soft": ("p itself", "            gates = p"),
}

VOTE = """\
        # Every layer votes in a pass of its own; the expert with most votes serves all layers.
        with torch.no_grad():
            cache = deepcopy(past_key_values)
            self.run(current, inputs | {"past_key_values": cache, "use_cache": cache is not None})
        current = Pass(self, tokens, elected=torch.stack(current.choices).mode(dim=0).values)
"""

SEQUENCE_GENERATE = """
    @wraps($causal_class.forward)  # `generate` reads the names of its arguments
    def forward(self, *args, labels=None, **kwargs):
        if labels is not None and kwargs.get("prompt_mask") is None:  # tokens without a label are the prompt
            unlabelled = labels == -100
            kwargs["prompt_mask"] = unlabelled | ~unlabelled.any(-1, keepdim=True)
        return super().forward(*args, labels=labels, **kwargs)

    def generate(self, inputs=None, **kwargs):
        # The prompt alone decides, whole, also where a pass without a cache runs over the answer so far.
        prompt = kwargs.get("input_ids") if inputs is None else inputs
        if prompt is not None:
            kwargs["prompt_mask"] = torch.ones_like(prompt)
        return super().generate(inputs, **kwargs | {"prefill_chunk_size": None})

    def prepare_inputs_for_generation(self, *args, prompt_mask=None, **kwargs):
        return super().prepare_inputs_for_generation(*args, **kwargs) | {"prompt_mask": prompt_mask}
"""
