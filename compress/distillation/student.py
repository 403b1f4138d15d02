"""What a student looks like: how wide its layers are, and which of the teacher's channels it starts from."""

import contextlib
import math

import numpy as np

from compress import metrics
from compress.cli import display, flags
from compress.engine import folded
from compress.errors import InputError
from compress.graph import resnet, surgery
from compress.pruning import criteria, masks

SCALE = 1024  # steps in which a width factor is searched


def student_widths(teacher_widths, depth, stream_divisor=None, target_compression=None, target_macs=None,
                   cost=resnet.cost_of, round_to=1, tilt=1.0):
    """Widths of the student.

    With `stream_divisor`, inner widths stay as the teacher has them and stream widths are divided, as in the
    original suite. With `target_compression`, one factor narrows stem, streams and inner layers of the full network
    alike, or with a tilt each stage by the factor of the stage before times the tilt: the widest network that meets
    the budgets. An inner layer that pruning left narrower still stays as it is, but for `round_to`.

    Args:
        teacher_widths: from `resnet.widths_of`, without the blocks that the student won't have.
        depth: 50, 101 or 152, of the full network.
        stream_divisor: at least 1.
        target_compression: parameters of the full network / the student's, at least.
        target_macs: multiply-accumulates of the student, at most; None leaves them free.
        cost: function(widths) -> (parameters, macs).
        round_to: under target_compression, widths are multiples of this where the teacher's are no smaller.
        tilt: a stage's width factor / that of the stage before, above 0; below 1 late stages are narrowed more.

    Returns:
        dict as `resnet.full_widths`.

    Raises:
        ValueError: a budget is out of reach.
    """
    hidden = {name: teacher_widths[name] for name in resnet.hidden_names(teacher_widths)}  # they stay as they are
    full, teacher_widths = resnet.full_widths(depth) | hidden, {
        name: width for name, width in teacher_widths.items() if name not in hidden}
    if target_compression is None:
        return {name: max(1, int(width // stream_divisor)) if name.endswith("_stream") else width
                for name, width in teacher_widths.items()} | hidden
    limits = cost(full)[0] / target_compression, math.inf if target_macs is None else target_macs

    def narrowed(factor):
        widths = {}
        for name, width in teacher_widths.items():
            wanted = factor * tilt ** (resnet.stage_of(name) - 3) * full[name]  # 3: the middle one
            widths[name] = masks.rounded(round(wanted / round_to) * round_to, width // round_to * round_to or width,
                                         round_to)
        return widths | hidden

    widths = _widest(narrowed, cost, limits, max(1.0, tilt, 1 / tilt) ** 2)
    if widths is None:
        least = cost(narrowed(0))
        raise ValueError(f"the narrowest student still has {least[0]:,} parameters, a compression of "
                         f"{cost(full)[0] / least[0]:.1f}x, and {least[1]:,} MACs")
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


def choose_widths(args, architecture):
    """The student's widths as resolved flags of knowledge_distillation.py ask for them.

    Args:
        args: with stream_divisor, target_compression, target_macs, stage_tilt, student_stem, student_blocks and
            round_to.
        architecture: of the teacher, from `resnet.architecture_of`; reductions are told against its network unpruned.

    Raises:
        InputError: out of reach.
    """
    def cost(widths, stem=args.student_stem):
        return resnet.cost_of(widths, architecture["classes"], architecture["input_shape"], stem)

    rate, macs, depth = args.target_compression, args.target_macs, architecture["depth"]
    whole = resnet.unpruned_widths(architecture["widths"])
    limit = macs and flags.macs_left(macs, cost(whole, architecture["stem"])[1])

    def widest(limit):
        return student_widths(_widths_left(architecture, args.student_blocks), depth, args.stream_divisor, rate, limit,
                              cost, args.round_to, args.stage_tilt)

    try:
        return widest(limit)
    except ValueError as error:
        flag, value = "--target_compression", rate
        with contextlib.suppress(ValueError):
            widest(None)
            flag, value = "--target_macs", f"{macs[0]:g}{'x' * macs[1]}"
        other = "" if args.student_stem == architecture["stem"] else (
            f" behind the stem {args.student_stem}; --student_stem {architecture['stem']}, fewer --student_blocks or a "
            "smaller --round_to allow less")
        raise InputError(f"{flag}: received {value}, expected a larger student: {error}{other}") from None


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
        for old, new in zip(model.get_layer(layer.name).variables if layer.variables else (), layer.variables,
                            strict=True):
            cut = (old.shape[0] - new.shape[0]) // 2 if layer.name == "conv1_conv" and len(new.shape) == 4 else 0
            values = np.array(old)  # a copy: JAX would share the buffer
            new.assign(values[cut:len(values) - cut, cut:values.shape[1] - cut] if cut else values)
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
    student = surgery.trim_model(teacher, {group: masks.least_idle(np.asarray(values), widths[group])
                                         for group, values in scores.items()})
    return student if stem in (None, architecture["stem"]) else rebuilt(student, stem, blocks)


def judge_teacher(args, path, teacher, images):
    """The teacher's validation accuracy, 0 to 1. Raises InputError where it doesn't answer finite numbers."""
    found = metrics.evaluate(folded.FoldedResNet(teacher, args.precision), images.val, args.batch_size,
                             display.track("teacher: validation", args.verbose, "compiling"))
    if not math.isfinite(found["loss"]):
        raise InputError(f"--root_folder: {path} answers NaN or infinity, expected a teacher with finite logits")
    return found["acc"]
