"""An independent mixture: one token, one expert at a time, in float64."""

import torch


def naive_mixture(x, A, B, router, *, rank, alpha, top_k, share):
    """Update of every token [B, S, O], probabilities and gates [B, S, E], by loops over tokens and experts."""
    experts = router.shape[0]
    updates, all_probs, all_gates = [], [], []
    for row in x:
        for token in row:
            probs = torch.softmax(router @ token, dim=0)
            order = sorted(range(experts), key=lambda i: -probs[i].item())[:top_k]
            kept = sum(probs[i] for i in order)
            update = torch.zeros(B.shape[0], dtype=x.dtype)
            gates = [probs.new_zeros(())] * experts
            for i in order:
                A_i = A if share == "A" else A[i * rank : (i + 1) * rank]
                B_i = B if share == "B" else B[:, i * rank : (i + 1) * rank]
                gates[i] = probs[i] / kept
                update = update + gates[i] * (alpha / rank) * (B_i @ (A_i @ token))
            updates.append(update)
            all_probs.append(probs)
            all_gates.append(torch.stack(gates))
    shape = x.shape[:2]
    return (
        torch.stack(updates).view(*shape, -1),
        torch.stack(all_probs).view(*shape, -1),
        torch.stack(all_gates).view(*shape, -1),
    )


def naive_balance(probs, gates, mask):
    """N * sum_i f_i P_i over the tokens that the mask keeps."""
    experts = probs.shape[-1]
    tokens = [(b, s) for b in range(mask.shape[0]) for s in range(mask.shape[1]) if mask[b, s]]
    taken = [sum(1 for t in tokens if gates[t][i] > 0) for i in range(experts)]
    mean = [sum(probs[t][i] for t in tokens) / len(tokens) for i in range(experts)]
    return experts * sum(taken[i] / sum(taken) * mean[i] for i in range(experts))
