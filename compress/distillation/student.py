"""What a student looks like: how wide its layers are, and which of the teacher's channels it starts from.

A student that is made from its teacher is the teacher with fewer channels in each group of its graph. One factor of
width is searched for all groups. It may also have fewer residual blocks (`graph.residuals`) or another stem (`stems`).
"""

import dataclasses
import functools
import math

import keras
import numpy as np

from compress import metrics
from compress.cli import display, flags, tables
from compress.distillation import features, stems
from compress.errors import InputError, one_line
from compress.graph import nodes, residuals, trimming
from compress.graph.network import Graph
from compress.pruning import masks

SCALE = 1024  # steps in which a width factor is searched


@dataclasses.dataclass(frozen=True)
class Layout:
    """The groups of channels of the network that a student is made from, each a key of the dicts.

    Attributes:
        widths: {group: positions of its mask}, the widest that the student can have.
        full: {group: positions that a factor of 1 stands for}; more than `widths` where pruning took some.
        stages: {group: its stage, counted from the middle one}, a stage being what lies at one resolution.
        steps: {group: channels that a position stands for}.
        streams: names of the groups whose channels an addition joins, the residual streams.
        unchanged: names of groups that stay as they are.
    """

    widths: dict
    full: dict
    stages: dict
    steps: dict
    streams: tuple = ()
    unchanged: frozenset = frozenset()

    def narrowed(self, factor, round_to=1, tilt=1.0):
        """{group: positions} at a factor of width; arguments as of `student_widths`."""
        widths = {}
        for name, width in self.widths.items():
            if name in self.unchanged:
                widths[name] = width
                continue
            step = self.steps[name]
            multiple, floor = round_to // math.gcd(round_to, step), -(-masks.FLOOR // step)
            wanted = factor * tilt ** self.stages[name] * self.full[name]
            most = width // multiple * multiple or width
            widths[name] = masks.rounded(round(wanted / multiple) * multiple, most, multiple, floor)
        return widths

    @property
    def reach(self):
        """The largest distance of a stage from the middle one."""
        return max(map(abs, self.stages.values()), default=0)


def student_widths(layout, cost, limits, round_to=1, tilt=1.0):
    """Widths of the student: the widest network that keeps the budgets.

    One factor narrows all groups alike, or with a tilt each stage by the factor of the stage before times the tilt. A
    group that pruning left narrower still stays as it is, but for `round_to`.

    Args:
        layout: a Layout.
        cost: function({group: positions}) -> (parameters, macs).
        limits: (parameters, macs) of the student, at most; None leaves the MACs free, known or not.
        round_to: channels are multiples of this where the teacher's are no fewer.
        tilt: a stage's factor of width / that of the stage before, above 0; below 1 late stages are narrowed more.

    Returns:
        {group: positions}; None where even the narrowest student is over a limit.
    """
    low, high = 0, round(max(1.0, tilt, 1 / tilt) ** layout.reach * SCALE)

    def narrowed(step):
        return layout.narrowed(step / SCALE, round_to, tilt)

    def fits(step):
        used = cost(narrowed(step))
        return used[0] <= limits[0] and (limits[1] is None or used[1] <= limits[1])

    if not fits(low):
        return None
    while low < high:  # the largest step that fits, by bisection
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return narrowed(low)


# ---- what a student is made from ----


@dataclasses.dataclass(frozen=True)
class Whole:
    """What reductions are counted from.

    Attributes:
        name: for the user, "the teacher" or "the unpruned network".
        parameters: its own.
        macs: its own, for one image; None where they aren't known.
        widths: {group: positions of its mask}.
    """

    name: str
    parameters: int
    macs: int | None
    widths: dict


def whole_of(teacher, unpruned=None):
    """The Whole of a teacher.

    Args:
        teacher: a keras.Model of logits that `nodes.graph_of` takes.
        unpruned: the network that it is a pruned part of, where that is known; None to count from the teacher itself.
    """
    of, name = (teacher, "the teacher") if unpruned is None else (unpruned, "the unpruned network")
    return Whole(name, *sizes_of(of), {name: group.width for name, group in Graph(of).groups.items()})


