"""The images of a data set, read all alike: one size, one full scale, one ground behind what is transparent."""

import concurrent.futures
import contextlib
import math
import os
import shlex
import warnings

import numpy as np

from compress.cli import tables
from compress.data import decoding
from compress.errors import InputError, one_line

LARGEST = 1024  # pixels a side that images keep when no size is asked for: photographs would fill the memory
MOST_NAMED = 10  # broken files in one message
BEGINNINGS = {  # of files that are no image which can be read, and what they are
    "it is empty": lambda head: not head,
    "a pointer of Git LFS, expected what it points to: git lfs pull": lambda head: head.startswith(b"version https://git"),
    "a web page": lambda head: head.lstrip().startswith((b"<!doctype", b"<html")),
    "HEIC or AVIF under another name: convert it": lambda head: head[4:8] == b"ftyp",
    "a TIFF of a kind that isn't read, such as several channels of floating point": lambda head: head[:4] in (
        b"ii*\0", b"mm\0*")}
DIM = 64  # of the upper 8 bits of 16-bit colour: below it the lower ones, which Pillow drops, are missed
NAMED = {"whole": "images of more than 8 bits", "floating": "images of floating point"}


class Reader:
    """Reads images of one data set.

    Args:
        paths: of all its images, also of those that are never read: how pixels are shown depends on all of them.
        workers: threads; 0 for one a core.
        progress: wraps the range of images while they are read.
        look: a decoding.Look whose values are kept, as a model was trained with them; others are found when needed.
        tell: function of a line of text, called once for each thing that a person should know.
        named_by: the parameter that named the images, for messages.

    Attributes:
        size: (h, w) of what is read, to be set before.
        look: the Look so far.
        resized: whether images that were read so far had another size.
    """

    def __init__(self, paths, workers=0, progress=iter, look=None, tell=print, named_by="dataset"):
        self.paths, self.size, self.workers, self.progress, self.tell, self.named_by = (
            list(paths), None, workers, progress, tell, named_by)
        self.look = look or decoding.Look()
        self.resized = False
        self._headers, self._told, self._found = {}, set(), None

    def common_size(self, paths):
        """The (h, w) of these images if they share one of at most LARGEST a side, else (224, 224)."""
        with self._pool() as pool:
            own = {header.size for header in self._known(pool, paths).values()}
        size = own.pop() if len(own) == 1 else (224, 224)
        return size if max(size) <= LARGEST else (224, 224)

    def pending(self, paths):
        """The images of these paths as a Pending, which reads them when they are first asked for."""
        return Pending(self, np.asarray(paths, dtype=object))

    def read(self, *parts):
        """Reads images now.

        Args:
            parts: lists of paths.

        Returns:
            List of uint8 (N, h, w, 3), one for each part.

        Raises:
            InputError: files that can't be decoded, decompression bombs among them, all in one message; or numbers
                that have no natural full scale, or aren't within the one of `look`.
        """
        paths, arrays, broken = [str(path) for part in parts for path in part], [], {}
        with self._pool() as pool:
            self._settle(pool, self._known(pool, paths))
            for part in parts:
                array = np.empty((len(part), *self.size, 3), np.uint8)
                for i, image in zip(self.progress(range(len(part))), pool.map(self._decoded, part), strict=True):
                    if isinstance(image, Exception):
                        broken[part[i]] = image
                    else:
                        array[i] = image
                arrays.append(array)
            if broken:  # then those of the whole data set, so that a person has to mend it but once
                left = sorted({*self.paths} - {*paths})
                broken |= {path: found for path, found in zip(left, pool.map(self._decoded, left), strict=True)
                           if isinstance(found, Exception) and not isinstance(found, OverflowError)}
        if broken:
            raise InputError(_broken(self.named_by, broken))
        return arrays

    @contextlib.contextmanager
    def _pool(self):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        with warnings.catch_warnings(), concurrent.futures.ThreadPoolExecutor(self.workers or cores) as pool:
            warnings.simplefilter("ignore")  # on odd tags, and on sizes that decoding.py judges
            yield pool

    def _decoded(self, path):
        return _or_error(decoding.decode, path, self.size, self.look)

    def _known(self, pool, paths):
        """{path: Header} of those that have a readable one."""
        left = [path for path in paths if path not in self._headers]
        self._headers |= zip(left, pool.map(lambda path: _or_error(decoding.read_header, path), left), strict=True)
        return {path: self._headers[path] for path in paths if isinstance(self._headers[path], decoding.Header)}

    def _settle(self, pool, headers):
        """Finds how images of these headers are shown, from all images of the data set, and tells it."""
        self.resized |= any(header.size != tuple(self.size) for header in headers.values())
        if animated := [path for path, header in headers.items() if header.animated]:
            self._tell_once(f"{tables.counted(len(animated), 'image')} with several frames or pages (such as "
                            f"{animated[0]}): the first of each is taken")
        kinds = {header.depth for header in headers.values()}
        through = any(header.transparent for header in headers.values())
        given = {name: value for name, value in vars(self.look).items() if value is not None}
        for kind in kinds & given.keys():
            self._tell_once(f"{NAMED[kind]} are scaled by {given[kind]:,g}")
        if not (kinds - {""} - given.keys() or (through and "ground" not in given)):
            return
        if self._found is None:
            odd = [path for path, header in self._known(pool, self.paths).items() if header.depth or header.transparent]
            self._found = [it for it in pool.map(lambda path: _or_error(decoding.examine, path), odd)
                           if isinstance(it, decoding.Extremes)]  # a broken file is told of where it is read
        for kind in sorted(kinds - {""} - given.keys()):
            given |= self._scale(kind, [it for it in self._found if it.depth == kind])
        if through and "ground" not in given:
            given |= self._ground([it for it in self._found if it.ink is not None])
        self.look = decoding.Look(**given)

    def _scale(self, kind, found):
        """The part of a Look for images of one depth. Raises InputError where their numbers have no natural scale."""
        if not found:
            return {}
        lowest = min(found, key=lambda it: it.low if it.low == it.low else -math.inf)  # NaN first
        highest = max(found, key=lambda it: it.high)
        if kind == "colour":
            if highest.high < DIM:
                raise InputError(f"`{self.named_by}`: images of 16 bits a channel, such as {highest.path}, hold values "
                                 f"of at most {256 * highest.high + 255:,}, of which 8 bits would keep too little; "
                                 "expected values up to 65,535, or images of 8 bits a channel")
            return {}
        scale = decoding.natural_scale(kind, lowest.low, highest.high)
        if scale is None:
            worst = highest if lowest.low >= 0 else lowest
            held = (f"values from {lowest.low:,g} to {highest.high:,g} (" if lowest.low == lowest.low else
                    "what is no number (NaN, ")
            raise InputError(f"`{self.named_by}`: {NAMED[kind]} hold {held}such as {worst.path}); expected 0 to "
                             f"{'65,535' if kind == 'whole' else '1 or 0 to 255'}: convert all by the same factor")
        self._tell_once(f"{NAMED[kind]} hold values up to {highest.high:,g}: scaled by {scale:,g}")
        return {kind: scale}

    def _ground(self, found):
        """The part of a Look for images with transparent pixels: white, unless most of them draw in white."""
        if not found:
            return {}
        white = sum(it.ink >= decoding.WHITE_INK for it in found)
        ground = "black" if 2 * white > len(found) else "white"
        self._tell_once(f"{tables.counted(len(found), 'image')} with transparent pixels, shown on {ground}"
                        + ("; most of them draw in white" if ground == "black" else ""))
        return {"ground": ground}

    def _tell_once(self, line):
        if line not in self._told:
            self._told.add(line)
            self.tell(line)


