"""What the models of a report are compared with: one base a chain, whatever other model a record compared with."""

import itertools
import json

import pytest

from compress.report import cards, records, sections

SUMS = ["".join(itertools.repeat(digit, 64)) for digit in "0123456789"]
BASE, FIRST, SECOND, STUDENT, ANOTHER, AGAIN, OUTSIDE, STRANGER, OTHER, UNKNOWN = SUMS
SETTING = {"split": "validation", "images": 20, "dataset": "digits"}


def trained(parameters, digest, parent=None, **more):
    return SETTING | {"val_acc": 0.5, "parameters": parameters, "sha256": digest, "parent_sha256": parent} | more


def student(parameters, digest, parent, **more):
    return trained(parameters, digest, parent, teacher_acc=0.5, compression_rate=99.0, **more)


def pruned(parameters, digests, parent, base):
    """The record of a pruning run, relative to a base of so many parameters."""
    count = len(digests)
    lists = {key: [0.5] * count for key in ("base_acc", "pruned_acc", "final_acc")}
    rates = [base / left for left in parameters]
    lists |= {"parameters": parameters, "compression_rate": rates, "sparsity": [1 - 1 / rate for rate in rates]}
    return SETTING | lists | {"sha256": digests, "parent_sha256": parent}


def evaluation(first, *rows, split="test"):
    """An evaluation of (parameters, checksum) each, relative to its first model."""
    models = [
        {
            "name": f"m{digest[0]}",
            "acc": 0.5,
            "sha256": digest,
            "parameters": left,
            "compression_rate": first[0] / left,
            "sparsity": 1 - left / first[0],
        }
        for left, digest in (first, *rows)
    ]
    return {"models": models, "split": split, "images": 50, "dataset": "digits"}


def tree_of(folder, content):
    for name, record in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record))
    return records.read_tree(folder)


def sizes_of(tree, key="compression_rate"):
    """{checksum: the numbers that its points have}."""
    found = {}
    for point in tree.points:
        found.setdefault(point.sha256, set()).add(point.sizes.get(key))
    return found


CHAIN = {
    "base/result.json": trained(1000, BASE),
    "pruned/result.json": pruned([800, 500], [FIRST, SECOND], BASE, 1000),
    "assistant/result.json": student(250, STUDENT, SECOND),
    "student/result.json": student(100, ANOTHER, STUDENT),
}


def test_a_model_has_one_rate_wherever_it_stands(tmp_path):
    """Of students and assistants, pruned anew or trained further; whatever an evaluation begins with."""
    content = CHAIN | {
        "again/result.json": pruned([50], [AGAIN], ANOTHER, 100),  # 2x smaller than the student that it began with
        "tests/a.json": evaluation((1000, BASE), (100, ANOTHER), (50, AGAIN)),
        "tests/b.json": evaluation((100, ANOTHER), (50, AGAIN)),
        "tests/c.json": evaluation((500, SECOND), (250, STUDENT), split="validation"),
    }
    tree = tree_of(tmp_path, content)
    rates = {BASE: 1, FIRST: 1.25, SECOND: 2, STUDENT: 4, ANOTHER: 10, AGAIN: 20}
    assert sizes_of(tree) == {digest: {rate} for digest, rate in rates.items()}
    sparsities = sizes_of(tree, "sparsity")
    assert sparsities[ANOTHER] == {0.9} and sparsities[AGAIN] == {0.95} and sparsities[SECOND] == {0.5}
    assert sparsities[STUDENT] == {None}  # compared with its teacher alone
    notes = {card["name"]: card["notes"] for card in cards.cards(tree)[0]}
    assert "compression rate 20.00x" in notes["again/iter1"] and "compression rate 10.00x" in notes["student"]
    assert not any(
        "No compression rate" in part for kind, part in sections.models_section(tree).parts if kind == "note"
    )