class Pattern:
    """The network that a student is narrowed from: its teacher, or that with another stem or fewer blocks.

    Args:
        teacher: a keras.Model of logits that `nodes.graph_of` takes; it stays as it is.
        whole: the Whole that reductions are counted from; None for the teacher.
        stem: name of one of `stems.smaller`; None for the teacher's.
        blocks: how many residual blocks stay of each stage; None for the teacher's.

    Attributes:
        graph: a network.Graph, whose groups the student's widths are of.
        whole: the Whole.
        stem: name of the teacher's stem where the student's is another; None where it isn't.

    Raises:
        InputError: the teacher has no such stem or blocks.
    """

    def __init__(self, teacher, whole=None, stem=None, blocks=None):
        self.graph, self.whole, self.stem = Graph(teacher), whole or whole_of(teacher), None
        instead, settings = _fewer_blocks(teacher, blocks) if blocks else {}, {}
        if stem and (found := _stem_of(teacher, stem)).name != stem:
            self.stem = found.name
            pooled, settings = stems.change(found, stem)
            instead |= pooled
        if instead or settings:
            try:
                self.graph = Graph(trimming.altered(teacher, self.graph.reading, instead, settings))
            except ValueError as error:  # of Keras, as for a Flatten, or a pool of a fixed size
                raise InputError(
                    f"`student_stem`: received {stem}, whose maps are larger, but a layer of the teacher takes maps of "
                    f"its own size alone ({one_line(error):.200}); expected it left out"
                ) from None

    @functools.cached_property
    def layout(self):
        """The Layout of its groups."""
        groups, stages, unchanged = self.graph.groups, *self._stages()
        widths = {name: group.width for name, group in groups.items()}
        full = {name: max(width, self.whole.widths.get(name, width)) for name, width in widths.items()}
        return Layout(
            widths,
            full,
            stages,
            {name: group.step for name, group in groups.items()},
            self._streams(),
            unchanged,
        )

    def _stages(self):
        """({group: stage, counted from the middle one}, the groups of hidden Dense layers).

        A stage is what lies between two changes of resolution; channels that only the stem makes are one of their own.
        """
        points, first, kinds = features.feature_points(self.graph.model), {}, {}
        for order, (path, node) in enumerate(nodes.walk(self.graph.model)):
            first.setdefault(path, order)
            kinds.setdefault(path, node.operation)
        stems = {wiring.path for wiring in self.graph.reading.wirings.values() if wiring.stem}
        stages, hidden = {}, []
        for name, group in self.graph.groups.items():
            begun = first[group.makers[0]]
            stage = 0 if stems.issuperset(group.makers) else 1 + sum(point.order < begun for point in points)
            stages[name] = stage - len(points) / 2
            behind = not points or begun > points[-1].order
            if behind and all(isinstance(kinds[path], keras.layers.Dense) for path in group.makers):
                hidden.append(name)
        return stages, frozenset(hidden)

    def cost(self, widths):
        """(parameters, macs) of the student of some {group: positions}."""
        found = self.graph.cost(widths)
        return found.parameters, found.macs

    def _streams(self):
        """Names of the groups whose channels an addition joins."""
        names, found = list(self.graph.groups), set()
        for ids in self.graph.reading.added:
            found.update(index for index in np.unique(self.graph.group_at(ids)) if index >= 0)
        return tuple(names[index] for index in sorted(found))


def _fewer_blocks(teacher, counts):
    """What stands for the blocks that go, as `trimming.altered` takes it. Raises InputError where there are no such."""
    stages = residuals.stages_of(teacher)
    there, asked = (" ".join(map(str, numbers)) for numbers in ([len(stage) for stage in stages], counts))
    if all(len(stage) == 1 for stage in stages):
        raise InputError(
            f"`student_blocks`: received {asked}, but the teacher has no residual blocks that could be left out; "
            "expected it left out"
        )
    if len(counts) != len(stages):
        raise InputError(
            f"`student_blocks`: received {asked}, but the teacher has {tables.counted(len(stages), 'stage')} of "
            f"residual blocks; expected at most {there}"
        )
    if any(count > len(stage) for count, stage in zip(counts, stages, strict=True)):
        raise InputError(f"`student_blocks`: received {asked}, expected at most the teacher's {there}")
    return residuals.left_out(stages, counts)


