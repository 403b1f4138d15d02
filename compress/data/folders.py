"""Finds classes and splits in a folder of images, however the splits are spelt, and reports what is left out.

Follows no links to folders.
"""

import collections
import concurrent.futures
import contextlib
import hashlib
import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from compress.cli import tables
from compress.cli.values import STOCK, no_data_set
from compress.data import doubts, duplicates, label_tables, named_files
from compress.data.decoding import SUFFIXES
from compress.data.naming import SPLITS, UNLABELLED, composed, hint_of, masks, split_of, suspects, words
from compress.data.scanning import Skipped, entries, holds_images, shape
from compress.errors import InputError, quoted

MOST_SAMPLED = 100_000  # files of a folder whose bytes enter its checksum; of twice as many, every second
BLOCK, BLOCKS = 1024, 64  # bytes of a block, and blocks of a file, in its checksum
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")


@dataclass
class Listing:
    """The images of a folder.

    Attributes:
        class_names: sorted names of the classes; label i is class_names[i].
        splits: {'train', 'validation' or 'test': (paths (N,) of str, labels int64 (N,))} of the splits that exist.
        unlabelled: {split: its folder} where that has images but no class folders.
        places: {split: its folder} where that has class folders.
        notes: lines for the user.
    """

    class_names: tuple
    splits: dict
    unlabelled: dict
    places: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)


def list_folder(name):
    """Lists a data set's folder, which has a subfolder for each class, or one for each split with such subfolders.

    Args:
        name: path of the folder.

    Returns:
        A Listing; its paths are sorted within each class.

    Raises:
        InputError: there is no such folder, there are fewer than two classes, a class has no images, a split has other
            classes than the training images, a link leads out of the folder, or it is ambiguous which folders are
            splits and which are classes.
    """
    try:
        return _listed(name)
    except InputError as error:
        if os.path.isdir(name) and (line := named_files.refusal(name)):
            raise InputError(line) from None
        place = name if os.path.isdir(name) else os.path.dirname(name) or "."
        hint = label_tables.hint(place) if os.path.isdir(place) and (place == name or name.endswith(".csv")) else None
        raise (InputError(f"{error}; {hint}") if hint else error) from None


def _listed(name):
    """`list_folder`, without its hint about tables of labels."""
    if not name or not os.path.isdir(name):
        raise InputError(f"`dataset`: received {name!r}{_what_it_is(name)}")
    root, skipped = Path(name), Skipped(name)
    tops, _ = entries(root)
    shapes = {folder: shape(folder) for folder in tops}
    # named: folders with images whose names are a split's. An empty 'val' beside full classes is neither a split nor a
    # class, and is only noted.
    all_named = [folder for folder in tops if split_of(folder.name)]
    named, notes = [folder for folder in all_named if shapes[folder]], []
    others = [folder for folder in tops if folder not in all_named and shapes[folder]]
    if not named or _is_a_class(root, named, others, shapes, notes):
        empty = [folder for folder in all_named if not shapes[folder]]
        names, pair = _scanned(root, skipped, without=empty)
        notes += doubts.check_classes(root, [folder for folder in tops if shapes[folder]])
        listing = Listing(names, {"train": pair}, {}, {"train": root}, notes)
    else:
        listing = _splits(root, named, others, shapes, skipped)
    listing.notes += [f"{folder.name} holds no images" for folder in all_named if not shapes[folder]]
    # Labels are numbered by the sorted names, and '10' sorts before '2': label 2 would be class '10'.
    if counted_as_text(listing.class_names):
        shown = ", ".join(listing.class_names[:5]) + ", ..." * (len(listing.class_names) > 5)
        listing.notes.append(
            f"class folders that are numbers count in the order of text: {shown}; a model trained on "
            "whole numbers as labels may count otherwise"
        )
    listing.notes += filter(None, [skipped.line()])
    return listing


def _what_it_is(name):
    """The end of the error about a `dataset` that isn't a folder."""
    if os.path.isfile(name):
        folder, archive = quoted(name.rsplit(".tar", 1)[0].rsplit(".", 1)[0]), quoted(name)
        if name.lower().endswith(ARCHIVES):
            how = (
                f"unzip {archive} -d {folder}"
                if name.lower().endswith(".zip")
                else (f"mkdir {folder} && tar -xf {archive} -C {folder}")
            )
            return f", which is an archive, expected the folder in it: {how}"
        return (
            f", which is a file, expected {', '.join(STOCK)} or a folder that exists: one with a subfolder of "
            "images for each class"
        )
    return no_data_set(name)


