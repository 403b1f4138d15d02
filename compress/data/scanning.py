"""What lies in a folder of images: subfolders, images, and what is neither. Follows no links to folders."""

import collections
import os
from pathlib import Path

from compress.data.decoding import SUFFIXES
from compress.errors import InputError

# what systems and tools put beside the images; their names in lower case
SYSTEM = {"@eadir", "__macosx", "$recycle.bin", "recycler", "system volume information", "lost+found", "#recycle",
          "@recycle", "__pycache__", ".ipynb_checkpoints", ".git", ".svn", ".hg", ".dvc", ".idea", ".vscode",
          ".appledouble", ".trashes", ".spotlight-v100", ".fseventsd", ".thumbnails", ".cache"}
SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", ".ds_store", "icon\r", ".gitkeep", ".gitignore",
                ".gitattributes", ".nomedia", ".picasa.ini"}
DEEPEST = 150  # folders in a path: what walks down calls itself for each
MOST_KINDS = 6  # of skipped things in one line


class Skipped:
    """Counts what is left out, by kind, each with an example."""

    def __init__(self, root):
        self.root, self.counts, self.examples = Path(root), collections.Counter(), {}

    def add(self, kind, path, count=1):
        """One more, or several, of a kind such as '.heic' or 'linked folder'."""
        self.counts[kind] += count
        shown = os.path.relpath(path, self.root)
        self.examples.setdefault(kind, "".join(c if c.isprintable() else "?" for c in shown))

    def line(self):
        """'skipped: 2 .heic (such as red/031.heic), 1 linked folder (cats2)'; empty where nothing was."""
        kinds = self.counts.most_common()
        told = [f"{n:,} {kind if n == 1 or kind[0] == '.' else kind + 's'} "
                f"({'' if n == 1 else 'such as '}{self.examples[kind]})" for kind, n in kinds[:MOST_KINDS]]
        if rest := sum(n for _, n in kinds[MOST_KINDS:]):
            told.append(f"{rest:,} of {len(kinds) - MOST_KINDS} other kinds")
        return f"skipped: {', '.join(told)}" if told else ""


def entries(folder, skipped=None):
    """(subfolders, image files) of a folder, sorted; what is neither is counted in `skipped`.

    Links to folders are left out, as they may lead out of the data set or round it; so are hidden and system folders.
    """
    folders, images, odd = [], [], []
    if len(Path(folder).parts) > DEEPEST:
        raise InputError(f"`dataset`: {str(folder)[:60]}... lies more than {DEEPEST} folders deep; expected images "
                         "in the folders of their classes")
    try:
        found = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"`dataset`: {folder} cannot be read ({error.strerror})") from None
    for entry in found:
        name, path = entry.name, Path(folder, entry.name)
        is_folder = os.path.isdir(path) if entry.is_symlink() else entry.is_dir()  # the entry's own raises on a loop
        if name.lower() in SYSTEM | SYSTEM_FILES or name.startswith(("._", ".Trash")):
            continue
        if is_folder:
            kind = "linked folder" if entry.is_symlink() else "hidden folder" if name[0] == "." else ""
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
    """'flat' for a folder that holds images itself alone, 'nested' for one with folders of images, '' for none."""
    folders, images = entries(folder)
    return "nested" if any(map(holds_images, folders)) else "flat" if images else ""