def test_pruning_a_student_shows_the_rate_to_its_base_and_tells_what_sparsity_is_relative_to(tmp_path, monkeypatch):
    tree = tree_of(tmp_path, CHAIN | {"again/result.json": pruned([50], [AGAIN], ANOTHER, 100)})
    drawn = []
    real = sections.pruning.plot_pruning
    monkeypatch.setattr(sections.pruning, "plot_pruning", lambda result: drawn.append(result) or real(result))
    section = sections.pruning_section(tree)
    texts = [part for kind, part in section.parts if kind == "text"]
    assert [" Sparsity is relative to student, which it started from." in text for text in texts] == [True, False]
    assert [result["compression_rate"] for result in drawn] == [[20], [1.25, 2]]


def test_rates_of_bases_of_several_seeds_are_each_of_its_own(tmp_path):
    """Bases of different size, and an evaluation that compares a student with the base of another chain."""
    content = {
        "a/result.json": trained(1000, BASE),
        "b/result.json": trained(2000, OTHER),
        "c/result.json": student(100, STUDENT, BASE),
        "d/result.json": student(100, ANOTHER, OTHER),
        "tests/a.json": evaluation((2000, OTHER), (100, STUDENT), (100, ANOTHER)),
    }
    tree = tree_of(tmp_path, content)
    assert sizes_of(tree) == {BASE: {1}, OTHER: {1}, STUDENT: {10}, ANOTHER: {20}}
    assert sizes_of(tree, "sparsity") == {BASE: {0}, OTHER: {0}, STUDENT: {None}, ANOTHER: {0.95}}


@pytest.mark.parametrize("role", ["pruned", "student"])
def test_what_is_trained_further_is_compared_with_the_first_base(role, tmp_path):
    further = trained(500, AGAIN, SECOND, run={"parent_role": role})
    tree = tree_of(tmp_path / "a", CHAIN | {"further/result.json": further})
    assert sizes_of(tree)[AGAIN] == {2}
    tree = tree_of(tmp_path / "b", {"further/result.json": further, "s/result.json": student(50, STUDENT, AGAIN)})
    assert sizes_of(tree) == {AGAIN: {None}, STUDENT: {None}}  # what it began as is not here


def test_a_base_that_began_with_foreign_weights_is_what_its_chain_is_compared_with(tmp_path):
    content = {"base/result.json": trained(1000, BASE, OUTSIDE), "s/result.json": student(100, STUDENT, BASE)}
    assert sizes_of(tree_of(tmp_path, content)) == {BASE: {1}, STUDENT: {10}}


def test_a_base_that_lies_elsewhere_is_known_by_the_pruning_run_that_names_it(tmp_path):
    content = {name: record for name, record in CHAIN.items() if name != "base/result.json"}
    assert sizes_of(tree_of(tmp_path, content)) == {FIRST: {1.25}, SECOND: {2}, STUDENT: {4}, ANOTHER: {10}}


def test_without_a_base_there_is_no_rate_and_the_page_says_so(tmp_path):
    content = {
        "base/result.json": trained(1000, BASE),
        "student/result.json": student(100, STUDENT, OUTSIDE),
        "tests/a.json": evaluation((1000, BASE), (100, STUDENT), (90, STRANGER)),
        "tests/b.json": evaluation((200, UNKNOWN), (20, ANOTHER)),
    }
    tree = tree_of(tmp_path, content)
    assert sizes_of(tree) == {BASE: {1}, STUDENT: {None}, STRANGER: {1000 / 90}, UNKNOWN: {None}, ANOTHER: {None}}
    notes = [part for kind, part in sections.models_section(tree).parts if kind == "note"]
    (told,) = [note for note in notes if note.startswith("No compression rate")]
    assert told == "No compression rate of student, m9, m4: no record here tells from which base it comes."
    content |= {"z/result.json": trained(500, OTHER), "tests/c.json": evaluation((500, OTHER), (90, STRANGER))}
    assert sizes_of(tree_of(tmp_path, content))[STRANGER] == {None}  # compared with two bases


def test_records_without_checksums_keep_what_they_say_of_their_own_base(tmp_path):
    content = {"base/result.json": trained(1000, None), "pruned/result.json": pruned([500], [None], None, 1000)}
    assert sizes_of(tree_of(tmp_path, content)) == {None: {1, 2}}
