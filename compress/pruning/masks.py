"""Scores into masks: which channels of a group stay.

A mask is {group: (width,) bool, True = keep}. Groups are those of `graph.network.Graph`, channels that can only go
together: those of one convolution, or of all that are added to a residual stream. A group that the mask leaves out is
kept whole. What is called a layer below is such a group.
"""

import numpy as np

FLOOR = 4  # channels that a layer keeps whatever its scores say


class OutOfReach(ValueError):
    """No network that may be chosen is within the limit."""


def least_idle(scores, keep):
    """A mask of one layer, (channels,) bool, True for the `keep` lowest scores; of equal ones the first."""
    mask = np.zeros(len(scores), bool)
    mask[np.argsort(scores, kind="stable")[:keep]] = True
    return mask


def rounded(keep, channels, round_to=1, floor=FLOOR):
    """Channels that a layer of `channels` keeps: `keep`, raised to the floor and up to a multiple of `round_to`."""
    keep = max(keep, floor, 1)
    return min(channels, -(-keep // round_to) * round_to)


def _checked(scores, round_to, floor):
    """(scores as float arrays, {layer: round_to}, {layer: floor}), after a look at what both rules share."""
    round_to, floor = (
        value if isinstance(value, dict) else dict.fromkeys(scores, value) for value in (round_to, floor)
    )
    if min(round_to.values(), default=1) < 1 or min(floor.values(), default=0) < 0:
        raise ValueError(f"round_to must be at least 1 and floor at least 0. Received: {round_to}, {floor}")
    scores = {layer: np.asarray(values, np.float64) for layer, values in scores.items()}
    for layer, values in scores.items():
        if not np.isfinite(values).all():
            raise ValueError(f"scores must be finite. Received: NaN or infinity for {layer}")
    return scores, round_to, floor


def create_mask(scores, prune_ratio=None, round_to=1, floor=FLOOR):
    """A mask by a rule within each layer.

    Without `prune_ratio`, channels go whose score is strictly above mean + 1 standard deviation of their layer; Hu et
    al. 2016, Network Trimming, arXiv 1607.03250, section 3.2.

    Args:
        scores: {layer: (channels,)}, high = idle, from `compute_apoz` or `compute_scores`.
        prune_ratio: share of each layer's channels to remove, from 0 to below 1; None for the default rule.
        round_to: channels kept are rounded up to a multiple of this; {layer: multiple} where it differs.
        floor: channels that every layer keeps at least; {layer: channels} likewise.

    Returns:
        {layer: (channels,) bool, True = keep}.

    Raises:
        ValueError: a score isn't finite, or prune_ratio, round_to or floor is out of range.
    """
    scores, round_to, floor = _checked(scores, round_to, floor)
    if prune_ratio is not None and not 0 <= prune_ratio < 1:
        raise ValueError(f"prune_ratio must be from 0 to below 1. Received: {prune_ratio}")
    mask = {}
    for layer, values in scores.items():
        if prune_ratio is None:
            # strictly above: of equal scores, whose deviation is 0, all would go otherwise; a score equal to the limit
            # stays, also where rounding lifts it a little
            limit = values.mean() + values.std() + 1e-12 * np.abs(values).max()
            keep = int((values <= limit).sum())
        else:
            keep = len(values) - round(len(values) * prune_ratio)
        mask[layer] = least_idle(values, rounded(keep, len(values), round_to[layer], floor[layer]))
    return mask


def create_global_mask(scores, fits, round_to=1, floor=FLOOR):
    """A mask by one threshold over all layers: the smallest removal that meets a budget.

    Scores are standardised within their layer first, (score - mean) / std, since raw scores of two layers don't
    compare (the 'gaussian' normaliser of Torch-Pruning; Fang et al. 2023, arXiv 2301.12900).

    Args:
        scores: {layer: (channels,)}, high = idle.
        fits: function({layer: channels kept}) -> bool, True once the budget is met; it must stay True as channels go.
        round_to: channels kept are rounded up to a multiple of this; {layer: multiple} where it differs.
        floor: channels that every layer keeps at least; {layer: channels} likewise.

    Returns:
        {layer: (channels,) bool, True = keep}.

    Raises:
        ValueError: the budget isn't met even with every layer at its floor, a score isn't finite, or round_to or
            floor is out of range.
    """
    (scores, round_to, floor), ranked = _checked(scores, round_to, floor), []
    for layer, values in scores.items():
        std = values.std()
        flat = std <= 1e-9 * np.abs(values).max()  # equal but for rounding, which must not be standardised
        standard = np.zeros(len(values)) if flat else (values - values.mean()) / std
        ranked += [
            (score, layer) for score in np.sort(standard)[floor[layer] :]
        ]  # the floor's channels can't be chosen
    ranked.sort(key=lambda item: (-item[0], item[1]))

    def kept(removed):
        counts = {layer: len(values) for layer, values in scores.items()}
        for _, layer in ranked[:removed]:
            counts[layer] -= 1
        return {layer: rounded(n, len(scores[layer]), round_to[layer], floor[layer]) for layer, n in counts.items()}

    low, high = 0, len(ranked)
    if not fits(kept(high)):
        raise OutOfReach("the budget is out of reach: it isn't met with every layer at its floor")
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(kept(middle)) else (middle + 1, high)
    return {layer: least_idle(scores[layer], n) for layer, n in kept(high).items()}