def _stem_of(teacher, asked):
    """The teacher's Stem. Raises InputError where it can't become the one that is asked for."""
    found = stems.stem_of(teacher)
    if found is None:
        raise InputError(
            f"`student_stem`: received {asked}, but the teacher's stem is none that can be changed: a single way with "
            "a convolution of 7x7, stride 2, and a max-pool, or 5x5, stride 2; expected it left out"
        )
    if asked not in stems.smaller(found):
        raise InputError(
            f"`student_stem`: received {asked}, expected {' or '.join(stems.smaller(found))}, as the teacher's is "
            f"{found.name}"
        )
    return found


def choose_widths(config, pattern):
    """The student's widths as a config asks for them.

    Args:
        config: a configs.StudentConfig with targets and form.
        pattern: the Pattern that it is made from.

    Returns:
        {group: positions}.

    Raises:
        InputError: out of reach, or there are no streams to be divided.
    """
    if config.stream_divisor:
        return divided_streams(pattern.layout, config.stream_divisor)
    whole, tilt, layout = pattern.whole, config.stage_tilt, pattern.layout
    if config.target_macs and whole.macs is None:
        raise InputError(
            f"`target_macs`: received {tables.amount(config.target_macs)} (the default where no target is given), but "
            f"{whole.name}'s MACs are not known: those of {pattern.graph.uncounted[0]} aren't; expected "
            "`target_compression` alone"
        )
    limits = (
        whole.parameters / config.target_compression if config.target_compression else math.inf,
        flags.macs_left(config.target_macs, whole.macs) if config.target_macs else None,
    )
    for start in layout, dataclasses.replace(layout, unchanged=frozenset()):
        # Hidden Dense layers stay as they are, unless they alone are more than the student may have.
        widths = student_widths(start, pattern.cost, limits, config.round_to, tilt)
        if widths is not None:
            return widths
    least = pattern.cost(start.narrowed(0, config.round_to, tilt))
    # it is the MACs where the parameters alone can be reached
    name, value, least_share = "target_compression", config.target_compression, whole.parameters / least[0]
    if least[0] <= limits[0]:
        name, value, least_share = "target_macs", tables.amount(config.target_macs), whole.macs / least[1]
    more = f"{least[0]:,.0f} parameters" + (f" and {least[1]:,.0f} MACs" if math.isfinite(least[1]) else "")
    other = f", or a smaller `round_to` than {config.round_to}" if config.round_to > 1 else ""
    if pattern.stem:
        other += (
            f"; the stem {config.student_stem} makes it large: `student_stem={pattern.stem}` or fewer `student_blocks` "
            "allow less"
        )
    raise InputError(
        f"`{name}`: received {value}{' by default' if config.by_default else ''}, but the narrowest student has "
        f"{more}; expected at most {math.floor(100 * least_share) / 100:.2f}x{other}"
    )


