"""Lists a folder of images: subfolders, images, and the rest, which is counted. Follows no links to folders."""

import collections
import os
from pathlib import Path

from compress.data.decoding import SUFFIXES
from compress.errors import InputError

# what systems and tools put beside the images; their names in lower case. None is a word that a class may be called.
SYSTEM = {
    "@eadir",
    "__macosx",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "#recycle",
    "@recycle",
    "__pycache__",
    ".ipynb_checkpoints",
    ".git",
    ".svn",
    ".hg",
    ".dvc",
    ".idea",
    ".vscode",
    ".appledouble",
    ".trashes",
    ".spotlight-v100",
    ".fseventsd",
    ".thumbnails",
    ".cache",
}
SYSTEM_FILES = {
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    ".ds_store",
    "icon\r",
    ".gitkeep",
    ".gitignore",
    ".gitattributes",
    ".nomedia",
    ".picasa.ini",
}
DEEPEST = 150  # folders in a path: `holds_images` calls itself for each, and Python's recursion is limited
MOST_KINDS = 6  # kinds of skipped files in one line


class Skipped:
    """Counts the files and folders that are left out, by kind, with an example of each kind."""

    def __init__(self, root):
        self.root, self.counts, self.examples = Path(root), collections.Counter(), {}

    def add(self, kind, path, count=1):
        """Counts one file, or several, of a kind such as '.heic' or 'linked folder'."""
        self.counts[kind] += count
        shown = os.path.relpath(path, self.root)
        self.examples.setdefault(kind, "".join(c if c.isprintable() else "?" for c in shown))

    def line(self):
        """'skipped: 2 .heic (such as red/031.heic), 1 linked folder (cats2)'; empty where nothing was skipped."""
        kinds = self.counts.most_common()
        parts = [
            f"{n:,} {kind if n == 1 or kind[0] == '.' else kind + 's'} "
            f"({'' if n == 1 else 'such as '}{self.examples[kind]})"
            for kind, n in kinds[:MOST_KINDS]
        ]
        if rest := sum(n for _, n in kinds[MOST_KINDS:]):
            parts.append(f"{rest:,} of {len(kinds) - MOST_KINDS} other kinds")
        return f"skipped: {', '.join(parts)}" if parts else ""


def entries(folder, skipped=None, named_by="dataset"):
    """(subfolders, image files) of a folder, two sorted lists of Path; everything else is counted in `skipped`.

    Links to folders are left out, since they may lead out of the data set or in a circle. Hidden folders and those of
    operating systems are left out too.

    Args:
        folder: its path.
        skipped: a Skipped, or None.
        named_by: the parameter that named the folder, for messages.

    Raises:
        InputError: the folder can't be read, or lies more than DEEPEST folders deep.
    """
    folders, images, odd = [], [], []
    if len(Path(folder).parts) > DEEPEST:
        raise InputError(
            f"`{named_by}`: {str(folder)[:60]}... lies more than {DEEPEST} folders deep; expected images "
            "in the folders of their classes"
        )
    try:
        found = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"`{named_by}`: {folder} cannot be read ({error.strerror})") from None
    for entry in found:
        name, path = entry.name, Path(folder, entry.name)
        # os.path answers False for a link that leads in a circle, where the methods of the entry raise.
        is_folder = os.path.isdir(path) if entry.is_symlink() else entry.is_dir()
        # '._x.png' is not an image: macOS keeps attributes of x.png under that name on foreign disks.
        if name.lower() in SYSTEM_FILES or name.startswith("._"):
            continue
        if is_folder:
            hidden = "system folder" if name.lower() in SYSTEM else "hidden folder" if name[0] == "." else ""
            kind = "linked folder" if entry.is_symlink() else hidden
        elif os.path.isfile(path) if entry.is_symlink() else entry.is_file():
            known = name.lower().endswith(SUFFIXES)
            kind = "hidden file" if name[0] == "." else "" if known else path.suffix.lower() or "file without suffix"
        else:
            kind = "broken link" if entry.is_symlink() else "special file"
        if kind:
            odd.append((kind, path))
        else:
            (folders if is_folder else images).append(path)
    for kind, path in odd if skipped else ():
        skipped.add(kind, path)
    return folders, images


def holds_images(folder):
    """Whether there are images in a folder or below it."""
    folders, images = entries(folder)
    return bool(images) or any(map(holds_images, folders))


def shape(folder):
    """'nested' for a folder with images in subfolders, 'flat' for one with images only of its own, '' without any."""
    folders, images = entries(folder)
    return "nested" if any(map(holds_images, folders)) else "flat" if images else ""
