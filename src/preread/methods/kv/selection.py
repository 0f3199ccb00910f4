"""Which keys and values of a passage are kept, and how they are made to stand for the others.

For one key/value head let K [n, E] and V [n, E] be the passage's keys and values, Q [m, E] reference queries, and
P = softmax(s Q K^T) over the passage alone, where s is the decoder's own scale (mostly 1 / sqrt(E)). Kept are the keys
with the largest root mean square of their column of P (Zweiger et al., Fast KV Compaction via Attention Matching,
arXiv 2602.16284, section 3.3) times the squared norm of their value (ours: a key that is heard but says little can go).

With `match` it then fits, as the paper does, a weight w >= 0 for each kept key so that the kept ones have the mass of
all (equation 4, nonnegative least squares), and new values so that attention to the kept ones gives what attention to
all gave (equation 5, least squares). Where we differ: the reference queries are those of the passage's own tokens, not
of a repetition of it, and the fit of values is drawn towards the kept values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from preread.core.types import KeyValues
from preread.nn.observed import Seen

ROUNDS = 300
"""Of the accelerated gradient method for nonnegative least squares."""
LEAST_WEIGHT = 1e-3
"""A kept key never counts for less, so that its logarithm is a number."""
TOWARDS_KEPT = 0.1
"""How strongly fitted values are drawn to the kept ones, against the mean square of the weights."""


def select(seen: Seen, first: int, keep: int, match: bool) -> KeyValues:
    """The kept keys and values of the positions from `first` on.

    Args:
        seen: what attention was given; the last positions are the passage.
        first: where the passage begins.
        keep: how many positions are kept, the same number in every head: N.
        match: whether weights and values are fitted.

    Returns:
        Keys and values [L, K, N, E] in float32, in the order of their positions.
    """
    layers = zip(seen.queries[:, :, first:], seen.keys[:, :, first:], seen.values[:, :, first:], strict=True)
    # A layer at a time: the shares of all layers together would be the largest tensor by far.
    kept = [_select(queries.float() * seen.scale, k.float(), v.float(), keep, match) for queries, k, v in layers]
    return KeyValues(*(torch.stack(states) for states in zip(*kept, strict=True)))


def _select(queries: Tensor, keys: Tensor, values: Tensor, keep: int, match: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Kept keys and values [K, N, E] and biases [K, N] of one layer, from scaled queries [H, T, E]."""
    heads, length, width = keys.shape
    if keep >= length:
        return keys, values, keys.new_zeros(heads, length)
    shares = (queries.reshape(heads, -1, width) @ keys.transpose(-1, -2)).softmax(-1)
    worth = shares.square().mean(-2).sqrt() * values.square().sum(-1)
    kept = worth.topk(keep).indices.sort(-1).values
    taken = kept[..., None].expand(-1, -1, width)
    kept_keys, kept_values = keys.gather(1, taken), values.gather(1, taken)
    if not match:
        return kept_keys, kept_values, keys.new_zeros(heads, keep)
    columns = shares.gather(2, kept[:, None].expand(-1, shares.shape[1], -1))
    weights = fitted_weights(columns)
    return kept_keys, fitted_values(columns * weights[:, None], shares @ values, kept_values), weights.log()


def fitted_weights(columns: Tensor) -> Tensor:
    """Weights that give the kept keys the mass of all: argmin over w >= 0 of || columns w - 1 ||^2.

    Args:
        columns: [..., m, N] share of each kept key in the attention of each reference query.

    Returns:
        [..., N].
    """
    gram, aim = columns.transpose(-1, -2) @ columns, columns.sum(-2)
    step = 1 / torch.linalg.matrix_norm(gram, 2)[..., None]
    found = ahead = torch.ones_like(aim)
    pace = 1.0
    for _ in range(ROUNDS):  # Beck and Teboulle's FISTA, with a projection
        following = (ahead - step * ((gram @ ahead[..., None])[..., 0] - aim)).clamp_min(LEAST_WEIGHT)
        quicker = (1 + (1 + 4 * pace * pace) ** 0.5) / 2
        ahead = following + (pace - 1) / quicker * (following - found)
        found, pace = following, quicker
    return found


def fitted_values(weights: Tensor, outputs: Tensor, kept: Tensor) -> Tensor:
    """Values that give attention to the kept keys the outputs of attention to all, by regularised least squares.

    Args:
        weights: [..., m, N] unnormalised attention to the kept keys.
        outputs: [..., m, E] what attention to all gave.
        kept: [..., N, E] values that the solution is drawn to.

    Returns:
        [..., N, E].
    """
    weights = weights / weights.sum(-1, keepdim=True)
    gram = weights.transpose(-1, -2) @ weights
    pull = TOWARDS_KEPT * gram.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    left = gram + pull * torch.eye(gram.shape[-1], device=gram.device)
    values: Tensor = torch.linalg.solve(left, weights.transpose(-1, -2) @ outputs + pull * kept)
    return values
