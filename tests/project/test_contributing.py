"""CONTRIBUTING.md: its example works as it stands, and it names what there is."""

import re
import types
from pathlib import Path

import test_prune

from compress.pruning import criteria

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
base = test_prune.base  # a fixture


def test_the_criterion_of_the_example_passes_the_test_of_the_example(base):
    function, test = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    ours = dict(vars(criteria))
    exec(function, ours)
    theirs = dict(vars(test_prune))
    theirs["criteria"] = types.ModuleType("criteria")
    theirs["criteria"].compute_scores = lambda name, model, images, labels: {"spread": ours["compute_spread"]}[name](
        model
    )
    exec(test, theirs)
    theirs["test_spread_is_the_deviation_of_the_weights"](base)


def test_every_target_of_make_is_told():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
    assert sorted(re.findall(r"^\| `make ([\w-]+)` \|", TEXT, re.MULTILINE)) == sorted(targets)


def test_every_file_that_it_names_is_there():
    named = set(re.findall(r"`([\w/.-]+\.(?:py|toml|md|txt|sh))`|\]\(([\w/.-]+)[#)]", TEXT))
    assert named and all((ROOT / (code or link)).is_file() for code, link in named)
