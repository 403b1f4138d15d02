#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK: the TAB key completes flags
"""Distil a teacher into a small student: soft labels, intermediate features, adversarial loss, hard labels."""

import argparse
import dataclasses
import functools
import math
import sys
import typing
from pathlib import Path

from compress.cli import app, architectures, configs, display, flags, keywords, tables, values
from compress.errors import InputError
from compress.plots import roles
from compress.storage import files, records, shipped

EXAMPLE = """example:
  python knowledge_distillation.py --root_folder=./model/pruned_model/iter15 --epoch_num 14 --lambda2=0.3 --lambda3=0.2
  python knowledge_distillation.py --root_folder model/pruned_model/iter15 --epoch_num 4 --stream_divisor 32 --ablation
  python knowledge_distillation.py --root_folder model/base_model --student_architecture MobileNetV2 --epoch_num 14
"""
# name of each row of the ablation: (soft labels, intermediate, adversarial) on or off; none of them: trained directly
ABLATION = {
    "trained directly": (0, 0, 0),
    "backbone": (1, 0, 0),
    "backbone + intermediate": (1, 1, 0),
    "backbone + adversarial": (1, 0, 1),
    "backbone + intermediate + adversarial": (1, 1, 1),
}
TRIED = (0.5, 0.3, 0.2)  # lambdas of its rows, where the student's own is 0


# ---- the losses --------------------------------------------------------------------------------------------------
#
# What a student is trained by. Each loss takes what teacher and student make of a batch of N images, and the labels:
#
#   teacher.logits, student.logits       (N, classes)
#   teacher.features, student.features   feature maps (N, h, w, channels), those before each change of resolution
#   labels                               (N,) whole numbers
#
# and returns a scalar, the mean over the batch. `losses_of` below gives each its weight. A loss of your own is one more
# function here and one more line there. Keras is imported inside functions, since --help doesn't wait for it.


def backbone_loss(teacher, student, labels, temperature):
    """Soft labels: T^2 mean_n sum_c p_t log(p_t / p_s) with p = softmax(logits / T), in nats times T^2.

    The Kullback-Leibler divergence from the teacher's softened probabilities to the student's, summed over the classes.
    T^2 makes up for the gradients, which softening divides by it. Hinton et al. 2015, arXiv 1503.02531, section 2.
    """
    from keras import ops

    log_p_t = ops.log_softmax(ops.cast(teacher.logits, "float32") / temperature)  # (N, classes)
    log_p_s = ops.log_softmax(ops.cast(student.logits, "float32") / temperature)
    divergence = ops.sum(ops.exp(log_p_t) * (log_p_t - log_p_s), axis=-1)  # (N,)
    return temperature**2 * ops.mean(divergence)


def intermediate_loss(teacher, student, labels, regressors):
    """Features: the sum over the pairs of feature maps of the mean squared error, mean (f_t - r(f_s))^2.

    A regressor r maps the student's feature map to the teacher's channels and sides; it is trained with the student.
    Where the student's map is the smaller one, the teacher's is averaged down to it. Romero et al. 2015, FitNets, arXiv
    1412.6550, equation 3, at several places: `compress.distillation.features.matched` says at which.
    """
    from keras import ops

    from compress.distillation.regressors import averaged

    errors = []
    for f_t, f_s, regress in zip(teacher.features, student.features, regressors, strict=True):
        regressed = ops.cast(regress(f_s), "float32")  # (N, h, w, teacher's channels)
        difference = averaged(ops.cast(f_t, "float32"), regressed.shape[1:3]) - regressed
        errors.append(ops.mean(ops.square(difference)))
    return sum(errors)


def adversarial_loss(teacher, student, labels, discriminator):
    """The student misleads a discriminator D: -log D(student's logits).

    D is the probability that logits are the teacher's. It is held fixed here: the gradient goes through it to the
    student and leaves D itself alone. Belagiannis et al. 2018, Adversarial Network Compression, arXiv 1803.10750,
    section 3.
    """
    from keras import ops

    from compress.distillation.discriminator import held_fixed

    scores = held_fixed(discriminator, student.logits)  # (N, 1), before the sigmoid
    return ops.mean(ops.softplus(-scores))  # -log sigmoid(scores)


