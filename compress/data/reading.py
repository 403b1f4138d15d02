"""Decodes the images of a data set consistently: one size, one scale of values, one background of transparency."""

import collections
import concurrent.futures
import contextlib
import math
import os
import warnings

import numpy as np

from compress.cli import tables
from compress.data import decoding, known, lazily, pixels
from compress.errors import InputError, one_line, quoted

NOTHING = known.Known(None, "", ())
HELD = 2**30  # bytes of images that lie in memory; more are read when they are asked for
LARGEST = 1024  # pixels a side that images may keep where no size is asked for: photographs would fill the memory
MOST_NAMED = 10  # damaged files in one message
BEGINNINGS = {  # what a file is that can't be decoded: a test of its first 64 bytes, in lower case
    "it is empty": lambda head: not head,
    "a pointer of Git LFS, expected what it points to: git lfs pull": lambda head: head.startswith(
        b"version https://git"
    ),
    "a web page": lambda head: head.lstrip().startswith((b"<!doctype", b"<html")),
    "HEIC or AVIF under another name: convert it": lambda head: head[4:8] == b"ftyp",
    "a TIFF of a kind that isn't read, such as several channels of floating point": lambda head: (
        head[:4] in (b"ii*\0", b"mm\0*")
    ),
}
DIM = 16383  # scales of 16-bit colour up to this need the lower 8 bits too, which aren't read of every kind of file
SCALE_GAP = 4  # times brighter than the dark images are all others, where these are of another scale
MOST_DIM = 20  # one in so many images may be dark by itself
DARKEST = 16  # of 255: where no image has a larger value, something is missing
NAMED = {
    "whole": "images of more than 8 bits",
    "floating": "images of floating point",
    "colour": "images of 16 bits a channel",
}


