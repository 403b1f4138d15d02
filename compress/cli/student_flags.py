"""Flags that say what a student looks like, and what they mean where they aren't given. Imports no Keras."""

import argparse

from compress.cli import display, flags, tables
from compress.errors import InputError
from compress.graph import resnet

COMPRESSION = 12.82  # the original suite's student
MACS = (8.0, True)  # a reduction
TILT = 0.7


def add_student_flags(parser):
    """Adds them in a group of their own."""
    group = parser.add_argument_group("student")
    size = group.add_mutually_exclusive_group()
    size.add_argument("--stream_divisor", type=flags.whole(1, 2048),
                      help="divide the stream widths by this and keep the teacher's inner widths (the original: 32)")
    size.add_argument("--target_compression", type=flags.real(1), metavar="RATE",
                      help="parameters of the smallest of ResNet50, 101 and 152 that has the teacher's blocks / "
                           "student's, at least "
                           f"(default: {COMPRESSION}, unless --stream_divisor is given)")
    group.add_argument("--target_macs", type=flags.macs, metavar="MACS",
                       help="MACs of the student at most (10M), or the reduction (8x) of those of the whole ResNet50, "
                            "101 or 152 that the teacher is a part of, not of the teacher's own; alone of the two, "
                            "--target_compression leaves them free (default: 8x where neither is given)")
    group.add_argument("--stage_tilt", type=flags.real(0.1, 10), metavar="RATIO",
                       help="width factor of a stage / that of the stage before, the widths being the largest within "
                            f"the targets; 1 narrows all alike, below 1 late stages more (default: {TILT}, on images "
                            "of 32x32 as accurate as 0.85 with a third fewer parameters; 1 where MACs are free)")
    group.add_argument("--round_to", type=flags.whole(1, 64), default=16,
                       help="widths under these targets are multiples of this; odd ones train up to 2.6 times "
                            "as slowly (default: %(default)s)")
    group.add_argument("--student_stem", choices=resnet.STEMS,
                       help="as train_base_model.py --stem; maps 2 or 4 times as wide as the teacher's are paid for in "
                            "channels under --target_macs (default: the teacher's)")
    group.add_argument("--student_blocks", type=flags.whole(1, 36), nargs=4, metavar="N",
                       help="blocks of the four stages, the first of the teacher's; fewer leave wider ones under the "
                            "same targets (default: the teacher's, 3 4 6 3 of a ResNet50)")
    group.add_argument("--student_init", choices=["inherit", "random"], default="inherit",
                       help="inherit: the teacher's most important channels with their weights; random: the "
                            "original's (default: %(default)s)")
    flags.add_recalibrate_flag(group)


def with_targets(args):
    """A copy of the flags with the student's targets where none was given, so that a record names them."""
    rate, macs, tilt = args.target_compression, args.target_macs, args.stage_tilt
    if not args.stream_divisor:
        rate, macs = rate or COMPRESSION, macs or (None if rate else MACS)
        tilt = tilt or (TILT if macs else 1.0)
    return argparse.Namespace(**vars(args) | {"target_compression": rate, "target_macs": macs, "stage_tilt": tilt})


def with_form(args, teacher_stem, teacher_blocks):
    """A copy of the flags with the student's stem and blocks, the teacher's where none were given.

    Args:
        args: with student_stem and student_blocks.
        teacher_stem: of `resnet.STEMS`.
        teacher_blocks: of the four stages.

    Raises:
        InputError: the stem's kernel is larger than the teacher's, which it is cut from; or there are more blocks.
    """
    stems = list(resnet.STEMS)
    stems = stems[stems.index(teacher_stem):]
    if args.student_stem not in (None, *stems):
        raise InputError(f"--student_stem: received {args.student_stem}, expected {' or '.join(stems)}, as the "
                         f"teacher's is {teacher_stem}")
    blocks = args.student_blocks or teacher_blocks
    if any(count > most for count, most in zip(blocks, teacher_blocks, strict=True)):
        raise InputError(f"--student_blocks: received {' '.join(map(str, blocks))}, expected at most the teacher's "
                         f"{' '.join(map(str, teacher_blocks))}")
    return argparse.Namespace(**vars(args) | {"student_stem": args.student_stem or teacher_stem,
                                              "student_blocks": list(blocks)})


def check(args):
    """Raises InputError where flags of knowledge_distillation.py contradict each other.

    Args:
        args: from `with_targets`.
    """
    for flag in ("target_macs", "stage_tilt") if args.stream_divisor else ():
        if getattr(args, flag):
            raise InputError(f"--{flag}: received it beside --stream_divisor {args.stream_divisor}, which fixes all "
                             "widths; expected one of them")
    if not (args.lambda1 or args.lambda3 or args.hard_label_weight):
        raise InputError("--lambda1: received 0, as --lambda3 and --hard_label_weight; expected one of them above 0: "
                         "no other loss teaches the classifier")
    if args.batch_size == 1 and (args.lambda3 or args.ablation):
        raise InputError("--batch_size: received 1 beside --lambda3 or --ablation, expected at least 2: the "
                         "discriminator's batch-norm learns nothing from one image")
    if args.teacher_annealing and not args.hard_label_weight:
        raise InputError("--teacher_annealing: received it beside --hard_label_weight 0, which leaves no loss at the "
                         "end; expected a weight above 0")
    if args.mirror_teacher and not (args.lambda1 or args.lambda3 or args.ablation):
        raise InputError("--mirror_teacher: received it beside --lambda1 0 and --lambda3 0, which use no logits of "
                         "the teacher; expected one of them above 0")
    if args.mirror_teacher and args.dataset == "digits":
        raise InputError("--mirror_teacher: received it for digits, whose mirror images are other signs; expected "
                         "pictures that may be mirrored")


def goal(args, teacher, student):
    """Says what --target_macs asked for, and warns of a student that is no smaller than its teacher.

    Args:
        args: from `with_targets`.
        teacher: its network.
        student: its network, before the first step.

    Returns:
        {"of", "macs", "left", "reached"} for the record: what the reduction is counted from, its MACs, the student's at
        most and what it has; None without --target_macs.
    """
    from compress import metrics

    sizes = [(net.count_params(), metrics.count_macs(net)) for net in (student, teacher)]
    more = [f"{tables.compared(its / mine)} in {name}" for name, mine, its in
            zip(("parameters", "MACs"), *sizes, strict=True) if mine >= its]
    if more:
        display.warn(f"the student has {sizes[0][0]:,} parameters and {sizes[0][1]:,} MACs, its teacher "
                     f"{sizes[1][0]:,} and {sizes[1][1]:,}: {' and '.join(more)}")
    if not args.target_macs:
        return None
    form = resnet.architecture_of(teacher)
    full = resnet.cost_of(resnet.full_widths(form["depth"]), form["classes"], form["input_shape"], form["stem"])[1]
    found = {"of": f"the whole ResNet{form['depth']}", "macs": full, "left": flags.macs_left(args.target_macs, full),
             "reached": sizes[0][1]}
    display.say(f"--target_macs {args.target_macs[0]:g}{'x' * args.target_macs[1]}: at most {found['left']:,.0f} MACs, "
                f"of {full:,} that {found['of']} has; the student has {found['reached']:,}", args.verbose)
    return found
