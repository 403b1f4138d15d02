"""One pruning iteration up to its fine-tuning: the budget, the mask of channels, the smaller model."""

from pathlib import Path

import numpy as np

from compress import metrics
from compress.cli import display, flags
from compress.data import dataset
from compress.engine import folding, measuring
from compress.errors import InputError
from compress.pruning import allocation, criteria, masks, removal
from compress.pruning.scope import Scope
from compress.storage import files, saving

TRIMMED = "trimmed.h5"  # in iterK, until its fine-tuning is finished


def scope_of(config, model):
    """The groups of a network that may lose channels, and that the criterion can score.

    Args:
        config: a configs.PruneConfig, or a configs.CriterionConfig.
        model: a keras.Model of logits.

    Returns:
        A scope.Scope.

    Raises:
        InputError: there is none.
    """
    return criteria.scored_by(config.criterion, Scope.of(model, config.scope))


def budget(config, scope):
    """Turns target_compression or target_macs of a config into parameters or MACs.

    Args:
        config: a configs.PruneConfig.
        scope: of the base, from `scope_of`.

    Returns:
        (0 for parameters or 1 for MACs, the base's cost, the cost after the last iteration); None without a target.

    Raises:
        InputError: the target is not below the base's cost, or the network costs more even with the fewest channels
            allowed in every group (`masks.FLOOR`, rounded up to `round_to`); or its MACs are not known.
    """
    if not config.targeted:
        return None
    whole, narrowest = scope.graph.cost(), scope.graph.cost(scope.least(config.round_to))
    if config.target_compression is not None:
        which, name = 0, "target_compression"
        costs, least = whole.parameters, narrowest.parameters
        end = costs / config.target_compression
    else:
        which, name = 1, "target_macs"
        costs, least = whole.macs, narrowest.macs
        if not np.isfinite(costs):
            raise InputError(
                f"`{name}`: received it for {scope.model.name}, which takes images of any size, so that its MACs are "
                "not known; expected `target_compression`, or a model with a size"
            )
        end = flags.macs_left(config.target_macs, costs)
    if not least <= end < costs:
        layers = "inner layer" if config.scope == "inner" else "layer"
        raise InputError(
            f"`{name}`: received a target of {end:,.0f} {('parameters', 'MACs')[which]}, expected one "
            f"from {least:,.0f} (a reduction of {costs / least:.2f}x, every {layers} at its floor) "
            f"to below {costs:,.0f}, the base's"
        )
    display.say(
        f"`{name}`: {end:,.0f} {('parameters', 'MACs')[which]} shall be left of the base model's {costs:,.0f}",
        config.verbose,
    )
    return which, costs, end


def criterion_scores(config, model, images, seed, where):
    """Scores a network's channels by the config's criterion, on validation images.

    Args:
        config: a configs.PruneConfig, or a configs.CriterionConfig.
        model: a scope.Scope, from `scope_of`.
        images: a dataset.Data.
        seed: of the random criterion.
        where: names the model in the message of an error.

    Returns:
        {layer: scores (channels,)}; the highest scores go first.

    Raises:
        InputError: a score is not finite.
    """
    sample = dataset.sample(images.val, config.apoz_images)
    bar = display.track(f"{config.criterion} scores", config.verbose, "compiling")
    scores = criteria.compute_scores(config.criterion, model, *sample, config.batch_size, seed, bar)
    # NaN sorts behind every number: a diverged network would be pruned by chance, and nobody would notice.
    if not all(np.isfinite(values).all() for values in scores.values()):
        raise InputError(
            f"{where}: the {config.criterion} scores hold NaN or infinity; expected a network with finite outputs"
        )
    return scores


def sensitivity_curves(config, model, scores, split, shares, title, where):
    """Measures the loss with one layer pruned at a time, by `allocation.measure_curves`, with the config's settings.

    Args:
        config: a configs.PruneConfig, or a configs.CriterionConfig.
        model: a scope.Scope, from `scope_of`.
        scores: {layer: scores (channels,)}; the highest go first.
        split: (images (N, h, w, 3), labels (N,)) to measure on.
        shares: shares of a layer's channels to remove, 0 to 1; 1 stands for all but the fewest allowed.
        title: of the progress bar.
        where: names the model in the message of an error.

    Returns:
        (metrics of the whole network, {layer: its curve}), as `allocation.measure_curves`.

    Raises:
        InputError: a loss is not finite.
    """
    whole, curves = allocation.measure_curves(
        model, scores, split, shares, config, display.track(title, config.verbose, "compiling")
    )
    if not np.isfinite([whole["loss"], *(loss for curve in curves.values() for loss in curve["loss"])]).all():
        raise InputError(
            f"{where}: the losses of layers pruned alone hold NaN or infinity; expected a network with finite logits"
        )
    return whole, curves


