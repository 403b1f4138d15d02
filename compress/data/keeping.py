"""Where a folder's images are kept while a run needs them: in memory, in a file of the cache, or nowhere."""

import math
import os
from pathlib import Path

import numpy as np

from compress.cli import display, tables
from compress.data import cache, folders, lazily, reading
from compress.engine import processes
from compress.errors import InputError

MOST_BYTES = 100  # of a data set's name in that of its cache; file systems take 143 to 255 in all


def bytes_of(count, reader):
    """Bytes of so many decoded images of a Reader."""
    return count * math.prod(reader.stored) * 3


def is_inside(config, paths):
    """Whether the cache's folder of a DataConfig lies where folders are classes; beside train/ and test/ it may lie.

    Args:
        config: the DataConfig, whose `dataset` is a folder.
        paths: of its images.
    """
    images, place = (os.path.realpath(path) for path in (config.dataset, config.cache_dir))
    if os.path.commonpath([images, place]) != images:
        return False
    first, own = (
        os.path.relpath(path, root).split(os.sep)[0] for path, root in ((paths[0], config.dataset), (place, images))
    )
    return not folders.split_of(first) or bool(folders.split_of(own))


def keep(splits, reader, config, progress):
    """Makes the images of splits readable: decodes them into memory, or into a file where they would fill it.

    Args:
        splits: dataset.Splits whose `stored` is a reading.Pending.
        reader: their reading.Reader.
        config: a configs.DataConfig.
        progress: wraps the range of images while they are decoded.

    Raises:
        InputError: images can't be decoded.
    """
    paths = [split.paths for split in splits]
    count = sum(map(len, paths))
    if bytes_of(count, reader) <= reading.HELD:
        # In one call, so that one message names the damaged files of all.
        for split, images in zip(splits, reader.read(*paths), strict=True):
            split.keep(images)
        return
    every = [str(path) for part in paths for path in part]
    reader.settle(every)
    size = f"{count:,} images of {'x'.join(map(str, reader.stored))} are {tables.size_of(bytes_of(count, reader))}"
    source = None
    if config.cache:
        # The first of several processes decodes; the others then open what it has made. One that finds less, since the
        # folder is its own, decodes too.
        source = processes.in_turn(lambda: _filled(_cache(config, reader), paths, size, config, progress))
        if not processes.gathered(source is not None).all():  # all read in the same way
            source = None
    else:
        display.say(f"{size}: they are decoded each time that they are needed", config.verbose)
    for split, part in zip(splits, paths, strict=True):
        split.keep(lazily.Lazy(source, source.rows(part)) if source else reading.Decoded(reader, part).all())


def _cache(config, reader):
    """The cache.Cache of a folder's images, whose name begins with that folder's: as much of it as a name may have."""
    if is_inside(config, reader.paths):
        raise InputError(
            f"`cache_dir`: received {config.cache_dir}, which lies in {config.dataset}, where folders are classes; "
            "expected another folder, or `cache=False`"
        )
    name = os.path.basename(os.path.abspath(config.dataset))
    name = "".join(char if char.isprintable() else "_" for char in name).encode()[:MOST_BYTES].decode(errors="ignore")
    name = f"{name}-{'x'.join(map(str, reader.stored))}-{cache.key(reader)}"
    return cache.Cache(Path(config.cache_dir) / name, reader, config.verbose)


def _filled(source, paths, size, config, progress):
    """A cache.Cache that has images decoded, which they are now; None where the disk has no room; says what happens.

    Args:
        source: the Cache.
        paths: list of arrays of the images' files.
        size: how many images there are and how large, for the line.
        config: a configs.DataConfig.
        progress: wraps the range of images.
    """
    rows = np.concatenate([source.rows(part) for part in paths])
    needed, free = source.room(rows)
    place, room = config.cache_dir, f"{tables.size_of(needed)} of the {tables.size_of(free)} free"
    if needed > free:
        display.say(
            f"{size}; {place} has no room for them, {room}: they are decoded each time that they are needed (another "
            "`cache_dir` may have room)",
            config.verbose,
        )
        return None
    if needed:
        whole = len(source.missing(rows)) == len(rows)
        what = "decoded into" if whole else "the rest is decoded into"
        display.say(f"{size}: {what} {source.folder}, once for all runs; that takes {room}", config.verbose)
        source.fill(rows, progress)
    else:
        display.say(f"{size}: read from {source.folder}", config.verbose)
    return source