def _is_a_class(root, named, others, shapes, notes):
    """Whether folders that are named after splits are classes instead.

    'train' may hold training images or pictures of trains. A wrong guess would train on the wrong labels without any
    error, so a folder is accepted only where its structure decides, and refused otherwise.

    Args:
        root: the data set's folder.
        named: its subfolders with images that are named after a split.
        others: its other subfolders with images.
        shapes: {folder: 'flat' or 'nested'}, of `scanning.shape`.
        notes: list to which notes for the user are added.

    Raises:
        InputError: two folders are the same split, a split has no class folders, or it is ambiguous.
    """
    listed = ", ".join(folder.name for folder in named)
    if twice := [split for split, n in collections.Counter(split_of(f.name) for f in named).items() if n > 1]:
        several = " and ".join(folder.name for folder in named if split_of(folder.name) == twice[0])
        raise InputError(
            f"`dataset`: {root} has {several}, which both say {twice[0]}; expected one folder for each of "
            "train, val and test: rename or move the other"
        )
    nested = [folder for folder in named if shapes[folder] != "flat"]
    if not nested and not others:
        raise InputError(
            f"`dataset`: received {root} whose {listed} holds images itself, such as "
            f"{entries(named[0])[1][0].name}, expected each in the subfolder of its class "
            f"({named[0].name}/CLASS/...); a class of such a name has to be renamed"
        )
    plain = [folder for folder in others if not UNLABELLED & {*words(folder.name)}]
    if nested and (len(nested) > 1 or not plain):
        return False
    # CIFAR-100, VOC and COCO have a class 'train' among many others.
    if (
        not nested
        and len(named) == 1
        and named[0].name == "train"
        and len(plain) > 1
        and (not any(hint_of(folder.name) for folder in plain))
    ):
        notes.append(
            f"train is taken for a class, as {len(plain)} other folders are; if it holds the training images, "
            "move the classes into it"
        )
        return True
    raise InputError(
        f"`dataset`: {root} has {listed} beside {', '.join(f.name for f in plain[:3])}, which leaves open "
        "what is a split and what a class; expected train, val and test alone, each with the classes in "
        f"it: move or rename the others; {doubts.way_out(root)}"
    )


def _splits(root, named, others, shapes, skipped):
    """The Listing of a data set with a folder for each split; the arguments are those of `_is_a_class`."""
    listing, first = Listing((), {}, {}), None
    # The training images come first: their classes number the labels of the other splits.
    for folder in sorted(named, key=lambda folder: tuple(SPLITS).index(split_of(folder.name))):
        split, place = split_of(folder.name), _doubled(folder)
        stray = entries(place)[1]
        if split == "train" and stray:
            raise InputError(
                f"`dataset`: received {root} whose {place.relative_to(root)} holds images itself, such as "
                f"{stray[0].name}, expected each in the subfolder of its class"
            )
        # Test images of contests come without labels, as test/*.jpg or test/images/*.jpg: a single folder whose name
        # is no class isn't one. Such a split can't be evaluated.
        below = [] if shape(place) == "flat" else [f for f in entries(place)[0] if holds_images(f)]
        if split != "train" and (
            not below
            or (len(below) == 1 and listing.class_names and (composed(below[0].name) not in listing.class_names))
        ):
            listing.unlabelled[split] = place
            continue
        names, listing.splits[split] = _scanned(place, skipped, known=listing.class_names)
        doubts.check_names(place, names)
        listing.notes += doubts.notes_within(place, below) if split == "train" else []
        listing.places[split] = folder
        # Validation and test may lack classes; accuracy is then an average over the others only.
        lacking = [name for name in listing.class_names if name not in names]
        if lacking:
            listing.notes.append(
                f"{place.relative_to(root)} has no images of {len(lacking)} of "
                f"{len(listing.class_names)} classes ({_quoted(lacking)}): {split} accuracy says "
                "nothing of these"
            )
        listing.class_names, first = listing.class_names or names, first or place
    _check_others(root, named, others, listing, first, shapes, skipped)
    listing.notes += [
        f"{folder.relative_to(root)} has images but no class folders: it is left out, and "
        f"{split} images are drawn from the training images"
        for split, folder in listing.unlabelled.items()
    ]
    return listing