class Reader:
    """Decodes the images of one data set.

    Args:
        paths: of all its images, also of those that are never decoded: the conversion to 8 bits depends on all.
        workers: threads; 0 for one a core.
        progress: wraps the range of images while they are decoded.
        look: a decoding.Look with values that are fixed, as a model was trained with them; None to find all of them.
        note: function of a line of text, called once with each note for the user.
        named_by: the parameter that named the images, for messages.

    Attributes:
        known: a known.Known, which may have answers about these files.
        size: (h, w) of the decoded images; to be set before the first is decoded.
        look: the Look with the values found so far.
        resized: whether an image decoded so far had another size.
    """

    def __init__(self, paths, workers=0, progress=iter, look=None, note=print, named_by="dataset"):
        self.paths, self.size, self.workers, self.progress, self.note, self.named_by = (
            list(paths),
            None,
            workers,
            progress,
            note,
            named_by,
        )
        self.look = look or decoding.Look()
        self.resized, self.known, self._is_settled = False, NOTHING, False
        self._headers, self._alike, self._reported, self._found = {}, {}, {}, None

    @property
    def how(self):
        """How images of another size are resized, for the user: interpolation changes pixels, and a model that was
        trained on images resized by another method loses accuracy on these."""
        size = f"{self.size[0]}x{self.size[1]}"
        middle = f", the middle of {self.stored[0]}x{self.stored[1]}" if self.look.fit == "crop" else ""
        return (
            f"{size}{middle}: bilinear, antialiased{', large JPEGs decoded at a smaller scale' * bool(self.look.jpeg)}"
        )

    def common_size(self, paths):
        """The (h, w) that all these images have, if it is at most LARGEST a side; else (224, 224)."""

        # Headers are enough, which are read in a fraction of the time of the pixels. 224 is what ImageNet networks are
        # trained with.
        def found():
            with self._pool() as pool:
                own = {header.size for header in self._known(pool, paths).values()}
            size = own.pop() if len(own) == 1 else (224, 224)
            return size if max(size) <= LARGEST else (224, 224)

        return tuple(self.known.of(["size", known.digest(paths)], found, _is_size))

    @property
    def stored(self):
        """(h, w) of an image as it is decoded, of which `size` may be the middle; see `decoding.kept`."""
        return decoding.kept(self.size, self.look)

    def pending(self, paths):
        """The images of these paths as a Pending, which decodes them on first use."""
        return Pending(self, np.asarray(paths, dtype=object))

    def settle(self, paths):
        """Finds how images are converted to 8 bits, and says it: for all that will be decoded, before they are."""

        def found():
            before = [*self._reported]
            with self._pool() as pool:
                self._settle(pool, self._known(pool, paths))
            if broken := {path: e for path in paths if isinstance(e := self._headers[path], Exception)}:
                raise InputError(_broken(self.named_by, broken))
            told = [line for line in self._reported if line not in before]
            return {"look": vars(self.look), "resized": self.resized, "told": told}

        question = ["look", known.digest(paths), self.size, vars(self.look)]
        answer = self.known.of(question, found, lambda answer: _is_settled(answer, self.look))
        self.look, self.resized, self._is_settled = decoding.Look(**answer["look"]), answer["resized"], True
        for line in answer["told"]:
            self._report_once(line)

    def decoded(self, path):
        """One image, uint8 (h, w, 3), as `read` decodes it.

        Raises:
            InputError: it can't be decoded.
        """
        image = self._decoded(str(path))
        if isinstance(image, Exception):
            others = "; images are decoded as they are needed, so that others may be damaged too: to try all of them, "
            page = "docs/how-to/large-data.md has a few lines of Python"
            raise InputError(_broken(self.named_by, {str(path): image}) + others + page)
        return image

    def read(self, *parts):
        """Decodes images now.

        Args:
            parts: lists of paths.

        Returns:
            List of uint8 (N, h, w, 3), one for each part.

        Raises:
            InputError: as `each`.
        """
        arrays, bounds = [], np.cumsum([0, *map(len, parts)])
        for i, image in self.each([str(path) for part in parts for path in part]):
            if not arrays:  # by now it is known what is kept of an image
                arrays = [np.empty((len(part), *image.shape), np.uint8) for part in parts]
            part = np.searchsorted(bounds, i, "right") - 1
            arrays[part][i - bounds[part]] = image
        return arrays or [np.empty((0, *self.stored, 3), np.uint8) for _ in parts]

    def each(self, paths, progress=None, others=None):
        """Decodes images one after the other.

        Args:
            paths: of the images, a list of str.
            progress: wraps the range of images; None for the reader's own.
            others: files that are tried too where one is damaged; None for all of the data set.

        Yields:
            (place in paths, uint8 (h, w, 3)), in order; those that can't be decoded are left out.

        Raises:
            InputError: at the end, where files can't be decoded (all of them in one message, decompression bombs too),
                or values have no natural scale or lie outside that of `look`.
        """
        broken, brightest = {}, 0
        with self._pool() as pool:
            headers = self._known(pool, paths)
            if not self._is_settled:
                self._settle(pool, headers)
            # Pillow releases Python's lock while it decodes, so threads do it in parallel.
            found = in_order(pool, self._decoded, paths)
            for i, image in zip((progress or self.progress)(range(len(paths))), found, strict=True):
                if isinstance(image, Exception):
                    broken[paths[i]] = image
                    continue
                brightest = max(brightest, int(image.max()))
                yield i, image
            # One damaged file is a reason to try all the others: the user then repairs the data set once, not file by
            # file. Values outside the scale are no damage, and images that aren't needed may have them.
            if broken:
                left = sorted({*(self.paths if others is None else others)} - {*paths})
                broken |= {
                    path: found
                    for path, found in zip(left, in_order(pool, self._decoded, left), strict=True)
                    if isinstance(found, Exception) and not isinstance(found, (OverflowError, decoding.NoScale))
                }
        if broken:
            raise InputError(_broken(self.named_by, broken))
        # of other depths `_settle` has said it
        if 0 < brightest < DARKEST and not any(header.depth for header in headers.values()):
            self._report_once(
                f"no image holds a value above {brightest}, of 255: all are nearly black, as masks, label maps and "
                "images of 0 to 1 are that were written without their factor"
            )

    @contextlib.contextmanager
    def _pool(self):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        with warnings.catch_warnings(), concurrent.futures.ThreadPoolExecutor(self.workers or cores) as pool:
            warnings.simplefilter("ignore")  # Pillow's, on odd tags and on sizes, for which decoding.py has limits
            yield pool

    def _decoded(self, path):
        return _or_error(decoding.decode, path, self.size, self.look)

    def _known(self, pool, paths):
        """{path: Header} of those files whose header can be read; each is read once."""
        left = [path for path in paths if path not in self._headers]
        found = in_order(pool, lambda path: _or_error(decoding.read_header, path), left)
        for path, header in zip(left, found, strict=True):
            # Most headers of a data set are alike: one object stands for all that are.
            known = isinstance(header, decoding.Header)
            self._headers[path] = self._alike.setdefault(header, header) if known else header
        return {path: self._headers[path] for path in paths if isinstance(self._headers[path], decoding.Header)}

    def _settle(self, pool, headers):
        """Sets the values of `look` that images with these headers need, from all images of the data set.

        Args:
            pool: of `_pool`.
            headers: {path: Header} of the images that are about to be decoded.
        """
        self.resized |= any(header.size != self.stored for header in headers.values())
        if animated := [path for path, header in headers.items() if header.animated]:
            self._report_once(
                f"{tables.counted(len(animated), 'image')} with several frames or pages (such as "
                f"{animated[0]}): the first of each is taken"
            )
        kinds = {header.depth for header in headers.values()}
        through = any(header.transparent for header in headers.values())
        given = {name: value for name, value in vars(self.look).items() if value is not None}
        for kind in kinds & given.keys():
            self._report_once(f"{NAMED[kind]} are scaled by {given[kind]:,g}")
        # Most data sets are plain 8-bit RGB and end here. For the others all images of more bits or with transparency
        # are decoded once more than needed, whatever part of them is asked for: the scale must not depend on the part.
        if not (kinds - {""} or (through and "ground" not in given)):
            return
        if self._found is None:
            odd = [path for path, header in self._known(pool, self.paths).items() if header.depth or header.transparent]
            self._found = [
                it
                for it in in_order(pool, lambda path: _or_error(decoding.examine, path), odd)
                if isinstance(it, decoding.Extremes)
            ]  # `read` reports the damaged ones
        if faint := [it.path for it in self._found if it.faint]:
            self._report_once(
                f"{tables.counted(len(faint), 'image')} with an alpha channel that hides everything "
                f"(such as {faint[0]}): their colours are shown without it"
            )
        for kind in sorted(kinds - {""}):
            found = [it for it in self._found if it.depth == kind]
            fixed = kind in given
            if not fixed:
                given |= self._scale(kind, found)
            self._check_exact(found, given.get(kind, 0))
            self._check_one_scale(kind, found, given.get(kind, 255), fixed)
        if through and "ground" not in given:
            given |= self._ground([it for it in self._found if it.ink is not None])
        self.look = decoding.Look(**given)

    def _scale(self, kind, found):
        """The values of a Look for images of one depth, a dict.

        Args:
            kind: 'whole', 'floating' or 'colour', as Header.depth.
            found: list of the Extremes of all images of that depth.

        Raises:
            InputError: their values have no natural scale.
        """
        if not found:
            return {}
        lowest = min(found, key=lambda it: it.low if it.low == it.low else -math.inf)  # NaN counts as the lowest
        highest = max(found, key=lambda it: it.high)
        scale = decoding.natural_scale(kind, lowest.low, highest.high)
        if scale is None:
            worst = highest if lowest.low >= 0 else lowest
            held = (
                f"values from {lowest.low:,g} to {highest.high:,g} ("
                if lowest.low == lowest.low
                else "what is no number (NaN, "
            )
            raise InputError(
                f"`{self.named_by}`: {NAMED[kind]} hold {held}such as {worst.path}); expected 0 to "
                f"{'65,535' if kind == 'whole' else '1 or 0 to 255'}: convert all by the same factor"
            )
        self._report_once(f"{NAMED[kind]} hold values up to {highest.high:,g}: scaled by {scale:,g}")
        return {kind: scale}

    def _check_exact(self, found, scale):
        """Raises InputError where images of a small scale are of a kind whose lower 8 bits aren't read.

        Args:
            found: list of the Extremes of all images of one depth.
            scale: the value that becomes 255.
        """
        coarse = [it for it in found if not it.is_exact and it.high]
        if coarse and 0 < scale <= DIM:
            high = max(it.high for it in found)
            raise InputError(
                f"`{self.named_by}`: {NAMED['colour']} hold values up to about {high:,}, and of files such as "
                f"{coarse[0].path} only the upper 8 bits are read, which is too little; expected 16-bit PNG, which is "
                f"read in full, or all values multiplied by {65535 // high}"
            )

    def _check_one_scale(self, kind, found, scale, fixed):
        """Tells which images are nearly black by the common scale, as 12 bits in a file of 16 are.

        Args:
            kind: as of `_scale`.
            found: list of the Extremes of all images of that depth.
            scale: the value that becomes 255.
            fixed: whether a model was trained with that scale, so that these images didn't choose it.

        Raises:
            InputError: they are many, and no image lies between them and the others: these are two kinds of images.
        """
        # A sixteenth is the step from 12 to 16 bits; floating point knows the scales 1 and 255 alone.
        limit = 1.001 if kind == "floating" and scale > 1 else 0 if kind == "floating" else (scale + 1) / 16
        dim = [it for it in found if 0 < it.high <= limit]  # what is 0 throughout is black by every scale
        others = [it for it in found if it.high > limit]
        if not dim:
            return
        brightest, darkest = max(dim, key=lambda it: it.high), min(others, key=lambda it: it.high, default=None)
        name = NAMED[kind]
        # One dark photograph among others, or dark ones of every degree, are dark; a gap says that the scales differ.
        if not fixed and darkest and darkest.high >= SCALE_GAP * brightest.high and len(dim) >= len(found) / MOST_DIM:
            raise InputError(
                f"`{self.named_by}`: {name} are of different scales: {len(dim):,}, such as "
                f"{brightest.path}, hold at most {brightest.high:,g}, and {len(others):,}, such as "
                f"{darkest.path}, at least {darkest.high:,g}; by one scale the former would be "
                "nearly black: convert both kinds to 8 bits, each by its own factor"
            )
        self._report_once(
            f"{len(dim):,} of {len(found):,} {name} hold at most {brightest.high:,g} (such as "
            f"{brightest.path}): scaled by {scale:,g} they are nearly black"
        )

    def _ground(self, found):
        """The background for images with transparent pixels, a dict: white, unless most of them are drawn in white."""
        if not found:
            return {}
        # Most transparent images are dark drawings or photographed objects, as on a white page. White drawings would be
        # invisible there. One background for all images, or its colour would give away classes.
        white = sum(it.ink >= decoding.WHITE_INK for it in found)
        ground = "black" if 2 * white > len(found) else "white"
        self._report_once(
            f"{tables.counted(len(found), 'image')} with transparent pixels, shown on {ground}"
            + ("; most of them draw in white" if ground == "black" else "")
        )
        return {"ground": ground}

    def _report_once(self, line):
        if line not in self._reported:
            self._reported[line] = None
            self.note(line)


