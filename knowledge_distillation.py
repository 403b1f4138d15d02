#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK: the TAB key completes flags
"""Distil a pruned teacher into a small student: soft labels, intermediate features, an adversary, hard labels."""

import argparse
import importlib
import sys
from pathlib import Path

from compress.cli import app, configs, display, flags, keywords, student_flags, tables
from compress.graph import resnet
from compress.plots import roles
from compress.storage import files, records, resuming, shipped

EXAMPLE = """example:
  python knowledge_distillation.py --root_folder=./model/pruned_model/iter15 --lambda1=0.7 --lambda2=0.3 --lambda3=0.2
  python knowledge_distillation.py --root_folder=./model/pruned_model/iter15 --stream_divisor 32 --ablation
"""
# name of each row of the ablation: (soft labels, intermediate, adversarial) on or off; none of them: trained directly
ABLATION = {"trained directly": (0, 0, 0), "backbone": (1, 0, 0), "backbone + intermediate": (1, 1, 0),
            "backbone + adversarial": (1, 0, 1), "backbone + intermediate + adversarial": (1, 1, 1)}
TRIED = (0.5, 0.3, 0.2)  # lambdas of its rows, where the student's own is 0


def __getattr__(name):
    """What `distillation` and `students` hold, under this module's name too.

    They need Keras, and `--help` shall not wait for it.
    """
    if name.startswith("__"):
        raise AttributeError(name)
    owner = "students" if name in ("student_widths", "inherit_student") else "distillation"
    return getattr(importlib.import_module(owner), name)


def build_parser():
    """The flags of this script."""
    parser = flags.Parser(Path(__file__).name, description=__doc__, epilog=EXAMPLE)
    group = parser.add_argument_group("files")
    group.add_argument("--root_folder", type=flags.path, required=True,
                       help="the teacher: a folder with model.h5, as prune_model.py (model/pruned_model/iter15) and "
                            "train_base_model.py (model/base_model) write it, or an .h5 or .keras file of this suite "
                            "or of keras.applications")
    group.add_argument("--save_folder", type=flags.path, default="./model/kd_model",
                       help="where model.h5, history.json, history.png and result.json go (default: %(default)s)")
    group = parser.add_argument_group("learning rates")
    group.add_argument("--student_learning_rate", type=flags.real(strict=True), default=0.05,
                       help="highest learning rate of student and regressors (default: %(default)s)")
    group.add_argument("--discriminator_learning_rate", type=flags.real(strict=True), default=0.0001,
                       help="of the discriminator's Adam (default: %(default)s)")
    group = parser.add_argument_group("losses")
    for i, (loss, default) in enumerate((("soft labels", 0.5), ("intermediate features", 0.0), ("adversary", 0.0)), 1):
        group.add_argument(f"--lambda{i}", type=flags.real(), default=default,
                           help=f"weight of the {loss}; 0 leaves them out (default: %(default)s)")
    group.add_argument("--hard_label_weight", type=flags.real(), default=0.6,
                       help="weight of the cross-entropy with the true labels (default: %(default)s)")
    group.add_argument("--temperature", type=flags.real(strict=True), default=4.0,
                       help="softening of the soft labels (default: %(default)s)")
    group.add_argument("--mirror_teacher", action=argparse.BooleanOptionalAction, default=False,
                       help="soft labels, and what the adversary sees, are the mean of the teacher's answers to an "
                            "image and its mirror image, for twice the teacher's work (default: off)")
    group.add_argument("--teacher_annealing", action=argparse.BooleanOptionalAction, default=False,
                       help="let lambda1, lambda2 and lambda3 fall in a line to 0 over the epochs, so that the true "
                            "labels teach alone at the end; for a teacher that its student may outdo (default: off)")
    group.add_argument("--regressor_name", choices=["conv1x1", "constant"], default="conv1x1",
                       help="what maps the student's features to the teacher's (default: %(default)s)")
    group.add_argument("--ablation", action="store_true",
                       help="also train the same student directly, with soft labels, and with these and features, "
                            "adversary or both, and compare; a loss of weight 0 is tried with "
                            f"{', '.join(f'{weight} (lambda{i})' for i, weight in enumerate(TRIED, 1))}")
    student_flags.add_student_flags(parser)
    flags.add_training_flags(parser)
    parser.set_defaults(optimizer="muon")
    flags.add_data_flags(parser)
    flags.add_machine_flags(parser)
    return parser


def make_student(args, teacher, images):
    """The student before its first step, always the same for the same flags."""
    import keras

    from compress.data import dataset
    from compress.distillation import student as students
    from compress.engine import recalibration
    from compress.training import fit

    architecture = resnet.architecture_of(teacher)
    widths = students.choose_widths(args, architecture)
    keras.utils.set_random_seed(args.seed)
    if args.student_init == "random":
        return resnet.build_resnet(**(architecture | {"widths": widths, "stem": args.student_stem}))
    student = students.inherit_student(teacher, widths, args.student_stem)
    if args.recalibrate_images:
        fit.check_batch(student, args.recalibrate_images, "recalibrate_images")
        recalibration.recalibrate_bn(student, dataset.sample(images.train, args.recalibrate_images)[0], args.batch_size,
                             display.track("student: batch-norm", args.verbose, "compiling"))
    return student


