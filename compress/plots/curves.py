"""Training curves: loss, parts of a distillation's loss, accuracy and learning rate over the epochs."""

import dataclasses
import itertools
from typing import TYPE_CHECKING

from compress.errors import InputError
from compress.plots import roles as role_table
from compress.plots.style import GREY, dress, legend_below, new_figure, numbers_of, plain_text, whole_steps
from compress.storage import records

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What a part of a distillation's loss is called in a figure, by its name in a history; each is unweighted. That of the
# hard labels is missing: it is a cross-entropy, and stands among these.
PARTS = {
    "train_backbone": "soft labels (KL x T²)",
    "train_intermediate": "feature maps (MSE)",
    "train_adversarial": "adversarial loss (BCE)",
    "train_discriminator": "the discriminator's own (BCE)",
}
SUM = "weighted sum, which is trained"
DISTILLED = ("train_backbone", "train_intermediate", "train_adversarial")  # parts that only a distillation has
PANELS = ("loss", "distillation", "accuracy", "learning rate")
NAMED = 12  # histories that a legend names
BOLD, THIN = 1.8, 1.1  # lines of validation and of training, in points
STYLES = ("-", (0, (7, 2)), (0, (7, 2, 1.5, 2)), (0, (3, 1.5)))
PALE = {"color": role_table.PALE, "marker": None, "linestyle": "-", "zorder": 1.5}  # of histories that no legend names
FILLS = ("full", "none", "left", "bottom", "right")


@dataclasses.dataclass
class Series:
    """One history as it is drawn: its curves, its role, and the look of its lines."""

    label: str
    curves: dict
    role: str | None
    look: dict

    @property
    def distilled(self):
        """Whether its training loss is a distillation's weighted sum, which no cross-entropy compares with."""
        return self.role in ("student", "assistant") or any(key in self.curves for key in DISTILLED)

    def points(self, key):
        """(epochs, numbers) of a curve, which has None at epochs without a number; ([], []) where it is missing.

        Raises InputError where a number is not finite or out of range.
        """
        if self.curves.get(key) is None:
            return [], []
        known = [(epoch, value) for epoch, value in enumerate(self.curves[key], 1) if value is not None]
        return [epoch for epoch, _ in known], numbers_of({key: [value for _, value in known]}, key, self.label)


def _looks(histories, roles):
    """A list of Series: a role's colour and marker, line styles and fills for those that share it; else a neutral."""
    series, members, strangers = [], {}, itertools.count()
    for label, curves in histories.items():
        role = roles.get(label)
        if role is None:
            index = next(strangers)
            neutral, markers = role_table.NEUTRALS, role_table.NEUTRAL_MARKERS
            look = {"color": neutral[index % len(neutral)], "marker": markers[index % len(markers)], "linestyle": "-"}
        else:
            index = members[role] = members.get(role, -1) + 1
            look = {
                "color": role_table.colour(role),
                "marker": role_table.marker(role),
                "linestyle": STYLES[index % len(STYLES)],
                "fillstyle": FILLS[index % len(FILLS)],
            }
        unnamed = PALE if len(series) >= NAMED else {}
        series.append(Series(label, curves, role, {"markerfacecoloralt": "white"} | look | unnamed))
    return series


def panels_of(histories, roles=None):
    """Names of the panels, of PANELS, that histories have curves for; arguments as of `plot_history`."""
    series = _looks(histories, roles or {})

    def has(*keys):
        return any(key in s.curves for s in series for key in keys)

    found = {
        "loss": has("val_loss") or any(_loss_key(s) in s.curves for s in series),
        "distillation": any(s.distilled and any(key in s.curves for key in ("train_loss", *PARTS)) for s in series),
        "accuracy": has("train_acc", "val_acc"),
        "learning rate": has("learning_rate"),
    }
    return [panel for panel in PANELS if found[panel]]


