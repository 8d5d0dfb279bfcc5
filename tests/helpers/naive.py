"""Independent references: loops over tokens and experts, written from the formulas of docs/reference/methods.md.

They share no code with mosld and run in the dtype of their inputs, float64 in the tests.
"""

import math

import torch


def probabilities(router, token):
    """p = softmax(W_r x) over all experts, as a list."""
    powers = [torch.exp((row * token).sum()) for row in router]
    return [power / sum(powers) for power in powers]


def ranked(probs):
    return sorted(range(len(probs)), key=lambda i: -probs[i].item())


def top_k_gates(probs, k):
    """The k largest, divided by their sum; the others 0."""
    best = ranked(probs)[:k]
    total = sum(probs[i] for i in best)
    return [probs[i] / total if i in best else 0.0 for i in range(len(probs))]


def biased_top_k_gates(probs, k, bias):
    """As `top_k_gates`, but the k experts are those with the largest log p + bias."""
    best = ranked([torch.log(p) + b for p, b in zip(probs, bias, strict=True)])[:k]
    total = sum(probs[i] for i in best)
    return [probs[i] / total if i in best else 0.0 for i in range(len(probs))]


def magnitude_gates(scores, k, bias):
    """FlyLoRA: 1 for the k largest abs(score) + bias."""
    best = ranked([abs(score) + b for score, b in zip(scores, bias, strict=True)])[:k]
    return [1.0 if i in best else 0.0 for i in range(len(scores))]


def dense_gates(probs, k=None):
    """All; with k, the others are masked and nothing is divided."""
    best = ranked(probs)[:k]
    return [probs[i] if i in best else 0.0 for i in range(len(probs))]


def sira_gates(dropped, k, factor, real):
    """Gates and choices of all tokens of a forward: slots to all first choices in token order, then to second ones.

    `dropped`: by token, the probabilities after gate dropout. `real`: by token, whether it is no pad.
    """
    experts, tokens = len(dropped[0]), sum(real)
    capacity = math.ceil(factor * k * tokens / experts)
    gates = [[0.0] * experts for _ in dropped]
    chosen = [[False] * experts for _ in dropped]
    used = [0] * experts
    for choice in range(k):
        for t, probs in enumerate(dropped):
            i = ranked(probs)[choice]
            if not real[t] or probs[i] == 0:
                continue
            chosen[t][i] = True
            if used[i] < capacity:
                used[i] += 1
                gates[t][i] = probs[i]
    return gates, chosen


def pairs(A, B, rank, share, experts):
    """(A_i, B_i) of every expert of a bank whose experts stand side by side."""
    slices = [slice(i * rank, (i + 1) * rank) for i in range(experts)]
    return [(A if share == "A" else A[part], B if share == "B" else B[:, part]) for part in slices]


def update(token, gates, bank, scale):
    """s * sum_i g_i B_i A_i x of one token."""
    total = 0.0
    for gate, (A_i, B_i) in zip(gates, bank, strict=True):
        total = total + scale * gate * (B_i @ (A_i @ token))
    return total


def mixture(tokens, gates, bank, scale):
    """The updates [T, O] of tokens [T, I] with the gates of each."""
    return torch.stack([update(*each, bank, scale) for each in zip(tokens, gates, strict=True)])


def feed_forward(token, gates, block, banks, scale):
    """MixLoRA: sum_i g_i E_i(x), every E_i a whole block whose three weights are W + s B_i A_i."""
    total = 0.0
    for i, gate in enumerate(gates):
        gate_W, up_W, down_W = (
            weight + scale * banks[part][i][1] @ banks[part][i][0] for part, weight in block.items()
        )
        total = total + gate * (down_W @ (torch.nn.functional.silu(gate_W @ token) * (up_W @ token)))
    return total


def sequence_probabilities(router, tokens, prompt, pool="mean"):
    """MoA: softmax(W_r h), h the mean or the last of the sequence's prompt states, divided by its root mean square.

    The states enter as numbers, not as functions of the experts before. `prompt`: by token, 0 or 1.
    """
    states = [token.detach() for token, inside in zip(tokens, prompt, strict=True) if inside]
    state = states[-1] if pool == "last" else sum(states) / len(states)
    return probabilities(router, state / (sum(value**2 for value in state) / len(state)) ** 0.5)


def localised_balance(gates, mask, kinds, offset):
    """LoRAMoE: var(Z) / mean(Z) over experts and rows; `gates` [B, S, E]."""
    rows, width, experts = gates.shape
    Z = []
    for b in range(rows):
        for i in range(experts):
            mass = sum(gates[b, s, i] for s in range(width) if mask[b, s])
            alike = (i >= (experts + 1) // 2) == (kinds[b] == 1)
            Z.append(mass * (1 + offset if alike else 1 - offset))
    mean = sum(Z) / len(Z)
    return sum((z - mean) ** 2 for z in Z) / (len(Z) - 1) / mean


def balance(probs, chosen, mask, formula="switch"):
    """The balance loss of one module over the tokens that the mask keeps; `chosen` [B, S, E] are 0 or 1."""
    experts = probs.shape[-1]
    tokens = [(b, s) for b in range(mask.shape[0]) for s in range(mask.shape[1]) if mask[b, s]]
    count = [sum(1 for t in tokens if chosen[t][i] > 0) for i in range(experts)]
    mean = [sum(probs[t][i] for t in tokens) / len(tokens) for i in range(experts)]
    if formula == "switch":
        return experts * sum(count[i] / sum(count) * mean[i] for i in range(experts))
    literal = sum(count[i] / len(tokens) * mean[i] for i in range(experts))
    return literal / experts if formula == "sira" else literal


def dropout_mask(shape, p):
    """The mask of inverted dropout with its scale, as the CPU's generator draws it next: one element at a time.

    Each number of 64 bits gives four words of 16; an element is kept where its word, read as a signed number, is among
    the lowest, as many of them as are nearest to the share to keep.
    """
    kept, elements, words = round((1 - p) * 65536), math.prod(shape), []
    while len(words) < elements:
        bits = torch.randint(-(2**63), 2**63 - 1, (1,)).item() % 2**64
        words += [bits >> shift & 0xFFFF for shift in (0, 16, 32, 48)]
    signed = [word - 65536 if word >= 32768 else word for word in words[:elements]]
    mask = [65536 / kept if word + 32768 < kept else 0.0 for word in signed]
    return torch.tensor(mask, dtype=torch.float64).view(shape)
