"""Finds images that lie in two splits of a data set (train-test leakage) or under two of its classes (wrong labels), as
files of the same bytes."""

import collections
import concurrent.futures
import contextlib
import os

from compress.cli import tables
from compress.data import reading
from compress.storage import files

TAIL = 64  # bytes at the end of a file: compressed pixels, which nearly always differ between two images
THREADS = 8  # they wait for the disk, not for the processor


def notes(root, splits):
    """Warnings about images that lie in two splits, or under two classes.

    Args:
        root: the folder of the data set; paths are shown relative to it.
        splits: {'training', 'validation' or 'test': (paths, labels)}, in this order.

    Returns:
        List of lines, at most one of each kind.
    """
    places = {}
    for name, (paths, labels) in splits.items():
        shared = {label: (name, label) for label in {*map(int, labels)}}  # one tuple for all images of a class
        places |= {str(path): shared[int(label)] for path, label in zip(paths, labels, strict=True)}
    # A checksum of every file would read the whole data set. Each key is dearer than the one before, and is computed
    # only for files that all cheaper keys have left.
    left = dict.fromkeys(places)
    for key in (os.path.getsize, _tail, files.sha256):
        left = _shared(left, places, key)
    found = [_across(root, splits, left, places), _under_two_classes(root, left, places)]
    return [line for line in found if line]


def _across(root, splits, left, places):
    """A line about images that lie in two splits: accuracy on them measures memory, not generalisation; '' without.

    Args:
        root: as of `notes`.
        splits: likewise.
        left: {path: checksum} of the files whose checksum another place has too.
        places: {path: (split, label)}.
    """
    lines = []
    # checksum: (split, path) in the earlier splits; an image in three splits counts with the first
    seen = {}
    for name in splits:
        here = {path: key for path, key in left.items() if places[path][0] == name}
        twins = [(path, *seen[key]) for path, key in here.items() if key in seen]
        for other in dict.fromkeys(other for _, other, _ in twins):
            path, twin = next((path, twin) for path, its, twin in twins if its == other)
            count = sum(its == other for _, its, _ in twins)
            lines.append(
                f"{count:,} of {len(splits[name][0]):,} {name} images are also {other} images (such as "
                f"{os.path.relpath(path, root)}, which is {os.path.relpath(twin, root)})"
            )
        seen = {key: (name, path) for path, key in here.items()} | seen
    advice = "accuracy on them says nothing of new images; remove one of each pair"
    return f"{'; '.join(lines)}: {advice}" if lines else ""


def _under_two_classes(root, left, places):
    """A line about images that have two labels; '' without. The arguments are those of `_across`."""
    labels = collections.defaultdict(dict)  # checksum: {label: the first file with it}
    for path, key in left.items():
        labels[key].setdefault(places[path][1], path)
    torn = [key for key, those in labels.items() if len(those) > 1]
    if not torn:
        return ""
    one, other = (os.path.relpath(path, root) for path in list(labels[torn[0]].values())[:2])
    count = f"{tables.counted(len(torn), 'image')} {'lies' if len(torn) == 1 else 'lie'}"
    return (
        f"{count} under two classes, as files of the same bytes (such as {one}, which is {other}): one of the labels "
        "is wrong; remove the file from the wrong class"
    )


def _shared(paths, places, key):
    """{path: its key} of those paths whose key occurs in two splits or under two classes.

    Args:
        paths: the files.
        places: {path: (split, label)}.
        key: function of a path.
    """
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        keys = dict(zip(paths, reading.in_order(pool, lambda path: _or_none(key, path), paths), strict=True))
    different = {(value, places[path]) for path, value in keys.items() if value is not None}
    counts = collections.Counter(value for value, _ in different)
    return {path: value for path, value in keys.items() if counts[value] > 1}


def _or_none(key, path):
    with contextlib.suppress(OSError):  # the Reader reports an unreadable file when it decodes it
        return key(path)


def _tail(path):
    """(size of a file, its last TAIL bytes)."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL))
        return size, file.read(TAIL)
