#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK: the TAB key completes flags
"""Prune a ResNet in iterations: score the channels, remove the idle ones for good, fine-tune what is left."""

import argparse
import sys
from pathlib import Path

from compress.cli import app, configs, display, flags, keywords, tables, values
from compress.errors import InputError
from compress.pruning import iterations
from compress.storage import files, records, resuming

EXAMPLE = """example:
  python prune_model.py --prune_iter=15
  python prune_model.py --prune_iter 3 --epoch_num 4 --criterion taylor --target_macs 4x --round_to 8
  python prune_model.py --prune_iter 3 --epoch_num 4 --target_compression 2 --allocation threshold
"""


def build_parser():
    """The flags of this script."""
    parser = flags.Parser(Path(__file__).name, description=__doc__, epilog=EXAMPLE)
    group = parser.add_argument_group("files")
    group.add_argument("--root_folder", type=flags.path, default="./model/pruned_model",
                       help="where iter1, iter2, ... and result.json go (default: %(default)s)")
    group.add_argument("--base_model_path", type=values.model, default="./model/base_model/model.h5",
                       help="model to prune: an .h5 or .keras of this suite or of keras.applications, or a folder "
                            "with model.h5 (default: %(default)s)")
    group = parser.add_argument_group("fine-tuning")
    group.add_argument("--learning_rate", type=flags.real(strict=True), default=0.01,
                       help="highest learning rate of each fine-tune (default: %(default)s)")
    group.add_argument("--save_best_model", action=argparse.BooleanOptionalAction, default=True,
                       help="keep each fine-tune's best validation epoch, else its last (default: on)")
    group = parser.add_argument_group("pruning")
    group.add_argument("--prune_iter", type=flags.whole(1, 1000), default=16, help="iterations (default: %(default)s)")
    flags.add_criterion_flags(group)
    rule = group.add_mutually_exclusive_group()
    rule.add_argument("--prune_ratio", type=flags.real(0, 0.99, strict=True),
                      help="remove this share of every layer's channels in each iteration "
                           "(default: channels above mean + 1 standard deviation of their layer)")
    rule.add_argument("--target_compression", type=flags.real(1, strict=True), metavar="RATE",
                      help="base parameters / parameters left after the last iteration; each iteration goes an equal "
                           "factor of the way")
    rule.add_argument("--target_macs", type=flags.macs, metavar="MACS",
                      help="likewise for MACs left after the last iteration (20M), or the reduction (4x) of the base's")
    group.add_argument("--allocation", choices=["threshold", "sensitivity"],
                       help="how a target is spread over the layers: one threshold over all of them, or the shares "
                            "that the loss of one layer pruned alone, as sensitivity.py measures it, predicts to cost "
                            "least (default: sensitivity)")
    group.add_argument("--sensitivity_images", type=flags.whole(1), default=1000, metavar="N",
                       help="validation images on which that loss is measured (default: %(default)s)")
    group.add_argument("--round_to", type=flags.whole(1, 1024), default=1,
                       help="round the channels left up to a multiple of this; 8 makes a fine-tune up to a tenth "
                            "faster, but where a rule removes fewer than 8 of a layer's channels all stay "
                            "(default: %(default)s)")
    flags.add_recalibrate_flag(group)
    flags.add_training_flags(parser)
    flags.add_data_flags(parser)
    flags.add_machine_flags(parser)
    return parser


def _fine_tune(args, model, images, folder, run_record, title):
    """Trains a trimmed model in place; returns the validation accuracy of what is kept, and the seconds it took."""
    from compress.data import dataset
    from compress.engine import fast
    from compress.storage import recording
    from compress.training import fit, runs
    from compress.training.recipe import Recipe, compile_classifier

    recipe = Recipe.of(args, epochs=args.epoch_num)
    trainer = fast.FastResNet(model, args.precision)
    compile_classifier(trainer, recipe, dataset.steps_per_epoch(len(images.train), recipe.batch_size))
    run = recording.Run(folder, run_record, model, configs.RunConfig.of(args), args.save_best_model)
    history = runs.train(trainer, images, recipe, run, title)
    kept = fit.best_epoch(history) if args.save_best_model else -1
    return history["val_acc"][kept], sum(history["seconds"])