def discriminator_loss(teacher, student, labels, discriminator):
    """The discriminator's own loss: -log D(teacher's logits) - log(1 - D(student's logits)).

    Here the student is held fixed, and D learns.
    """
    from keras import ops

    real = discriminator(teacher.logits, training=True)  # (N, 1), before the sigmoid
    fake = discriminator(ops.stop_gradient(student.logits), training=True)
    return ops.mean(ops.softplus(-real)) + ops.mean(ops.softplus(fake))


def hard_label_loss(teacher, student, labels, label_smoothing=0.0):
    """The cross-entropy with the true labels, in nats; no teacher has a part in it."""
    import keras

    targets = keras.ops.one_hot(labels, student.logits.shape[-1])  # (N, classes)
    return keras.ops.mean(
        keras.losses.categorical_crossentropy(
            targets, student.logits, from_logits=True, label_smoothing=label_smoothing
        )
    )


def annealed(weight, steps):
    """A weight that falls in a line to 0 over so many training steps.

    After the teacher annealing of Clark et al. 2019, BAM!, arXiv 1907.04829, section 3, where the weight of the true
    labels rises meanwhile; here it stays.
    """
    from keras import ops

    return lambda step: weight * ops.maximum(0.0, 1.0 - step / steps)


def losses_of(config, teacher, student, steps):
    """What a student is trained by: lambda1 backbone + lambda2 intermediate + lambda3 adversarial + w hard labels.

    A loss of weight 0 is left out, with all that it would compute. The discriminator's own loss has weight 1 whatever
    lambda3 is: nothing else moves the discriminator.

    Args:
        config: a configs.DistilConfig.
        teacher: a keras.Model of logits that `nodes.graph_of` takes.
        student: another, for the same images and classes.
        steps: training steps that are to be done, over which a teacher is annealed.

    Returns:
        List of `compress.distillation.distiller.Loss`.

    Raises:
        InputError: an intermediate loss is asked for, and one of the networks has no feature maps to compare.
    """
    import keras

    from compress.distillation.discriminator import build_discriminator
    from compress.distillation.distiller import Loss
    from compress.distillation.features import shapes_to_match
    from compress.distillation.regressors import build_regressors

    def taught(weight):  # by the teacher, whose part may fall
        return annealed(weight, steps) if config.teacher_annealing else weight

    losses = []
    if config.lambda1:
        backbone = functools.partial(backbone_loss, temperature=config.temperature)
        losses.append(Loss("backbone", backbone, taught(config.lambda1)))
    if config.lambda2:
        theirs, ours = shapes_to_match(teacher, student)
        regressors = build_regressors(config.regressor_name, ours, theirs, config.precision)
        intermediate = functools.partial(intermediate_loss, regressors=regressors)
        losses.append(Loss("intermediate", intermediate, taught(config.lambda2), regressors))
    if config.lambda3:
        discriminator = build_discriminator(student.output_shape[-1], config.precision)
        adversarial = functools.partial(adversarial_loss, discriminator=discriminator)
        own = functools.partial(discriminator_loss, discriminator=discriminator)
        losses += [
            Loss("adversarial", adversarial, taught(config.lambda3), [discriminator]),
            Loss("discriminator", own, 1.0, [discriminator], keras.optimizers.Adam(config.discriminator_learning_rate)),
        ]
    if config.hard_label_weight:
        hard_label = functools.partial(hard_label_loss, label_smoothing=config.label_smoothing)
        losses.append(Loss("hard_label", hard_label, config.hard_label_weight))
    return losses


# ---- flags -------------------------------------------------------------------------------------------------------


