"""Images that are read when they are asked for: more of them than memory holds."""

import concurrent.futures
import functools
import os

import numpy as np


@functools.cache
def pool(workers):
    """The threads that read and vary images: so many, 0 for one a core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return concurrent.futures.ThreadPoolExecutor(workers or cores, thread_name_prefix="images")


class Lazy:
    """Some images of a source, as an array (N, h, w, 3) of which only what is asked for is read.

    lazy[start:stop] and lazy[indices] are numpy arrays. While a slice is used, the one that seems to be next is read.

    Args:
        source: has `read(rows)` -> uint8 (len(rows), h, w, 3), and `shape` (h, w, 3).
        rows: (N,) which images of the source, in this order.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, source, rows):
        self.source, self.rows, self.next, self.last = source, np.asarray(rows), (None, None), None

    def __len__(self):
        return len(self.rows)

    @property
    def shape(self):
        """(N, h, w, 3)."""
        return len(self.rows), *self.source.shape

    def __getitem__(self, chosen):
        if not isinstance(chosen, slice):
            return self.source.read(self.rows[chosen])
        start, stop, step = chosen.indices(len(self))
        known, future = self.next
        images = future.result() if known == (start, stop, step) else self.source.read(self.rows[chosen])
        self.next = (None, None)
        # The next slice is as long as this one, and as far from it as this one from the last.
        begin = start + (start - self.last if self.last is not None and self.last < start else stop - start)
        self.last, end = start, min(begin + stop - start, len(self))
        if step == 1 and begin < end:
            self.next = ((begin, end, 1), _one_ahead().submit(self.source.read, self.rows[begin:end]))
        return images

    def __array__(self, dtype=None, copy=None):
        return self.source.read(self.rows).astype(dtype or np.uint8, copy=False)  # a copy would be as large again

    def of(self, chosen):
        """Those images of these whose places are given, as another Lazy."""
        return Lazy(self.source, self.rows[chosen])


def taken(items, chosen):
    """`items[chosen]`, of a Lazy as another one: nothing is read."""
    return items.of(chosen) if isinstance(items, Lazy) else items[chosen]


def joined(parts):
    """Several arrays, or several Lazy of one source, as one, in their order."""
    if isinstance(parts[0], Lazy):
        return Lazy(parts[0].source, np.concatenate([part.rows for part in parts]))
    return np.concatenate(parts)


@functools.cache
def _one_ahead():
    """The thread that reads the next slice: not one of `pool`, on which it waits."""
    return concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="slice")


class Middle:
    """The middle of a source's images, itself a source.

    Args:
        source: as of Lazy.
        size: (h, w).
    """

    def __init__(self, source, size):
        self.source, self.shape = source, (*size, 3)

    def read(self, rows):
        """Uint8 (len(rows), h, w, 3)."""
        from compress.data import augmentation

        return np.ascontiguousarray(augmentation.middle(self.source.read(rows), self.shape[:2]))