def distil(args, teacher, run, images, lambdas, hard_label_weight, title):
    """Trains one student, `run.saved`, with one set of loss weights; returns its history."""
    import keras

    from compress.data import dataset
    from compress.distillation import distiller as distillation
    from compress.training import runs
    from compress.training.recipe import Recipe, compile_trainer, optimizer_of

    recipe = runs.continued(Recipe.of(args, epochs=args.epoch_num, learning_rate=args.student_learning_rate), run)
    steps = dataset.steps_per_epoch(len(images.train), recipe.batch_size)
    distiller = distillation.Distiller(teacher, run.saved, lambdas, args.temperature, hard_label_weight,
                                       args.regressor_name, args.label_smoothing, args.precision, args.mirror_teacher,
                                       steps * (recipe.epochs - recipe.begun) if args.teacher_annealing else None)
    optimizer = optimizer_of(recipe, steps)
    if distiller.discriminator:
        optimizer = distillation.optimizer_pair(optimizer, keras.optimizers.Adam(args.discriminator_learning_rate),
                                                distiller.discriminator.trainable_variables)
    compile_trainer(distiller, optimizer, recipe)
    return runs.train(distiller, images, recipe, run, title)


def summary(args, history, student, base_parameters, images, folder, run_record):
    """What result.json holds of one student, without the teacher's part."""
    from compress import metrics
    from compress.training import fit

    best, file = fit.best_epoch(history), Path(folder) / "model.h5"
    size = metrics.size_of(student, file)
    return {"val_acc": history["val_acc"][best], "val_loss": history["val_loss"][best], "split": "validation",
            "images": len(images.val), "train_images": len(images.train), "best_epoch": best + 1,
            "epochs": args.epoch_num, **size, "compression_rate": base_parameters / size["parameters"],
            "sha256": files.sha256(file), "seconds": sum(history["seconds"]), "run": run_record}


def show(args, teacher, base_parameters, result):
    """Prints the table of teacher and student."""
    from compress import metrics

    size = teacher.count_params()
    display.print_table(f"Distillation; {result['images']:,} validation images",
                        [("model", tables.text), ("validation accuracy", tables.percent), ("parameters", tables.count),
                         ("MACs", tables.count), ("compression rate", tables.ratio)],
                        [["teacher", result["teacher_acc"], size, metrics.count_macs(teacher), base_parameters / size],
                         ["student", result["val_acc"], result["parameters"], result["macs"],
                          result["compression_rate"]]], args.verbose)


def ablation_folder(args, name):
    """Where the student of a row of the ablation goes."""
    return Path(args.save_folder) / "ablation" / name.replace(" + ", "_").replace(" ", "_")


def ablation(args, teacher, images, teacher_acc, full, run_record):
    """Trains the same student with the combinations of losses of ABLATION; writes ablation.json and ablation.png.

    Returns:
        List of {name, val_acc}, the teacher first. The student itself is `full`, not trained again.
    """
    from compress.plots import comparison, style
    from compress.storage import recording

    own = (args.lambda1, args.lambda2, args.lambda3)
    lambdas = [weight or tried for weight, tried in zip(own, TRIED, strict=True)]
    rows = [{"name": "teacher", "val_acc": teacher_acc, "sha256": run_record["parent_sha256"]}]
    for name, parts in ABLATION.items():
        if parts == tuple(map(bool, own)) and (any(parts) or args.hard_label_weight == 1):
            rows.append({"name": name, "val_acc": full["val_acc"], "sha256": full["sha256"]})
            continue
        weight = args.hard_label_weight if any(parts) else 1.0
        student = make_student(args, teacher, images)
        folder = ablation_folder(args, name)
        chosen = [value * part for value, part in zip(lambdas, parts, strict=True)]
        student_run = recording.Run(folder, dict(run_record), student, configs.RunConfig.of(args))
        history = distil(args, teacher, student_run, images, chosen, weight, name)
        rows.append({"name": name, "val_acc": max(history["val_acc"]), "sha256": history["checkpoint"]["sha256"]})
    if full["sha256"] not in [row["sha256"] for row in rows]:
        rows.append({"name": "the student", "val_acc": full["val_acc"], "sha256": full["sha256"]})
    content = {"rows": rows, "split": "validation", "images": len(images.val), "run": run_record}
    records.write_json(Path(args.save_folder) / "ablation.json", content)
    looks = [roles.of_files([args.root_folder, args.save_folder])[0], *["student"] * (len(rows) - 1)]
    style.save_figure(comparison.plot_ablation(rows, looks), Path(args.save_folder) / "ablation.png")
    show_ablation(args, content)
    return rows


