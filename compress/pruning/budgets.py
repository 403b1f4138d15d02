"""How much of a network's cost pruning is to leave, in parameters, MACs or milliseconds, and how it gets there."""

import dataclasses

import numpy as np

from compress.cli import display, flags
from compress.errors import InputError
from compress.pruning.iterations import STEP
from compress.pruning.latency import LatencyModel

UNITS = ("parameters", "MACs", "ms")


def number_of(cost, unit):
    """A cost as text, without its unit, one of UNITS."""
    return f"{cost:.3g}" if unit == "ms" else f"{cost:,.0f}"


def shown(cost, unit):
    """A cost as text."""
    return f"{number_of(cost, unit)} {unit}"


@dataclasses.dataclass(frozen=True)
class Budget:
    """What is to be left of a network's cost.

    Attributes:
        unit: of the costs, one of UNITS.
        start: the base's cost.
        end: the cost after the last iteration.
        step: what an iteration leaves of the cost, as a share of what was there before it, 0 to 1.
        latency: the LatencyModel of the base where the unit is ms, else None.
    """

    unit: str
    start: float
    end: float
    step: float
    latency: LatencyModel | None = None

    def costs(self, scope):
        """function((n, groups) int table, see `Scope.costs`) -> (n,) costs of these networks; scope: a Scope of now."""
        if self.latency:
            return lambda table: self.latency.predict_rows(scope.rows(table))
        which = UNITS.index(self.unit)
        return lambda table: scope.costs(table)[:, which]

    def now(self, scope):
        """The cost of a scope's network as it is; of one that was timed, what it took."""
        if self.latency:
            whole = {name: group.width for name, group in scope.graph.groups.items()}
            return self.latency.measured(whole) or self.latency.predict(whole)
        return float(self.costs(scope)(np.array([[group.width for group in scope.groups.values()]]))[0])

    def limit(self, iteration, iterations):
        """The cost that an iteration, from 1, of so many may leave.

        Each reduces the cost by the same factor. Equal steps in parameters or MACs would remove the largest share in
        the last one, whose limit is the end itself, which a power of the step may miss by rounding.
        """
        return self.end if iteration == iterations else self.start * self.step**iteration

    def next_limit(self, scope, halvings):
        """The cost that the next iteration may leave, a step from where the network is; the step is halved so often.

        Half a step is its square root: two of them leave what a whole one does.
        """
        return max(self.end, self.now(scope) * self.step ** (0.5**halvings))

    def search(self, scope, find, limit, progress=iter):
        """The widths that a search finds within a limit; those of a limit in ms were timed.

        Args:
            scope: a Scope of the network as it is.
            find: function(limit) -> {group: positions that stay}, within the limit by `costs`; masks.OutOfReach
                where there are none.
            limit: the cost allowed.
            progress: wraps the range of rounds of timing.

        Returns:
            {group: positions that stay}.

        Raises:
            masks.OutOfReach: none was found.
        """
        if not self.latency:
            return find(limit)
        whole = {name: group.width for name, group in scope.graph.groups.items()}
        widths, _ = self.latency.choose(lambda asked: whole | find(asked), limit, progress)
        return {name: widths[name] for name in scope.names}


def of(config, scope, latency=None):
    """The Budget of a config, or None where it asks for none.

    Args:
        config: a configs.PruneConfig.
        scope: of the base, from `cut.scope_of`.
        latency: a LatencyModel of the base that has timed the whole network and the narrowest, for `target_latency`.

    Raises:
        InputError: the target is not below the base's cost, or the network costs more even with the fewest channels
            allowed in every group (`masks.FLOOR`, rounded up to `round_to`); or its MACs are not known.
    """
    if not config.budgeted:
        return None
    whole, narrowest = scope.graph.cost(), scope.graph.cost(scope.least(config.round_to))
    known = np.isfinite(whole.macs)
    if config.target_latency is not None:
        unit, name = "ms", "target_latency"
        cost, least = latency.whole, latency.least
        number, is_share = config.target_latency
        end = number * cost if is_share else number
    elif config.target_compression is not None or not (known or config.targeted):
        unit, name, cost, least = "parameters", "target_compression", whole.parameters, narrowest.parameters
        end = cost / config.target_compression if config.targeted else least
    else:
        unit, name, cost, least = "MACs", "target_macs", whole.macs, narrowest.macs
        if not known:
            is_open = None in scope.model.input_shape[1:]
            way = "`image_size`, the side in pixels of its images, or `target_compression`"
            raise InputError(
                f"`{name}`: received it for {scope.model.name}, whose MACs are not known: "
                + ("it takes images of any size" if is_open else f"those of {scope.graph.uncounted[0]} aren't")
                + f"; expected {way if is_open else '`target_compression`'}"
            )
        end = flags.macs_left(config.target_macs, cost) if config.targeted else least
    if not config.targeted:  # the accuracy alone says when it is enough
        return Budget(unit, cost, end, STEP)
    if not least <= end < cost:
        layers = "inner layer" if config.scope == "inner" else "layer"
        raise InputError(
            f"`{name}`: received a target of {shown(end, unit)}, expected one "
            f"from {number_of(least, unit)} (a reduction of {cost / least:.2f}x, every {layers} at its floor) "
            f"to below {number_of(cost, unit)}, the base's"
        )
    base = number_of(cost, unit)
    display.say(f"`{name}`: {shown(end, unit)} shall be left of the base model's {base}", config.verbose)
    return Budget(unit, cost, end, (end / cost) ** (1 / config.prune_iter), latency)