def _check_others(root, named, others, listing, first, shapes, skipped):
    """Notes the folders beside the splits as skipped; refuses one that may be a class or a split.

    `first` is the folder whose classes number the labels; the other arguments are those of `_splits`.
    """
    for folder in others:
        if folder.name in listing.class_names:
            raise InputError(
                f"`dataset`: {root} has {folder.name} both beside and below {first.relative_to(root)}; "
                "expected the classes below it alone"
            )
        # A validation set beside Training and Test, in whatever language, isn't left out without being asked for.
        missing = SPLITS.keys() - listing.places.keys() - listing.unlabelled.keys()
        if (
            missing
            and not UNLABELLED & {*words(folder.name)}
            and (
                (hint_of(folder.name) in missing and shapes[folder] == "nested")
                or doubts.could_be_a_split(folder, listing.class_names)
            )
        ):
            raise InputError(
                f"`dataset`: {root} has {folder.name} beside {doubts.listed(named)}, which may be another "
                "split; expected train, val and test: rename it, or move it elsewhere"
            )
        skipped.add("folder beside the splits", folder)


def check_has(listing, root, needs):
    """Checks that a folder has the required splits.

    Args:
        listing: of `list_folder`.
        root: the folder.
        needs: some of 'train', 'validation', 'test'; the latter two can be drawn from the first.

    Raises:
        InputError: a required split is missing and can't be drawn, or the only one has no class folders.
    """
    if len(needs) == 1 and (flat := listing.unlabelled.get(needs[0])):
        raise InputError(
            f"`dataset`: {flat} has images but no class folders, so that no accuracy can be measured on "
            f"it; expected {flat.name}/CLASS/..."
        )
    if "train" not in listing.splits and (missing := [split for split in needs if split not in listing.splits]):
        there = ", ".join(sorted(place.name for place in listing.places.values()))
        raise InputError(
            f"`dataset`: received {root} with {there} alone, expected a folder train beside it, with the "
            f"same classes, for its {missing[0]} images (links are not followed)"
        )


def _doubled(folder):
    """The innermost of nested folders of one name, such as train/train, which unpacking an archive leaves."""
    while True:
        folders, images = entries(folder)
        if images or len(folders) != 1 or words(folders[0].name) != words(folder.name):
            return folder
        folder = folders[0]


def _scanned(root, skipped, without=(), known=()):
    """The classes below a folder and all their images.

    A link to a file outside the data set's folder is refused. Otherwise a folder from a stranger could make other files
    of this machine part of a data set.

    Args:
        root: its subfolders are the classes, sorted by their names in Unicode's composed form.
        skipped: a Skipped, which counts the files that are left out.
        without: subfolders that are left out.
        known: names of the training images' classes, which number the labels; () to number by the subfolders here. A
            subset of the known classes is accepted.

    Returns:
        (names of the classes that have images, (paths (N,) of str, labels int64 (N,))).

    Raises:
        InputError: fewer than two classes, a class without images, unknown classes, two names that differ only by how
            their letters are composed, or a link out of the data set.
    """
    folders, stray = entries(root, skipped)
    if folders and stray:
        skipped.add("image beside the class folders", stray[0], len(stray))
    folders = sorted((f for f in folders if f not in without), key=lambda folder: composed(folder.name))
    names, paths, labels = [composed(folder.name) for folder in folders], [], []
    if twice := [name for name, after in itertools.pairwise(names) if name == after]:
        raise InputError(
            f"`dataset`: {root} has two folders {twice[0]!r}, one with composed letters and one with "
            "decomposed ones; expected one"
        )
    if known and (
        odd := [name for name, f in zip(names, folders, strict=True) if name not in known and holds_images(f)]
    ):
        raise InputError(
            f"`dataset`: received {skipped.root}, expected the same classes in {root} as among the "
            f"training images, or fewer; it has {_quoted(odd)} besides{_alike(odd[0], known)}"
        )
    # A split may lack classes of the training images, so its labels are numbered by their names, not by its own order.
    whole, number = skipped.root.resolve(), {name: label for label, name in enumerate(known or names)}
    for name, folder in zip(names, folders, strict=True):
        files = _below(folder, skipped) if known or len(folders) > 1 else []  # a single class is refused below
        for path in files:
            if path.is_symlink() and not path.resolve().is_relative_to(whole):
                raise InputError(f"`dataset`: {path} is a link to {path.resolve()}, expected a file in {whole}")
        paths += sorted(map(str, files))
        labels += [number[name]] * len(files) if files else []
    full = tuple(name for name in names if number.get(name) in {*labels})
    # An empty folder among the training classes may be a download that broke off. It is refused rather than dropped,
    # since dropping it would change the labels of all classes behind it.
    empty = [name for name, f in zip(names, folders, strict=True) if name not in full and not holds_images(f)]
    if not known and (len(folders) < 2 or empty):
        why = "".join(f"; {name} has 0 images" for name in empty) + (f"; {line}" if (line := skipped.line()) else "")
        raise InputError(
            f"`dataset`: received {root}, expected at least two subfolders, one a class, each with images "
            f"({' '.join(SUFFIXES)}); found {len(folders)} (links are not followed){why:.300}"
            f"{_hint(folders, stray)}"
        )
    return full, (np.array(paths, dtype=object), np.array(labels, dtype=np.int64))