def show_ablation(args, content):
    """Prints the table of ablation.json."""
    display.print_table(f"Losses; {content['images']:,} validation images",
                        [("student", tables.text), ("validation accuracy", tables.percent)],
                        [[row["name"], row["val_acc"]] for row in content["rows"]], args.verbose)


@keywords.callable_with(build_parser)
def run(args):
    """Distils.

    Args:
        args: the namespace of `build_parser`, or its flags as keywords.

    Returns:
        What result.json holds: accuracies of teacher and student, sizes, split, run; with --ablation its rows too.
    """
    from compress.storage import checkpoints

    args = student_flags.with_targets(args)
    student_flags.check(args)
    files.check_writable(args.save_folder)
    path = Path(args.root_folder)
    path = path if path.is_file() else path / "model.h5"
    for folder in (args.save_folder, *(ablation_folder(args, name) for name in ABLATION)):
        files.check_apart(path, folder)
    peek = checkpoints.read_checkpoint(path, weights=False)
    checkpoints.check_fits(peek, args.class_num, dataset=args.dataset)
    records.check_split(path, args.dataset, args.val_split)
    args = student_flags.with_form(args, peek.stem, resnet.blocks_of(peek.widths))
    with files.exclusive(args.save_folder):
        return teach(args, path, peek)


def outputs(args):
    """Paths of all that a run may write."""
    names = ["model.h5", "result.json", "history.json", "history.png",
             *(["ablation.json", "ablation.png", "ablation"] if args.ablation else [])]
    return [*(Path(args.save_folder) / name for name in names), args.tensorboard or ""]


def teach(args, path, peek):
    """`run`, in a folder that is this process' alone, with a teacher from `path`."""
    run_record = records.run_record(vars(args), files.sha256(path))
    if result := resuming.finished(args.save_folder, run_record, configs.RunConfig.of(args), outputs(args)):
        return result
    app.start_keras(args)
    from compress.data import dataset, pixels
    from compress.distillation import student as students
    from compress.storage import checkpoints, classes, recording

    images = dataset.load_data(configs.DataConfig.of(args), peek.input_shape and peek.input_shape[:2],
                            display.track("reading images", args.verbose), needs=("train", "validation"),
                            pixels=pixels.of_models(path))
    display.tell_images(images, args.batch_size, args.verbose)
    records.check_source(path, images.val, args.val_split)
    checkpoints.check_fits(peek, images.class_num, dataset=args.dataset)
    parents = classes.meet(path, images)
    run_record |= {"source": images.train.source, "class_names": classes.of_data(images), "pixels": images.pixels}
    if result := resuming.finished(args.save_folder, run_record, configs.RunConfig.of(args), outputs(args)):
        return result  # on images that lie elsewhere now
    teacher = checkpoints.load_model(path, images.class_num, images.image_shape, *flags.opening(args))
    student = make_student(args, teacher, images)
    teacher_acc = students.judge_teacher(args, path, teacher, images)
    whole = resnet.unpruned_widths(peek.widths)
    base_parameters = resnet.cost_of(whole, images.class_num, images.image_shape, peek.stem)[0]
    if args.resume == "never" or not (Path(args.save_folder) / records.STATE).exists():
        for folder in filter(Path.is_dir, Path(args.save_folder).glob("ablation/*")):
            recording.finish(folder)  # a state of an older run
    goal = student_flags.goal(args, teacher, student)
    shipped.set_aside(args.save_folder, args.verbose)
    student_run = recording.Run(args.save_folder, run_record, student, configs.RunConfig.of(args))
    history = distil(args, teacher, student_run, images, (args.lambda1, args.lambda2, args.lambda3),
                     args.hard_label_weight, "student")
    result = summary(args, history, student, base_parameters, images, args.save_folder, run_record)
    result |= {"teacher_acc": teacher_acc, "parent_sha256": run_record["parent_sha256"],
               "class_names": run_record["class_names"], "parent_class_names": parents,
               "widths": resnet.widths_of(student), "goal": goal}
    written = Path(args.save_folder) / "result.json"
    records.write_json(written, result | ({"finished": False} if args.ablation else {}))
    show(args, teacher, base_parameters, result)
    if args.ablation:
        result["ablation"] = ablation(args, teacher, images, teacher_acc, result, run_record)
        records.write_json(written, result)
    for folder in (*filter(Path.is_dir, Path(args.save_folder).glob("ablation/*")), Path(args.save_folder)):
        recording.finish(folder)  # the student itself last: the run counts as unfinished until then
    display.written(outputs(args), args.verbose)
    return result


def main(argv=None):
    """Command line; returns the exit status."""
    return app.run_main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
