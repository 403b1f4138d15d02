"""What of a network may lose channels and what stays, as rows of a table; and what it costs at a target."""

import numpy as np

from compress.pruning import criteria, masks
from compress.pruning.scope import names_of


def parts(scope, criterion):
    """All groups of a network by what is done with them.

    Args:
        scope: a Scope, of all that its word takes.
        criterion: one of flags.CRITERIA.

    Returns:
        [(words, [Group])], each group once and no list empty. Groups outside the inner scope go by the
        scope 'all'; those that a LayerNormalization normalises over all channels stay in any.

    Raises:
        InputError: no group may lose channels, see `criteria.scored_by`.
    """
    # Each a part of the next: what this criterion scores, what the scope takes, what the scope 'all' takes.
    scored, everything = criteria.scored_by(criterion, scope).names, names_of(scope.graph, "all")

    def kind(name):
        if name in scored:
            return "may go"
        if name in scope.names:
            return f"stay: {criterion} can't score them"
        return "stay: outside the inner scope" if name in everything else "stay: normalised over all channels"

    found = {}
    for name, group in scope.graph.groups.items():
        found.setdefault(kind(name), []).append(group)
    return sorted(found.items(), key=lambda part: part[0])


def _widths(groups):
    """The widths of some groups, as '64-512', which no table breaks."""
    low, high = min(width for _, width in groups), max(width for _, width in groups)
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def summary(scope, criterion):
    """Rows of a short table: (what, number of groups, their widths, their channels in all).

    What has to stay is summed up by its reason, with the first layer that holds some.
    """
    rows = []
    # A position of a mask may stand for several channels, as of a grouped convolution; a reader counts channels.
    for words, groups in parts(scope, criterion):
        sizes = [(group.name, group.width * group.step) for group in groups]
        rows.append((words, len(sizes), _widths(sizes), f"{sum(width for _, width in sizes):,}"))
    # Of a large network dozens of layers hold channels, most for the same reason: one row a reason.
    reasons = {}
    for pin in scope.graph.pinned:
        reasons.setdefault(pin.why, []).append((pin.layer, pin.width))
    for why, pins in reasons.items():
        others = f" and {len(pins) - 1} more" if len(pins) > 1 else ""
        rows.append(
            (f"held by {pins[0][0]}{others}: {why}", "-", _widths(pins), f"{sum(width for _, width in pins):,}")
        )
    return rows


def details(scope, criterion):
    """Rows of a long table: (group or layer, channels, what is done with them), each group and each held part once."""
    rows = [
        (group.name, f"{group.width * group.step:,}", words)
        for words, groups in parts(scope, criterion)
        for group in groups
    ]
    held = [(", ".join(pin.makers), f"{pin.width:,}", f"held by {pin.layer}: {pin.why}") for pin in scope.graph.pinned]
    return rows + [(name if len(name) < 60 else f"{name:.57}...", *more) for name, *more in held]


def at_share(scope, share, round_to=1):
    """{group: positions left} where every group of a scope loses the same share, 0 to 1."""
    multiple, floor = scope.permitted(round_to)
    return {
        name: masks.rounded(group.width - round(group.width * share), group.width, multiple[name], floor[name])
        for name, group in scope.groups.items()
    }


def at_cost(scope, budget, round_to=1):
    """The same with the least share that costs no more than a Budget leaves in the end."""
    # Costs fall as the share rises, so the first of 401 shares within the budget is the least. They are costed at once,
    # in closed form, which is quicker than a bisection with a call a step.
    tried = [at_share(scope, share, round_to) for share in np.linspace(0, 1, 401)]
    costs = budget.costs(scope)(np.array([[left[name] for name in scope.names] for left in tried]))
    return tried[int(np.argmax(costs <= budget.end))]


def after_iterations(scope, ratio, iterations, round_to=1):
    """The same after some iterations, each of which takes a share of the channels that are left in every group."""
    # Step by step, since every iteration rounds.
    multiple, floor = scope.permitted(round_to)
    left = {name: group.width for name, group in scope.groups.items()}
    for _ in range(iterations):
        left = {name: masks.rounded(n - round(n * ratio), n, multiple[name], floor[name]) for name, n in left.items()}
    return left
