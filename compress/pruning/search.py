"""Which widths cost the least loss within a budget, on any graph.

Minimise the summed rise of the loss subject to cost(widths) <= limit. The cost of a network is a sum of products of
widths (`graph.cost`), so groups that no layer lies between are independent, and those of one layer are not:

- One multiplier trades loss for cost: minimise rise + multiplier x cost, and bisect the multiplier until the budget is
  met (Everett 1963, Generalized Lagrange Multiplier Method, Operations Research 11(3); as for the bits of quantisers
  Shoham and Gersho 1988, IEEE Transactions on ASSP 36(9)).
- For a multiplier, one or two groups that depend on no others (the inner layers of a ResNet's block) are minimised over
  all their widths. More of them (a chain, a block of a DenseNet) by descent: one group after the other and,
  for the last multiplier, one pair after the other, until nothing falls.
- What the last jump of the multiplier left unspent goes back a step at a time, where the loss falls most a cost; or
  first to one pair of groups after the other, if the loss is less in the end. Where there are few pairs, all of them
  take part, and that is done from several networks: no multiplier need lead to the best one.
- Where there are few networks, all are tried in place of that.
"""

import functools
import itertools
import math

import numpy as np

from compress.pruning.masks import OutOfReach

STEPS = 16  # of the bisection where groups are moved by descent
SWEEPS = 20  # of a descent, at most
PAIRS = 200  # of groups that depend on each other, which are moved together, at most
STARTS = 4  # networks of the bisection from which pairs are moved
ALL = 2**19  # networks that are all tried, at most
GRID = 48  # widths of each group of such a pair that are tried
FEW = 32  # pairs that every descent moves, not only the last one
ROWS = 2**16  # networks whose cost is computed at once


