"""Which base each model of a report comes from, and how much smaller than that one it is. Imports no Keras."""

from compress.report.tree import mapping

MADE = ("base", "pruned", "student", "ablation")  # kinds of records that make models


class Bases:
    """What the models below a folder are compared with: of each the base of its own chain, as far as records tell.

    The base is the first one of the chain that `train_base_model.py` made, other than by training a pruned network or
    a student further; without such a record, what a pruning run started from, if nothing is known to lie before that.
    """

    def __init__(self, tree):
        self.tree = tree
        self.named = {}  # {checksum of a model without a record: checksums of bases that evaluations compare it with}
        self.parameters = {p.sha256: p.sizes["parameters"] for p in reversed(tree.points) if "parameters" in p.sizes}
        self.first = {run.parent for run in tree.of_kind("pruned") if run.parent}
        for run in tree.of_kind("pruned"):
            if run.parent and {"parameters", "compression_rate"} <= run.points[0].sizes.keys():
                sizes = run.points[0].sizes
                self.parameters.setdefault(run.parent, round(sizes["compression_rate"] * sizes["parameters"]))
        self.parameters.pop(None, None)
        self.runs = {p.sha256: run for run in reversed(tree.of_kind(*MADE)) for p in run.points if p.sha256}
        for run in tree.of_kind("evaluation"):
            if self._is_base(run.points[0].sha256):
                for point in run.points:
                    self.named.setdefault(point.sha256, set()).add(run.points[0].sha256)

    def _is_base(self, digest):
        """Whether a model's own record makes it a base that others are compared with."""
        run = self.runs.get(digest)
        grown = mapping(run.record).get("parent_role") if run else None
        return bool(run) and run.kind == "base" and grown not in ("pruned", "student")

    def of(self, run, point):
        """Checksum of the base that a point's model comes from; None where it can't be known.

        Args:
            run: the tree.Run that the point is of.
            point: a tree.Point.
        """
        if run.kind in MADE:
            chain = [*self.tree.chain(run.parent), point.sha256]
        elif point.sha256 in self.runs:
            chain = self.tree.chain(point.sha256)
        else:
            named = self.named.get(point.sha256, ()) if point.sha256 else ()
            return next(iter(named)) if len(named) == 1 else None
        known = [digest for digest in chain if self._is_base(digest)]
        return known[0] if known else chain[0] if chain[0] in self.first and chain[0] not in self.runs else None


def settle(tree):
    """Makes compression rate and sparsity of every point relative to the base of its chain, whatever record says them.

    Scripts compare with other models as well: a distillation with its teacher, an evaluation with the first model that
    it was given. What can't be compared with the base of its chain loses the number.
    """
    bases, own = Bases(tree), {}
    for run in tree.of_kind(*MADE):
        for point in run.points:
            _settle_made(bases, run, point)
            own.setdefault(point.sha256, point)
    own.pop(None, None)
    measured = [(run, point) for run in tree.of_kind("evaluation", "export", "sensitivity") for point in run.points]
    for run, point in measured:
        base = bases.of(run, point)
        _keep_rate(point, bases.parameters.get(base))
        if base is None or run.kind != "evaluation" or run.points[0].sha256 != base:
            point.sizes.pop("sparsity", None)
        elif point.sha256 in own and "sparsity" in point.sizes:
            own[point.sha256].sizes.setdefault("sparsity", point.sizes["sparsity"])
    for run, point in measured:
        known = own[point.sha256].sizes if run.kind == "evaluation" and point.sha256 in own else {}
        if "sparsity" in known:
            point.sizes.setdefault("sparsity", known["sparsity"])


def _settle_made(bases, run, point):
    """What `settle` does to a model of a run that made it."""
    base = bases.of(run, point)
    if run.kind == "base" and (base == point.sha256 if point.sha256 else run.parent is None):
        point.sizes |= {"compression_rate": 1.0, "sparsity": 0.0}  # by definition
    elif run.kind != "pruned" or run.parent not in (None, base):
        point.sizes.pop("sparsity", None)
        _keep_rate(point, bases.parameters.get(base))
    elif base in bases.parameters:  # and where the record names no base: it is compared with what it started from
        _keep_rate(point, bases.parameters[base])


def _keep_rate(point, parameters):
    """Sets the compression rate of a point by the parameters of its base; takes it away where they are None."""
    point.sizes.pop("compression_rate", None)
    if parameters and "parameters" in point.sizes:
        point.sizes["compression_rate"] = parameters / point.sizes["parameters"]
