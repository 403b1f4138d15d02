"""How a data set without splits of its own is divided: the same images in every run, each class with its share."""

import numpy as np

from compress.errors import InputError

SPLIT_SEED = 826  # a constant of the suite, not the seed: see dataset.load_data


def divide(config, names, parts, needs):
    """The three splits, as the data set has them or drawn from its training images.

    Args:
        config: a configs.DataConfig.
        names: of the classes.
        parts: (items, labels) of the training, validation and test images; None for what the data set hasn't.
        needs: names of the splits that have to be there.

    Returns:
        The three parts, and a list of lines that a person should read. Where test images alone are needed the others
        may be None.

    Raises:
        InputError: too few images of a class, or fewer asked for by `subset` than one for each class.
    """
    (train, val, test), notes = parts, []
    if train is not None and (val is None or test is None):
        train, val, test = _drawn(config, names, parts, {*needs} == {"test"}, notes)
    if config.subset is not None:
        asked = round(config.subset * config.val_split)
        count = max(asked, 0 if val is None else min(len(np.unique(val[1])), config.subset // 2))
        if count > asked and "validation" in needs:
            notes.append(f"{count} validation images, one for each class: `val_split={config.val_split}` of "
                         f"`subset={config.subset}` would be {asked}")
        train, told = _part(config.subset, train, config.subset - count, "training")
        val, told_too = _part(config.subset, val, count, "validation")
        notes += told * ("train" in needs) + told_too * ("validation" in needs)
    return (train, val, test), notes


def _drawn(config, names, parts, test_alone, notes):
    """`divide`, where images have to be drawn from the training images."""
    train, val, test = parts
    counts, need = np.bincount(train[1], minlength=len(names)), 1 + (val is None) + (test is None)
    classes = np.count_nonzero(counts)
    short = [f"{names[i]} ({counts[i]})" for i in np.flatnonzero((counts > 0) & (counts < need))]
    if short and not test_alone:
        uses = "train on" + (", to validate on" if val is None else "") + (", to test on" if test is None else "")
        raise InputError(f"`dataset`: received {config.dataset}, expected at least {need} training images a class, "
                         f"found fewer for {', '.join(short[:5])}: one each to {uses}; add images, or leave these "
                         "classes out")
    if test is None and short and counts[counts > 0].min() < 2:
        notes.append(f"{config.dataset} has too few images a class to draw test images from: all {len(train[1]):,} are "
                     "test images")
        return None, None, train
    if test is None:
        train, test = _halves(train, max(round(0.2 * len(train[1])), classes))
    if short:
        return None, None, test
    if val is None:
        asked = round(len(train[1]) * config.val_split)
        if asked < classes:
            notes.append(f"{classes} validation images, one for each class: `val_split={config.val_split}` of "
                         f"{len(train[1]):,} would be {asked}")
        train, val = _halves(train, max(asked, classes))
    return train, val, test


def _part(subset, pair, count, name):
    """A stratified (items, labels) of `count`, or all where there are fewer, and a list of lines that say so.

    A larger count adds to what a smaller one takes.
    """
    if pair is None:
        return None, []
    labels = pair[1]
    if count < len(np.unique(labels)):
        raise InputError(f"`subset`: received {subset}, which takes {count} of {len(labels)} {name} images, expected "
                         f"at least {len(np.unique(labels))}, one for each class")
    if count >= len(labels):
        return pair, [f"`subset={subset}` would take {count:,} {name} images, and there are {len(labels):,}: all are "
                      "taken"] * (count > len(labels))
    order, place = np.random.default_rng(SPLIT_SEED).permutation(len(labels)), np.empty(len(labels))
    for label in np.unique(labels):  # scikit-learn's split refuses a class of one image and a rest of few
        mine = order[labels[order] == label]
        place[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
    taken = np.sort(order[np.argsort(place[order], kind="stable")[:count]])
    return tuple(column[taken] for column in pair), []


def _halves(pair, count):
    """Two stratified (items, labels), in their old order: the rest, and `count` taken by SPLIT_SEED."""
    from sklearn.model_selection import train_test_split

    order = np.arange(len(pair[1]))
    sides = train_test_split(order, test_size=count, stratify=pair[1], random_state=SPLIT_SEED)
    return [tuple(column[np.sort(side)] for column in pair) for side in sides]


def mixed(items, labels):
    """A folder's items and labels, which come class by class, in a fixed random order: any run of them has its share
    of the classes, be it a batch of validation images or the first N."""
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    return items[order], labels[order]