class Pending:
    """Images that are read when they are asked for: pending[numbers] or pending[:] gives uint8 (N, h, w, 3).

    Attributes:
        shape: (N, h, w, 3).
    """

    def __init__(self, reader, paths):
        self.reader, self.paths = reader, paths

    @property
    def shape(self):
        return len(self.paths), *self.reader.size, 3

    def __getitem__(self, chosen):
        return self.reader.read(self.paths[chosen])[0]


def _or_error(function, *arguments):
    """What a function returns, or the exception that it raised: decoders of damaged files raise nearly anything."""
    try:
        return function(*arguments)
    except Exception as error:
        return error


def _reason(path, error):
    """Why a file can't be read, in a few words."""
    if isinstance(error, decoding.TooLarge):
        return str(error)
    if type(error).__name__ != "UnidentifiedImageError":
        return f"{type(error).__name__}: {one_line(error):.80}"
    with contextlib.suppress(OSError), open(path, "rb") as file:
        head = file.read(64).lower()
        known = next((what for what, test in BEGINNINGS.items() if test(head)), "no image")
        return f"UnidentifiedImageError: {known}"
    return "UnidentifiedImageError"


def _told(path, error):
    """A file that can't be read, and why: it is damaged, or no image by its name and its content."""
    reason = _reason(path, error)
    if path.lower().endswith(decoding.SUFFIXES) or not reason.startswith("UnidentifiedImageError"):
        return f"{path} cannot be read as an image ({reason})"
    kind = reason.partition(": ")[2]
    return f"{path} is no image" + (f" but {kind}" if kind not in ("", "no image") else "")


def _broken(named_by, broken):
    """What to say of broken files, {path: exception}."""
    if beyond := [path for path, error in broken.items() if isinstance(error, OverflowError)]:
        return (f"`{named_by}`: {tables.counted(len(beyond), 'image')}, such as {beyond[0]}, with "
                f"{broken[beyond[0]]}, by which the images were scaled that the model was trained on; "
                "expected images of the same kind")
    first = list(broken)[:MOST_NAMED]
    told = "; ".join(_told(path, broken[path]) for path in first)
    more = f"; and {len(broken) - len(first)} more" if len(broken) > len(first) else ""
    if named_by != "dataset":  # files that were named one by one
        return f"`{named_by}`: {told}{more}; expected photographs"
    if len(broken) == 1:
        return (f"`{named_by}`: {told}; fetch it again, or go on without it: mv {shlex.quote(first[0])} "
                f"{shlex.quote(first[0] + '.broken')}")
    return (f"`{named_by}`: {tables.counted(len(broken), 'image')}: {told}{more}; fetch them again, or go on "
            f"without them: for f in {' '.join(map(shlex.quote, list(broken)[:100]))}; "
            'do mv "$f" "$f.broken"; done')
