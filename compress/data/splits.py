"""Divides a data set into training, validation and test images: the same in every run, stratified by class."""

import numpy as np

from compress.data import lazily
from compress.errors import InputError

SPLIT_SEED = 826  # a constant, independent of the seed of a run; `dataset.load_data` says why


def divide(config, names, parts, needs):
    """The three splits. Those that the data set doesn't define are drawn from its training images.

    Args:
        config: a configs.DataConfig.
        names: of the classes.
        parts: [(items (N,) or (N, H, W, 3), labels (N,)) or None] of the training, validation and test images; items
            are an array or a `lazily.Lazy`, and so are those of the parts that are returned.
        needs: names of the required splits, from `dataset.NAMES`.

    Returns:
        The three parts, and a list of notes for the user. Training and validation part may be None where the test
        images alone are required.

    Raises:
        InputError: a class has too few images, or `subset` is less than one image a class.
    """
    (train, val, test), notes = parts, []
    if train is not None and (val is None or test is None):
        train, val, test = _drawn(config, names, parts, {*needs} == {"test"}, notes)
    # The splits come first, `subset` then takes a part of each. The other order would draw the validation images of a
    # subset from images that a run on the full set trains on.
    if config.subset is not None:
        asked = round(config.subset * config.val_split)
        # One validation image a class at least, or its accuracy would say nothing of that class.
        count = max(asked, 0 if val is None else min(len(np.unique(val[1])), config.subset // 2))
        if count > asked and "validation" in needs:
            notes.append(
                f"{count} validation images, one for each class: `val_split={config.val_split}` of "
                f"`subset={config.subset}` would be {asked}"
            )
        train, of_train = _part(config.subset, train, config.subset - count, "training")
        val, of_val = _part(config.subset, val, count, "validation")
        notes += of_train * ("train" in needs) + of_val * ("validation" in needs)
    return (train, val, test), notes


def _drawn(config, names, parts, test_alone, notes):
    """`divide` where validation or test images have to be drawn from the training images."""
    train, val, test = parts
    # A class needs an image in each split: a class without training images can't be learnt, one without validation
    # images isn't measured. `need` is the number of splits that are filled from the training images. For an evaluation
    # on test images alone nothing is learnt, so all images may serve as test images where a class has too few.
    counts, need = np.bincount(train[1], minlength=len(names)), 1 + (val is None) + (test is None)
    classes = np.count_nonzero(counts)
    short = [f"{names[i]} ({counts[i]})" for i in np.flatnonzero((counts > 0) & (counts < need))]
    if short and not test_alone:
        uses = "train on" + (", to validate on" if val is None else "") + (", to test on" if test is None else "")
        raise InputError(
            f"`dataset`: received {config.dataset}, expected at least {need} training images a class, "
            f"found fewer for {', '.join(short[:5])}: one each to {uses}; add images, or leave these "
            "classes out"
        )
    if test is None and short and counts[counts > 0].min() < 2:
        notes.append(
            f"{config.dataset} has too few images a class to draw test images from: all {len(train[1]):,} are "
            "test images"
        )
        return None, None, train
    # The test images are drawn before the validation images, so that they don't depend on `val_split`.
    if test is None:
        train, test = _held_out(train, max(round(0.2 * len(train[1])), classes))
    if short:
        return None, None, test
    if val is None:
        asked = round(len(train[1]) * config.val_split)
        if asked < classes:
            notes.append(
                f"{classes} validation images, one for each class: `val_split={config.val_split}` of "
                f"{len(train[1]):,} would be {asked}"
            )
        train, val = _held_out(train, max(asked, classes))
    return train, val, test


def _part(subset, pair, count, name):
    """A stratified sample of `count` items as (items, labels), and a list of notes.

    All items are taken, with a note, where there are fewer. A larger sample contains every smaller one.
    """
    if pair is None:
        return None, []
    labels = pair[1]
    if count < len(np.unique(labels)):
        raise InputError(
            f"`subset`: received {subset}, which takes {count} of {len(labels)} {name} images, expected "
            f"at least {len(np.unique(labels))}, one for each class"
        )
    if count >= len(labels):
        return pair, [
            f"`subset={subset}` would take {count:,} {name} images, and there are {len(labels):,}: all are taken"
        ] * (count > len(labels))
    # Systematic sampling: the n items of a class, in random order, get the places 0.5/n, 1.5/n, ... between 0 and 1,
    # and the sample is the `count` items of the lowest places. So it has each class in proportion, up to rounding.
    # scikit-learn's train_test_split refuses a class of one image, and a rest of fewer images than classes.
    order, place = np.random.default_rng(SPLIT_SEED).permutation(len(labels)), np.empty(len(labels))
    for label in np.unique(labels):
        mine = order[labels[order] == label]
        place[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
    taken = np.sort(order[np.argsort(place[order], kind="stable")[:count]])
    return tuple(lazily.taken(column, taken) for column in pair), []


def _held_out(pair, count):
    """[the remaining (items, labels), a stratified sample of `count`], both in their original order."""
    from sklearn.model_selection import train_test_split

    order = np.arange(len(pair[1]))
    sides = train_test_split(order, test_size=count, stratify=pair[1], random_state=SPLIT_SEED)
    return [tuple(lazily.taken(column, np.sort(side)) for column in pair) for side in sides]


def shuffled(items, labels):
    """Items and labels in a random order that is the same in every run.

    Args:
        items: (N,), such as the paths of a folder's images, class by class.
        labels: (N,).

    Returns:
        (items (N,), labels (N,)).
    """
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    return items[order], labels[order]