class Pending:
    """Images that are decoded on use: pending[indices] or pending[:] gives uint8 (N, h, w, 3).

    Attributes:
        shape: (N, h, w, 3).
    """

    def __init__(self, reader, paths):
        self.reader, self.paths = reader, paths

    @property
    def shape(self):
        return len(self.paths), *self.reader.stored, 3

    def __getitem__(self, chosen):
        return self.reader.read(self.paths[chosen])[0]

    def held(self):
        """All of them: an array, or a `lazily.Lazy` where they would fill the memory."""
        if math.prod(self.shape) <= HELD:
            return self[:]
        return Decoded(self.reader, self.paths).all()


class Decoded:
    """A source of `lazily.Lazy` that decodes images each time that they are asked for.

    Args:
        reader: a Reader, which is settled for these images.
        paths: their files, (N,) of str.
    """

    def __init__(self, reader, paths):
        self.reader, self.paths, self.shape = reader, paths, (*reader.stored, 3)
        reader.settle(list(paths))

    def read(self, rows):
        """The images of rows, uint8 (len(rows), h, w, 3).

        Raises:
            InputError: one can't be decoded.
        """
        return np.stack([*lazily.pool(self.reader.workers).map(self.reader.decoded, self.paths[rows])])

    def all(self):
        """All images, a `lazily.Lazy`."""
        return lazily.Lazy(self, np.arange(len(self.paths)))


