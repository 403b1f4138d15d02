#!/usr/bin/env python3
"""Prune a ResNet in iterations: score the channels, remove the idle ones for good, fine-tune what is left."""

import argparse
import sys
from pathlib import Path

import display
import flags
import records
from errors import InputError

EXAMPLE = """example:
  python prune_model.py --prune_iter=15
  python prune_model.py --prune_iter 3 --epoch_num 4 --criterion taylor --target_macs 4x --round_to 16
"""


def build_parser():
    """The flags of this script."""
    parser = flags.Parser(Path(__file__).name, description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--root_folder", default="./model/pruned_model",
                        help="where iter1, iter2, ... and result.json go (default: %(default)s)")
    parser.add_argument("--base_model_path", default="./model/base_model/model.h5",
                        help="model to prune: an .h5 of this suite or of keras.applications (default: %(default)s)")
    parser.add_argument("--learning_rate", type=flags.real(strict=True), default=0.01,
                        help="highest learning rate of each fine-tune (default: %(default)s)")
    parser.add_argument("--save_best_model", action=argparse.BooleanOptionalAction, default=True,
                        help="keep each fine-tune's best validation epoch, else its last (default: on)")
    group = parser.add_argument_group("pruning")
    group.add_argument("--prune_iter", type=flags.whole(1, 1000), default=16, help="iterations (default: %(default)s)")
    group.add_argument("--criterion", choices=flags.CRITERIA, default="apoz",
                       help="what makes a channel idle (default: %(default)s)")
    rule = group.add_mutually_exclusive_group()
    rule.add_argument("--prune_ratio", type=flags.real(0, 0.99, strict=True),
                      help="remove this share of every layer's channels in each iteration "
                           "(default: channels above mean + 1 standard deviation of their layer)")
    rule.add_argument("--target_compression", type=flags.real(1, strict=True), metavar="RATE",
                      help="base parameters / parameters left after the last iteration, by one threshold over all "
                           "layers; each iteration goes an equal factor of the way")
    rule.add_argument("--target_macs", type=flags.macs, metavar="MACS",
                      help="likewise for MACs: left after the last iteration (20M), or the reduction (4x)")
    group.add_argument("--round_to", type=flags.whole(1, 1024), default=1,
                       help="round the channels left up to a multiple of this; 8 makes a fine-tune up to a tenth "
                            "faster, but where a rule removes fewer than 8 of a layer's channels all stay "
                            "(default: %(default)s)")
    group.add_argument("--apoz_images", type=flags.whole(1), metavar="N",
                       help="validation images that the criterion looks at (default: all)")
    flags.add_recalibrate_flag(group)
    flags.add_training_flags(parser)
    flags.add_data_flags(parser)
    flags.add_machine_flags(parser)
    return parser


def budget(args, widths, classes, input_shape, stem):
    """What --target_compression or --target_macs asks for.

    Returns:
        (index into `model.cost_of`'s pair, the base's cost, the cost at the end), or None without a target.

    Raises:
        InputError: the inner channels, all at their floor, still cost more.
    """
    import model as resnet
    import prune

    if args.target_compression is None and args.target_macs is None:
        return None
    costs = resnet.cost_of(widths, classes, input_shape, stem)
    if args.target_compression is not None:
        which, flag, end = 0, "--target_compression", costs[0] / args.target_compression
    else:
        number, is_ratio = args.target_macs
        which, flag, end = 1, "--target_macs", costs[1] / number if is_ratio else number
    floors = {name: prune.rounded(0, width, args.round_to) if name.endswith(("_1_conv", "_2_conv")) else width
              for name, width in widths.items()}
    least = resnet.cost_of(floors, classes, input_shape, stem)[which]
    if not least <= end < costs[which]:
        raise InputError(f"{flag}: received a target of {end:,.0f} {('parameters', 'MACs')[which]}, expected one from "
                         f"{least:,} (a reduction of {costs[which] / least:.2f}x, every inner layer at its floor) to "
                         f"below {costs[which]:,}, the base's")
    return which, costs[which], end


def choose_mask(args, model, images, target, iteration):
    """The mask of one iteration: scores by --criterion, removal by the rule that the flags name."""
    import data
    import model as resnet
    import prune

    scores = prune.compute_scores(args.criterion, model, *data.sample(images.val, args.apoz_images), args.batch_size,
                                  args.seed + iteration, display.track(f"{args.criterion} scores", args.verbose))
    if target is None:
        return prune.create_mask(scores, args.prune_ratio, args.round_to)
    which, start, end = target
    limit = end if iteration == args.prune_iter else start * (end / start) ** (iteration / args.prune_iter)
    architecture = resnet.architecture_of(model)
    widths, shape = architecture["widths"], (architecture["classes"], architecture["input_shape"], architecture["stem"])
    try:
        return prune.create_global_mask(scores, lambda left: resnet.cost_of(widths | left, *shape)[which] <= limit,
                                        args.round_to)
    except ValueError as error:
        raise InputError(f"--round_to: received {args.round_to}, expected less for this target: {error}") from None


def _fine_tune(args, model, images, folder, run_record, title):
    """Trains a trimmed model in place; returns the validation accuracy of what is kept."""
    import data
    import fast
    import training

    recipe = training.Recipe.from_flags(args, args.learning_rate)
    trainer = fast.FastResNet(model, args.precision)
    training.compile_classifier(trainer, recipe, data.steps_per_epoch(len(images.train), recipe.batch_size))
    history = training.fit(trainer, model, images, recipe, folder, run_record, title, args.save_best_model)
    return history["val_acc"][training.best_epoch(history) if args.save_best_model else -1]


