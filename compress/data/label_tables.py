"""Labels in a table beside images that lie in one folder: not read, but told, with the command that sorts them."""

import csv
import itertools
import re
import shlex
from pathlib import Path

from compress.data.decoding import SUFFIXES
from compress.data.scanning import entries

MOST_BYTES, MOST_TABLES, MOST_CLASSES = 2**26, 10, 1000
HEADS = {"label", "labels", "class", "category", "target", "breed", "species", "y"}
SORT = ("import csv, os, shutil; [(os.makedirs(d := os.path.join({to!r}, r[{label}]), exist_ok=True), "
        "shutil.copy(os.path.join({folder!r}, r[{file}] + {suffix!r}), d)) "
        "for r in list(csv.reader(open({table!r}, encoding='utf-8-sig')))[1:]]")


def hint(root):
    """What to add where a folder has no folders of classes: of a table that names images in it and their labels.

    Args:
        root: the folder.

    Returns:
        Text: what there is, and the command that copies the images into a folder for each class, unless the table
        isn't plain enough for it; None where there is no such table.
    """
    folders = [Path(root), *entries(root)[0]]
    tables = [path for folder in folders for path in sorted(folder.glob("*.csv")) if path.is_file()]
    for table, folder in itertools.product(tables[:MOST_TABLES], folders):
        rows = _rows(table)
        found = [(number, suffix) for number, name in enumerate(rows[1] if len(rows) > 2 else ())
                 for suffix in ("", *SUFFIXES) if _is_plain(name) and (folder / (name + suffix)).is_file()]
        if found:
            said = f"the labels in {table} are not read: expected a folder for each class"
            command = _command(rows, table, folder, f"{Path(root).resolve()}_by_class", *found[0])
            return f"{said}, into which this copies the images: {command}" if command else said
    return None


def _rows(table):
    """The rows of a CSV file; none where it is no such file."""
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            return [row for row in csv.reader(file) if row] if table.stat().st_size <= MOST_BYTES else []
    except (OSError, ValueError, csv.Error):
        return []


def _is_plain(name):
    """Whether a name from a file leads to no other folder."""
    return bool(re.fullmatch(r"\w[\w .()-]*", name)) and len(name) < 200


def _command(rows, table, folder, to, file, suffix):
    """The command that sorts images by their labels; None where columns or names leave something open."""
    head, body = [name.strip().lower() for name in rows[0]], rows[1:]
    others = [number for number in range(len(head)) if number != file and (len(head) == 2 or head[number] in HEADS)]
    if len(others) != 1 or any(len(row) != len(head) for row in body):
        return None
    names = {row[others[0]] for row in body}
    if not 2 <= len(names) <= MOST_CLASSES or not all(map(_is_plain, names | {row[file] for row in body})):
        return None
    code = SORT.format(to=to, label=others[0], folder=str(folder), file=file, suffix=suffix, table=str(table))
    return f"python3 -c {shlex.quote(code)}"
