"""The cards on top of a report: the best model of each kind, chosen by one rule among runs on the same images."""

import math

from compress.cli import display
from compress.cli import tables as display_tables
from compress.plots import roles
from compress.report import tables

MADE = ("base", "pruned", "student")


def chosen(tree):
    """The models that have a card, and the rule that chose them.

    Of each role the run whose last model is the most accurate on validation images, of equals the one with the fewest
    parameters. Accuracies on other images can't be compared: of several sets of images, the one that most runs were
    measured on counts, of equals the larger one. The student that came with the suite is none of the user's.

    Args:
        tree: a tree.Tree.

    Returns:
        (list of tree.Point in the order of roles, the rule as a sentence, or '' where there was nothing to choose).
    """
    alike = {}
    for run in tree.of_kind(*MADE):
        if not run.shipped:
            alike.setdefault(run.points[-1].group, []).append(run.points[-1])
    if not alike:
        return [], ""
    ends = max(alike.values(), key=lambda points: (len(points), points[0].images or 0))
    by_role = {role: [point for point in ends if point.role == role] for role in roles.LOOKS}
    best = [max(points, key=_merit) for points in by_role.values() if points]
    if len(best) == sum(map(len, alike.values())):
        return best, ""
    rule = (
        f"Of each kind, the run whose last model is the most accurate on {ends[0].group}; of equals the one with the "
        "fewest parameters."
    )
    if others := sum(map(len, alike.values())) - len(ends):
        are = "is" if others == 1 else "are"
        rule += f" {display_tables.counted(others, 'run')} on other images {are} not compared here."
    return best, rule


def _merit(point):
    """What the best of several models has most of."""
    return point.acc, -(point.sizes.get("parameters") or math.inf)


def cards(tree):
    """The cards of a page.

    The accuracies shown are of one split for all cards: of the test images where all were evaluated on the same ones,
    else of the validation images that chose.

    Args:
        tree: a tree.Tree.

    Returns:
        (list of {'what', 'role', 'name', 'acc', 'split': texts, 'notes': list of texts}, the rule of `chosen`).
    """
    points, rule = chosen(tree)
    tested = {}
    for point in (p for run in tree.of_kind("evaluation") for p in run.points if p.split == "test" and p.sha256):
        tested.setdefault(point.group, {})[point.sha256] = point
    whole = next((seen for seen in tested.values() if all(point.sha256 in seen for point in points)), {})
    found = []
    for point in points:
        shown, rate, size = (
            whole.get(point.sha256, point),
            point.sizes.get("compression_rate"),
            point.sizes.get("parameters"),
        )
        notes = [
            shown.group,
            *([f"{tables.count(size)} parameters"] if size else []),
            *([f"compression rate {tables.times(rate)}"] if rate else []),
        ]
        found.append(
            {
                "what": point.what,
                "role": point.role,
                "name": point.name,
                "acc": display.percent(shown.acc),
                "split": f"{shown.split} accuracy",
                "notes": notes,
            }
        )
    return found, rule
