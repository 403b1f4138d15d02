"""Images that lie in two splits of a data set, as files of the same bytes: what is measured on them was learnt."""

import collections
import concurrent.futures
import contextlib
import os

from compress.storage import files

TAIL = 64  # bytes at the end of an image, which differ between two that aren't the same, but in few formats
THREADS = 8  # that wait for a disk


def across(root, splits):
    """What a person has to know of images that lie in two splits.

    Cheap where there are none: sizes are compared first, then the ends of those of equal size, then SHA-256.

    Args:
        root: the folder of the data set, to which paths are shown relative.
        splits: {'training': paths, 'validation': paths, 'test': paths}, the earlier ones seen by training first.

    Returns:
        List of one line, or of none.
    """
    left, told = {name: list(map(str, paths)) for name, paths in splits.items()}, []
    for key in (os.path.getsize, _tail, files.sha256):
        left = _shared(left, key)
    for name, paths in left.items():
        seen = {}
        for other in list(left)[:list(left).index(name)]:
            seen |= {key: (other, path) for path, key in left[other].items() if key not in seen}
        twins = [(path, *seen[key]) for path, key in paths.items() if key in seen]
        for other in dict.fromkeys(other for _, other, _ in twins):
            path, twin = next((path, twin) for path, its, twin in twins if its == other)
            count = sum(its == other for _, its, _ in twins)
            told.append(f"{count:,} of {len(splits[name]):,} {name} images are also {other} images (such as "
                        f"{os.path.relpath(path, root)}, which is {os.path.relpath(twin, root)})")
    return [f"{'; '.join(told)}: accuracy on them says nothing of new images; remove one of each two"] if told else []


def _shared(splits, key):
    """Of each split {path: its key} the paths whose key occurs in two splits; `key` is a function of a path."""
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        keys = {name: dict(zip(paths, pool.map(lambda path: _or_none(key, path), paths), strict=True))
                for name, paths in splits.items()}
    counts = collections.Counter(value for found in keys.values() for value in {*found.values()} - {None})
    return {name: {path: value for path, value in found.items() if counts[value] > 1} for name, found in keys.items()}


def _or_none(key, path):
    with contextlib.suppress(OSError):  # a file that can't be read is told of where its image is read
        return key(path)


def _tail(path):
    """The last bytes of a file, and its size."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL))
        return size, file.read(TAIL)
