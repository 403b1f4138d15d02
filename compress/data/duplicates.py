"""Finds images that lie in two splits of a data set, as files of the same bytes (train-test leakage)."""

import collections
import concurrent.futures
import contextlib
import os

from compress.storage import files

TAIL = 64  # bytes at the end of a file: compressed pixels, which nearly always differ between two images
THREADS = 8  # they wait for the disk, not for the processor


def across(root, splits):
    """A warning about images that lie in two splits: accuracy on them measures memory, not generalisation.

    Args:
        root: the folder of the data set; paths are shown relative to it.
        splits: {'training': paths, 'validation': paths, 'test': paths}, in this order.

    Returns:
        List of one line, or an empty list.
    """
    left, lines = {name: list(map(str, paths)) for name, paths in splits.items()}, []
    # A checksum of every file would read the whole data set. Each key is dearer than the one before, and is computed
    # only for files that all cheaper keys have left.
    for key in (os.path.getsize, _tail, files.sha256):
        left = _shared(left, key)
    for name, paths in left.items():
        # checksum: (split, path) in the earlier splits; an image in three splits counts with the first
        seen = {}
        for other in list(left)[: list(left).index(name)]:
            seen |= {key: (other, path) for path, key in left[other].items() if key not in seen}
        twins = [(path, *seen[key]) for path, key in paths.items() if key in seen]
        for other in dict.fromkeys(other for _, other, _ in twins):
            path, twin = next((path, twin) for path, its, twin in twins if its == other)
            count = sum(its == other for _, its, _ in twins)
            lines.append(
                f"{count:,} of {len(splits[name]):,} {name} images are also {other} images (such as "
                f"{os.path.relpath(path, root)}, which is {os.path.relpath(twin, root)})"
            )
    advice = "accuracy on them says nothing of new images; remove one of each pair"
    return [f"{'; '.join(lines)}: {advice}"] if lines else []


def _shared(splits, key):
    """{split: {path: its key}} with only those paths whose key occurs in two splits; `key` is a function of a path."""
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        keys = {
            name: dict(zip(paths, pool.map(lambda path: _or_none(key, path), paths), strict=True))
            for name, paths in splits.items()
        }
    counts = collections.Counter(value for found in keys.values() for value in {*found.values()} - {None})
    return {name: {path: value for path, value in found.items() if counts[value] > 1} for name, found in keys.items()}


def _or_none(key, path):
    with contextlib.suppress(OSError):  # the Reader reports an unreadable file when it decodes it
        return key(path)


def _tail(path):
    """(size of a file, its last TAIL bytes)."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL))
        return size, file.read(TAIL)
