"""What a student looks like: how wide its layers are, and which of the teacher's channels it starts from."""

import contextlib
import math

import numpy as np

from compress import metrics
from compress.cli import display, flags, tables
from compress.errors import InputError
from compress.graph import resnet, surgery
from compress.pruning import criteria, masks

SCALE = 1024  # steps in which a width factor is searched


def divided_streams(teacher_widths, divisor):
    """The original suite's student: stream widths / divisor, at least 1, and inner widths as the teacher has them.

    Args:
        teacher_widths: from `resnet.widths_of`.
        divisor: at least 1.
    """
    hidden = resnet.hidden_names(teacher_widths)
    return {
        name: max(1, int(width // divisor)) if name.endswith("_stream") and name not in hidden else width
        for name, width in teacher_widths.items()
    }


def student_widths(
    teacher_widths, depth, target_compression, target_macs=None, cost=resnet.cost_of, round_to=1, tilt=1.0
):
    """Widths of the student: the widest network that keeps the budgets.

    One factor narrows stem, streams and inner layers of the full network alike, or with a tilt each stage by the factor
    of the stage before times the tilt. An inner layer that pruning left narrower still stays as it is, but for
    `round_to`.

    Args:
        teacher_widths: from `resnet.widths_of`, without the blocks that the student won't have.
        depth: 50, 101 or 152, of the full network.
        target_compression: parameters of the full network / the student's, at least.
        target_macs: multiply-accumulates of the student, at most; None leaves them free.
        cost: function(widths) -> (parameters, macs).
        round_to: widths are multiples of this where the teacher's are no smaller.
        tilt: a stage's width factor / that of the stage before, above 0; below 1 late stages are narrowed more.

    Returns:
        dict as `resnet.full_widths`.

    Raises:
        ValueError: a budget is out of reach.
    """
    hidden = {name: teacher_widths[name] for name in resnet.hidden_names(teacher_widths)}  # they stay as they are
    full, teacher_widths = (
        resnet.full_widths(depth) | hidden,
        {name: width for name, width in teacher_widths.items() if name not in hidden},
    )
    limits = cost(full)[0] / target_compression, math.inf if target_macs is None else target_macs

    def narrowed(factor):
        widths = {}
        for name, width in teacher_widths.items():
            wanted = factor * tilt ** (resnet.stage_of(name) - 3) * full[name]  # 3: the middle one
            widths[name] = masks.rounded(
                round(wanted / round_to) * round_to, width // round_to * round_to or width, round_to
            )
        return widths | hidden

    widths = _widest(narrowed, cost, limits, max(1.0, tilt, 1 / tilt) ** 2)
    if widths is None:
        least = cost(narrowed(0))
        raise ValueError(
            f"the narrowest student still has {least[0]:,} parameters, a compression of "
            f"{cost(full)[0] / least[0]:.1f}x, and {least[1]:,} MACs"
        )
    return widths


def _widest(narrowed, cost, limits, most):
    """Widths by the largest factor up to `most` that keeps both limits, by bisection; None where none does."""
    low, high = 0, round(most * SCALE)

    def fits(step):
        return all(used <= limit for used, limit in zip(cost(narrowed(step / SCALE)), limits, strict=True))

    if not fits(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return narrowed(low / SCALE)


def choose_widths(config, architecture):
    """The student's widths as a config asks for them.

    Args:
        config: a configs.StudentConfig with targets and form.
        architecture: of the teacher, from `resnet.architecture_of`; reductions count from its network unpruned.

    Raises:
        InputError: out of reach.
    """

    def cost(widths, stem=config.student_stem):
        return resnet.cost_of(widths, architecture["classes"], architecture["input_shape"], stem)

    rate, macs, stem = config.target_compression, config.target_macs, architecture["stem"]
    widths = _widths_left(architecture, config.student_blocks)
    if config.stream_divisor:
        return divided_streams(widths, config.stream_divisor)
    limit = macs and flags.macs_left(macs, cost(resnet.unpruned_widths(architecture["widths"]), stem)[1])

    def widest(limit):
        return student_widths(widths, architecture["depth"], rate, limit, cost, config.round_to, config.stage_tilt)

    try:
        return widest(limit)
    except ValueError as error:
        name, value = "target_compression", rate
        with contextlib.suppress(ValueError):  # it is the MACs where the parameters alone can be reached
            widest(None)
            name, value = "target_macs", f"{macs[0]:g}{'x' * macs[1]}"
        other = (
            ""
            if config.student_stem == stem
            else (
                f" behind the stem {config.student_stem}; `student_stem={stem}`, fewer `student_blocks` or a smaller "
                "`round_to` allow less"
            )
        )
        raise InputError(f"`{name}`: received {value}, expected a larger student: {error}{other}") from None


def _widths_left(architecture, blocks):
    """The widths of an architecture in the first blocks of each stage; None for all that its depth has."""
    kept = resnet.full_widths(architecture["depth"], blocks)
    return {name: width for name, width in architecture["widths"].items() if name in kept or name.startswith("hidden")}


def rebuilt(model, stem, blocks):
    """A ResNet behind another stem, with the first blocks of each stage: all other weights are as they were.

    Of the first kernel the middle is left.

    Args:
        model: a ResNet of `resnet.build_resnet`; it stays as it is.
        stem: of `resnet.STEMS`, its kernel no larger than the model's.
        blocks: of the four stages, none more than the model's.
    """
    architecture = resnet.architecture_of(model)
    other = resnet.build_resnet(**(architecture | {"stem": stem, "widths": _widths_left(architecture, blocks)}))
    for layer in other.layers:
        for old, new in zip(
            model.get_layer(layer.name).variables if layer.variables else (), layer.variables, strict=True
        ):
            cut = (old.shape[0] - new.shape[0]) // 2 if layer.name == "conv1_conv" and len(new.shape) == 4 else 0
            values = np.array(old)  # a copy: JAX would share the buffer
            new.assign(values[cut : len(values) - cut, cut : values.shape[1] - cut] if cut else values)
    return other


def inherit_student(teacher, widths, stem=None):
    """A student of the given widths that keeps the teacher's most important channels, with their weights.

    Args:
        teacher: a ResNet of `resnet.build_resnet`.
        widths: at most the teacher's, group by group, and perhaps without the last blocks of a stage.
        stem: as in `rebuilt`; None for the teacher's.

    Returns:
        An uncompiled keras.Model; its batch-norm statistics are still the teacher's (see
        `recalibration.recalibrate_bn`).
    """
    architecture, blocks = resnet.architecture_of(teacher), resnet.blocks_of(widths)
    if blocks != resnet.blocks_of(architecture["widths"]):
        teacher = rebuilt(teacher, architecture["stem"], blocks)
    scores = criteria.compute_group_scores(teacher, resnet.wiring_of(teacher))
    student = surgery.trim_model(
        teacher, {group: masks.least_idle(np.asarray(values), widths[group]) for group, values in scores.items()}
    )
    return student if stem in (None, architecture["stem"]) else rebuilt(student, stem, blocks)


def goal(config, teacher, student):
    """Says what a target of MACs asked for, and warns of a student that is no smaller than its teacher.

    Args:
        config: a configs.StudentConfig with targets.
        teacher: its network.
        student: its network, before the first step.

    Returns:
        {"of", "macs", "left", "reached"} for the record: what the reduction is counted from, its MACs, the student's at
        most and what it has; None without a target of MACs.
    """
    sizes = [(net.count_params(), metrics.count_macs(net)) for net in (student, teacher)]
    more = [
        f"{tables.compared(its / mine)} in {name}"
        for name, mine, its in zip(("parameters", "MACs"), *sizes, strict=True)
        if mine >= its
    ]
    if more:
        display.warn(
            f"the student has {sizes[0][0]:,} parameters and {sizes[0][1]:,} MACs, its teacher "
            f"{sizes[1][0]:,} and {sizes[1][1]:,}: {' and '.join(more)}"
        )
    if not config.target_macs:
        return None
    form, (number, is_ratio) = resnet.architecture_of(teacher), config.target_macs
    full = resnet.cost_of(resnet.full_widths(form["depth"]), form["classes"], form["input_shape"], form["stem"])[1]
    found = {
        "of": f"the whole ResNet{form['depth']}",
        "macs": full,
        "left": flags.macs_left(config.target_macs, full),
        "reached": sizes[0][1],
    }
    display.say(
        f"`target_macs={number:g}{'x' * is_ratio}`: at most {found['left']:,.0f} MACs, of {full:,} that "
        f"{found['of']} has; the student has {found['reached']:,}",
        config.verbose,
    )
    return found
