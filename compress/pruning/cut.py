"""One pruning iteration before its fine-tune: the budget, which channels go, and the smaller model."""

from pathlib import Path

import numpy as np

from compress import metrics
from compress.cli import display, flags
from compress.data import dataset
from compress.engine import folded, recalibration
from compress.errors import InputError
from compress.graph import resnet, surgery
from compress.pruning import allocation, criteria, masks
from compress.storage import checkpoints, files

TRIMMED = "trimmed.h5"  # in iterK, while its fine-tune is under way


def budget(args, widths, classes, input_shape, stem):
    """What --target_compression or --target_macs asks for.

    Returns:
        (index into `resnet.cost_of`'s pair, the base's cost, the cost at the end), or None without a target.

    Raises:
        InputError: the inner channels, all at their floor, still cost more.
    """
    if args.target_compression is None and args.target_macs is None:
        return None
    costs = resnet.cost_of(widths, classes, input_shape, stem)
    if args.target_compression is not None:
        which, flag, end = 0, "--target_compression", costs[0] / args.target_compression
    else:
        which, flag, end = 1, "--target_macs", flags.macs_left(args.target_macs, costs[1])
    floors = {name: masks.rounded(0, width, args.round_to) if name.endswith(("_1_conv", "_2_conv")) else width
              for name, width in widths.items()}
    least = resnet.cost_of(floors, classes, input_shape, stem)[which]
    if not least <= end < costs[which]:
        raise InputError(f"{flag}: received a target of {end:,.0f} {('parameters', 'MACs')[which]}, expected one from "
                         f"{least:,} (a reduction of {costs[which] / least:.2f}x, every inner layer at its floor) to "
                         f"below {costs[which]:,}, the base's")
    display.say(f"{flag}: {end:,.0f} {('parameters', 'MACs')[which]} shall be left of the base model's "
                f"{costs[which]:,}", args.verbose)
    return which, costs[which], end


def criterion_scores(args, model, images, seed, where):
    """Scores of a model's inner channels by --criterion on --apoz_images validation images.

    Args:
        args: the flags.
        model: a ResNet of `resnet.build_resnet`.
        images: a dataset.Data.
        seed: of the random criterion.
        where: the flag that named the model, for the message.

    Raises:
        InputError: a score is no finite number.
    """
    looked_at = dataset.sample(images.val, args.apoz_images)
    bar = display.track(f"{args.criterion} scores", args.verbose, "compiling")
    scores = criteria.compute_scores(args.criterion, model, *looked_at, args.batch_size, seed, bar)
    if not all(np.isfinite(values).all() for values in scores.values()):
        raise InputError(f"{where}: the {args.criterion} scores hold NaN or infinity; expected a network with finite "
                         "outputs")
    return scores


def sensitivity_curves(args, model, scores, split, shares, title, where):
    """`allocation.measure_curves` as the flags say.

    Args:
        args: the flags.
        model: a ResNet of `resnet.build_resnet`.
        scores: {layer: (channels,)}, high = idle.
        split: (images, labels) to measure on.
        shares: of a layer's channels to remove; 1 stands for all but the floor.
        title: of what is under way, for the bar.
        where: the flag that named the model, for the message.

    Raises:
        InputError: a loss is no finite number.
    """
    whole, curves = allocation.measure_curves(
        model, scores, *split, shares, args.round_to, batch_size=args.batch_size, precision=args.precision,
        progress=display.track(title, args.verbose, "compiling"))
    if not np.isfinite([whole["loss"], *(loss for curve in curves.values() for loss in curve["loss"])]).all():
        raise InputError(f"{where}: the losses of layers pruned alone hold NaN or infinity; expected a network with "
                         "finite logits")
    return whole, curves


def choose_mask(args, model, images, target, iteration):
    """The mask of one iteration: scores by --criterion, removal by the rule that the flags name."""
    title = f"iteration {iteration}"
    scores = criterion_scores(args, model, images, args.seed + iteration, f"--base_model_path, {title}")
    if target is None:
        return masks.create_mask(scores, args.prune_ratio, args.round_to)
    which, start, end = target
    limit = end if iteration == args.prune_iter else start * (end / start) ** (iteration / args.prune_iter)
    architecture = resnet.architecture_of(model)
    widths, shape = architecture["widths"], (architecture["classes"], architecture["input_shape"], architecture["stem"])

    def cost(left):
        return resnet.cost_of(widths | left, *shape)[which]

    measured = None
    if args.allocation == "sensitivity":
        measured = sensitivity_curves(args, model, scores, dataset.sample(images.val, args.sensitivity_images),
                                      (*allocation.SHARES, 1), f"{title}: sensitivity", f"--base_model_path, {title}")
    try:
        if measured is None:
            return masks.create_global_mask(scores, lambda left: cost(left) <= limit, args.round_to)
        channels = {name: len(values) for name, values in scores.items()}
        kept = allocation.allocate(measured[0]["loss"], measured[1], channels, cost, limit, args.round_to)
    except ValueError as error:
        raise InputError(f"--round_to: received {args.round_to}, expected less for this target: {error}") from None
    return {name: masks.least_idle(scores[name], n) for name, n in kept.items()}


def trim_once(args, model, base, images, target, iteration, before):
    """Everything of one iteration before its fine-tune: mask, trim, recalibrate; writes mask.npz and trimmed.h5.

    Args:
        args: the flags.
        model: what this iteration starts from.
        base: what the first one started from.
        images: a dataset.Data.
        target: from `budget`.
        iteration: from 1.
        before: validation accuracy of `model`, or None where it is not known yet.

    Returns:
        (the trimmed model, dict of this iteration's numbers so far).
    """
    folder, title = Path(args.root_folder) / f"iter{iteration}", f"iteration {iteration}/{args.prune_iter}"

    def accuracy(judge):
        return metrics.evaluate(judge, images.val, args.batch_size,
                                display.track(f"{title}: validation", args.verbose, "compiling"))["acc"]

    row = {"base_acc": accuracy(folded.FoldedResNet(model, args.precision)) if before is None else before}
    mask = choose_mask(args, model, images, target, iteration)
    model = surgery.trim_model(model, mask)
    judge = folded.FoldedResNet(model, args.precision)
    row |= {"sparsity": surgery.compute_sparsity(model, base), "pruned_acc": accuracy(judge)}
    row["recalibrated_acc"] = row["pruned_acc"]
    if args.recalibrate_images:
        recalibration.recalibrate_bn(model, dataset.sample(images.train, args.recalibrate_images)[0], args.batch_size,
                             display.track(f"{title}: batch-norm", args.verbose, "compiling"))
        judge.refold(model)  # the same graph again
        row["recalibrated_acc"] = accuracy(judge)
    folder.mkdir(exist_ok=True)
    with files.replacing(folder / "mask.npz") as temporary:
        np.savez_compressed(temporary, **mask)
    checkpoints.save_model(model, folder / TRIMMED)
    return model, row
