"""One pruning iteration up to its fine-tuning: the mask of channels, the smaller model."""

import dataclasses
from pathlib import Path

import numpy as np

from compress import metrics
from compress.cli import display
from compress.data import dataset
from compress.engine import folding, processes, recalibration
from compress.errors import InputError
from compress.graph.network import Graph
from compress.pruning import allocation, criteria, masks, removal
from compress.pruning.budgets import Budget
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


@dataclasses.dataclass(frozen=True)
class Step:
    """Where a run is.

    Attributes:
        budget: a budgets.Budget, or None.
        iteration: from 1.
        halvings: how often the step was halved, with `max_accuracy_drop`.
    """

    budget: Budget | None = None
    iteration: int = 1
    halvings: int = 0


def choose_mask(config, model, images, step):
    """Chooses the channels that one iteration keeps.

    Args:
        config: a configs.PruneConfig.
        model: a keras.Model of logits, or a Scope from `scope_of`.
        images: a dataset.Data; its validation images are used.
        step: a Step.

    Returns:
        {layer: bool (channels,)}, True for the channels that stay.

    Raises:
        InputError: a score or a loss is not finite, or `round_to` is too coarse for the target.
    """
    title, budget = f"iteration {step.iteration}", step.budget
    scope = model if isinstance(model, Scope) else scope_of(config, model)
    multiple, floor = scope.permitted(config.round_to)
    scores = criterion_scores(config, scope, images, config.seed + step.iteration, f"`base_model_path`, {title}")
    if budget is None:
        ratio = config.prune_ratio and config.prune_ratio / 2**step.halvings
        return masks.create_mask(scores, ratio, multiple, floor)
    if config.max_accuracy_drop is None:
        limit = budget.limit(step.iteration, config.prune_iter)
    else:
        limit = budget.next_limit(scope, step.halvings)
    bar = display.track(f"{title}: timing", config.verbose, of="rounds") if budget.latency else iter
    find = _finder(config, scope, scores, images, budget, title)
    try:
        kept = budget.search(scope, find, limit, bar)
    except masks.OutOfReach as error:
        if budget.latency:
            raise InputError(f"`target_latency`: received {limit:.3g} ms, expected more: {error}") from None
        raise InputError(
            f"`round_to`: received {config.round_to}, expected less for a target of {limit:,.0f} {budget.unit}: {error}"
        ) from None
    return {name: masks.least_idle(scores[name], n) for name, n in kept.items()}


def _finder(config, scope, scores, images, budget, title):
    """function(limit) -> {layer: channels kept} within it; as of `choose_mask`."""
    costs, (multiple, floor) = budget.costs(scope), scope.permitted(config.round_to)
    # 'threshold': one threshold for all layers, on scores that are standardised within each layer. 'sensitivity': each
    # layer loses as many channels as its own measured curve of the loss allows.
    if config.allocation == "threshold":

        def fits(left, limit):
            return costs(np.array([[left[name] for name in scope.names]]))[0] <= limit

        def by_threshold(limit):
            found = masks.create_global_mask(scores, lambda left: fits(left, limit), multiple, floor)
            return {name: int(keep.sum()) for name, keep in found.items()}

        return by_threshold
    whole, curves = sensitivity_curves(
        config,
        scope,
        scores,
        dataset.sample(images.val, config.sensitivity_images),
        (*allocation.SHARES, 1),
        f"{title}: sensitivity",
        f"`base_model_path`, {title}",
    )
    return lambda limit: allocation.allocate(scope, costs, whole["loss"], curves, limit, config.round_to)


def _listed(mask):
    """A mask as JSON holds it."""
    return {name: keep.tolist() for name, keep in mask.items()}


def trim_once(config, model, base, images, step, before):
    """One iteration without its fine-tuning: mask, trim, recalibration. Writes iterK/mask.npz and iterK/trimmed.h5.

    Args:
        config: a configs.PruneConfig.
        model: the network at the start of this iteration.
        base: the network at the start of the first iteration.
        images: a dataset.Data.
        step: a Step.
        before: validation accuracy of `model`, 0 to 1; None to measure it.

    Returns:
        (the trimmed model, dict of 'base_acc', validation accuracy before pruning; 'sparsity', of `base`; 'pruned_acc',
        after pruning; 'recalibrated_acc', after recalibration; each 0 to 1).
    """
    folder = Path(config.root_folder) / f"iter{step.iteration}"
    title = f"iteration {step.iteration}/{config.prune_iter}"

    def evaluated(evaluator):
        return metrics.evaluate(
            evaluator, images.val, config.batch_size, display.track(f"{title}: validation", config.verbose, "compiling")
        )

    if before is None:
        found = evaluated(folding.FoldedModel(model, config.precision))
        before = found["acc"]
        helps = "expected a trained base: scores of a network that guesses say nothing"
        display.warn_of_guessing("the base", found["loss"], images.class_num, helps)
    row = {"base_acc": before}
    mask = choose_mask(config, model, images, step)
    mask = {name: np.array(keep) for name, keep in processes.of_main(_listed(mask)).items()}
    graph = Graph(model)
    model = graph.trimmed(mask)
    evaluator = folding.FoldedModel(model, config.precision)
    row |= {"sparsity": removal.compute_sparsity(model, base), "pruned_acc": evaluated(evaluator)["acc"]}
    row["recalibrated_acc"] = row["pruned_acc"]
    # Layers behind a removed channel get another input, so the stored means and variances of their batch-normalisations
    # are wrong. Recalibration costs a forward pass and gives back much of the accuracy before any fine-tuning.
    if config.recalibrate_images:
        bar = display.track(f"{title}: recalibration", config.verbose, "compiling")
        sample = dataset.sample(images.train, config.recalibrate_images)[0]
        recalibration.recalibrate(model, graph, mask, sample, config.batch_size, bar)
        evaluator.refold(model)  # the same shapes: a new FoldedModel would be compiled once more
        row["recalibrated_acc"] = evaluated(evaluator)["acc"]
    if step.budget and step.budget.latency:
        left = {name: group.width for name, group in Graph(model).groups.items()}
        row["latency_ms"] = step.budget.latency.measured(left)
    # The caller's record names trimmed.h5 once both files are complete. A run that is killed before then trims again.
    folder.mkdir(exist_ok=True)
    with files.replacing(folder / "mask.npz") as temporary:
        np.savez_compressed(temporary, **mask)
    saving.save_network(model, folder / TRIMMED)
    return model, row
