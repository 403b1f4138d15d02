"""README.md: every command in it is one that the scripts take."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "model/README.md", "SECURITY.md")


def commands(page):
    """The words behind `python SCRIPT.py` of every line in a page's fenced blocks, comments and continuations apart."""
    for block in re.findall(r"^```\w*\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            if line.lstrip().startswith("python ") and (ROOT / line.split()[1]).parent == ROOT:
                yield shlex.split(line, comments=True)[1:]


@pytest.mark.parametrize("page", [page for page in PAGES if list(commands(page))])
def test_every_command_of_a_page_is_one_that_its_script_takes(page):
    for script, *words in commands(page):
        importlib.import_module(Path(script).stem).build_parser().parse_args(words)


def test_the_readme_tells_how_to_run_every_script_that_makes_a_model():
    told = {script for script, *_ in commands("README.md")}
    assert told >= {"train_base_model.py", "prune_model.py", "knowledge_distillation.py", "evaluate_model.py"}


@pytest.mark.parametrize("page", PAGES)
def test_links_within_the_repository_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
               for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("#"):
            assert link[1:] in anchors, link
        elif "://" not in link:
            assert ((ROOT / page).parent / link.split("#")[0]).exists(), link