def prune_once(args, model, base, images, target, result):
    """The next iteration: trim, fine-tune, write; one that was trimmed before an interruption is not trimmed again.

    Args:
        args: the flags.
        model: what this iteration starts from.
        base: what the first one started from.
        images: a dataset.Data.
        target: from `cut.budget`.
        result: what result.json holds; this iteration's numbers are added to it, and it is written.

    Returns:
        The fine-tuned model.
    """
    from compress import metrics
    from compress.graph import resnet
    from compress.pruning import cut
    from compress.storage import checkpoints, recording

    done = len(result["final_acc"])
    folder = Path(args.root_folder) / f"iter{done + 1}"
    if "begun" in result:
        model, row = checkpoints.load_model(folder / cut.TRIMMED), result["begun"]["row"]
    else:
        before = result["final_acc"][-1] if done else None
        model, row = cut.trim_once(configs.PruneConfig.of(args), model, base, images, target, done + 1, before)
        result["begun"] = {"row": row, "sha256": files.sha256(folder / cut.TRIMMED)}
        records.write_json(Path(args.root_folder) / "result.json", result)
    title = f"iteration {done + 1}/{args.prune_iter}"
    # the flags of now: a run that goes on may have moved, and its TensorBoard log with it
    given = records.run_record(vars(args))["flags"]
    run_record = result["run"] | {"flags": given, "class_names": result["class_names"]}
    row["final_acc"], row["seconds"] = _fine_tune(args, model, images, folder, run_record, title)
    size = metrics.size_of(model, folder / "model.h5")
    row |= {**size, "compression_rate": base.count_params() / size["parameters"],
            "sha256": files.sha256(folder / "model.h5")}
    for key, value in row.items():
        result.setdefault(key, []).append(value)
    for name, width in resnet.widths_of(model).items():
        result["channels"][name].append(width)
    del result["begun"]
    _write(args, result)
    (folder / cut.TRIMMED).unlink()
    recording.finish(folder)
    return model


def _write(args, result):
    from compress.plots import style

    folder = Path(args.root_folder)
    records.write_json(folder / "result.json", result)
    style.save_figure(style.plot_pruning(result), folder / "pruning.png")
    layers = {name.removesuffix("_conv"): left for name, left in result["channels"].items()
              if name.endswith(("_1_conv", "_2_conv"))}
    style.save_figure(style.plot_channels(layers), folder / "channels.png")


def _table(args, result):
    columns = {"base_acc": ("before", tables.percent), "pruned_acc": ("after pruning", tables.percent),
               "recalibrated_acc": ("after BN recalibration", tables.percent),
               "final_acc": ("after fine-tuning", tables.percent), "sparsity": ("sparsity", tables.percent),
               "parameters": ("parameters", tables.count), "macs": ("MACs", tables.count),
               "bytes": ("file", tables.size), "compression_rate": ("compression rate", tables.ratio)}
    rows = zip(range(1, len(result["final_acc"]) + 1), *(result[key] for key in columns), strict=True)
    display.print_table(f"Pruning by {args.criterion}; accuracy on {result['images']:,} validation images before and "
                        "after each step", [("iteration", tables.text), *columns.values()], list(rows), args.verbose)


