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
import stat
import zlib
from pathlib import Path

import numpy as np

from compress.cli import display
from compress.errors import InputError, quoted
from compress.storage import files, records

IMAGES, SUMS, ABOUT = "images.u8", "sums.u64", "about.json"
FORMAT = 1  # of the files above
DECODED = 1 << 32
BLOCK = 2**26  # bytes of images between two times that the disk is asked to have them: what a kill may cost
SPARE = 2**28  # bytes that are left on the disk


class Cache:
    """A source of `lazily.Lazy`: row i is image i of the sorted files of a reading.Reader.

    Args:
        folder: of this cache; where it is missing, `fill` makes it.
        reader: a reading.Reader that is settled: how its images are decoded is known.
        verbose: 0 to say nothing.

    Attributes:
        shape: (h, w, 3) of an image.

    Raises:
        InputError: what is there can't be read.
    """

    def __init__(self, folder, reader, verbose=1):
        self.folder, self.reader, self.verbose, self.shape = Path(folder), reader, verbose, (*reader.stored, 3)
        self.paths = np.array(sorted(reader.paths), dtype=object)
        self.bytes = int(np.prod(self.shape))
        self.sizes = {IMAGES: len(self.paths) * self.bytes, SUMS: 8 * len(self.paths)}
        self.seen = np.zeros(len(self.paths), bool)  # whose sums this process has compared
        self.images = self.sums = None  # while there is none
        with self._told():
            if all(self._size(name) == size for name, size in self.sizes.items()):
                self._open()

    def __del__(self):
        with contextlib.suppress(AttributeError, OSError):
            self.images.close()

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
                count = os.preadv(self.images.fileno(), [image.data], row * self.bytes)
            except OSError as error:
                raise InputError(
                    f"`cache_dir`: {self.folder / IMAGES} can't be read ({error.strerror}); expected a disk that stays"
                ) from None
            if not self.seen[row]:
                if count != self.bytes or int(self.sums[row]) != DECODED + zlib.crc32(image):
                    raise InputError(
                        f"`cache_dir`: {self.folder / IMAGES} is damaged at image {row:,} ({self.paths[row]}); remove "
                        f"it, and the images are decoded once more: rm -r {quoted(self.folder)}"
                    )
                self.seen[row] = True
        return images

    def room(self, rows):
        """(bytes that decoding these rows needs, bytes that are free for it)."""
        with self._told():
            disk = os.statvfs(next(place for place in (self.folder, *self.folder.parents) if os.path.exists(place)))
        needed = len(self.missing(rows)) * self.bytes + (self.sizes[SUMS] if self.sums is None else 0)
        return needed, max(0, disk.f_bavail * disk.f_frsize - SPARE)

    def fill(self, rows, progress):
        """Decodes those of these rows that aren't yet.

        Args:
            rows: int (N,).
            progress: wraps the range of images.

        Raises:
            InputError: images can't be decoded, of which all are named; or the folder takes no files.
        """
        import filelock

        with self._told():
            if self.sums is None:
                self._make()
                self._open()
            self._size(files.LOCK)
            lock = filelock.FileLock(self.folder / files.LOCK, blocking=False)
            with contextlib.suppress(filelock.Timeout):
                lock.acquire()
        if not lock.is_locked:
            display.say(f"{self.folder}: another run is decoding these images; waiting for it", self.verbose)
            with self._told():
                lock.acquire(blocking=True)
        try:  # what another run decoded meanwhile needn't be done again
            self._decode(np.sort(self.missing(rows)), progress)
        finally:
            lock.release()

    def missing(self, rows):
        """Those of these rows that aren't decoded yet."""
        return rows if self.sums is None else rows[self.sums[rows] == 0]

    def _decode(self, rows, progress):
        """Decodes rows in the order of the files, and writes them down block by block."""
        known = []

        def settle():
            # The images first: after a loss of power a sum must not speak of an image that never came to the disk.
            with self._told():
                os.fdatasync(file.fileno())
                for row, total in known:
                    sums[row] = total
                sums.flush()
                known.clear()

        with contextlib.ExitStack() as stack:
            with self._told():
                sums = self._mapped("r+")
                file = stack.enter_context(self._file(IMAGES, "rb+"))
            stack.callback(settle)
            others = list(self.paths[np.asarray(self.sums) == 0])  # what is decoded is sound
            for i, image in self.reader.each(list(self.paths[rows]), progress, others):
                with self._told():
                    if os.pwrite(file.fileno(), image.data, int(rows[i]) * self.bytes) != self.bytes:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                known.append((int(rows[i]), DECODED + zlib.crc32(image)))
                if len(known) * self.bytes >= BLOCK:
                    settle()

    @contextlib.contextmanager
    def _told(self):
        """Raises InputError in place of an OSError of the files here."""
        try:
            yield
        except OSError as error:
            raise InputError(
                f"`cache_dir`: received {self.folder.parent}, expected a folder that can be written to and has room "
                f"({error.strerror or error}: {error.filename or self.folder}), or `cache=False`"
            ) from None

    def _size(self, name):
        """Bytes of one of the files, None where it is missing.

        Raises:
            InputError: it is no file of its own: what is written to a link would go to another file.
        """
        try:
            about = os.lstat(self.folder / name)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(about.st_mode):
            kind = {stat.S_IFLNK: "link", stat.S_IFDIR: "folder"}.get(stat.S_IFMT(about.st_mode), "pipe or device")
            raise InputError(
                f"`cache_dir`: {self.folder / name} is a {kind}, expected a file; remove what is there, and the images "
                f"are decoded once more: rm -r {quoted(self.folder)}"
            )
        return about.st_size

    def _file(self, name, mode):
        """One of the files, opened as `open` does it, but for links."""

        def opener(path, flags):
            return os.open(path, flags | os.O_NOFOLLOW, 0o666)

        return open(self.folder / name, mode, buffering=0, opener=opener)

    def _mapped(self, mode):
        with self._file(SUMS, f"{mode[0]}b{mode[1:]}") as file:
            return np.memmap(file, np.uint64, mode, shape=(len(self.paths),))

    def _open(self):
        """Opens the files to be read."""
        self.images = self._file(IMAGES, "rb")
        self.sums = self._mapped("r")

    def _make(self):
        """Makes the files."""
        for name in (ABOUT, IMAGES, SUMS):
            self._size(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        about = {
            "format": FORMAT,
            "images": len(self.paths),
            "shape": self.shape,
            "first": str(self.paths[0]),
            "look": vars(self.reader.look),
        }
        # The images take no room on the disk before they are written: a run on a part of them needs that of the part.
        # The sums do, since a full disk would end a process that writes to a mapped file. Where two runs do this at
        # once, neither takes away what the other has written.
        with self._file(SUMS, "ab") as file:
            os.posix_fallocate(file.fileno(), 0, self.sizes[SUMS])
        with self._file(IMAGES, "ab") as file:
            file.truncate(self.sizes[IMAGES])
        with contextlib.suppress(InputError):  # nothing reads it, and the files above have said whether there is room
            records.write_json(self.folder / ABOUT, about)


def key(reader):
    """Identifies the images of a settled reading.Reader and how they are decoded, 16 hexadecimal digits."""
    how = json.dumps([FORMAT, reader.known.files, reader.stored, vars(reader.look)], sort_keys=True)
    return hashlib.sha256(how.encode()).hexdigest()[:16]