def in_order(pool, function, items, ahead=64):
    """Yields function(item) of items in their order, computed by the threads of a pool.

    Args:
        pool: a ThreadPoolExecutor, whose own `map` would keep a record of every item at once.
        function: of an item.
        items: a list.
        ahead: items that are begun before their turn.
    """
    waiting, left = collections.deque(), iter(items)
    for item in left:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _is_size(answer):
    """Whether what is kept is (h, w) of images."""
    return isinstance(answer, list) and len(answer) == 2 and all(type(n) is int and 0 < n <= LARGEST for n in answer)


def _is_settled(answer, look):
    """Whether what is kept is what `Reader.settle` found, which began with the values of a decoding.Look."""
    if not isinstance(answer, dict) or not isinstance(found := answer.get("look"), dict):
        return False
    return (
        found.keys() == vars(look).keys()
        and all(value is None or pixels.is_allowed(name, value) for name, value in found.items())
        and all(found[name] == value for name, value in vars(look).items() if value is not None)
        and isinstance(answer.get("resized"), bool)
        and known.are_texts(answer.get("told"))
    )


def _or_error(function, *arguments):
    """The value or the exception of a function; decoders raise nearly any exception on a damaged file."""
    try:
        return function(*arguments)
    except Exception as error:
        return error


def _reason(path, error):
    """Why a file can't be decoded, in a few words."""
    if isinstance(error, (decoding.TooLarge, decoding.NoScale)):
        return str(error)
    if type(error).__name__ != "UnidentifiedImageError":
        return f"{type(error).__name__}: {one_line(error):.80}"
    with contextlib.suppress(OSError), open(path, "rb") as file:
        head = file.read(64).lower()
        known = next((what for what, test in BEGINNINGS.items() if test(head)), "no image")
        return f"UnidentifiedImageError: {known}"
    return "UnidentifiedImageError"