def build_parser():
    """The flags of this script."""
    parser = flags.Parser(Path(__file__).name, description=__doc__, epilog=EXAMPLE)
    group = parser.add_argument_group("files")
    group.add_argument(
        "--root_folder",
        type=flags.path,
        required=True,
        help="the teacher: a folder with model.h5, as prune_model.py (model/pruned_model/iter15) and "
        "train_base_model.py (model/base_model) write it, or an .h5 or .keras file of any classifier",
    )
    group.add_argument(
        "--save_folder",
        type=flags.path,
        default="./model/kd_model",
        help="where model.h5, history.json, history.png and result.json go (default: %(default)s)",
    )
    group = parser.add_argument_group("learning rates")
    group.add_argument(
        "--student_learning_rate",
        type=flags.real(strict=True),
        default=0.05,
        help="highest learning rate of student and regressors (default: %(default)s)",
    )
    group.add_argument(
        "--discriminator_learning_rate",
        type=flags.real(strict=True),
        default=0.0001,
        help="of the discriminator's Adam (default: %(default)s)",
    )
    add_loss_flags(parser)
    add_student_flags(parser)
    flags.add_training_flags(parser)
    parser.set_defaults(optimizer="muon")
    flags.add_data_flags(parser)
    flags.add_machine_flags(parser)
    flags.add_device_flags(parser)
    return parser


def add_loss_flags(parser):
    """Those that weigh the losses, see configs.DistilConfig."""
    group = parser.add_argument_group("losses")
    for i, (loss, default) in enumerate(
        (("soft labels", 0.5), ("intermediate loss", 0.0), ("adversarial loss", 0.0)), 1
    ):
        group.add_argument(
            f"--lambda{i}",
            type=flags.real(),
            default=default,
            help=f"weight of the {loss}; 0 for none (default: %(default)s)",
        )
    group.add_argument(
        "--hard_label_weight",
        type=flags.real(),
        default=0.6,
        help="weight of the cross-entropy with the true labels (default: %(default)s)",
    )
    group.add_argument(
        "--temperature",
        type=flags.real(strict=True),
        default=4.0,
        help="temperature T of the soft labels: the softmax of logits / T (default: %(default)s)",
    )
    group.add_argument(
        "--mirror_teacher",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="average the teacher's logits over an image and its mirror image, for soft labels and "
        "discriminator; twice the teacher's work (default: off)",
    )
    group.add_argument(
        "--teacher_annealing",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="reduce lambda1, lambda2 and lambda3 linearly to 0 over the epochs, so that the student "
        "learns from the true labels alone at the end; for a teacher that the student may "
        "outperform (default: off)",
    )
    group.add_argument(
        "--regressor_name",
        choices=["conv1x1", "constant"],
        default="conv1x1",
        help="what maps the student's features to the teacher's (default: %(default)s)",
    )
    group.add_argument(
        "--ablation",
        action="store_true",
        help="also train the same student directly, with soft labels, and with these and the "
        "intermediate loss, the adversarial loss or both, and compare; a loss of weight 0 is tried "
        f"with {', '.join(f'{weight} (lambda{i})' for i, weight in enumerate(TRIED, 1))}",
    )


def add_student_flags(parser):
    """Those that say what the student looks like, see configs.StudentConfig."""
    group = parser.add_argument_group("student")
    other = group.add_mutually_exclusive_group()
    other.add_argument(
        "--student_path",
        type=flags.path,
        metavar="FILE",
        help="an .h5 or .keras file of any network for the same classes and images, which becomes the student, with "
        "its weights (default: the student is made from the teacher)",
    )
    other.add_argument(
        "--student_architecture",
        type=values.architecture,
        metavar="NAME",
        help="a network that becomes the student, with random weights: a name of train_base_model.py --architecture, "
        "such as MobileNetV2 or resnet20",
    )
    add_size_flags(group)
    group.add_argument(
        "--student_stem",
        choices=architectures.STEMS,
        help="where the teacher begins as a ResNet, as train_base_model.py --stem; maps 2 or 4 times as wide as the "
        "teacher's are paid for in channels under --target_macs (default: the teacher's)",
    )
    group.add_argument(
        "--student_blocks",
        type=flags.whole(1, 100),
        nargs="+",
        metavar="N",
        help="residual blocks of each stage, the first of the teacher's; fewer leave wider ones under the same targets "
        "(default: the teacher's, 3 4 6 3 of a ResNet50, 1 2 3 2 2 of a MobileNetV2)",
    )
    group.add_argument(
        "--student_init",
        choices=["inherit", "random"],
        default="inherit",
        help="inherit: the teacher's most important channels with their weights; random: the "
        "original's (default: %(default)s)",
    )
    flags.add_recalibrate_flag(group)


