"""The decoded images of a folder in one file, for data sets that are larger than memory. Runs share it.

A folder NAME-HxW-KEY of the cache, whose KEY changes with the images and with how they are decoded, holds

    images.u8   N x h x w x 3 bytes: image i of the sorted files
    sums.u64    for each image 0, or 2^32 + the CRC-32 of its bytes: whether it is decoded, and how it must read
    about.json  what it is of, for a person

A run that is killed while it decodes leaves what it has decoded, and the next one goes on behind it.
"""

import contextlib
import errno
import hashlib
import json
import os
import shlex
import zlib
from pathlib import Path

import numpy as np

from compress.cli import display
from compress.errors import InputError
from compress.storage import files, records

IMAGES, SUMS, ABOUT = "images.u8", "sums.u64", "about.json"
FORMAT = 1  # of the files above
DECODED = 1 << 32
BLOCK = 1024  # images between two times that the disk is asked to have them
SPARE = 2**28  # bytes that are left on the disk


class Cache:
    """A source of `lazily.Lazy`: row i is image i of the sorted files of a reading.Reader.

    Args:
        folder: of this cache, which is made where it is missing.
        reader: a reading.Reader that is settled: how its images are decoded is known.
        verbose: 0 to say nothing.

    Attributes:
        shape: (h, w, 3) of an image.

    Raises:
        OSError: the folder takes no files.
    """

    def __init__(self, folder, reader, verbose=1):
        self.folder, self.reader, self.verbose, self.shape = Path(folder), reader, verbose, (*reader.stored, 3)
        self.paths = np.array(sorted(reader.paths), dtype=object)
        self.bytes = int(np.prod(self.shape))
        self._make()
        self.handle = os.open(self.folder / IMAGES, os.O_RDONLY)
        self.sums = np.memmap(self.folder / SUMS, np.uint64, "r", shape=(len(self.paths),))
        self.seen = np.zeros(len(self.paths), bool)  # whose sums this process has compared

    def __del__(self):
        with contextlib.suppress(AttributeError, OSError):
            os.close(self.handle)

    def rows(self, paths):
        """The rows of these files, int (N,)."""
        return np.searchsorted(self.paths, paths)

    def read(self, rows):
        """The images of decoded rows, uint8 (len(rows), h, w, 3).

        Raises:
            InputError: the file of the cache is damaged.
        """
        images = np.empty((len(rows), *self.shape), np.uint8)
        for image, row in zip(images, map(int, rows), strict=True):
            # Read, not mapped into memory: pages of a mapped file would count as memory of this process.
            try:
                count = os.preadv(self.handle, [image.data], row * self.bytes)
            except OSError as error:
                raise InputError(
                    f"`cache_dir`: {self.folder / IMAGES} can't be read ({error.strerror}); expected a disk that stays"
                ) from None
            if not self.seen[row]:
                if count != self.bytes or int(self.sums[row]) != DECODED + zlib.crc32(image):
                    raise InputError(
                        f"`cache_dir`: {self.folder / IMAGES} is damaged at image {row:,} ({self.paths[row]}); remove "
                        f"it, and the images are decoded once more: rm -r {shlex.quote(str(self.folder))}"
                    )
                self.seen[row] = True
        return images

    def room(self, rows):
        """(bytes that decoding these rows needs, bytes that are free for it)."""
        disk = os.statvfs(self.folder)
        return len(self.missing(rows)) * self.bytes, max(0, disk.f_bavail * disk.f_frsize - SPARE)

    def fill(self, rows, progress):
        """Decodes those of these rows that aren't yet.

        Args:
            rows: int (N,).
            progress: wraps the range of images.

        Raises:
            InputError: images can't be decoded; all of them are named.
        """
        import filelock

        lock = filelock.FileLock(self.folder / files.LOCK, blocking=False)
        try:
            lock.acquire()
        except filelock.Timeout:
            display.say(f"{self.folder}: another run is decoding these images; waiting for it", self.verbose)
            lock.acquire(blocking=True)
        try:  # what another run decoded meanwhile needn't be done again
            self._decode(np.sort(self.missing(rows)), progress)
        finally:
            lock.release()

    def missing(self, rows):
        """Those of these rows that aren't decoded yet."""
        return rows[self.sums[rows] == 0]

    def _decode(self, rows, progress):
        """Decodes rows in the order of the files, and writes them down block by block."""
        sums = np.memmap(self.folder / SUMS, np.uint64, "r+", shape=(len(self.paths),))
        handle, known = os.open(self.folder / IMAGES, os.O_WRONLY), []

        def settle():
            # The images first: after a loss of power a sum must not speak of an image that never came to the disk.
            os.fdatasync(handle)
            for row, total in known:
                sums[row] = total
            sums.flush()
            known.clear()

        try:
            others = list(self.paths[np.asarray(self.sums) == 0])  # what is decoded is sound
            for i, image in self.reader.each(list(self.paths[rows]), progress, others):
                if os.pwrite(handle, image.data, int(rows[i]) * self.bytes) != self.bytes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder / IMAGES))
                known.append((int(rows[i]), DECODED + zlib.crc32(image)))
                if len(known) == BLOCK:
                    settle()
        finally:
            settle()
            os.close(handle)

    def _make(self):
        """Makes the files."""
        sizes = {IMAGES: len(self.paths) * self.bytes, SUMS: 8 * len(self.paths)}
        try:
            if all((self.folder / name).stat().st_size == size for name, size in sizes.items()):
                return
        except OSError:
            pass  # there are none yet
        self.folder.mkdir(parents=True, exist_ok=True)
        about = {
            "format": FORMAT,
            "images": len(self.paths),
            "shape": self.shape,
            "first": str(self.paths[0]),
            "look": vars(self.reader.look),
        }
        records.write_json(self.folder / ABOUT, about)
        # The images take no room on the disk before they are written: a run on a part of them needs that of the part.
        # The sums do, since a full disk would end a process that writes to a mapped file. Where two runs do this at
        # once, neither takes away what the other has written.
        with open(self.folder / SUMS, "ab") as file:
            os.posix_fallocate(file.fileno(), 0, sizes[SUMS])
        with open(self.folder / IMAGES, "ab") as file:
            file.truncate(sizes[IMAGES])


def key(reader):
    """Identifies the images of a settled reading.Reader and how they are decoded, 16 hexadecimal digits."""
    how = json.dumps([FORMAT, reader.known.files, reader.stored, vars(reader.look)], sort_keys=True)
    return hashlib.sha256(how.encode()).hexdigest()[:16]
