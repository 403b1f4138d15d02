"""Where a folder's images are kept while a run needs them: in memory, in a file of the cache, or nowhere."""

import math
import os
from pathlib import Path

import numpy as np

from compress.cli import display, tables
from compress.data import cache, lazily, reading
from compress.errors import InputError


def bytes_of(count, reader):
    """Bytes of so many decoded images of a Reader."""
    return count * math.prod(reader.stored) * 3


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
    room = f"{count:,} images of {'x'.join(map(str, reader.stored))} are {tables.size_of(bytes_of(count, reader))}"
    source = _cache(config, reader, room) if config.cache else None
    if source is None:
        if not config.cache:
            display.say(f"{room}: they are decoded each time that they are needed", config.verbose)
        for split, part in zip(splits, paths, strict=True):
            split.keep(reading.Decoded(reader, part).all())
        return
    rows = [source.rows(part) for part in paths]
    if missing := source.missing(np.concatenate(rows)).size:
        display.say(f"{room}: {missing:,} of them are decoded into {source.folder}, once for all runs", config.verbose)
        source.fill(np.concatenate(rows), progress)
    else:
        display.say(f"{room}: they are read from {source.folder}", config.verbose)
    for split, its in zip(splits, rows, strict=True):
        split.keep(lazily.Lazy(source, its))


def _cache(config, reader, room):
    """The cache.Cache of a folder's images; None, which is said, where the disk has no room for it."""
    root = os.path.abspath(config.dataset)
    name = f"{os.path.basename(root)}-{'x'.join(map(str, reader.stored))}-{cache.key(root, reader)}"
    try:
        return cache.Cache(Path(config.cache_dir) / name, reader, config.verbose)
    except cache.NoRoom as error:
        display.say(
            f"{room}; {error}: they are decoded each time that they are needed (another `cache_dir` may have room)",
            config.verbose,
        )
        return None
    except OSError as error:
        raise InputError(
            f"`cache_dir`: received {config.cache_dir}, expected a folder that can be written to "
            f"({error.strerror or error}), or `cache=False`"
        ) from None