def add_size_flags(group):
    """Those that say how small the student is."""
    size = group.add_mutually_exclusive_group()
    size.add_argument(
        "--stream_divisor",
        type=flags.whole(1, 2048),
        help="divide the widths of residual streams by this and keep the teacher's inner widths (the original: 32)",
    )
    size.add_argument(
        "--target_compression",
        type=flags.real(1),
        metavar="RATE",
        help="parameters of the teacher / student's, at least; of a ResNet50, 101 or 152 they count from the whole one "
        "that the teacher is a part of "
        f"(default: {configs.STUDENT_COMPRESSION}, unless --stream_divisor or --target_macs is given)",
    )
    group.add_argument(
        "--target_macs",
        type=flags.macs,
        metavar="MACS",
        help="MACs of the student at most (10M), or the reduction (8x) of the teacher's; of a ResNet50, 101 or 152 it "
        "counts from the whole one that the teacher is a part of; either target alone leaves the other free "
        "(default: 8x where neither is given)",
    )
    group.add_argument(
        "--stage_tilt",
        type=flags.real(0.1, 10),
        metavar="RATIO",
        help="width factor of a stage / that of the stage before, the widths being the largest within "
        "the targets; 1 narrows all alike, below 1 late stages more (default: "
        f"{configs.STUDENT_TILT}, on images of 32x32 as accurate as 0.85 with a third fewer "
        "parameters; 1 where MACs are free)",
    )
    group.add_argument(
        "--round_to",
        type=flags.whole(1, 64),
        default=16,
        help="widths under these targets are multiples of this; odd ones train up to 2.6 times "
        "as slowly (default: %(default)s)",
    )