def choose_mask(config, model, images, target, iteration):
    """Chooses the channels that one iteration keeps.

    Args:
        config: a configs.PruneConfig.
        model: a keras.Model of logits, or a Scope from `scope_of`.
        images: a dataset.Data; its validation images are used.
        target: from `budget`.
        iteration: from 1.

    Returns:
        {layer: bool (channels,)}, True for the channels that stay.

    Raises:
        InputError: a score or a loss is not finite, or `round_to` is too coarse for the target.
    """
    title = f"iteration {iteration}"
    scope = model if isinstance(model, Scope) else scope_of(config, model)
    multiple, floor = scope.permitted(config.round_to)
    scores = criterion_scores(config, scope, images, config.seed + iteration, f"`base_model_path`, {title}")
    if target is None:
        return masks.create_mask(scores, config.prune_ratio, multiple, floor)
    # Each of the n iterations reduces the cost by the same factor, the n-th root of the whole reduction. Equal steps in
    # parameters or MACs would remove the largest share in the last iteration. The last limit is the target itself,
    # which the power may miss by rounding.
    which, start, end = target
    limit = end if iteration == config.prune_iter else start * (end / start) ** (iteration / config.prune_iter)

    def fits(left):
        cost = scope.graph.cost(left)
        return (cost.parameters, cost.macs)[which] <= limit

    # 'threshold': one threshold for all layers, on scores that are standardised within each layer. 'sensitivity': each
    # layer loses as many channels as its own measured curve of the loss allows.
    measured = None
    if config.allocation == "sensitivity":
        measured = sensitivity_curves(
            config,
            scope,
            scores,
            dataset.sample(images.val, config.sensitivity_images),
            (*allocation.SHARES, 1),
            f"{title}: sensitivity",
            f"`base_model_path`, {title}",
        )
    try:
        if measured is None:
            return masks.create_global_mask(scores, fits, multiple, floor)
        kept = allocation.allocate(scope, which, measured[0]["loss"], measured[1], limit, config.round_to)
    except ValueError as error:
        raise InputError(f"`round_to`: received {config.round_to}, expected less for this target: {error}") from None
    return {name: masks.least_idle(scores[name], n) for name, n in kept.items()}


def trim_once(config, model, base, images, target, iteration, before):
    """One iteration without its fine-tuning: mask, trim, BN recalibration. Writes iterK/mask.npz and iterK/trimmed.h5.

    Args:
        config: a configs.PruneConfig.
        model: the network at the start of this iteration.
        base: the network at the start of the first iteration.
        images: a dataset.Data.
        target: from `budget`.
        iteration: from 1.
        before: validation accuracy of `model`, 0 to 1; None to measure it.

    Returns:
        (the trimmed model, dict of 'base_acc', validation accuracy before pruning; 'sparsity', of `base`; 'pruned_acc',
        after pruning; 'recalibrated_acc', after BN recalibration; each 0 to 1).
    """
    folder, title = Path(config.root_folder) / f"iter{iteration}", f"iteration {iteration}/{config.prune_iter}"

    def accuracy(evaluator):
        return metrics.evaluate(
            evaluator, images.val, config.batch_size, display.track(f"{title}: validation", config.verbose, "compiling")
        )["acc"]

    row = {"base_acc": accuracy(folding.FoldedModel(model, config.precision)) if before is None else before}
    mask = choose_mask(config, model, images, target, iteration)
    model = removal.trim_model(model, mask)
    evaluator = folding.FoldedModel(model, config.precision)
    row |= {"sparsity": removal.compute_sparsity(model, base), "pruned_acc": accuracy(evaluator)}
    row["recalibrated_acc"] = row["pruned_acc"]
    # Layers behind a removed channel get another input, so the stored means and variances of their batch-normalisations
    # are wrong. Measuring them again costs a forward pass and gives back much of the accuracy before any fine-tuning.
    if config.recalibrate_images:
        bar = display.track(f"{title}: batch-norm", config.verbose, "compiling")
        sample = dataset.sample(images.train, config.recalibrate_images)[0]
        measuring.recalibrate_bn(model, sample, config.batch_size, bar)
        evaluator.refold(model)  # the same shapes: a new FoldedModel would be compiled once more
        row["recalibrated_acc"] = accuracy(evaluator)
    # The caller's record names trimmed.h5 once both files are complete. A run that is killed before then trims again.
    folder.mkdir(exist_ok=True)
    with files.replacing(folder / "mask.npz") as temporary:
        np.savez_compressed(temporary, **mask)
    saving.save_network(model, folder / TRIMMED)
    return model, row
