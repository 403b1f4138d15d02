"""What a student looks like: how wide its layers are, and which of the teacher's channels it starts from."""

import numpy as np

import model as resnet
import prune


def student_widths(teacher_widths, depth, stream_divisor=None, target_compression=None, cost=resnet.cost_of,
                   round_to=1):
    """Widths of the student.

    With `stream_divisor`, inner widths stay as the teacher has them and stream widths are divided, as in the
    original suite. With `target_compression`, one factor narrows stem, streams and inner layers of the full network
    alike, and an inner layer that pruning left narrower still stays as it is, but for `round_to`.

    Args:
        teacher_widths: from `model.widths_of`.
        depth: 50, 101 or 152.
        stream_divisor: at least 1.
        target_compression: parameters of the full network / the student's, at least.
        cost: function(widths) -> (parameters, macs).
        round_to: under target_compression, widths are multiples of this where the teacher's are no smaller.

    Returns:
        dict as `model.full_widths`.

    Raises:
        ValueError: the compression is out of reach.
    """
    full = resnet.full_widths(depth)
    if target_compression is None:
        return {name: max(1, int(width // stream_divisor)) if name.endswith("_stream") else width
                for name, width in teacher_widths.items()}

    def whole(width):
        return max(round(width / round_to), 1) * round_to

    def narrowed(factor):
        return {name: min(width // round_to * round_to or width, max(prune.FLOOR, whole(factor * full[name])))
                for name, width in teacher_widths.items()}

    limit = cost(full)[0] / target_compression
    fitting = [step for step in range(1, 1025) if cost(narrowed(step / 1024))[0] <= limit]
    if not fitting:
        raise ValueError(f"the narrowest student still has {cost(narrowed(0))[0]:,} parameters, "
                         f"a compression of {cost(full)[0] / cost(narrowed(0))[0]:.1f}x")
    return narrowed(max(fitting) / 1024)


def inherit_student(teacher, widths):
    """A student of the given widths that keeps the teacher's most important channels, with their weights.

    Args:
        teacher: a ResNet of `model.build_resnet`.
        widths: at most the teacher's, group by group.

    Returns:
        An uncompiled keras.Model; its batch-norm statistics are still the teacher's (see `prune.recalibrate_bn`).
    """
    scores = prune.compute_group_scores(teacher, prune.wiring_of(teacher))
    return prune.trim_model(teacher, {group: prune.least_idle(np.asarray(values), widths[group])
                                      for group, values in scores.items()})