class Search:
    """A search for the best widths.

    Args:
        widths: {group: (k,) int, ascending}, which it may have.
        rise: {group: (k,) float64}, the predicted rise of the loss at each of them, at least 0 and falling.
        costs: function((n, groups) int table of widths, in the order of `widths`) -> (n,) cost of each network.
    """

    def __init__(self, widths, rise, costs):
        self.names = list(widths)
        self.widths, self.rise = [widths[name] for name in self.names], [rise[name] for name in self.names]
        self._costs = costs
        self.last = [len(choice) - 1 for choice in self.widths]  # places of the whole network
        self.parts, self.pairs = self._dependent()
        self.tables = {pair: self._table(self.last, pair) for pair in self.parts if len(pair) == 2}
        self.columns = {part: self._column(self.last, part[0]) for part in self.parts if len(part) == 1}
        alone = [part[0] for part in self.parts if len(part) == 1]
        self.alone = list(itertools.combinations(alone, 2))[:PAIRS]
        known = {*self.tables, *self.pairs, *self.alone}
        others = [pair for pair in itertools.combinations(range(len(self.names)), 2) if pair not in known]
        self.others = others if len(known) + len(others) <= PAIRS else []

    # ---- costs and losses; a network is a list of places, one a group, in its widths

    def cost(self, places):
        """The cost of a network."""
        return float(self._of([places])[0])

    def loss(self, places):
        """The summed rise of a network."""
        return sum(rise[place] for rise, place in zip(self.rise, places, strict=True))

    def _of(self, several):
        """Costs (n,) of several networks (n, groups)."""
        several = np.asarray(several, int)
        table = np.stack([choice[several[:, i]] for i, choice in enumerate(self.widths)], 1)
        return np.concatenate([self._costs(table[i : i + ROWS]) for i in range(0, len(table), ROWS)])

    def _column(self, places, group):
        """Costs (k,) of a network with each width of a group."""
        widths, last = self.widths[group].astype(float), self.last[group]
        # A product of lengths is a parabola in one width: three costs determine all, two more check it.
        at = np.unique([0, last // 4, last // 2, last - 1, last]) if last > 8 else np.arange(last + 1)
        rows = np.repeat([places], len(at), 0)
        rows[:, group] = at
        found = self._of(rows)
        if last <= 8:
            return found
        column = _parabola(widths[at[::2]], found[::2], widths)
        column = np.rint(column) if (found == np.rint(found)).all() else column
        if np.allclose(column[at], found, rtol=1e-9):
            return column
        rows = np.repeat([places], last + 1, 0)
        rows[:, group] = np.arange(last + 1)
        return self._of(rows)

    def _table(self, places, pair, grids=None):
        """Costs (k, l) of a network with each pair of widths of two groups, or of some places of each."""
        first, second = pair
        grids = grids or [np.arange(self.last[group] + 1) for group in pair]
        # All pairs of two groups of 512 channels would be 262,144 networks to cost: six are costed, the rest follows.
        rows, ends = np.repeat([places], 6, 0), [self.last[group] for group in pair]
        rows[:, first] = 0, ends[0], 0, ends[0], ends[0] // 2, 0
        rows[:, second] = 0, 0, ends[1], ends[1], 0, ends[1] // 2
        # Products of two lengths, each linear in both widths: six costs determine all.
        m, n = (self.widths[group][rows[:, group]].astype(float) for group in pair)
        # The widths are scaled to at most 1, or the squares of 2048 channels would cost the fit its digits.
        scale = max(m.max(), n.max())
        every = np.meshgrid(*(self.widths[g][grid] / scale for g, grid in zip(pair, grids, strict=True)), indexing="ij")
        corners = self._of(rows)
        table = _quadratic(*every) @ np.linalg.lstsq(_quadratic(m / scale, n / scale), corners, rcond=None)[0]
        if (corners == np.rint(corners)).all():  # parameters or MACs: a budget may be met exactly
            table = np.rint(table)
        # The form is only assumed: four pairs elsewhere are costed and compared, and where it fails, all of them.
        probe, rng = np.repeat([places], 4, 0), np.random.default_rng(0)
        at = [rng.integers(0, len(grid), 4) for grid in grids]
        probe[:, first], probe[:, second] = (grid[place] for grid, place in zip(grids, at, strict=True))
        if np.allclose(table[at[0], at[1]], self._of(probe), rtol=1e-9):
            return table
        rows = np.repeat([places], table.size, 0)  # a cost of another form
        rows[:, first], rows[:, second] = (grid.ravel() for grid in np.meshgrid(*grids, indexing="ij"))
        return self._of(rows).reshape(table.shape)

    def _grid(self, places, group):
        """Places of a group, at most GRID of them, its own among them: all pairs of thousands would take minutes."""
        step = -(-(self.last[group] + 1) // GRID)
        return np.union1d(np.arange(0, self.last[group] + 1, step), [places[group], self.last[group]])

    def _together(self, places, pair):
        """(grids of two groups, summed rise (k, l), cost (k, l)) around a network, cost but for a constant."""
        if pair in self.tables:
            grids, price = [np.arange(self.last[group] + 1) for group in pair], self.tables[pair]
        else:
            grids = [self._grid(places, group) for group in pair]
            if pair in self.alone:
                price = self.columns[pair[:1]][grids[0]][:, None] + self.columns[pair[1:]][grids[1]]
            else:
                price = self._table(places, pair, grids)
        return grids, self.rise[pair[0]][grids[0]][:, None] + self.rise[pair[1]][grids[1]], price

    def _dependent(self):
        """(list of tuples of groups that depend on each other, list of the pairs among three or more of them)."""
        # Which groups share a layer shows in the costs: each group alone, and each pair, is put at its narrowest.
        count = len(self.names)
        pairs = list(itertools.combinations(range(count), 2))
        rows = np.repeat([self.last], count + len(pairs), 0)
        rows[np.arange(count), np.arange(count)] = 0
        for row, pair in zip(rows[count:], pairs, strict=True):
            row[list(pair)] = 0
        costs, whole = self._of(rows), self.cost(self.last)
        alone = whole - costs[:count]
        # Two groups without a common layer save together what each saves alone; the difference is what they share. Less
        # than rounding is none.
        shared = {
            pair: abs(alone[pair[0]] + alone[pair[1]] - (whole - cost))
            for pair, cost in zip(pairs, costs[count:], strict=True)
        }
        shared = {pair: size for pair, size in shared.items() if size > 1e-9 * whole}
        # Connected components: of every pair that shares something the two parts become one.
        part = list(range(count))
        for first, second in shared:
            old, new = part[second], part[first]
            part = [new if number == old else number for number in part]
        parts = [tuple(i for i in range(count) if part[i] == number) for number in dict.fromkeys(part)]
        # Parts of one or two groups are tabulated whole. In larger ones the pairs that share most are moved together.
        of_more = {i for members in parts if len(members) > 2 for i in members}
        kept = sorted((pair for pair in shared if pair[0] in of_more), key=shared.get, reverse=True)
        return parts, kept[:PAIRS]

    # ---- for one multiplier

    def least(self, multiplier, start, together=False):
        """The network with the least rise + multiplier x cost.

        Args:
            multiplier: at least 0.
            start: where a descent begins.
            together: whether a descent moves pairs of groups too, which takes longer.
        """
        places = list(start)
        for part in self.parts:
            if len(part) == 1:
                places[part[0]] = int(np.argmin(self.rise[part[0]] + multiplier * self.columns[part]))
            elif len(part) == 2:
                loss = self.rise[part[0]][:, None] + self.rise[part[1]]
                best = np.unravel_index(np.argmin(loss + multiplier * self.tables[part]), loss.shape)
                places[part[0]], places[part[1]] = map(int, best)
        several = [i for part in self.parts if len(part) > 2 for i in part]
        return self._descent(multiplier, places, several, together) if several else places

    def _descent(self, multiplier, places, groups, together):
        """Moves single groups, and then pairs, until rise + multiplier x cost falls no more."""
        for _ in range(SWEEPS):
            before = list(places)
            for group in groups:
                places[group] = int(np.argmin(self.rise[group] + multiplier * self._column(places, group)))
            if places != before:
                continue
            for pair in self.pairs if together or len(self.pairs) <= FEW else ():
                grids, rise, price = self._together(places, pair)
                value = rise + multiplier * price
                best = np.unravel_index(np.argmin(value), value.shape)
                now = tuple(np.searchsorted(grid, places[g]) for g, grid in zip(pair, grids, strict=True))
                if value[best] < value[now] * (1 - 1e-12):
                    for group, grid, place in zip(pair, grids, best, strict=True):
                        places[group] = int(grid[place])
            if places == before:
                break
        return places

    # ---- within the budget

    def within(self, limit):
        """The best network within a budget.

        Args:
            limit: the cost allowed.

        Returns:
            {group: width}; no group could keep one step more within the limit.

        Raises:
            ValueError: the budget isn't met even with every group at its narrowest.
        """
        narrow = [0] * len(self.names)
        if self.cost(narrow) > limit:
            raise OutOfReach("the budget is out of reach: it isn't met with every layer at its floor")
        best = self._of_all(limit) if math.prod(len(choice) for choice in self.widths) <= ALL else self._near(limit)
        return {name: int(choice[place]) for name, choice, place in zip(self.names, self.widths, best, strict=True)}

    def _of_all(self, limit):
        """The best of all networks within a budget; of equal ones the widest."""
        every = self._every
        losses = np.where(self._prices <= limit, sum(rise[every[:, i]] for i, rise in enumerate(self.rise)), np.inf)
        return self._spent(every[np.argmin(losses)].tolist(), limit)

    @functools.cached_property
    def _every(self):
        """Places (n, groups) of all networks."""
        return np.indices([len(choice) for choice in self.widths]).reshape(len(self.widths), -1).T

    @functools.cached_property
    def _prices(self):
        """Costs (n,) of all networks."""
        return self._of(self._every)

    def _near(self, limit):
        """A network near the best one within a budget that the narrowest network meets."""
        # A multiplier is doubled until its network fits, and bisected down from there: the smaller the multiplier, the
        # less loss, the higher the cost.
        low, high = 0.0, 1 / self.cost(self.last)  # a nat for the whole network; doubled until it is enough
        best = self.least(high, self.last)
        while self.cost(best) > limit:
            low, high = high, 2 * high
            best = self.least(high, best)
        seen = [best]
        for _ in range(STEPS if self.pairs else 40):
            middle = (low + high) / 2
            found = self.least(middle, best)
            low, high, best = (low, middle, found) if self.cost(found) <= limit else (middle, high, best)
            seen += [best] if best not in seen else []
        if self.pairs:
            found = self.least(high, best, together=True)
            best = found if self.cost(found) <= limit and self.loss(found) < self.loss(best) else best
        # Widths jump with the multiplier, so a part of the budget is left over: it is spent in two ways.
        ends = [self._spent(places, limit) for places in (best, self._exchanged(best, limit))]
        if self.others:
            starts = [[0] * len(self.names), *seen[-STARTS:], ends[0]]
            ends += [self._spent(self._exchanged(start, limit), limit) for start in starts]
        return min(ends, key=self.loss)

    def _spent(self, places, limit):
        """Widens groups, a step at a time, while the budget allows: where the loss falls most a cost, first."""
        places, spent = list(places), self.cost(places)
        while True:
            wider = [i for i, place in enumerate(places) if place < self.last[i]]
            if not wider:
                return places
            rows = np.repeat([places], len(wider), 0)
            rows[np.arange(len(wider)), wider] += 1
            prices = self._of(rows)
            falls = np.array([self.rise[i][places[i]] - self.rise[i][places[i] + 1] for i in wider])
            # by a latency that was fitted a step may cost nothing
            gains = np.where(prices <= limit, falls / np.maximum(prices - spent, 1e-12 * limit), -np.inf)
            at = int(np.argmax(gains))
            if prices[at] > limit:
                return places
            places[wider[at]] += 1
            spent = float(prices[at])

    def _exchanged(self, places, limit):
        """Gives one pair of groups after the other its best widths within the budget: most fall first.

        Single steps can't narrow one group to widen another by more; for a lone pair this is the best choice.
        """
        places = list(places)
        pairs = [*self.tables, *self.pairs, *self.alone, *self.others]
        while True:
            unspent, best = limit - self.cost(places), None
            for pair in pairs:
                grids, loss, price = self._together(places, pair)
                now = tuple(np.searchsorted(grid, places[g]) for g, grid in zip(pair, grids, strict=True))
                allowed = np.where(price <= price[now] + unspent, loss, np.inf)
                new = np.unravel_index(np.argmin(allowed), loss.shape)
                fall = loss[now] - loss[new]
                if fall > 0 and (best is None or fall > best[0]):
                    best = fall, pair, [int(grid[place]) for grid, place in zip(grids, new, strict=True)]
            if best is None:
                return places
            for group, place in zip(best[1], best[2], strict=True):
                places[group] = place


def _parabola(x, y, at):
    """The parabola through three points (x, y), at other places; Lagrange's form, exact for whole numbers."""
    (a, b, c), (p, q, r) = x, y
    return (
        p * (at - b) * (at - c) / ((a - b) * (a - c))
        + q * (at - a) * (at - c) / ((b - a) * (b - c))
        + r * (at - a) * (at - b) / ((c - a) * (c - b))
    )


def _quadratic(m, n):
    """Values of 1, m, n, m n, m^2 and n^2, stacked along a new last axis."""
    return np.stack([np.ones_like(m), m, n, m * n, m * m, n * n], -1)