def prune_once(args, model, base, images, target, iteration, run_record, before):
    """One iteration: mask, trim, recalibrate, fine-tune, write.

    Args:
        args: the flags.
        model: what this iteration starts from.
        base: what the first one started from.
        images: a data.Data.
        target: from `budget`.
        iteration: from 1.
        run_record: from `records.run_record`.
        before: validation accuracy of `model`, or None where it is not known yet.

    Returns:
        (the fine-tuned model, dict of this iteration's numbers).
    """
    import numpy as np

    import data
    import folded
    import metrics
    import prune

    folder, title = Path(args.root_folder) / f"iter{iteration}", f"iteration {iteration}/{args.prune_iter}"

    def accuracy(judge):
        return metrics.evaluate(judge, images.val, args.batch_size,
                                display.track(f"{title}: validation", args.verbose))["acc"]

    row = {"base_acc": accuracy(folded.FoldedResNet(model, args.precision)) if before is None else before}
    mask = choose_mask(args, model, images, target, iteration)
    model = prune.trim_model(model, mask)
    judge = folded.FoldedResNet(model, args.precision)
    row |= {"sparsity": prune.compute_sparsity(model, base), "pruned_acc": accuracy(judge)}
    row["recalibrated_acc"] = row["pruned_acc"]
    if args.recalibrate_images:
        prune.recalibrate_bn(model, data.sample(images.train, args.recalibrate_images)[0], args.batch_size,
                             display.track(f"{title}: batch-norm", args.verbose))
        judge.refold(model)  # the same graph again
        row["recalibrated_acc"] = accuracy(judge)
    with records.replacing(folder / "mask.npz") as temporary:
        np.savez_compressed(temporary, **mask)
    final = _fine_tune(args, model, images, folder, run_record, title)
    size = metrics.size_of(model, folder / "model.h5")
    row |= {"final_acc": final, **size, "compression_rate": base.count_params() / size["parameters"],
            "sha256": records.sha256(folder / "model.h5")}
    return model, row


def _start(args, run_record):
    """result.json of an unfinished run with the same flags, or a new one."""
    path = Path(args.root_folder) / "result.json"
    if args.resume == "auto" and path.is_file():
        result = records.read_json(path, "--root_folder")
        done = result.get("final_acc")
        if isinstance(done, list) and result.get("finished") is False:
            records.check_same_run(result.get("run", {}), run_record, args.root_folder)
            return result
    return {"finished": False, "split": "validation", "run": run_record}


def _write(args, result):
    import plots

    folder = Path(args.root_folder)
    records.write_json(folder / "result.json", result)
    plots.save_figure(plots.plot_pruning(result), folder / "pruning.png")
    layers = {name.removesuffix("_conv"): left for name, left in result["channels"].items()
              if name.endswith(("_1_conv", "_2_conv"))}
    plots.save_figure(plots.plot_channels(layers), folder / "channels.png")


def _table(args, result):
    rows = [[f"iter{i + 1}", *[display.percent(result[key][i]) for key in
                               ("base_acc", "pruned_acc", "recalibrated_acc", "final_acc", "sparsity")],
             display.millions(result["parameters"][i]), display.millions(result["macs"][i]),
             f"{result['bytes'][i] / 1e6:.1f} MB", f"{result['compression_rate'][i]:.2f}x"]
            for i in range(len(result["final_acc"]))]
    display.print_table(f"Pruning by {args.criterion}; accuracies on {result['images']} validation images",
                        ["", "before", "pruned", "batch-norm anew", "fine-tuned", "sparsity", "parameters", "MACs",
                         "file", "compression rate"], rows, args.verbose)


def run(args):
    """Prunes.

    Args:
        args: the namespace of `build_parser`.

    Returns:
        What result.json holds: lists over the iterations, channels per layer, split, run.
    """
    import checkpoints

    records.check_writable(args.root_folder, "--root_folder")
    peek = checkpoints.read_checkpoint(args.base_model_path, "--base_model_path", weights=False)
    checkpoints.check_fits(peek, "--base_model_path", args.class_num)
    run_record = records.run_record(args, records.sha256(args.base_model_path))
    result = _start(args, run_record)
    flags.start_keras(args)
    import data
    import model as resnet
    import training

    images = data.load_data(args, peek.input_shape and peek.input_shape[:2],
                            display.track("reading images", args.verbose))
    display.say(images.description, args.verbose)
    base = checkpoints.load_model(args.base_model_path, "--base_model_path", images.class_num, images.image_shape)
    shape = (images.class_num, images.image_shape, peek.stem)
    target = budget(args, peek.widths, *shape)
    result |= {"images": len(images.val), "train_images": len(images.train),
               "parent_sha256": run_record["parent_sha256"]}
    result.setdefault("channels", {name: [width] for name, width in peek.widths.items()})
    done = len(result.get("final_acc", []))
    model = base if not done else checkpoints.load_model(Path(args.root_folder) / f"iter{done}" / "model.h5",
                                                         "--root_folder", images.class_num, images.image_shape)
    for iteration in range(done + 1, args.prune_iter + 1):
        before = result.get("final_acc", [None])[-1]
        model, row = prune_once(args, model, base, images, target, iteration, run_record, before)
        for key, value in row.items():
            result.setdefault(key, []).append(value)
        for name, width in resnet.widths_of(model).items():
            result["channels"][name].append(width)
        result["finished"] = iteration == args.prune_iter
        _write(args, result)
        training.finish(Path(args.root_folder) / f"iter{iteration}")
    _table(args, result)
    return result


def main(argv=None):
    """Command line; returns the exit status."""
    return flags.run_main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
