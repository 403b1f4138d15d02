"""The latency of a network as a function of its widths, learned from exported networks that were timed on this machine.

MACs don't tell latency: a depthwise convolution has few and takes long, and a runtime has its own preferences. So some
trimmed networks are exported and timed in the runtime that will be used, and a sum over the layers is fitted to their
times. Channels are then chosen by that sum, as by parameters or MACs, and what was chosen is timed again. Yang et al.
2018, NetAdapt, arXiv 1804.03230, section 3, adapts widths to latencies measured on the device likewise.
"""

import shutil
import tempfile
import weakref

import numpy as np
from sklearn import linear_model

from compress import metrics
from compress.export import writers
from compress.pruning import masks

SAMPLES = 8  # networks of random widths that are timed besides the whole one and the narrowest
ROUNDS = 8  # of choosing and timing again, at most
TURNS = 9  # of a network and the reference in one timing
BLOCK = 25  # ms that a turn lasts at least, in CALLS, so that a short interruption doesn't make a turn
CALLS = (3, 60)
SURE = 3  # timings of a network that is chosen: of many that were timed once, those within a limit had luck
CLOSE = 0.97  # of the limit: what is this near isn't chosen again


class Timer:
    """Times networks in the runtime of an exported format, each in turns with one reference.

    A machine's speed drifts with what else it has to do. The reference, timed just behind, drifts alike: the ratio of
    the two is what is measured.

    Args:
        name: of `cli.formats.FORMATS`.
        reference: a keras.Model of fixed input size.
        calibration: (N, h, w, 3) uint8 images, which 'litert-int8' needs.
        reference_ms: the latency of the reference, where it was timed before; None to time it now.
    """

    def __init__(self, name, reference, calibration=None, reference_ms=None):
        self.name, self.calibration, self.shape = name, calibration, reference.input_shape[1:]
        folder = tempfile.mkdtemp()  # for the reference's file, which stays as long as this
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.beside = self._runners(reference, folder)
        found = [min(self._turn(run, 5 if turn else 10) for turn in range(TURNS)) for run in self.beside]
        scale = reference_ms / min(found) if reference_ms else 1
        self.reference_ms = [ms * scale for ms in found]

    def _runners(self, model, folder):
        """What runs a model's file, for each number of threads."""
        path = writers.write(model, self.name, folder, self.calibration)
        return [writers.runner(path, self.name, threads) for threads in writers.thread_counts(self.name)]

    def _turn(self, run, calls):
        """The median latency in ms of so many calls; the first two, which find another network's data, don't count."""
        return metrics.latency_ms(run, self.shape, 1, calls, warmup=2)[0]

    def _ratio(self, run, beside):
        """What a network takes / what the reference takes, by the same number of threads."""
        calls = [min(max(round(BLOCK / self._turn(one, CALLS[0])), CALLS[0]), CALLS[1]) for one in (run, beside)]
        turns = [(self._turn(run, calls[0]), self._turn(beside, calls[1])) for _ in range(TURNS)]
        return float(np.median([mine / its for mine, its in turns]))

    def __call__(self, model, times=1):
        """Median latencies of one image in ms, by the number of threads that is fastest, from so many timings."""
        with tempfile.TemporaryDirectory() as folder:
            several = self._runners(model, folder)
            pairs = list(zip(several, self.beside, self.reference_ms, strict=True))
            found = [min(self._ratio(run, beside) * known for run, beside, known in pairs) for _ in range(times)]
            del several, pairs  # on some systems an open file can't be removed
        return found