def divided_streams(layout, divisor):
    """The original suite's student: stream widths / divisor, at least 1, and inner widths as the teacher has them.

    Args:
        layout: a Layout.
        divisor: at least 1.

    Returns:
        {group: positions}.

    Raises:
        InputError: the network has no residual streams.
    """
    if not layout.streams:
        raise InputError(
            f"`stream_divisor`: received {divisor}, but the teacher has no residual streams that could be divided; "
            "expected `target_compression` or `target_macs`"
        )
    narrow = {name: max(1, int(layout.widths[name] // divisor)) for name in layout.streams}
    return layout.widths | narrow


# ---- what a student starts from ----


def channel_scores(graph):
    """Scores of every group of channels, over all layers that make or read them.

    Group L2 importance after Fang et al. 2023, DepGraph, arXiv 2301.12900, section 3.3: for each member of the group,
    the scale of every batch-normalisation of the channel, or without any the kernels that make it, and the kernel slice
    of every layer that reads it, squared, divided by the member's mean over channels so that no layer outweighs
    another, summed.

    Args:
        graph: a network.Graph.

    Returns:
        {group: (positions,) float64, at most 0}; high means idle.
    """
    scores = {}
    for name, group in graph.groups.items():
        scales, made, read = [], [], []
        for part in graph.slices(name):
            array = np.moveaxis(np.asarray(part.variable, np.float64), part.axis, 0)[part.channels]
            member = np.zeros(group.width)
            np.add.at(member, part.positions, (array**2).reshape(len(array), -1).sum(1))
            if part.variable is getattr(part.layer, "gamma", None):
                scales.append(member)
            elif array.ndim > 1 and part.role in ("makes", "reads"):
                (made if part.role == "makes" else read).append(member)
        scores[name] = -sum(
            (member / (member.mean() or 1.0) for member in (scales or made) + read), np.zeros(group.width)
        )
    return scores


def inherited(graph, widths):
    """Which channels a student of the given widths keeps of a network: the most important ones.

    Args:
        graph: the network.Graph of the network.
        widths: {group: positions that stay}; groups that are missing stay whole.

    Returns:
        {group: bool (width,)}, True for what stays, as `Graph.trimmed` takes it.

    Raises:
        InputError: the network has no such group.
    """
    widths = graph.by_name(widths, "widths")
    narrower = {name: width for name, width in widths.items() if width < graph.groups[name].width}
    scores = channel_scores(graph) if narrower else {}
    return {name: masks.least_idle(scores[name], width) for name, width in narrower.items()}


def inherit_student(graph, widths):
    """A student of the given widths that keeps a network's most important channels, with their weights.

    Args and errors: as of `inherited`.

    Returns:
        An uncompiled keras.Model that isn't recalibrated: its batch-norm statistics are still those of the wider
        network (see `recalibration.recalibrate`).
    """
    return graph.trimmed(inherited(graph, widths))


def redrawn(model):
    """The model with weights as its layers' own initialisers draw them, in place.

    A Normalization keeps what it has of the images: that was measured and not trained.
    """
    done = set()
    for _, node in nodes.walk(model):
        layer = node.operation
        if nodes.is_model(layer) or id(layer) in done or not getattr(layer, "weights", ()):
            continue
        done.add(id(layer))
        if isinstance(layer, keras.layers.Normalization):
            continue
        fresh = type(layer).from_config(layer.get_config())
        fresh.build_from_config(layer.get_build_config())
        for variable, drawn in zip(layer.weights, fresh.weights, strict=True):
            variable.assign(drawn)
    return model


# ---- what is said of a student ----


def sizes_of(model):
    """(parameters, MACs for one image) of a network; None for MACs that aren't known."""
    return model.count_params(), metrics.count_macs(model)


def recorded_widths(student):
    """{group: channels} of a student, for its record."""
    return {name: group.width * group.step for name, group in Graph(student).groups.items()}


def goal(config, whole, teacher, student):
    """Says what a target of MACs asked for, and warns of a student that is no smaller than its teacher.

    Args:
        config: a configs.StudentConfig with targets.
        whole: the Whole of the teacher.
        teacher: its network.
        student: its network, before the first step.

    Returns:
        {"of", "macs", "left", "reached"} for the record: what the reduction is counted from, its MACs, the student's at
        most and what it has; None without a target of MACs.
    """
    sizes = [sizes_of(net) for net in (student, teacher)]
    known = [(mine, its, name) for mine, its, name in zip(*sizes, ("parameters", "MACs"), strict=True) if mine and its]
    more = [f"{tables.compared(its / mine)} in {name}" for mine, its, name in known if mine >= its]
    if more:
        mine, its = (" and ".join(f"{one[at]:,} {one[2]}" for one in known) for at in (0, 1))
        display.warn(f"the student has {mine}, its teacher {its}: {' and '.join(more)}")
    if not config.target_macs:
        return None
    found = {
        "of": whole.name,
        "macs": whole.macs,
        "left": flags.macs_left(config.target_macs, whole.macs),
        "reached": sizes[0][1],
    }
    display.say(
        f"`target_macs={tables.amount(config.target_macs)}`: at most {found['left']:,.0f} MACs, of {whole.macs:,} that "
        f"{whole.name} has; the student has {found['reached']:,}",
        config.verbose,
    )
    return found
