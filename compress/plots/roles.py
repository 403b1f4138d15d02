"""What a model is in a chain of compression, and the one colour and marker that it has in every figure.

Imports neither Keras nor matplotlib.
"""

import contextlib
from pathlib import Path

from compress.errors import InputError
from compress.storage import records

# role: (colour, marker). The colours are Okabe and Ito's, which colour-blind readers can distinguish. An assistant is
# a distilled network that is itself a teacher; 'other' is a model whose role no record says.
LOOKS = {
    "base": ("#0072B2", "o"),
    "pruned": ("#D55E00", "s"),
    "assistant": ("#CC79A7", "D"),
    "student": ("#009E73", "^"),
    "other": ("#595959", "X"),
}
# For series that have no role. None is a colour of a role, so that a colour never says what isn't known.
NEUTRALS = ("#000000", "#8A6A00", "#7A4FB0", "#00798C")
PALE = "#B4B4B4"  # of series that no legend names
NEUTRAL_MARKERS = ("v", "P", "X", "*", "<", ">", "p")  # seven beside four colours: 28 series before a pair repeats


def colour(role):
    """The colour of a role; of what is none, that of 'other'."""
    return LOOKS.get(role, LOOKS["other"])[0]


def marker(role):
    """The matplotlib marker of a role; of what is none, that of 'other'."""
    return LOOKS.get(role, LOOKS["other"])[1]


def of_run(run):
    """The role of the model that a run made, by the flags that its record names.

    Args:
        run: what `records.run_record` wrote, or anything else that a file has in its place.

    Returns:
        'base', 'pruned', 'student' or None where the flags are of no training script. A network that was trained
        further stays what it was.
    """
    flags = run.get("flags") if isinstance(run, dict) else None
    if not isinstance(flags, dict) or "epoch_num" not in flags:
        return None
    own = "student" if "lambda1" in flags else "pruned" if "prune_iter" in flags else "base"
    return run["parent_role"] if own == "base" and run.get("parent_role") in ("pruned", "student") else own


def of_files(paths):
    """The roles of models, by the histories or results that lie beside them.

    A distilled network that another one of these models was distilled from is an assistant.

    Args:
        paths: of model.h5, history.json or result.json files, or folders with these; others have no role.

    Returns:
        List of roles or None, one a path.
    """
    known = [_beside(Path(path)) for path in paths]
    taught = {run.get("parent_sha256") for run, _ in known if of_run(run) == "student"} - {None}
    return ["assistant" if of_run(run) == "student" and sha256 in taught else of_run(run) for run, sha256 in known]


def _beside(path):
    """(run, checksum of the model) that the record of a model holds; ({}, None) where there is none."""
    path = path / "model.h5" if path.is_dir() else path
    for name in ("history.json", "result.json") if path.name in ("model.h5", "history.json", "result.json") else ():
        with contextlib.suppress(InputError, OSError):
            content = records.read_json(path.with_name(name))
            kept = content.get("checkpoint", content)
            run, sha256 = content.get("run"), kept.get("sha256") if isinstance(kept, dict) else None
            if isinstance(run, dict):
                return run, sha256 if isinstance(sha256, str) else None
    return {}, None
