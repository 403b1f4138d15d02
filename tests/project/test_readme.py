"""README.md and docs/: every command is one that the scripts take, every link leads somewhere."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "benchmarks/README.md",
    "model/README.md",
    "SECURITY.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")),
)


def commands(page):
    """The words behind `python SCRIPT.py` of every line in a page's fenced blocks, comments and continuations apart."""
    for block in re.findall(r"^```\w*\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            if line.lstrip().startswith("python ") and (ROOT / line.split()[1]).parent == ROOT:
                words = shlex.split(line, comments=True)[1:]
                yield words[: words.index("|")] if "|" in words else words


@pytest.mark.parametrize("page", [page for page in PAGES if list(commands(page))])
def test_every_command_of_a_page_is_one_that_its_script_takes(page):
    for script, *words in commands(page):
        importlib.import_module(Path(script).stem).build_parser().parse_args(words)


@pytest.mark.parametrize("page", [page for page in PAGES if list(commands(page))])
def test_a_command_that_trains_says_for_how_many_epochs(page):
    """The default of 200 takes hours or days, which nobody who pastes a command expects."""
    trains = ("train_base_model.py", "prune_model.py", "knowledge_distillation.py")
    assert not [
        words for words in commands(page) if words[0] in trains and "--epoch_num" not in words and "--help" not in words
    ]


def test_the_readme_tells_how_to_run_every_script_that_makes_a_model():
    told = {script for script, *_ in commands("README.md")}
    assert told >= {"train_base_model.py", "prune_model.py", "knowledge_distillation.py", "evaluate_model.py"}


def anchors(text):
    """Where a link into a page of Markdown may lead."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_within_the_repository_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            target = (ROOT / page).parent / path if path else ROOT / page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link