# ---- the steps of a run ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run is to do, as far as that is known before Keras is started.

    Attributes:
        path: of the teacher's file.
        header: what is in it, a headers.Header.
        student: a configs.StudentConfig.
        record: what makes the result, see `records.run_record`; what the images say of themselves is added to it.
    """

    path: Path
    header: typing.Any
    student: configs.StudentConfig
    record: dict


def check_flags(args):
    """Raises InputError where losses contradict each other or the images."""
    if not (args.lambda1 or args.lambda3 or args.hard_label_weight):
        raise InputError(
            "`lambda1`: received 0, as `lambda3` and `hard_label_weight`; expected one of them above 0: "
            "no other loss teaches the classifier"
        )
    if args.batch_size == 1 and (args.lambda3 or args.ablation):
        raise InputError(
            "`batch_size`: received 1 beside `lambda3` or `ablation`, expected at least 2: the "
            "discriminator's batch-norm learns nothing from one image"
        )
    if args.teacher_annealing and not args.hard_label_weight:
        raise InputError(
            "`teacher_annealing`: received it beside `hard_label_weight=0`, which leaves no loss at the "
            "end; expected a weight above 0"
        )
    if args.mirror_teacher and not (args.lambda1 or args.lambda3 or args.ablation):
        raise InputError(
            "`mirror_teacher`: received it beside `lambda1=0` and `lambda3=0`, which use no logits of "
            "the teacher; expected one of them above 0"
        )
    if args.mirror_teacher and args.dataset == "digits":
        raise InputError(
            "`mirror_teacher`: received it for digits, whose mirror images are other signs; expected "
            "pictures that may be mirrored"
        )
    if args.mirror_teacher and not args.hflip:
        display.warn(
            "`mirror_teacher`: the teacher is shown mirror images, which `hflip=0` keeps from the student; right only "
            "where a mirror image is of the same class"
        )


def check(args):
    """The Plan of a run, after all that can be checked without Keras.

    Raises:
        InputError: flags that contradict each other, a teacher that can't be used, a folder that can't be written to.
    """
    from compress.storage import checkpoints, headers

    student = configs.StudentConfig.of(args).with_targets()
    check_flags(args)
    if args.student_architecture and args.dataset in values.STOCK:  # of a folder the teacher may say the size
        app.check_architecture(args, "student_architecture")
    files.check_writable(args.save_folder)
    path = Path(args.root_folder)
    path = path if path.is_file() else path / "model.h5"
    others = [args.student_path] if args.student_path else []  # files that Keras is to open as well
    for source in (path, *others):
        for folder in (args.save_folder, *(ablation_folder(args, name) for name in ABLATION)):
            files.check_apart(source, folder)
    header = headers.read_header(path, args.preprocessing)
    for found in (header, *(headers.read_header(other, args.preprocessing) for other in others)):
        checkpoints.check_fits(found, args.class_num, dataset=args.dataset, also=flags.of_reading(args))
    records.check_split(path, args.dataset, args.val_split)
    app.tell_augmentation(args, path)
    # a run is repeated with the shape that it had, whatever the defaults are by then
    record = records.run_record(vars(args) | dataclasses.asdict(student), files.sha256(path))
    if args.student_path:
        record["student_sha256"] = files.sha256(args.student_path)
    return Plan(path, header, student, record)


@dataclasses.dataclass(frozen=True)
class Teacher:
    """What a student is made from, or beside.

    Attributes:
        model: the keras.Model of the teacher.
        whole: the student.Whole that reductions are counted from.
        shape: (the student.Pattern, {group: positions}) of a student that is made from it; else None.
        student: the keras.Model of a student that isn't made from it; else None.
    """

    model: typing.Any
    whole: typing.Any
    shape: tuple | None = None
    student: typing.Any = None


def begin(args, plan):
    """Starts Keras, opens the teacher and reads the images.

    Returns:
        (a dataset.Data, None, the Teacher); or (None, what result.json holds, None) where this very run was finished
        before.
    """
    opened = []

    def read():
        images, teacher = app.read_images(
            args, plan.path, plan.header, lambda class_num, size: open_teacher(args, plan, class_num, size)
        )
        opened.append(teacher)
        return images

    images, result = app.images_of_run(args, plan.record, outputs(args), read)
    return images, result, opened[0] if images else None


def open_teacher(args, plan, class_num, size):
    """The Teacher, before images are decoded.

    Args:
        args: the flags.
        plan: the Plan.
        class_num: number of classes that it must have; None for any.
        size: (height, width, 3) of the images.

    Raises:
        InputError: it can't be used, or no student can be had as the flags ask for.
    """
    from compress.distillation import student as students
    from compress.storage import opening
    from model import unpruned

    model = opening.load_network(plan.path, class_num, size, args.preprocessing, args.verbose)
    whole = students.whole_of(model, unpruned(model))
    if plan.student.is_other:
        wanted = model.output_shape[-1]
        student = other_student(plan.student, wanted, size)
        if (found := student.output_shape[-1]) != wanted:
            raise InputError(
                f"`student_path`: received {plan.student.student_path} with {found} classes, expected {wanted}, as the "
                f"teacher {plan.path} has"
            )
        return Teacher(model, whole, student=student)
    pattern = students.Pattern(model, whole, plan.student.student_stem, plan.student.student_blocks)
    return Teacher(model, whole, shape=(pattern, students.choose_widths(plan.student, pattern)))


def make_networks(args, plan, images, teacher):
    """Teacher and student, before the first step.

    Args:
        args: the flags.
        plan: the Plan.
        images: a dataset.Data.
        teacher: the Teacher.

    Returns:
        (the Teacher, the student, what result.json holds of both by now).
    """
    from compress.distillation import student as students
    from compress.storage import classes

    parents, student = classes.compare(plan.path, images), teacher.student
    student = student or make_student(plan.student, teacher.shape, images)
    known = {
        "teacher_acc": accuracy_of_teacher(args, plan.path, teacher.model, images),
        "parent_sha256": plan.record["parent_sha256"],
        "class_names": plan.record["class_names"],
        "parent_class_names": parents,
        "student": plan.student.origin,
        "widths": students.recorded_widths(student),
        "goal": students.goal(plan.student, teacher.whole, teacher.model, student),
    }
    return teacher, student, known


def accuracy_of_teacher(args, path, teacher, images):
    """The teacher's validation accuracy, 0 to 1. Raises InputError where its logits aren't finite."""
    from compress import metrics
    from compress.engine import folding

    found = metrics.evaluate(
        folding.FoldedModel(teacher, args.precision),
        images.val,
        args.batch_size,
        display.track("teacher: validation", args.verbose, "compiling"),
    )
    if not math.isfinite(found["loss"]):
        raise InputError(f"{path} has logits of NaN or infinity, expected a teacher with finite logits", path)
    display.warn_of_guessing(
        f"the teacher, {path}",
        found["loss"],
        images.class_num,
        "expected a trained teacher: a student learns its errors too",
    )
    return found["acc"]


def make_student(config, shape, images):
    """The student before its first step, always the same for the same config.

    Args:
        config: a configs.StudentConfig with targets.
        shape: that of a Teacher.
        images: a dataset.Data.
    """
    import keras

    from compress.data import dataset
    from compress.distillation import student as students
    from compress.engine import recalibration
    from compress.training import fit

    if config.is_other:
        return other_student(config, images.class_num, images.image_shape)
    pattern, widths = shape
    keras.utils.set_random_seed(config.seed)
    kept = students.inherited(pattern.graph, widths)
    student = pattern.graph.trimmed(kept)
    if config.student_init == "random":
        return students.redrawn(student)
    if config.recalibrate_images:  # its batch-norms still have the statistics of the teacher's wider layers
        fit.check_batch(student, config.recalibrate_images, "recalibrate_images")
        sample = dataset.sample(images.train, config.recalibrate_images)[0]
        bar = display.track("student: recalibration", config.verbose, "compiling")
        recalibration.recalibrate(student, pattern.graph, kept, sample, config.batch_size, bar)
    return student


def other_student(config, classes, size):
    """The student that isn't made from the teacher: the network of a file, or a new one.

    Args:
        config: a configs.StudentConfig.
        classes: how many a new network has.
        size: (height, width, 3) of the images.
    """
    import keras

    from compress.storage import opening
    from model import build_model

    if config.student_path:
        return opening.load_network(config.student_path, None, size, config.preprocessing, config.verbose)
    keras.utils.set_random_seed(config.seed)
    try:
        return build_model(config.student_architecture, classes, size)
    except InputError as error:  # of images that are too small for it
        raise InputError(str(error).replace("`architecture`", "`student_architecture`")) from None


def train(args, plan, networks, images):
    """Trains the student by the losses that the flags weigh; returns its history."""
    from compress.storage import recording

    teacher, student, _ = networks
    clear(args)
    run = recording.Run(args.save_folder, plan.record, student, configs.RunConfig.of(args, home=args.save_folder))
    return distil(args, configs.DistilConfig.of(args), teacher.model, run, images, "student")


def clear(args):
    """Makes room for the student: states of older runs go, and the model that came with the suite is set aside."""
    from compress.storage import recording

    if args.resume == "never" or not (Path(args.save_folder) / records.STATE).exists():
        for folder in filter(Path.is_dir, Path(args.save_folder).glob("ablation/*")):
            recording.finish(folder)
    shipped.set_aside(args.save_folder, args.verbose)


def distil(args, config, teacher, run, images, title):
    """Trains one student by one set of losses; returns its history.

    Args:
        args: the flags.
        config: a configs.DistilConfig.
        teacher: its network.
        run: a recording.Run, in which the student is `saved`.
        images: a dataset.Data.
        title: for the progress bar.
    """
    from compress.data import batches
    from compress.distillation.distiller import Distiller, optimizer_for
    from compress.training import runs
    from compress.training.recipe import Recipe, compile_trainer, optimizer_of

    recipe = runs.continued(Recipe.of(args, epochs=args.epoch_num, learning_rate=args.student_learning_rate), run)
    steps = batches.steps_per_epoch(len(images.train), recipe.batch_size)
    losses = losses_of(config, teacher, run.saved, steps * (recipe.epochs - recipe.begun))
    distiller = Distiller(
        teacher if config.taught else None, run.saved, losses, config.precision, config.mirror_teacher
    )
    compile_trainer(distiller, optimizer_for(losses, optimizer_of(recipe, steps, run.saved)), recipe)
    return runs.train(distiller, images, recipe, run, title)


def write_results(args, plan, networks, images, history):
    """Writes result.json and prints its table; with --ablation trains the other students too.

    Args:
        args: the flags.
        plan: the Plan.
        networks: what `make_networks` gave, the student being trained by now.
        images: a dataset.Data.
        history: of its training.

    Returns:
        What result.json holds.
    """
    from compress.storage import recording

    teacher, student, known = networks
    base_parameters = teacher.whole.parameters
    result = summary(args, history, student, base_parameters, images, args.save_folder, plan.record) | known
    written = Path(args.save_folder) / "result.json"
    records.write_json(written, result | ({"finished": False} if args.ablation else {}))
    show(args, teacher.model, base_parameters, result)
    if args.ablation:
        result["ablation"] = ablation(args, plan, teacher, images, result)
        records.write_json(written, result)
    for folder in (*filter(Path.is_dir, Path(args.save_folder).glob("ablation/*")), Path(args.save_folder)):
        recording.finish(folder)  # the student itself last: the run counts as unfinished until then
    display.written(outputs(args), args.verbose)
    return result


def summary(args, history, student, base_parameters, images, folder, run_record):
    """What result.json holds of one student, without the teacher's part."""
    from compress.distillation.student import sizes_of

    best, file = records.best_epoch(history), Path(folder) / "model.h5"
    parameters, macs = sizes_of(student)
    size = {"parameters": parameters, "macs": macs, "bytes": file.stat().st_size}
    return {
        "val_acc": history["val_acc"][best],
        "val_loss": history["val_loss"][best],
        "split": "validation",
        "images": len(images.val),
        "train_images": len(images.train),
        "best_epoch": best + 1,
        "epochs": args.epoch_num,
        **size,
        "compression_rate": base_parameters / size["parameters"],
        "sha256": files.sha256(file),
        "seconds": sum(history["seconds"]),
        "run": run_record,
    }