class LatencyModel:
    """Predicts the latency of a graph's trimmed networks.

    latency = base + sum over terms t of seconds a MAC of t x MACs of t, all of them at least 0. A term has the layers
    between the same groups of channels (`Graph.macs_by_term`). There are more terms than measurements: of all that fit,
    the one whose rates are nearest to one common rate is taken, by least squares with a penalty on their differences.

    Args:
        graph: a Graph with an input of fixed size.
        measure: function(keras.Model, times) -> list of so many timings in ms, such as a Timer.

    Attributes:
        seen: list of (widths {group: positions that stay}, ms), a pair a timing, in their order.
    """

    # Of a squared difference of a rate from the common one, as a share of it, against a squared relative error of a
    # latency: timings are right to some 5 to 10 %, rates of layers alike within a factor of 2.
    PENALTY = 0.002
    # No rate is less than this share of the common one: of rates that noise made 0, a search would make free use.
    LEAST = 0.3

    def __init__(self, graph, measure):
        self.graph, self.measure, self.seen, self._rates = graph, measure, [], None

    def recall(self, seen):
        """Takes over what another process timed; seen: as the attribute, of any origin. ValueError where it isn't."""
        for widths, ms in seen:
            self.graph.cost(dict(widths))  # InputError, a ValueError, for other groups and widths out of range
            if set(widths) != set(self.graph.groups) or not 0 < ms < 1e6:
                raise ValueError("widths that aren't of all groups, or a time that can't be")
        self.seen, self._rates = [(dict(widths), float(ms)) for widths, ms in seen], None

    def observe(self, widths, times=1):
        """Times the network of some widths so often, and learns from it.

        Args:
            widths: {group: positions of the mask that stay}; groups that are missing stay whole.
            times: timings.

        Returns:
            Its latency in ms, as of `measured`.
        """
        trimmed = self.graph.trimmed(
            {name: np.arange(self.graph.groups[name].width) < width for name, width in widths.items()}
        )
        widths = {name: group.width for name, group in self.graph.groups.items()} | widths
        self.seen += [(widths, float(ms)) for ms in self.measure(trimmed, times)]
        self._rates = None
        return self.measured(widths)

    def timings(self, widths):
        """All timings in ms of the network of all these widths."""
        return [ms for known, ms in self.seen if known == widths]

    def measured(self, widths):
        """The latency in ms of the network of all these widths, the median of its timings, or None."""
        found = self.timings(widths)
        return float(np.median(found)) if found else None

    @property
    def whole(self):
        """The latency in ms of the whole network, which was timed first."""
        return self.measured(self.seen[0][0])

    @property
    def least(self):
        """The latency in ms of the fastest network that was timed."""
        return min(self.measured(widths) for widths, _ in self.seen)

    def sample(self, scope, round_to=1, progress=iter):
        """Times the whole network, the narrowest, and some of random widths: half of them of about one share.

        Args:
            scope: the Scope of the groups whose widths may change.
            round_to: channels are multiples of this.
            progress: wraps the range of networks.
        """
        rng, sets = np.random.default_rng(0), [{}, scope.least(round_to)]
        multiple, floor = scope.permitted(round_to)
        for number in range(SAMPLES):
            # widths that differ a lot tell the layers apart, those that are alike what small networks cost
            share, spread = rng.uniform(0.25, 0.9), (0.1, 0.5)[number % 2]
            shares = np.clip(share + rng.uniform(-spread, spread, len(scope.names)), 0, 1)
            sets.append(
                {
                    name: masks.rounded(round(part * group.width), group.width, multiple[name], floor[name])
                    for part, (name, group) in zip(shares, scope.groups.items(), strict=True)
                }
            )
        for place in progress(range(0, len(sets), 1)):
            self.observe(sets[place], SURE if place < 2 else 1)  # the first two say which targets there are

    def _work(self, several):
        """(n, terms): MACs of the networks of some widths."""
        rows = [[widths.get(name, group.width) for name, group in self.graph.groups.items()] for widths in several]
        return self.graph.macs_by_term(np.array(rows, int).reshape(len(rows), len(self.graph.groups)))

    def _fit(self):
        """(base ms, ms a MAC of each term)."""
        if self._rates is None:
            work, times = self._work([widths for widths, _ in self.seen]), np.array([ms for _, ms in self.seen])
            # In units of the whole network's work and latency. A row is divided by its latency: relative errors count,
            # those of fast networks as those of slow ones.
            unit, terms = work[0].sum(), work.shape[1]
            rows = (
                np.column_stack([np.ones(len(times)), np.zeros(len(times)), work / unit]) * (times[0] / times)[:, None]
            )
            # unknown: the base, the common rate, and what each term's rate is above LEAST x the common one; a term of
            # little work may differ more
            rows[:, 1] = self.LEAST * rows[:, 2:].sum(1)
            weights = np.sqrt(self.PENALTY * terms * work[0] / unit)
            rows = np.vstack([rows, np.column_stack([np.zeros(terms), (self.LEAST - 1) * weights, np.diag(weights)])])
            goal = np.concatenate([np.ones(len(times)), np.zeros(terms)])
            fitted = linear_model.LinearRegression(fit_intercept=False, positive=True).fit(rows, goal).coef_
            rates = self.LEAST * fitted[1] + fitted[2:]
            self._rates = fitted[0] * times[0], rates * times[0] / unit
        return self._rates

    def predict(self, widths):
        """The latency in ms of the network of some widths, as of `observe`."""
        base, rates = self._fit()
        return float(base + self._work([widths])[0] @ rates)

    def predict_rows(self, rows):
        """Latencies (n,) in ms of networks; rows: (n, groups) int, positions of all groups in the graph's order."""
        base, rates = self._fit()
        return base + self.graph.macs_by_term(rows) @ rates

    def choose(self, search, limit, progress=iter):
        """The widths that a search finds within a latency that is then measured, not only predicted.

        Args:
            search: function(limit) -> widths, as of `observe`, which finds the best widths that are predicted to take
                at most the limit; masks.OutOfReach where there are none.
            limit: ms.
            progress: wraps the range of rounds.

        Returns:
            (widths, ms): of those that were measured within the limit the one that is predicted to be the slowest.

        Raises:
            masks.OutOfReach: none was.
        """
        # The prediction stays as it is meanwhile. So what is asked of it is one number, and the latency that is
        # measured grows with it, but for noise: a root between `low`, within the limit, and `high`, which wasn't.
        rates, asked, low, high, tried = self._fit(), limit, 0.0, None, []
        for _ in progress(range(0, ROUNDS, 1)):
            try:
                widths = search(asked)
            except masks.OutOfReach:  # no network is predicted to be so fast
                if high is None:
                    break
                low, asked = asked, (asked + high) / 2
                continue
            found = self._surely(widths, limit)
            self._rates = rates
            tried.append((asked, widths))
            if found > limit:
                high = asked
            elif found < CLOSE * limit:
                low = asked
            else:
                break
            # The prediction was off by found / asked, and near here it still is.
            asked *= limit / found * (0.98 if found > limit else 1)
            if high is not None:  # a tenth of the way to either end, and without a lower end a tenth down
                asked = min(max(asked, low + (high - low) / 10), high - (high - low) / 10)
        self._rates = None
        within = [pair for pair in tried if self.measured(pair[1]) <= limit]
        if not within:
            raise masks.OutOfReach(
                f"no network within {limit:.3g} ms was found; the fastest that was timed takes {self.least:.3g} ms"
            )
        widths = max(within, key=lambda pair: pair[0])[1]
        return widths, self.measured(widths)

    def _surely(self, widths, limit):
        """The latency in ms of the network of all these widths; one that seems to be within a limit is timed again."""
        found = self.measured(widths) or self.observe(widths)
        missing = SURE - len(self.timings(widths))
        return self.observe(widths, missing) if found <= limit and missing > 0 else found
