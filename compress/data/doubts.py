"""Refuses folders that would be taken for classes and may be something else: splits, pieces, variants, masks.

A wrong guess would train on wrong labels, or on test images, without any error. So a doubt is an error here, and its
message says how to lay the folder out so that there is none: whatever lies in a folder `train` are classes.
"""

import collections

from compress.data import label_tables, naming
from compress.data.scanning import entries, holds_images
from compress.errors import InputError


def way_out(root):
    """How to say that folders are classes: the end of a message."""
    return f"if they are classes, put all classes into {root}/train (train/CLASS/...)"


def check_classes(root, folders):
    """Checks that the subfolders of a data set without splits are its classes.

    Args:
        root: the data set's folder.
        folders: its subfolders that hold images, as Path.

    Returns:
        List of notes for the user.

    Raises:
        InputError: they may be something else.
    """
    names = [folder.name for folder in folders]
    if suspects := naming.suspects(names):
        said = " and ".join(dict.fromkeys(suspects.values()))
        raise InputError(
            f"`dataset`: {root} has {listed(suspects)}, whose names say {said}; expected each split once, "
            f"called train, val or test: rename or join them; {way_out(root)}"
        )
    check_names(root, names)
    if table := label_tables.across(root, folders):
        raise InputError(
            f"`dataset`: {root} has {listed(names)}, over which the labels in {table.name} are spread; "
            f"expected a folder for each class; {way_out(root)}"
        )
    levels = {folder: _level(folder) for folder in folders}
    tops, shared = _variants(levels)
    if tops:
        raise InputError(
            f"`dataset`: {root} has {listed(tops)}, which hold folders of the same names "
            f"({listed(shared)}); expected one level of classes: did you mean "
            f"`dataset={levels[tops[0]][0].parent}`? or, {way_out(root)}"
        )
    for folder in folders:
        others = {_key(other): other.name for other in folders if other != folder}
        if len(again := [others[_key(it)] for it in levels[folder] if _key(it) in others]) > 1:
            raise InputError(
                f"`dataset`: {root} has {listed(again)}, and {folder.name} holds folders of these names "
                "once more; expected each class once, or in train, val and test: rename or move "
                f"{folder.name}; {way_out(root)}"
            )
    _check_mixed(folders)
    odd = [name for name in names if naming.hint_of(name) and not naming.split_of(name)]
    return [f"{name} is taken for a class, as the other folders are" for name in odd]


def check_names(root, names):
    """Checks that folders aren't called the pieces of one data set, or images and the masks of these.

    Args:
        root: the folder in which they lie.
        names: of folders that would be taken for classes.

    Raises:
        InputError: they are.
    """
    if copies := naming.copies(names):
        copy, name = next(iter(copies.items()))
        raise InputError(
            f"`dataset`: {root} has {name} and {copy}, which is called a copy of it; expected each class once: remove "
            "it, or move its images; if it is a class of its own, rename it"
        )
    if pieces := naming.pieces(names):
        raise InputError(
            f"`dataset`: {root} has {listed(pieces)}, which are called pieces of one data set; expected a "
            "folder for each class: join them; if they are classes, rename them"
        )
    if masks := naming.masks(names):
        raise InputError(
            f"`dataset`: {root} has {listed(masks)}, which are called images and their masks or labels; "
            "expected a folder of images for each class; if they are classes, rename them"
        )


def notes_within(place, folders):
    """A note where the classes in a split's folder hold the same folders; empty where they don't.

    Args:
        place: the split's folder.
        folders: its subfolders that hold images, as Path.
    """
    tops, shared = _variants({folder: _level(folder) for folder in folders})
    return (
        [
            f"{listed(tops)} in {place} are taken for classes; they hold folders of the same names ({listed(shared)}): "
            "if these are the classes, move them up"
        ]
        if tops
        else []
    )


def could_be_a_split(folder, classes):
    """Whether a folder beside splits may be one of them: it holds two of their classes.

    Args:
        folder: Path.
        classes: names of the classes, as they are spelt.
    """
    return len({_key(below) for below in _level(folder)} & {name.casefold() for name in classes}) > 1


def listed(names, most=4):
    """'a, b and c' of names, or of the names of folders; of many the first ones."""
    names = [getattr(name, "name", name) for name in names]
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _key(folder):
    return naming.composed(folder.name).casefold()


def _level(folder):
    """The subfolders with images at the first level below a folder that has two or more of them; [] without."""
    while len(full := [below for below in entries(folder)[0] if holds_images(below)]) == 1:
        folder = full[0]
    return full


def _variants(levels):
    """(those of the folders that hold two or more subfolders of the same names, these names); two empty lists without.

    Colour and grey copies, years, subjects or folds of one data set hold a folder for each class. The same structure
    also has a data set in which each class is sorted further, as by day.

    Args:
        levels: {folder: its `_level`}.
    """
    counts = collections.Counter(key for level in levels.values() for key in {*map(_key, level)})
    shared = {key for key, count in counts.items() if count > 1 and 2 * count >= len(levels)}
    tops = [folder for folder, level in levels.items() if len(shared & {*map(_key, level)}) > 1]
    if len(tops) < 2:
        return [], []
    return tops, [below.name for below in levels[tops[0]] if _key(below) in shared]


def _check_mixed(folders):
    """Raises InputError where most classes hold images and a split's folder: test images would be trained on."""
    mixed = []
    for folder in folders:
        below, images = entries(folder)
        split = next((it for it in below if naming.split_of(it.name) and holds_images(it)), None)
        if split and (images or len(below) > 1):
            mixed.append((folder.name, split.name))
    if 2 * len(mixed) > len(folders):
        name, split = mixed[0]
        raise InputError(
            f"`dataset`: {folders[0].parent} has {name}, which holds images and a folder {split}, as most "
            "folders do, and they would be mixed; expected "
            f"{split}/{name} and train/{name} rather than {name}/{split}"
        )