def _described(path, error):
    """A file that can't be decoded, and why: it is damaged, or neither its name nor its content is an image's."""
    if _is_gone(path, error):
        return f"{path} is gone"
    reason = _reason(path, error)
    if path.lower().endswith(decoding.SUFFIXES) or not reason.startswith("UnidentifiedImageError"):
        return f"{path} cannot be read as an image ({reason})"
    kind = reason.partition(": ")[2]
    return f"{path} is no image" + (f" but {kind}" if kind not in ("", "no image") else "")


def _broken(named_by, broken):
    """The error message for damaged files, {path: exception}."""
    # Values beyond the scale of the model's training images: the files are sound, so moving them away is no advice.
    if beyond := [path for path, error in broken.items() if isinstance(error, OverflowError)]:
        return (
            f"`{named_by}`: {tables.counted(len(beyond), 'image')}, such as {beyond[0]}, with "
            f"{broken[beyond[0]]}, by which the images were scaled that the model was trained on; "
            "expected images of the same kind"
        )
    first = list(broken)[:MOST_NAMED]
    files = "; ".join(_described(path, broken[path]) for path in first)
    more = f"; and {len(broken) - len(first)} more" if len(broken) > len(first) else ""
    if named_by != "dataset":  # photographs given one by one: the user knows which to leave out
        return f"`{named_by}`: {files}{more}; expected photographs"
    counted = f"{tables.counted(len(broken), 'image')}: " if len(broken) > 1 else ""
    there = [path for path, error in broken.items() if not _is_gone(path, error)]
    if any(isinstance(broken[path], decoding.NoScale) for path in there) or not there:
        return (
            f"`{named_by}`: {counted}{files}{more}; expected images that stay as they are while a run reads them: "
            "start it again, with those that are there now"
        )
    if len(there) == 1:
        return (
            f"`{named_by}`: {counted}{files}; fetch it again, or go on without it: mv {quoted(there[0])} "
            f"{quoted(there[0] + '.broken')}"
        )
    return (
        f"`{named_by}`: {counted}{files}{more}; fetch them again, or go on "
        f"without them: for f in {' '.join(map(quoted, there[:100]))}; "
        'do mv "$f" "$f.broken"; done'
    )


def _is_gone(path, error):
    """Whether a file can't be decoded because there is none any more."""
    return isinstance(error, FileNotFoundError) and not os.path.lexists(path)