@keywords.callable_with(build_parser)
def run(args):
    """Prunes.

    Args:
        args: the namespace of `build_parser`, or its flags as keywords.

    Returns:
        What result.json holds: lists over the iterations, channels per layer, split, run.
    """
    from compress.storage import checkpoints

    targeted = args.target_compression is not None or args.target_macs is not None
    if args.allocation == "sensitivity" and not targeted:
        raise InputError("--allocation: received sensitivity without a budget, expected --target_compression or "
                         "--target_macs beside it")
    if args.allocation is None:  # told in the record, as it was another in earlier versions
        args = argparse.Namespace(**vars(args) | {"allocation": "sensitivity" if targeted else "threshold"})
    files.check_writable(args.root_folder)
    for iteration in range(1, args.prune_iter + 1):
        files.check_apart(args.base_model_path, Path(args.root_folder) / f"iter{iteration}")
    peek = checkpoints.read_checkpoint(args.base_model_path, weights=False)
    checkpoints.check_fits(peek, args.class_num, dataset=args.dataset)
    records.check_split(args.base_model_path, args.dataset, args.val_split)
    with files.exclusive(args.root_folder):
        return prune_all(args, peek)


def outputs(args):
    """Paths of all that a run may write, but for each iteration's smaller files."""
    names = (*(f"iter{i + 1}/model.h5" for i in range(args.prune_iter)), "result.json", "pruning.png", "channels.png")
    return [*(Path(args.root_folder) / name for name in names), args.tensorboard or ""]


def prune_all(args, peek):
    """`run`, in a folder that is this process' alone, for a base of which `peek` tells."""
    run_record, kept = records.run_record(vars(args), files.sha256(args.base_model_path)), configs.RunConfig.of(args)
    if result := resuming.finished(args.root_folder, run_record, kept, outputs(args), iterations.length(args)):
        return result
    result = iterations.start(args, run_record, peek.widths)
    app.start_keras(args)
    from compress.data import dataset, pixels
    from compress.pruning import cut
    from compress.storage import checkpoints, classes, recording
    from compress.training import fit

    images = dataset.load_data(configs.DataConfig.of(args), peek.input_shape and peek.input_shape[:2],
                            display.track("reading images", args.verbose), needs=("train", "validation"),
                            pixels=pixels.of_models(args.base_model_path))
    display.tell_images(images, args.batch_size, args.verbose)
    records.check_source(args.base_model_path, images.val, args.val_split)
    checkpoints.check_fits(peek, images.class_num, dataset=args.dataset)
    parents = classes.meet(args.base_model_path, images)
    run_record |= {"source": images.train.source, "class_names": classes.of_data(images), "pixels": images.pixels}
    if before := resuming.finished(args.root_folder, run_record, kept, outputs(args), iterations.length(args)):
        return before  # on images that lie elsewhere now
    resuming.check_same_run(result["run"], run_record, args.root_folder, length=iterations.length(args))
    base = checkpoints.load_model(args.base_model_path, images.class_num, images.image_shape,
                                  *flags.opening(args))
    fit.check_batch(base, min(args.batch_size, len(images.train)))
    if args.recalibrate_images:
        fit.check_batch(base, args.recalibrate_images, "recalibrate_images")
    target = cut.budget(configs.PruneConfig.of(args), peek.widths, images.class_num, images.image_shape, peek.stem)
    iterations.go_on(args, result, run_record)
    result |= {"finished": False, "images": len(images.val), "train_images": len(images.train),
               "parent_sha256": run_record["parent_sha256"], "parent_class_names": parents,
               "class_names": run_record["class_names"]}
    root, done = Path(args.root_folder), len(result["final_acc"])
    for folder in filter(Path.is_dir, root.glob("iter*")):  # states of finished iterations, or of an older run
        if "begun" not in result or folder.name != f"iter{done + 1}":
            recording.finish(folder)
            (folder / cut.TRIMMED).unlink(missing_ok=True)
    model = base if not done else checkpoints.load_model(root / f"iter{done}" / "model.h5",
                                                         images.class_num, images.image_shape)
    for _ in range(done, args.prune_iter):
        model = prune_once(args, model, base, images, target, result)
    result["finished"] = True  # last: a run that is killed before this has nothing but this to do again
    _write(args, result)
    _table(args, result)
    display.written(outputs(args), args.verbose)
    return result


def main(argv=None):
    """Command line; returns the exit status."""
    return app.run_main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