def _quoted(names, most=5):
    """Names in quotes, so that blanks at their ends are seen."""
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def _alike(name, known):
    """A suggestion for the name of a folder that differs from a class only by case or blanks; else ''."""
    alike = [other for other in known if other.strip().casefold() == name.strip().casefold()]
    return f": did you mean {alike[0]!r} for {name!r}?" if alike else ""


def counted_as_text(names):
    """Whether all names are whole numbers whose order as text (0, 1, 10, 2) isn't their order as numbers."""
    return all(map(str.isdecimal, names)) and [*map(int, names)] != sorted(map(int, names))


def _below(folder, skipped):
    """All image files in and below the folder of a class, a list of Path.

    Raises:
        InputError: it holds several splits, as in CLASS/train and CLASS/test, or images and masks: they would be mixed.
    """
    left, files = [folder], []
    while left:
        folders, images = entries(left.pop(0), skipped)
        left, files = left + folders, files + images
        full = [below.name for below in folders if holds_images(below)]
        if both := masks(full):
            raise InputError(
                f"`dataset`: {folder} was to be a class and holds {doubts.listed(both)}, which are called "
                "images and their masks or labels; expected images alone: move the others elsewhere"
            )
        found = {split_of(name) for name in full} - {None} | {*suspects(full).values()}
        if len(found) > 1:
            raise InputError(
                f"`dataset`: {folder} was to be a class and holds {', '.join(sorted(found))} images in "
                f"folders of their own; expected train/{folder.name} rather than {folder.name}/train; or "
                f"did you mean `dataset={folder}`?"
            )
    return files


def _hint(folders, stray):
    """A suggestion for a folder without two classes: the one folder below it that has them, or class folders."""
    # Unpacked archives often have one folder around the data set: go down as long as there is a single one with images.
    full = [folder for folder in folders if holds_images(folder)]
    while len(full) == 1 and (folders := entries(full[0])[0]):
        below = [folder for folder in folders if holds_images(folder)]
        if len(below) > 1 or any(split_of(folder.name) for folder in below):
            return f"; did you mean {full[0]}?"
        full = below
    return (
        f"; it holds {tables.counted(len(stray), 'image')} itself, expected each in the subfolder of its class"
        if stray
        else ""
    )


def listing_checksum(folder, paths):
    """Identifies the present images of a folder.

    Args:
        folder: the data set's folder.
        paths: of its images.

    Returns:
        [absolute path of the folder, SHA-256 of the relative paths and sizes, SHA-256 of samples of the files' bytes].
        `records.same_images` compares two of these.
    """
    digest, paths = hashlib.sha256(), sorted(paths)
    for path in paths:
        digest.update(f"{os.path.relpath(path, folder)} {os.path.getsize(path)}\n".encode(errors="surrogateescape"))
    # Sizes tell two images apart if they are compressed; all bitmaps of one shape have the same. Of very many files
    # some are looked into, spread evenly: the bytes of all would take minutes to read.
    some = paths[:: max(1, len(paths) // MOST_SAMPLED)]
    with concurrent.futures.ThreadPoolExecutor(duplicates.THREADS) as pool:
        contents = hashlib.sha256(b"".join(pool.map(_sampled, some)))
    return [os.path.abspath(folder), digest.hexdigest(), contents.hexdigest()]


def _sampled(path):
    """SHA-256 of a small file, or of blocks that are spread evenly over a large one; of nothing where it can't be read.

    All bytes of all images would take as long to read as the data set itself.
    """
    digest = hashlib.sha256()
    with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:  # the Reader reports what it can't read
        size = os.fstat(file.fileno()).st_size
        whole = size <= BLOCK * BLOCKS
        for place in (0,) if whole else range(0, size - BLOCK + 1, (size - BLOCK) // (BLOCKS - 1)):
            file.seek(place)
            digest.update(file.read(size if whole else BLOCK))
    return digest.digest()
