"""What was found out about the files of a large folder, kept for the runs that follow.

Each run asks for the headers of all images, for a checksum, and for images that lie in two splits. Of a million files
that takes minutes, and the answers stay the same as long as the files do.
"""

import contextlib
import functools
import hashlib
import json
import os
from pathlib import Path

from compress.engine import processes
from compress.errors import InputError
from compress.storage import records

MANY = 20_000  # files from which on answers are kept: those of fewer come in seconds
FOLDER = "known"


def digest(paths, labels=()):
    """Identifies a list of paths and the labels of their images, 64 hexadecimal digits."""
    found = hashlib.sha256("\n".join(map(str, paths)).encode(errors="surrogateescape"))
    found.update(bytes(labels))
    return found.hexdigest()


class Known:
    """The answers about the files of a folder.

    Args:
        folder: of the cache; None to keep nothing.
        root: folder of the data set.
        paths: of its files.
    """

    def __init__(self, folder, root, paths):
        self.folder = folder and len(paths) >= MANY and Path(folder) / FOLDER
        self.root, self.paths = root, paths

    @functools.cached_property
    def files(self):
        """Identifies the files by their names, sizes and times, 64 hexadecimal digits."""
        found = hashlib.sha256(os.path.abspath(self.root).encode(errors="surrogateescape"))
        for path in sorted(self.paths):
            about = os.stat(path)
            line = f"{os.path.relpath(path, self.root)} {about.st_size} {about.st_mtime_ns}\n"
            found.update(line.encode(errors="surrogateescape"))
        return found.hexdigest()

    def of(self, question, compute, fits):
        """The answer to a question about the files: the one that is kept, else compute(), which is kept.

        Of several processes the first answers before the others, which then find in the folder what it has kept there.

        Args:
            question: what JSON holds: with the files it decides the answer.
            compute: function() -> what JSON holds.
            fits: function(answer) -> whether it has the shape of what compute() gives; the file may be a stranger's.
        """
        if not self.folder:
            return compute()
        return processes.in_turn(lambda: self._of(question, compute, fits))

    def _of(self, question, compute, fits):
        """`of`, in this process."""
        key = hashlib.sha256(json.dumps([self.files, question], sort_keys=True).encode()).hexdigest()[:32]
        path = self.folder / f"{key}.json"
        with contextlib.suppress(InputError, KeyError, TypeError):  # none yet, or one that something has damaged
            found = records.read_json(path)
            if found["question"] == json.loads(json.dumps(question)) and fits(found["answer"]):
                return found["answer"]
        answer = compute()
        with contextlib.suppress(OSError, InputError):  # no room or no right to write: it is asked again
            self.folder.mkdir(parents=True, exist_ok=True)
            records.write_json(path, {"question": question, "answer": answer})
        return answer


def are_texts(answer):
    """Whether an answer is a list of text."""
    return isinstance(answer, list) and all(isinstance(line, str) for line in answer)
