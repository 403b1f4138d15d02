"""What a report knows of the runs below a folder: records, models, and which was made from which. Imports no Keras."""

import dataclasses
import json
from pathlib import Path


@dataclasses.dataclass
class Point:
    """One accuracy of one model, and what is known of its size.

    Attributes:
        name: of the model: its folder below the root, or what a record calls it.
        kind: 'base', 'pruned', 'student', 'ablation', 'evaluation', 'export' or 'sensitivity'.
        acc: 0 to 1, on `images` images of the split `split` of `dataset`.
        sizes: any of `report_records.SIZES`.
        sha256: of the model's file, or None.
        file: the model's file where it lies in the record's folder, or None.
        role: what the model is in its chain, of `roles.LOOKS`; None where it has no record of its own.
        shipped: whether it came with the suite, and is none of the user's.
        label: of a sweep's run the values that it differs from its siblings in; '' for any other.
        when: the record's run was started, as ISO 8601 text in UTC; '' where that isn't known.
    """

    name: str
    kind: str
    acc: float
    dataset: str
    split: str
    images: int | None
    sizes: dict
    sha256: str | None = None
    file: Path | None = None
    role: str | None = None
    shipped: bool = False
    label: str = ""
    when: str = ""

    @property
    def what(self):
        """Its role, or where it is one of many by-products or nothing is known, the kind of its record."""
        if self.shipped:
            return "shipped with the suite"
        return self.kind if self.kind in ("ablation", "export") else self.role or self.kind

    @property
    def group(self):
        """What accuracies have in common that may be compared, as text: 'digits validation, 144 images'."""
        count = "" if self.images is None else f", {self.images:,} image{'' if self.images == 1 else 's'}"
        return f"{self.dataset} {self.split}{count}"


@dataclasses.dataclass
class Run:
    """One record.

    Attributes:
        name: its folder below the root.
        kind: as of a Point.
        path: the JSON file.
        content: what it holds; the numbers that a report shows are checked, all else is as the file has it.
        points: list of Point.
    """

    name: str
    kind: str
    path: Path
    content: dict
    points: list

    @property
    def record(self):
        """What `records.run_record` wrote, or an empty dict."""
        return mapping(self.content.get("run"))

    @property
    def flags(self):
        """The run's flags, unchecked."""
        return mapping(self.record.get("flags"))

    @property
    def shipped(self):
        """Whether the model came with the suite."""
        return self.content.get("shipped") is True

    @property
    def parent(self):
        """sha256 of the model that the run started from, or None."""
        return checksum(self.content.get("parent_sha256")) or checksum(self.record.get("parent_sha256"))


@dataclasses.dataclass
class Tree:
    """All records below a folder, (file, why) of each that is not shown, and of a sweep its comparing.Sweep."""

    root: Path
    runs: list
    skipped: list
    sweep: object = None

    def of_kind(self, *kinds):
        """The runs of these kinds, in the order of their paths."""
        return [run for run in self.runs if run.kind in kinds]

    @property
    def points(self):
        """All points, a model's own record before what others say of it."""
        return [point for run in self.runs for point in run.points]

    def model(self, sha256):
        """The point of the model with this checksum, from the record of its own run; None where there is none."""
        others = ("evaluation", "export", "sensitivity")
        return next((p for p in self.points if sha256 and p.sha256 == sha256 and p.kind not in others), None)

    def parent_of(self, sha256):
        """Checksum of what a model was made from, or None."""
        for run in self.of_kind("base", "pruned", "student", "ablation"):
            sums = [point.sha256 for point in run.points]
            if sha256 in sums:
                before = sums.index(sha256) - 1
                return sums[before] if run.kind == "pruned" and before >= 0 else run.parent
        return None

    def chain(self, sha256):
        """Checksums of a model and all that came before it, the first one first; a circle is cut where it closes."""
        found = []
        while sha256 and sha256 not in found:
            found.append(sha256)
            sha256 = self.parent_of(sha256)
        return found[::-1]


def text(value, width=120):
    """Anything from a file as one line of at most `width` characters that can be printed."""
    try:
        value = value if isinstance(value, str) else json.dumps(value, default=str)
    except RecursionError:
        value = "…"
    value = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(value[: 100 * width].split()))
    return value if len(value) <= width else f"{value[: width // 2 - 1]}…{value[-(width // 2) :]}"


def within(path, folder):
    """Whether a path, with its links followed, lies below a folder: a stranger's link must not make others be read."""
    return path.resolve().is_relative_to(Path(folder).resolve())


def mapping(value):
    """The value where it is a dict, else an empty one."""
    return value if isinstance(value, dict) else {}


def checksum(value):
    """The value where it may be a SHA-256, else None."""
    return value if isinstance(value, str) and len(value) == 64 else None
