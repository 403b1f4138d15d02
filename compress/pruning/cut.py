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


def budget(config, widths, classes, input_shape, stem):
    """What a config's target_compression or target_macs asks for.

    Args:
        config: a configs.PruneConfig.
        widths: of the base, as `resnet.widths_of` gives them.
        classes: number of logits.
        input_shape: (height, width, 3).
        stem: of `resnet.STEMS`.

    Returns:
        (index into `resnet.cost_of`'s pair, the base's cost, the cost at the end), or None without a target.

    Raises:
        InputError: the inner channels, all at their floor, still cost more.
    """
    if not config.targeted:
        return None
    costs = resnet.cost_of(widths, classes, input_shape, stem)
    if config.target_compression is not None:
        which, name, end = 0, "target_compression", costs[0] / config.target_compression
    else:
        which, name, end = 1, "target_macs", flags.macs_left(config.target_macs, costs[1])
    floors = {group: masks.rounded(0, width, config.round_to) if group.endswith(("_1_conv", "_2_conv")) else width
              for group, width in widths.items()}
    least = resnet.cost_of(floors, classes, input_shape, stem)[which]
    if not least <= end < costs[which]:
        raise InputError(f"`{name}`: received a target of {end:,.0f} {('parameters', 'MACs')[which]}, expected one "
                         f"from {least:,} (a reduction of {costs[which] / least:.2f}x, every inner layer at its floor) "
                         f"to below {costs[which]:,}, the base's")
    display.say(f"`{name}`: {end:,.0f} {('parameters', 'MACs')[which]} shall be left of the base model's "
                f"{costs[which]:,}", config.verbose)
    return which, costs[which], end


def criterion_scores(config, model, images, seed, where):
    """Scores of a model's inner channels by the config's criterion, on validation images.

    Args:
        config: a configs.PruneConfig.
        model: a ResNet of `resnet.build_resnet`.
        images: a dataset.Data.
        seed: of the random criterion.
        where: what the model is, for the message.

    Raises:
        InputError: a score is no finite number.
    """
    looked_at = dataset.sample(images.val, config.apoz_images)
    bar = display.track(f"{config.criterion} scores", config.verbose, "compiling")
    scores = criteria.compute_scores(config.criterion, model, *looked_at, config.batch_size, seed, bar)
    if not all(np.isfinite(values).all() for values in scores.values()):
        raise InputError(f"{where}: the {config.criterion} scores hold NaN or infinity; expected a network with finite "
                         "outputs")
    return scores


def sensitivity_curves(config, model, scores, split, shares, title, where):
    """`allocation.measure_curves` as the config says.

    Args:
        config: a configs.PruneConfig.
        model: a ResNet of `resnet.build_resnet`.
        scores: {layer: (channels,)}, high = idle.
        split: (images, labels) to measure on.
        shares: of a layer's channels to remove; 1 stands for all but the floor.
        title: of what is under way, for the bar.
        where: what the model is, for the message.

    Raises:
        InputError: a loss is no finite number.
    """
    whole, curves = allocation.measure_curves(
        model, scores, *split, shares, config.round_to, batch_size=config.batch_size, precision=config.precision,
        progress=display.track(title, config.verbose, "compiling"))
    if not np.isfinite([whole["loss"], *(loss for curve in curves.values() for loss in curve["loss"])]).all():
        raise InputError(f"{where}: the losses of layers pruned alone hold NaN or infinity; expected a network with "
                         "finite logits")
    return whole, curves


def choose_mask(config, model, images, target, iteration):
    """The mask of one iteration: scores by the criterion, removal by the rule that the config names."""
    title = f"iteration {iteration}"
    scores = criterion_scores(config, model, images, config.seed + iteration, f"`base_model_path`, {title}")
    if target is None:
        return masks.create_mask(scores, config.prune_ratio, config.round_to)
    which, start, end = target
    limit = end if iteration == config.prune_iter else start * (end / start) ** (iteration / config.prune_iter)
    architecture = resnet.architecture_of(model)
    widths, shape = architecture["widths"], (architecture["classes"], architecture["input_shape"], architecture["stem"])

    def cost(left):
        return resnet.cost_of(widths | left, *shape)[which]

    measured = None
    if config.allocation == "sensitivity":
        measured = sensitivity_curves(config, model, scores, dataset.sample(images.val, config.sensitivity_images),
                                      (*allocation.SHARES, 1), f"{title}: sensitivity", f"`base_model_path`, {title}")
    try:
        if measured is None:
            return masks.create_global_mask(scores, lambda left: cost(left) <= limit, config.round_to)
        channels = {name: len(values) for name, values in scores.items()}
        kept = allocation.allocate(measured[0]["loss"], measured[1], channels, cost, limit, config.round_to)
    except ValueError as error:
        raise InputError(f"`round_to`: received {config.round_to}, expected less for this target: {error}") from None
    return {name: masks.least_idle(scores[name], n) for name, n in kept.items()}


def trim_once(config, model, base, images, target, iteration, before):
    """Everything of one iteration before its fine-tune: mask, trim, recalibrate; writes mask.npz and trimmed.h5.

    Args:
        config: a configs.PruneConfig.
        model: what this iteration starts from.
        base: what the first one started from.
        images: a dataset.Data.
        target: from `budget`.
        iteration: from 1.
        before: validation accuracy of `model`, or None where it is not known yet.

    Returns:
        (the trimmed model, dict of this iteration's numbers so far).
    """
    folder, title = Path(config.root_folder) / f"iter{iteration}", f"iteration {iteration}/{config.prune_iter}"

    def accuracy(judge):
        return metrics.evaluate(judge, images.val, config.batch_size,
                                display.track(f"{title}: validation", config.verbose, "compiling"))["acc"]

    row = {"base_acc": accuracy(folded.FoldedResNet(model, config.precision)) if before is None else before}
    mask = choose_mask(config, model, images, target, iteration)
    model = surgery.trim_model(model, mask)
    judge = folded.FoldedResNet(model, config.precision)
    row |= {"sparsity": surgery.compute_sparsity(model, base), "pruned_acc": accuracy(judge)}
    row["recalibrated_acc"] = row["pruned_acc"]
    if config.recalibrate_images:
        bar = display.track(f"{title}: batch-norm", config.verbose, "compiling")
        sample = dataset.sample(images.train, config.recalibrate_images)[0]
        recalibration.recalibrate_bn(model, sample, config.batch_size, bar)
        judge.refold(model)  # the same graph again
        row["recalibrated_acc"] = accuracy(judge)
    folder.mkdir(exist_ok=True)
    with files.replacing(folder / "mask.npz") as temporary:
        np.savez_compressed(temporary, **mask)
    checkpoints.save_model(model, folder / TRIMMED)
    return model, row