def plot_history(
    histories: dict[str, dict[str, list[float]]], roles: dict[str, str] | None = None, only: str | None = None
) -> "Figure":
    """Loss, accuracy (%) and, where recorded, learning rate over the epochs, which count from 1.

    A distillation's training loss is a weighted sum of several losses and has a panel of its own; only its part by the
    true labels stands beside the cross-entropy of validation. One history shows its best validation epoch, and each
    loss by its name.

    Args:
        histories: label -> curves as `records.read_history` returns them: any of train_loss, train_acc, val_loss,
            val_acc (accuracies 0 to 1), learning_rate, train_hard_label and the keys of PARTS, each one number an
            epoch, or None where there is none.
        roles: label -> role of `roles.LOOKS`, whose colour and marker the history gets; None for all that have none.
        only: one of `panels_of`, to be drawn alone.

    Returns:
        A figure with one axes a panel. A validation line's label is the history's; a training line's is "_train".

    Raises:
        InputError: no history, no curve to draw, or numbers that are not finite or out of range.
    """
    series = _looks(histories, roles or {})
    panels = [only] if only else panels_of(histories, roles)
    if not panels:
        raise InputError("histories: received no curve, expected train_loss, train_acc, val_loss or val_acc")
    rows = 2 if len(panels) > 3 else 1
    columns = -(-len(panels) // rows)
    figure = new_figure(4.8 if only else max(6.5, 4.6 * columns), 0.4 + 4.2 * rows)
    for axes, panel in zip(figure.subplots(rows, columns, squeeze=False).flat, panels, strict=False):
        DRAW[panel](axes, series)
        _finish(axes, panel)
    if len(series) == 1 and not only:
        figure.suptitle(plain_text(series[0].label), fontsize=12)
    _legend(figure, series, panels)
    return figure


def _draw(axes, series, key, train=False, **look):
    """One line of a history: bold with markers, or thin and pale for what was measured in training."""
    epochs, values = series.points(key)
    if not values:
        return
    few = len(values) <= 30  # then every number gets its marker
    look = series.look | look
    if train:
        axes.plot(
            epochs,
            values,
            **look | {"marker": "." if len(values) == 1 else None, "alpha": 0.55},
            label="_train",
            linewidth=THIN,
        )
        return
    look = {"label": plain_text(series.label), "linewidth": BOLD, "zorder": 3} | look
    axes.plot(
        epochs, values, **look, markersize=5, markeredgewidth=1, markevery=1 if few else (0, max(1, len(values) // 8))
    )


def _loss_key(series):
    """The curve that is a training cross-entropy and so compares with validation's."""
    return "train_hard_label" if series.distilled else "train_loss"


def _draw_loss(axes, series):
    known = all(s.role for s in series)  # what a stranger's loss is, no record says
    dress(axes, "Cross-entropy" if known else "Loss", "epoch", "cross-entropy (nats)" if known else "loss")
    for s in series:
        _draw(axes, s, _loss_key(s), train=True)
        _draw(axes, s, "val_loss")
    if len(series) == 1 and "val_acc" not in series[0].curves and "val_loss" in series[0].curves:
        _mark_best(axes, series[0], "val_loss")


def _draw_distillation(axes, series):
    taught = [s for s in series if s.distilled]
    if len(taught) > 1 or len(series) > 1:
        dress(axes, "Distillation loss in training", "epoch", "each run's weighted sum of losses")
        for s in taught:
            _draw(axes, s, "train_loss")
        return
    dress(axes, "Losses of the distillation in training", "epoch", "loss (parts unweighted)")
    if "train_loss" in taught[0].curves:
        once = len(taught[0].curves["train_loss"]) == 1
        _draw(axes, taught[0], "train_loss", label=SUM, marker="." if once else None)
    for index, (key, name) in enumerate(PARTS.items()):
        _draw(
            axes,
            taught[0],
            key,
            label=name,
            color=role_table.NEUTRALS[index % 4],
            linestyle=STYLES[index % 4],
            marker=role_table.NEUTRAL_MARKERS[index],
            fillstyle="full",
        )


def _draw_accuracy(axes, series):
    dress(axes, "Accuracy", "epoch", "accuracy (%)")
    for s in series:
        _draw(axes, s, "train_acc", train=True)
        _draw(axes, s, "val_acc")
    if len(series) == 1 and "val_acc" in series[0].curves:
        _mark_best(axes, series[0], "val_acc")


def _draw_rate(axes, series):
    dress(axes, "Learning rate", "epoch", "learning rate")
    for s in series:
        _draw(axes, s, "learning_rate")


DRAW = {"loss": _draw_loss, "distillation": _draw_distillation, "accuracy": _draw_accuracy, "learning rate": _draw_rate}


def _finish(axes, panel):
    """The limits of both axes, once all lines are drawn."""
    whole_steps(axes, max(max(line.get_xdata()) for line in axes.lines))
    heights = sorted(v for line in axes.lines for v in line.get_ydata())
    if panel in ("loss", "distillation") and heights[0] > 0 and heights[-1] > 20 * heights[len(heights) // 2]:
        axes.set_yscale("log")  # one outlier, such as a first epoch, would press all other losses flat
        axes.set_ylabel(f"{axes.get_ylabel()}, log scale", fontsize=11)
    elif panel == "learning rate":
        axes.set_ylim(-0.04 * (heights[-1] or 1), 1.08 * (heights[-1] or 1))


def _mark_best(axes, series, key):
    """A ring at the epoch that is kept, else at the best, or at the lowest loss; its value stands above the axes, where
    it covers no curve."""
    epochs, values = series.points(key)
    if key == "val_acc":
        best, kept = records.best_epoch(series.curves), records.checkpoint_epoch(series.curves)
        index = kept if kept is not None and kept + 1 in epochs else best
        word, epoch = "best" if index == best else "kept", index + 1  # --no-save_best_model keeps the last
    else:
        word, epoch = "best", epochs[values.index(min(values))]
    value = values[epochs.index(epoch)]
    axes.plot(
        [epoch],
        [value],
        "o",
        fillstyle="none",
        color=GREY,
        markersize=11,
        markeredgewidth=1.5,
        label="_best",
        zorder=5,
        clip_on=False,
    )
    axes.set_title(
        f"{word} {value:.2f} %, epoch {epoch}" if key == "val_acc" else f"{word} {value:.4g}, epoch {epoch}",
        loc="right",
        fontsize=10,
    )


def _legend(figure, series, panels):
    """Under the panels: each of several histories, what bold and thin lines are, and the parts of a loss."""
    from matplotlib.lines import Line2D

    several, look = len(series) > 1, series[0].look
    shown = [s for s in series if panels != ["distillation"] or s.distilled]
    handles = [
        Line2D([], [], **s.look, linewidth=BOLD, markersize=5, label=plain_text(s.label, 40))
        for s in shown[:NAMED]
        if several
    ]
    if several and len(shown) > NAMED:
        handles.append(Line2D([], [], **PALE, linewidth=BOLD, label=f"and {len(shown) - NAMED} more"))
    own = {"color": GREY} if several else {"color": look["color"], "marker": look["marker"]}
    for name, width, keys in (
        ("validation", BOLD, ("val_loss", "val_acc")),
        ("training", THIN, ("train_acc", "train_loss", "train_hard_label")),
    ):
        if any(key in s.curves for s in series for key in keys) and {"loss", "accuracy"} & {*panels}:
            thin = {"alpha": 0.55, "marker": None} if width == THIN else {}
            handles.append(Line2D([], [], **own | thin, linewidth=width, markersize=5, label=name))
    if not several:
        handles += [line for axes in figure.axes for line in axes.lines if line.get_label() in (SUM, *PARTS.values())]
    legend_below(figure, handles)
