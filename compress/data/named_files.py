"""Recognises images whose class is said by their file names alone, as cat.0.jpg and dog.1.jpg, and shows the command
that sorts them into folders.

Such names are not used as labels: classes are always folders.
"""

import collections
import itertools
import json
import os
import re
from pathlib import Path

from compress.data import doubts
from compress.data.naming import masks, split_of
from compress.data.scanning import entries, holds_images
from compress.errors import quoted

# a name in front of a number (cat.0, great_pyrenees_12, 'dog (3)') or behind it (0001_cat), without the suffix
PATTERNS = (r"([^\W\d_](?:.*?[^\W\d_])?)[\W_]*\d+\W*$", r"\d+[\W_]+([^\W\d_](?:.*[^\W\d_])?)$")
# what cameras and tools put in front of numbers
TOOLS = {
    "img",
    "image",
    "images",
    "dsc",
    "dscn",
    "dscf",
    "pxl",
    "mvi",
    "photo",
    "pic",
    "picture",
    "frame",
    "scan",
    "screenshot",
}
LEAST = 2  # images of a class
SORT = (
    "import os, re, shutil; [(os.makedirs(d := os.path.join(b, m[1]), exist_ok=True), "
    "shutil.copy(os.path.join(a, n), d)) for a, b in {pairs} for n in os.listdir(a) "
    "if n.endswith(tuple({suffixes})) and (m := re.match({pattern}, os.path.splitext(n)[0]))]"
)


def refusal(root):
    """What to say of a folder whose images have their classes in their file names, in place of the error about it.

    Args:
        root: the data set's folder.

    Returns:
        A line with the command that copies the images into a folder for each class; None where names say no classes.
    """
    subfolders, images = entries(root)
    full = [folder for folder in subfolders if holds_images(folder)]
    flat = [Path(root)] if images and not full else full
    if any(any(map(holds_images, entries(folder)[0])) for folder in full):
        return None
    if len(full) > 1 and not all(split_of(folder.name) for folder in full):  # they may be classes themselves
        return None
    for pattern in PATTERNS:
        found = {folder: counts for folder in flat if (counts := _classes(folder, pattern))}
        if found:
            return _line(root, found, pattern)
    return None


def _classes(folder, pattern):
    """{class: its images} by the file names of a folder, or {} where they don't say two classes or more."""
    names = [path.stem for path in entries(folder)[1]]
    said = [match[1] for name in names if (match := re.match(pattern, name))]
    counts = collections.Counter(said)
    # The command is pasted into a shell and makes folders: names that need quotes or lead elsewhere are none.
    plain = all(re.fullmatch(r"\w[\w -]*", name) for name in counts)
    if len(said) < len(names) or len(counts) < 2 or min(counts.values()) < LEAST or not plain:
        return {}
    lower = {name.lower() for name in counts}
    # some systems take names that differ in capitals for one; splits and masks are no classes
    others = len(lower) < len(counts) or any(map(split_of, counts)) or masks(list(counts))
    return {} if others or lower & TOOLS else dict(counts)


def _line(root, found, pattern):
    """The message of `refusal`; found: {folder: its `_classes`}."""
    to = f"{Path(root).resolve()}_by_class"
    names = itertools.chain([to], (f"{to}_{number}" for number in itertools.count(2)))
    to = next(name for name in names if not os.path.lexists(name))
    pairs = [(str(folder), to if len(found) == 1 else str(Path(to, folder.name))) for folder in found]
    folder, counts = next(iter(found.items()))
    suffixes = sorted({path.suffix for folder in found for path in entries(folder)[1]})
    shown = doubts.listed([f"{name} ({count:,})" for name, count in sorted(counts.items())])
    # JSON is Python here too, and without apostrophes, which a shell would need escaped
    literals = {"pairs": pairs, "suffixes": suffixes, "pattern": pattern}
    code = SORT.format(**{name: json.dumps(value, ensure_ascii=False) for name, value in literals.items()})
    return (
        f"`dataset`: received {root}, where {os.path.relpath(folder, os.path.dirname(os.path.abspath(root)))} has no "
        f"class folders but file names that say classes, {shown}; expected a folder for each class, as "
        f"`dataset={to}` has once this has copied the images: python3 -c {quoted(code)}"
    )