def show(args, teacher, base_parameters, result):
    """Prints the table of teacher and student."""
    from compress.distillation.student import sizes_of

    size, macs = sizes_of(teacher)
    display.print_table(
        f"Distillation; {result['images']:,} validation images",
        [
            ("model", tables.text),
            ("best epoch", tables.text),
            ("validation accuracy", tables.percent),
            ("parameters", tables.count),
            ("MACs", tables.count),
            ("compression rate", tables.ratio),
        ],
        [
            ["teacher", None, result["teacher_acc"], size, macs, base_parameters / size],
            [
                "student",
                f"{result['best_epoch']} of {result['epochs']}",
                result["val_acc"],
                result["parameters"],
                result["macs"],
                result["compression_rate"],
            ],
        ],
        args.verbose,
    )


def outputs(args):
    """Paths of all that a run may write."""
    names = [
        "model.h5",
        "result.json",
        "history.json",
        "history.png",
        *(["ablation.json", "ablation.png", "ablation"] if args.ablation else []),
    ]
    return [*(Path(args.save_folder) / name for name in names), args.tensorboard or ""]


# ---- the ablation -------------------------------------------------------------------------------------------------


def ablation_folder(args, name):
    """Where the student of a row of the ablation goes."""
    return Path(args.save_folder) / "ablation" / name.replace(" + ", "_").replace(" ", "_")


def ablation(args, plan, teacher, images, full):
    """Trains the same student with the combinations of losses of ABLATION; writes ablation.json and ablation.png.

    Args:
        args: the flags.
        plan: the Plan.
        teacher: the Teacher.
        images: a dataset.Data.
        full: what result.json holds of the student itself.

    Returns:
        List of {name, val_acc}, the teacher first. The student itself is `full`, not trained again.
    """
    from compress.plots import comparison, style
    from compress.storage import recording

    own = (args.lambda1, args.lambda2, args.lambda3)
    lambdas = [weight or tried for weight, tried in zip(own, TRIED, strict=True)]
    rows = [{"name": "teacher", "val_acc": full["teacher_acc"], "sha256": full["parent_sha256"]}]
    for name, parts in ABLATION.items():
        if parts == tuple(map(bool, own)) and (any(parts) or args.hard_label_weight == 1):
            rows.append({"name": name, "val_acc": full["val_acc"], "sha256": full["sha256"]})
            continue
        student = make_student(plan.student, teacher.shape, images)
        folder = ablation_folder(args, name)
        lambda1, lambda2, lambda3 = (value * part for value, part in zip(lambdas, parts, strict=True))
        config = dataclasses.replace(
            configs.DistilConfig.of(args),
            lambda1=lambda1,
            lambda2=lambda2,
            lambda3=lambda3,
            hard_label_weight=args.hard_label_weight if any(parts) else 1.0,
        )
        kept = configs.RunConfig.of(args, home=args.save_folder)
        run = recording.Run(folder, dict(plan.record), student, kept)
        history = distil(args, config, teacher.model, run, images, name)
        rows.append({"name": name, "val_acc": max(history["val_acc"]), "sha256": history["checkpoint"]["sha256"]})
    if full["sha256"] not in [row["sha256"] for row in rows]:
        rows.append({"name": "the student", "val_acc": full["val_acc"], "sha256": full["sha256"]})
    content = {"rows": rows, "split": "validation", "images": len(images.val), "run": plan.record}
    records.write_json(Path(args.save_folder) / "ablation.json", content)
    looks = [roles.of_files([args.root_folder, args.save_folder])[0], *["student"] * (len(rows) - 1)]
    style.save_figure(comparison.plot_ablation(rows, looks), Path(args.save_folder) / "ablation.png")
    show_ablation(args, content)
    return rows


def show_ablation(args, content):
    """Prints the table of ablation.json."""
    display.print_table(
        f"Losses; {content['images']:,} validation images",
        [("student", tables.text), ("validation accuracy", tables.percent)],
        [[row["name"], row["val_acc"]] for row in content["rows"]],
        args.verbose,
    )


# ---- the run -----------------------------------------------------------------------------------------------------


@keywords.callable_with(build_parser)
def run(args):
    """Distils.

    Args:
        args: the namespace of `build_parser`, or its flags as keywords.

    Returns:
        What result.json holds: accuracies of teacher and student, sizes, split, run; with --ablation its rows too.
    """
    plan = check(args)
    with app.folder_of_run(args, "save_folder"):  # no other process writes there meanwhile
        images, result, teacher = begin(args, plan)
        if result is None:
            networks = make_networks(args, plan, images, teacher)
            history = train(args, plan, networks, images)
            result = write_results(args, plan, networks, images, history)
    return result


def main(argv=None):
    """Command line; returns the exit status."""
    return app.run_main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
