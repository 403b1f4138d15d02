"""The report: its page is parsed again and compared with the records, and nothing in a file may break it."""

import base64
import hashlib
import itertools
import json
import re
import shutil
import subprocess
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from conftest import contrast, luminance, narrow_widths, randomised
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import report
from compress.cli import configs
from compress.data import dataset
from compress.errors import InputError
from compress.plots import pruning as plots
from compress.plots import roles, size_axes
from compress.plots import style as shared_style
from compress.report import cards, measure, records, sections
from compress.report import figures as report_plots
from compress.report import page as report_page
from compress.report import svg as report_svg
from compress.report.tree import Run, text
from compress.storage import checkpoints, files, headers

BASE, FIRST, SECOND, STUDENT, ALONE = ("".join(itertools.repeat(digit, 64)) for digit in "abcde")
DATA = {"dataset": "digits", "val_split": 0.2, "subset": 80, "image_size": None, "num_worker": 0}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"meta", "wbr", "br", "img", "link", "input", "hr", "base"}


class Page(HTMLParser):
    """What a page holds: tags with their attributes, tables, ids, texts, scripts."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.tables, self.lines, self.open, self.scripts = [], {}, [], [], []
        self.raw = Path(path).read_text(encoding="utf-8")
        self.feed(self.raw)
        self.close()
        assert not self.open  # every element is closed where it should be

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.table = self.tables.setdefault(dict(attrs)["id"], [])
        elif tag == "tr":
            self.table.append([])
        elif tag in ("td", "th"):
            self.table[-1].append(["", dict(attrs)])

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, content):
        if "script" in self.open:
            self.scripts.append(content)
        elif content.strip() and "style" not in self.open:
            self.lines.append(content.strip())
        if "table" in self.open and self.open[-1] in ("td", "th", "button"):
            self.table[-1][-1][0] += content

    def rows(self, name):
        """{name of a row: {heading: (text, data-sort or None)}}."""
        head, *rows = self.tables[name]
        titles = [cell.strip() for cell, _ in head]
        found = {}
        for row in rows:
            cells = {title: (shown, attrs.get("data-sort")) for title, (shown, attrs) in zip(titles, row, strict=True)}
            found.setdefault(row[0][0], []).append(cells)
        return found

    @property
    def figures(self):
        """Accessible names of the drawings."""
        return [attrs["aria-label"] for tag, attrs in self.tags if tag == "svg"]


def run_of(script, parent=None, **flags):
    return {
        "argv": [f"{script}.py", "--verbose", "0"],
        "flags": DATA | flags,
        "seed": 7,
        "parent_sha256": parent,
        "versions": {"python": "3.11.7", "keras": "3.15.1", "tensorflow": "2.21.0"},
        "processor": "A Processor",
        "cores": 2,
        "backend": "tensorflow",
        "started": "2026-01-02T03:04:05+00:00",
    }


def size(parameters):
    return {"parameters": parameters, "macs": 3 * parameters, "bytes": 4 * parameters + 1000}


def records_of_a_tree():
    """{path: content} of a whole chain, the first of its numbers an image a step."""
    setting = {"split": "validation", "images": 20, "train_images": 60}
    channels = {"conv2_block1_1_conv": [8, 6, 2], "conv2_block1_2_conv": [8, 8, 7], "conv1_conv": [5, 5, 5]}
    pruned = {
        key: [one, two]
        for key, one, two in (
            ("base_acc", 0.95, 0.9),
            ("pruned_acc", 0.5, 0.4),
            ("recalibrated_acc", 0.8, 0.7),
            ("final_acc", 0.9, 0.85),
            ("sparsity", 0.25, 0.5),
            ("compression_rate", 1.25, 2.0),
            ("seconds", 10.0, 12.5),
        )
    }
    sizes = {key: [size(n)[key] for n in (800000, 500000)] for key in size(1)}
    rows = [("teacher", 0.85, SECOND), ("trained directly", 0.7, ALONE), ("all", 0.8, STUDENT)]
    tested = [
        {
            "name": f"m{i}",
            "path": "/elsewhere/model.h5",
            "acc": acc,
            "sha256": digest,
            **size(n),
            "compression_rate": rate,
            "sparsity": 0.1,
            "latency_ms_median": ms,
            "class_acc": [0.5],
        }
        for i, (acc, digest, n, rate, ms) in enumerate(
            ((0.94, BASE, 1000000, 1.0, 7.5), (0.79, STUDENT, 100000, 10.0, 1.5), (0.6, "f" * 64, 90000, 11.0, 1.0))
        )
    ]
    tested[2] |= {"macs": None, "sparsity": None}  # of a classifier that is no ResNet of this suite
    return {
        "base_model/result.json": {
            "val_acc": 0.95,
            "val_loss": 0.2,
            **setting,
            **size(1000000),
            "sha256": BASE,
            "parent_sha256": None,
            "seconds": 99.5,
            "run": run_of("train_base_model"),
        },
        "base_model/history.json": {"train_loss": [1.0], "train_acc": [0.5], "val_loss": [1.0], "val_acc": [0.95]},
        "pruned_model/result.json": {
            "finished": True,
            **setting,
            **pruned,
            **sizes,
            "sha256": [FIRST, SECOND],
            "channels": channels,
            "parent_sha256": BASE,
            "run": run_of("prune_model", BASE, criterion="apoz", apoz_images=None),
        },
        "kd_model/result.json": {
            "val_acc": 0.8,
            "teacher_acc": 0.85,
            **setting,
            **size(100000),
            "compression_rate": 5.0,  # the teacher's parameters / its own
            "sha256": STUDENT,
            "parent_sha256": SECOND,
            "seconds": 5.0,
            "run": run_of("knowledge_distillation", SECOND),
        },
        "kd_model/ablation.json": {
            "rows": [{"name": n, "val_acc": a, "sha256": s} for n, a, s in rows],
            **setting,
            "run": run_of("knowledge_distillation", SECOND),
        },
        "results.json": {
            "models": tested,
            "dataset": "digits",
            "split": "test",
            "images": 50,
            "run": run_of("evaluate_model"),
        },
        "kd_model/exported/export.json": {
            "files": [
                {"format": "h5", "runtime": "Keras", "acc": 0.8, "bytes": 401000, "latency_ms_median": 1.25},
                {
                    "format": "litert",
                    "runtime": "LiteRT",
                    "acc": 0.75,
                    "agreement": 0.9,
                    "bytes": 200000,
                    "latency_ms_median": 0.5,
                    "threads": 2,
                },
            ],
            "dataset": "digits",
            "split": "validation",
            "images": 20,
            "sha256": STUDENT,
            "run": run_of("export_model"),
        },
        "worth.json": {
            "acc": 0.95,
            "loss": 0.2,
            "shares": [0.25, 0.5],
            "criterion": "l1",
            "layers": [
                {"layer": "conv2_block1_1_conv", "channels": 8, "kept": [6, 4], "acc": [0.95, 0.65], "loss": [0.2, 1]},
                {"layer": "conv2_block1_2_conv", "channels": 12, "kept": [9, 6], "acc": [0.9, 0.1], "loss": [0.3, 3]},
            ],
            "dataset": "digits",
            "split": "validation",
            "images": 20,
            "sha256": BASE,
            "run": run_of("sensitivity"),
        },
    }


def write_all(folder, content):
    for name, record in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(record if isinstance(record, str) else json.dumps(record), encoding="utf-8")
    return folder


def make(folder, *words):
    """What `report.run` returns, and the page."""
    result = report.run(
        report.build_parser().parse_args(["--root_folder", str(folder), "--verbose", "0", "--no-gpu", *words])
    )
    return result, Page(result["output"])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, what run returned, page) of a whole tree of records, without models."""
    folder = write_all(tmp_path_factory.mktemp("model"), records_of_a_tree())
    return folder, *make(folder, "--no-models")


@pytest.mark.slow
def test_the_student_that_came_with_the_suite_is_a_row_and_never_the_headline(tmp_path):
    theirs = {
        "val_acc": 1.0,
        "teacher_acc": 0.9,
        "split": "validation",
        "images": 20,
        "train_images": 60,
        **size(100),
        "compression_rate": 99.0,
        "sha256": "9" * 64,
        "parent_sha256": "8" * 64,
        "shipped": True,
        "run": run_of("knowledge_distillation", "8" * 64),
    }
    folder = write_all(tmp_path, records_of_a_tree() | {"a_shipped_student/result.json": theirs})
    tree = records.read_tree(folder)
    assert [card["name"] for card in cards.cards(tree)[0]] == ["base_model", "pruned_model/iter2", "kd_model"]
    assert [run.name for run in tree.of_kind("student")] == ["kd_model", "a_shipped_student"]
    assert sections.models_section(tree).parts[-1][1].rows[4][3][0] == "shipped with the suite"
    assert any("is outlined" in part for kind, part in sections.models_section(tree).parts if kind == "note")
    theirs["run"] = run_of("knowledge_distillation", "8" * 64) | {"flags": {"dataset": "cifar10"}}
    alone = records.read_tree(write_all(tmp_path / "b", records_of_a_tree() | {"theirs/result.json": theirs}))
    notes = [part for kind, part in sections.models_section(alone).parts if kind == "note"]
    assert not any("outlined" in note for note in notes)  # on images of its own, which no figure is of
    shutil.rmtree(tmp_path / "b")
    points = [p for p in tree.points if "parameters" in p.sizes and p.split == "validation"]
    (line,) = [
        line for line in report_plots.plot_front(points, "parameters")[0].axes[0].lines if line.get_label() == "_front"
    ]
    assert min(line.get_xdata()) > 1e-4 and max(line.get_ydata()) < 100
    (folder / "base_model").rename(tmp_path / "away.base")
    for name in ("base_model", "pruned_model", "kd_model"):
        shutil.rmtree(folder / name, ignore_errors=True)
    shutil.rmtree(tmp_path / "away.base")
    assert cards.cards(records.read_tree(folder)) == ([], "")


def test_every_model_stands_in_the_table_with_the_numbers_of_its_record(made):
    _, result, page = made
    rows = page.rows("table-models")
    wanted = {
        "base_model": [
            ("base", "digits validation, 20 images", 0.95, 1000000),
            ("base", "digits test, 50 images", 0.94, 1000000),
            ("base", "digits validation, 20 images", 0.95, None),
        ],
        "pruned_model/iter1": [("pruned", "digits validation, 20 images", 0.9, 800000)],
        "pruned_model/iter2": [("pruned", "digits validation, 20 images", 0.85, 500000)],
        "kd_model": [
            ("student", "digits validation, 20 images", 0.8, 100000),
            ("student", "digits test, 50 images", 0.79, 100000),
        ],
        "kd_model: trained directly": [("ablation", "digits validation, 20 images", 0.7, 100000)],
        "m2": [("evaluation", "digits test, 50 images", 0.6, 90000)],
        "kd_model, h5": [("export", "digits validation, 20 images", 0.8, None)],
        "kd_model, litert": [("export", "digits validation, 20 images", 0.75, None)],
    }
    assert set(rows) == set(wanted)
    for name, lines in wanted.items():
        for row, (kind, images, accuracy, parameters) in zip(rows[name], lines, strict=True):
            assert (row["kind"][0], row["images"][0]) == (kind, images)
            assert row["accuracy"] == (f"{100 * accuracy:.2f} %", str(accuracy))
            assert row["parameters"] == (
                ("-", None)
                if parameters is None
                else ("90 k" if parameters == 90000 else f"{parameters / 1e6:#.4g} M", str(parameters))
            )
    assert rows["base_model"][0]["compression rate"] == ("1.00x", "1.0")
    for row in (*rows["kd_model"], *rows["kd_model: trained directly"]):  # one base for all, not the teacher
        assert row["compression rate"] == ("10.00x", "10.0")
    assert rows["base_model"][1]["latency"] == ("7.50 ms", "7.5") and rows["base_model"][0]["latency"] == ("-", None)
    assert rows["kd_model"][0]["file"] == ("0.4010 MB", "401000") and rows["kd_model"][0]["MACs"] == (
        "0.3000 M",
        "300000",
    )
    assert rows["m2"][0]["MACs"] == rows["m2"][0]["sparsity"] == ("-", None)
    assert rows["kd_model"][0]["sparsity"] == ("10.00 %", "0.1")  # of the evaluation that begins with its base
    assert [m["acc"] for m in result["models"]] == [0.95, 0.9, 0.85, 0.8, 0.7, 0.94, 0.79, 0.6, 0.8, 0.75, 0.95]
    assert result["runs"] == 7 and result["skipped"] == []


def test_pruning_ablation_and_exports_have_tables_of_their_own(made):
    pruning = made[2].rows("table-pruning-1")
    for i, name in enumerate("12"):
        (row,) = pruning[name]
        shares = {
            "before": (0.95, 0.9),
            "after pruning": (0.5, 0.4),
            "after recalibration": (0.8, 0.7),
            "after fine-tuning": (0.9, 0.85),
            "sparsity": (0.25, 0.5),
        }
        assert {key: row[key] for key in shares} == {
            key: (f"{100 * v[i]:.2f} %", str(v[i])) for key, v in shares.items()
        }
        assert row["compression rate"][0] == ("1.25x", "2.00x")[i] and row["MACs"][0] == ("2.400 M", "1.500 M")[i]
    ablation = made[2].rows("table-ablation-1")
    assert {
        name: [row["validation accuracy"][0], row["to the first row, points"][0]] for name, (row,) in ablation.items()
    } == {"teacher": ["85.00 %", "+0.00"], "trained directly": ["70.00 %", "-15.00"], "all": ["80.00 %", "-5.00"]}
    exports = made[2].rows("table-export-1")
    worth = made[2].rows("table-sensitivity-1")
    assert {name: {key: row[key] for key in ("channels", "25 %", "50 %")} for name, (row,) in worth.items()} == {
        "conv2_block1_1": {"channels": ("8", "8"), "25 %": ("95.00 %", "0.95"), "50 %": ("65.00 %", "0.65")},
        "conv2_block1_2": {"channels": ("12", "12"), "25 %": ("90.00 %", "0.9"), "50 %": ("10.00 %", "0.1")},
    }
    assert exports["litert"][0]["agreement with the .h5"][0] == "90.00 %" and exports["h5"][0]["latency"][1] == "1.25"
    assert (exports["litert"][0]["threads"][0], exports["h5"][0]["threads"]) == ("2", ("-", None))


@pytest.mark.slow
def test_a_report_takes_away_the_figures_of_runs_that_are_gone_and_nothing_else(tmp_path):
    folder = write_all(tmp_path / "my model", records_of_a_tree())
    before, _ = make(folder, "--no-models")
    (folder / "report" / "mine.png").write_bytes(b"x")
    link = '<figcaption><a href="other/mine.png">PNG<span></span></a>'
    (tmp_path / "other.html").write_text(f"<p>{link}")  # a page of someone else's
    assert report_page.linked_figures(tmp_path / "other.html") == report_page.linked_figures(tmp_path / "none") == set()
    (tmp_path / "other.html").write_text(f'<meta name="generator" content="report.py">{link}')
    assert report_page.linked_figures(tmp_path / "other.html") == {"mine"}
    (folder / "pruned_model" / "result.json").unlink()
    after, _ = make(folder, "--no-models")
    assert {path.name for path in before["figures"]} - {path.name for path in after["figures"]} >= {"pruning-1.png"}
    assert set((folder / "report").iterdir()) == {*after["figures"], folder / "report" / "mine.png"}


def test_every_run_tells_flags_seed_versions_split_and_parents(made):
    runs = made[2].rows("table-runs")
    assert set(runs) == set(records_of_a_tree()) - {"base_model/history.json"}
    (row,) = runs["pruned_model/result.json"]
    assert [
        row[key][0] for key in ("script", "state", "seed", "started", "trained", "Keras", "backend", "processor")
    ] == [
        "prune_model.py",
        "finished",
        "7",
        "2026-01-02 03:04",
        "22.5 s",
        "3.15.1",
        "tensorflow 2.21.0",
        "A Processor",
    ]
    lines = made[2].lines
    assert lines.count("--criterion") == 1 and lines[lines.index("--criterion") + 1] == "apoz"
    chain = [
        (f"{name} ({digest[:12]})")
        for name, digest in (
            ("base_model", BASE),
            ("pruned_model/iter1", FIRST),
            ("pruned_model/iter2", SECOND),
            ("kd_model", STUDENT),
        )
    ]
    assert lines.count(" → ".join(chain)) == 3  # of the student, its evaluation and its export
    assert "digits validation, 20 images; trained on 60; --val_split 0.2; --subset 80" in lines
    assert "python 3.11.7, keras 3.15.1, tensorflow 2.21.0" in lines and "python prune_model.py --verbose 0" in lines


@pytest.mark.parametrize(
    ("record", "shown"),
    [
        ({"backend": "jax", "versions": {"jax": "0.8.0"}, "devices": [2]}, "jax 0.8.0, 2 devices"),
        ({"backend": "jax", "versions": {"jax": "0.8.0"}, "devices": [2, 1]}, "jax 0.8.0, 2, then 1 devices"),
        ({"backend": "jax", "devices": [1]}, "jax"),
        ({"backend": "jax", "devices": "two"}, "jax"),
        ({"backend": "torch", "versions": 3, "devices": [8, None]}, "torch"),
        ({"versions": {"tensorflow": "2.21.0"}, "devices": [2]}, "-"),
    ],
)
def test_runs_tell_their_backend_and_devices(record, shown, tmp_path):
    content = records_of_a_tree()
    run = {key: value for key, value in run_of("train_base_model").items() if key not in ("backend", "versions")}
    content["base_model/result.json"]["run"] = run | record
    tree = records.read_tree(write_all(tmp_path, content))
    (_, table), _, (_, entries) = sections.runs_section(tree).parts
    assert [head for head, _ in table.columns][-3:] == ["Keras", "backend", "processor"]
    assert table.rows[0][-2] == (shown, None if shown == "-" else shown)
    assert dict(entries[0][2]).get("backend") == (None if shown == "-" else [shown])


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"parent_sha256": None}, "random weights"),
        ({"parent_sha256": SECOND}, f"not below this folder ({SECOND[:12]}) → base_model ({BASE[:12]})"),
        ({"sha256": None}, "random weights"),
    ],
)
def test_a_base_came_from_random_weights_or_what_its_record_names(change, wanted, tmp_path):
    content = records_of_a_tree()
    content = {name: content[name] for name in ("base_model/result.json", "kd_model/result.json")}
    content["base_model/result.json"] |= change
    tree = records.read_tree(write_all(tmp_path, content))
    facts = dict(sections.runs_section(tree).parts[-1][1][0][2])
    assert facts["came from"] == [wanted]
    for part in (content["base_model/result.json"], content["base_model/result.json"]["run"]):
        part.pop("parent_sha256")
    tree = records.read_tree(write_all(tmp_path / "old", content))
    assert "random weights" not in str(sections.runs_section(tree).parts)  # the record doesn't say


def test_figures_are_drawn_and_lie_beside_the_page_as_png(made):
    folder, result, page = made
    slugs = [f"front-{size}{number}" for number in ("", "-2") for size in ("parameters", "bytes", "macs", "latency")]
    slugs += ["history-1-loss", "history-1-accuracy", "pruning-1", "channels-1", "sensitivity-1", "ablation-1"]
    assert [path.stem for path in result["figures"]] == slugs and len(page.figures) == len(slugs)
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a" and attrs["href"].endswith(".png")]
    assert links == [f"report/{slug}.png" for slug in slugs]
    for link in links:
        with Image.open(folder / link) as image:
            assert min(image.size) > 300 and len(image.convert("L").getcolors()) > 10
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids)) > 50
    inside = {value for _, attrs in page.tags for value in re.findall(r"#([\w-]+)\)?$", attrs.get("href") or "")}
    values = [value or "" for _, attrs in page.tags for value in attrs.values()]
    inside |= {name for value in values for name in re.findall(r"url\(#([^)]+)\)", value)}
    assert inside <= set(ids)
    assert {"Accuracy against parameters", "On digits test, 50 images", "conv2_block1_1", "after fine-tuning"} <= set(
        page.lines
    )  # text is text
    assert "base_model: 95.00 % of digits validation, 20 images, 1 parameters (M)" in page.lines  # on hover


def test_nothing_is_loaded_from_elsewhere(made):
    page = made[2]
    for tag, attrs in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "img", "audio", "video", "form")
        for name, value in attrs.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "data", "action", "srcset"):
                assert value.startswith(("#", "report/", "data:image/png;base64,")), (tag, value)
    assert not re.search(r"https?:|@import|//[a-z]", page.raw)
    policy = next(attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    (script,) = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'") and f"script-src 'sha256-{digest}'" in policy
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags


def test_a_caption_and_the_hint_to_scroll_are_two_sentences(made):
    (hint,) = re.findall(r'caption::after { content: "([^"]*)"', made[2].raw)
    assert hint.startswith(". ") and hint.endswith(".")
    captions = re.findall(r"<caption>([^<]*)</caption>", made[2].raw)
    assert len(captions) == len(made[2].tables) and not any(caption.rstrip().endswith(".") for caption in captions)


def test_tables_can_be_sorted_from_the_keyboard(made):
    page = made[2]
    assert len(page.tables) == 6
    headings = [attrs for tag, attrs in page.tags if tag == "th" and attrs.get("scope") == "col"]
    buttons = [attrs for tag, attrs in page.tags if tag == "button"]
    assert len(buttons) == len(headings) > 30 and all(b == {"type": "button"} for b in buttons)
    assert all(attrs["aria-sort"] == "none" for attrs in headings)
    for head, *rows in page.tables.values():
        for row in rows:
            assert len(row) == len(head) and row[0][1]["scope"] == "row"
            for (_, of_head), (shown, attrs) in zip(head, row, strict=True):
                assert ("data-sort" in attrs) == (shown != "-")
                assert ("number" in attrs.get("class", "")) == ("number" in of_head.get("class", ""))
                if "number" in attrs.get("class", "") and shown != "-":
                    assert np.isfinite(float(attrs["data-sort"]))  # a number for the script


# CSS filter effects, level 1: the matrix of hue-rotate(180deg)
TURN = np.array([[-0.574, 1.430, 0.144], [0.426, 0.430, 0.144], [0.426, 1.430, -0.856]])


def filtered(colour, invert):
    """What a dark page shows of a colour, as its filter says."""
    return np.clip(TURN @ (invert - (2 * invert - 1) * np.array(matplotlib.colors.to_rgb(colour))), 0, 1)


def test_figures_and_text_contrast_with_what_they_stand_on_in_both_schemes(made):
    style = made[2].raw.partition("<style>")[2].partition("</style>")[0]
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", part))
        for part in style.split("* { box-sizing")[0].split("@media (prefers-color-scheme: dark)")
    )
    invert = float(re.search(r"figure svg { filter: invert\((\.\d+)\) hue-rotate\(180deg\); }", style)[1])
    drawn = {"ink": "#000000", "soft": shared_style.GREY} | {
        f"role-{role}": colour for role, (colour, _) in roles.LOOKS.items() if role != "other"
    }
    for found, shown in ((light, matplotlib.colors.to_rgb), (dark, lambda colour: filtered(colour, invert))):
        for ground in ("paper", "raised"):
            assert all(contrast(found[name], found[ground]) >= 4.5 for name in ("ink", "soft", "link"))
        for colour in (*drawn.values(), *roles.NEUTRALS):
            assert contrast(shown(colour), found["paper"]) >= 3
        for name, colour in drawn.items():
            if name.startswith("role"):  # a card has the colour that its models have in the figures
                np.testing.assert_allclose(matplotlib.colors.to_rgb(found[name]), shown(colour), atol=0.01)
    # heat maps, whose cells hold numbers, are left as they are, on white
    assert "figure:has(svg image) svg { filter: none; }" in style
    cells = [attrs["style"] for tag, attrs in made[2].tags if tag == "text" and "#ffffff" in attrs.get("style", "")]
    assert len(cells) == 2 and any(tag == "image" for tag, _ in made[2].tags)  # the 2 of 8 channels, the 80 points lost


def test_cards_are_of_one_split_the_test_images_where_all_were_evaluated(tmp_path):
    content = records_of_a_tree()
    tree = records.read_tree(write_all(tmp_path / "some", content))
    shown = [(card["what"], card["acc"], card["split"], card["notes"][0]) for card in cards.cards(tree)[0]]
    assert shown == [
        ("base", "95.00 %", "validation accuracy", "digits validation, 20 images"),
        ("pruned", "85.00 %", "validation accuracy", "digits validation, 20 images"),
        ("student", "80.00 %", "validation accuracy", "digits validation, 20 images"),
    ]
    content["results.json"]["models"][2] |= {"sha256": SECOND, "acc": 0.83}
    tree = records.read_tree(write_all(tmp_path / "all", content))
    shown = [(card["what"], card["acc"], card["split"], card["notes"][0]) for card in cards.cards(tree)[0]]
    assert shown == [
        (what, acc, "test accuracy", "digits test, 50 images")
        for what, acc in (("base", "94.00 %"), ("pruned", "83.00 %"), ("student", "79.00 %"))
    ]


@pytest.mark.parametrize(("size", "name"), [(999, "aaa"), (10**9, "kd_model")])
def test_of_equally_accurate_students_the_smaller_one_is_on_the_card(size, name, tmp_path):
    content = records_of_a_tree()
    content["aaa/result.json"] = content["kd_model/result.json"] | {
        "sha256": ALONE,
        "parameters": size,
        "run": run_of("knowledge_distillation", SECOND),
    }
    tree = records.read_tree(write_all(tmp_path, content))
    assert cards.cards(tree)[0][-1]["name"] == name


def test_cards_choose_each_kind_by_one_rule_which_the_page_tells(tmp_path):
    """Not the models that the best student comes from; a run's last model stands for it."""
    content = records_of_a_tree()
    content["b/result.json"] = content["base_model/result.json"] | {"sha256": ALONE, "val_acc": 0.96}
    content["p/result.json"] = content["pruned_model/result.json"] | {
        "sha256": ["1" * 64, "2" * 64],
        "final_acc": [0.99, 0.86],
        "parent_sha256": ALONE,
    }
    content["q/result.json"] = content["p/result.json"] | {"sha256": ["3" * 64, "4" * 64], "parameters": [9000, 400000]}
    folder = write_all(tmp_path, content)
    found, rule = cards.cards(records.read_tree(folder))
    assert [(card["name"], card["acc"]) for card in found] == [
        ("b", "96.00 %"),
        ("q/iter2", "86.00 %"),
        ("kd_model", "80.00 %"),
    ]
    assert rule == (
        "Of each kind, the run whose last model is the most accurate on digits validation, 20 images; of equals the "
        "one with the fewest parameters."
    )
    _, page = make(folder, "--no-models")
    assert rule in page.lines
    assert cards.cards(records.read_tree(write_all(tmp_path / "one", records_of_a_tree())))[1] == ""  # nothing chosen


@pytest.mark.parametrize(("most", "images"), [(("kd_model",), 20), (("kd_model", "pruned_model"), 6)])
def test_cards_are_of_the_images_that_most_runs_were_measured_on(most, images, tmp_path):
    content = records_of_a_tree()
    for name in most:
        content[f"{name}/result.json"]["images"] = 6
    found, rule = cards.cards(records.read_tree(write_all(tmp_path, content)))
    assert {card["notes"][0] for card in found} == {f"digits validation, {images} images"} and len(found) == 2
    assert rule.endswith(" 1 run on other images is not compared here.")
    for name in content:
        if name.endswith("result.json"):
            content[name]["images"] = 6 if name.startswith("kd") else None
    assert len(cards.cards(records.read_tree(write_all(tmp_path / "unknown", content)))[0]) == 2


def test_a_student_that_taught_another_is_an_assistant(tmp_path):
    content = records_of_a_tree()
    content["small/result.json"] = content["kd_model/result.json"] | {
        "sha256": ALONE,
        "parent_sha256": STUDENT,
        "val_acc": 0.75,
        "run": run_of("knowledge_distillation", STUDENT),
    }
    tree = records.read_tree(write_all(tmp_path, content))
    looks = {(point.name, point.role, point.what) for point in tree.points}
    assert {
        ("kd_model", "assistant", "assistant"),
        ("small", "student", "student"),
        ("base_model", "base", "base"),
        ("pruned_model/iter2", "pruned", "pruned"),
        ("m2", None, "evaluation"),
        ("kd_model, litert", "assistant", "export"),
    } <= looks
    assert [card["name"] for card in cards.cards(tree)[0]] == ["base_model", "pruned_model/iter2", "kd_model", "small"]
    curve = {"train_loss": [3.0, 2.0], "train_backbone": [2.5, 1.5], "val_loss": [1.0, 0.5], "val_acc": [0.5, 0.75]}
    for name in ("kd_model", "small"):
        (tmp_path / name / "history.json").write_text(json.dumps(curve))
    figures = {figure.slug: figure.figure for figure in sections.training_section(tree).figures}
    assert set(figures) == {
        "history-1-loss",
        "history-1-accuracy",
        "history-2-loss",
        "history-2-accuracy",
        "history-2-distillation",
        "history-2-distillation-2",
    }
    for slug, role in (("history-2-distillation", "assistant"), ("history-2-distillation-2", "student")):
        lines = {line.get_label(): line for line in figures[slug].axes[0].lines}
        assert list(lines["soft labels (KL x T²)"].get_ydata()) == [2.5, 1.5]  # each loss by its name
        assert lines["weighted sum, which is trained"].get_color() == roles.colour(role)


HOSTILE = "<img src=x onerror=alert(1)>\"'&</script><script>alert(2)</script>$x_{$\x00\x1b[31m\u202e"


def test_a_hostile_string_is_only_text(tmp_path):
    content = records_of_a_tree()
    content["kd_model/result.json"]["run"] |= {
        "argv": [HOSTILE, {"a": HOSTILE}],
        "seed": HOSTILE,
        "versions": {HOSTILE: HOSTILE},
        "started": HOSTILE,
        "flags": {HOSTILE: HOSTILE, "dataset": HOSTILE, "deep": [[HOSTILE] * 3] * 3},
        "processor": [HOSTILE],
    }
    content["kd_model/ablation.json"]["rows"][1]["name"] = HOSTILE
    content["results.json"]["models"][2]["name"] = HOSTILE
    content["results.json"] |= {"dataset": HOSTILE, "split": HOSTILE}
    content["pruned_model/result.json"]["channels"][f"{HOSTILE}_1_conv"] = [9, 8, 7]
    content["kd_model/exported/export.json"]["files"][1] |= {"format": HOSTILE, "runtime": HOSTILE}
    folder = "<b onclick=alert(3)>&amp;`${x}"
    content[f"{folder}/result.json"] = content["base_model/result.json"] | {"sha256": HOSTILE}
    content[f"{folder}/bad.json"] = "{"
    _, page = make(write_all(tmp_path, content), "--no-models")
    assert len(page.scripts) == 1 and not {"img", "b onclick", "iframe"} & {tag for tag, _ in page.tags}
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert f"not shown: {folder}/bad.json" in next(line for line in page.lines if line.startswith("not shown"))
    assert text(HOSTILE, 60) in page.lines and not set("\x00\x1b\u202e") & set(page.raw)
    assert folder in page.rows("table-models")


@pytest.mark.parametrize(
    ("record", "change", "why"),
    [
        ("base_model", {"parameters": 1e300}, "parameters=1e+300, expected a number from 1 to 1e+15"),
        ("base_model", {"macs": 10**400}, "macs=1000"),
        ("base_model", {"val_acc": float("inf")}, "val_acc=Infinity"),
        ("base_model", {"val_acc": float("nan")}, "val_acc=NaN"),
        ("base_model", {"bytes": True}, "bytes=true"),
        ("base_model", {"images": "<b>"}, "images=<b>"),
        ("kd_model", {"teacher_acc": [[]]}, "teacher_acc=[[]]"),
        ("pruned_model", {"final_acc": []}, "0 pruning iterations"),
        ("pruned_model", {"sparsity": [0.5]}, "sparsity=[0.5], expected 2 numbers"),
        ("pruned_model", {"channels": {"a": [1e9, 1, 1]}}, "expected 3 counts"),
        ("pruned_model", {"channels": [1]}, "channels=[1]"),
        ("pruned_model", {"base_acc": [{}, 2]}, "base_acc={}"),
        ("worth.json", {"shares": [0.5]}, "of a layer, expected 1 numbers"),
        ("worth.json", {"shares": [0.5, 2]}, "shares=[0.5, 2], expected numbers from 0 to 1"),
        ("worth.json", {"layers": [{"layer": "a", "channels": 0, "acc": [1, 1]}]}, "channels=0"),
        ("worth.json", {"layers": [{"layer": "a", "channels": 9, "acc": [1, 7]}]}, "acc=7"),
    ],
)
def test_numbers_out_of_range_take_one_record_out(tmp_path, record, change, why):
    content = records_of_a_tree()
    record = record if record.endswith(".json") else f"{record}/result.json"
    content[record] |= change
    tree = records.read_tree(write_all(tmp_path, content))
    ((file, reason),) = tree.skipped
    assert file == record and why in reason and len(tree.runs) == 6


def test_a_model_that_only_others_tell_of_is_named_as_they_name_it(tmp_path):
    content = records_of_a_tree()
    content = {name: content[name] for name in ("results.json", "worth.json")}
    result, page = make(write_all(tmp_path, content), "--no-models")
    assert [(m["name"], m["kind"]) for m in result["models"][:1]] == [("m0", "evaluation")]
    assert result["models"][-1]["kind"] == "sensitivity" and result["skipped"] == [] and page.rows("table-models")


@pytest.mark.slow
def test_curves_of_many_runs_share_figures_and_one_that_cannot_be_drawn_is_told(tmp_path):
    content = records_of_a_tree()
    for i in range(7):
        content[f"base{i}/result.json"] = content["base_model/result.json"] | {"sha256": f"{i}" * 64}
        content[f"base{i}/history.json"] = {"val_acc": [0.5, 0.75], "val_loss": [1e308 if i == 3 else 1.0, 0.5]}
    result, page = make(write_all(tmp_path, content), "--no-models")
    assert [path.stem for path in result["figures"] if path.stem.startswith("history")] == [
        "history-1-loss",
        "history-1-accuracy",
        "history-2-loss",
        "history-2-accuracy",
    ]
    (told,) = [line for line in page.lines if "no curves" in line]
    assert told.startswith("base3: no curves, ") and "1e+308" in told
    captions = re.findall('"Accuracy over the epochs of ([^"<]*)', page.raw)
    assert sorted(set(captions)) == ["base0, base1, base2, base4, base5, base6", "base_model"]


def test_each_set_of_images_has_figures_of_its_own(tmp_path, monkeypatch):
    content, drawn = records_of_a_tree(), []
    for i in range(7):  # beside the tree's own two sets
        for name in ("a", "b")[: 1 + (i < 6)]:
            content[f"base{i}{name}/result.json"] = content["base_model/result.json"] | {
                "sha256": f"{i}{name}" * 32,
                "images": 30 + i,
                "val_acc": 0.95 if name == "a" else 0.9,
            }
    real = report_plots.plot_front

    def plot_front(points, key):
        figure, tips = real(points, key)
        drawn.append((points, key, figure))
        return figure, tips

    monkeypatch.setattr(report_plots, "plot_front", plot_front)
    monkeypatch.setattr(
        report_plots, "SIZES", {key: report_plots.SIZES[key] for key in ("parameters", "latency_ms_median")}
    )  # half the time
    section = sections.models_section(records.read_tree(write_all(tmp_path, content)))
    assert all(len({point.group for point in points}) == 1 for points, _, _ in drawn)
    assert len({points[0].group for points, _, _ in drawn}) == sections.MOST_SETS
    for points, key, figure in drawn:
        (axes,) = figure.axes
        at = {tuple(line.get_xydata()[0]) for line in axes.lines if len(line.get_xdata()) == 1}
        assert at >= {
            (point.sizes[key] / (1 if key == "latency_ms_median" else 1e6), 100 * point.acc) for point in points
        }
        assert figure.legends[0].get_window_extent().width <= figure.bbox.width  # no name is cut off
    assert any(
        kind == "note" and what.startswith("Accuracies on 3 other sets of images") for kind, what in section.parts
    )
    assert len(section.parts[-1][1].rows) == 11 + 13 and len(section.figures) == len(drawn)


def test_a_figure_has_one_point_a_model_as_it_was_measured_last_and_two_at_least(tmp_path):
    content = records_of_a_tree()
    content = {name: content[name] for name in ("base_model/result.json", "kd_model/result.json", "results.json")}
    later = content["results.json"] | {"run": run_of("evaluate_model") | {"started": "2026-02-02T03:04:05+00:00"}}
    later["models"] = [row | {"latency_ms_median": 9.0} for row in later["models"][:1]]
    content["a_later.json"] = later  # which is read before the other one
    tree = records.read_tree(write_all(tmp_path / "two", content))
    tested = [point for point in tree.points if point.group == "digits test, 50 images"]
    assert [point.name for point in tested].count("base_model") == 2
    found = {point.name: point.sizes["latency_ms_median"] for point in report_plots.newest(tested, "latency_ms_median")}
    assert found == {"base_model": 9.0, "kd_model": 1.5, "m2": 1.0}
    section = sections.models_section(tree)
    drawn = {figure.slug: figure.figure.axes[0] for figure in section.figures}
    assert [sum(len(line.get_xdata()) == 1 for line in axes.lines) for axes in drawn.values()] == [2, 2, 2, 3, 3, 2, 3]
    front = {(row[0][0], row[-2][0]): row[-1][0] for row in section.parts[-1][1].rows}
    assert front["base_model", "9.00 ms"] == "parameters, file size, MACs, latency"
    assert front["base_model", "7.50 ms"] == "parameters, file size, MACs"
    alone = {name: content[name] for name in ("base_model/result.json",)}
    for name, more in (("one", {}), ("equal", {"b/result.json": alone["base_model/result.json"] | {"sha256": ALONE}})):
        section = sections.models_section(records.read_tree(write_all(tmp_path / name, alone | more)))
        assert section.figures == [] and not any(kind in ("heading", "text") for kind, _ in section.parts)
        assert not any("no figure" in part for kind, part in section.parts if kind == "note")


def test_no_name_lies_on_a_step_and_points_that_cover_each_other_have_one(tmp_path):
    content = records_of_a_tree()
    for i in range(6):
        content[f"s{i}/result.json"] = content["kd_model/result.json"] | {
            "sha256": f"{i}" * 64,
            "parameters": 100000 + 10 * i,
            "val_acc": 0.6,
        }
    tree = records.read_tree(write_all(tmp_path, content))
    points = [point for point in tree.points if point.split == "validation" and "parameters" in point.sizes]
    (axes,) = report_plots.plot_front(points, "parameters")[0].axes
    axes.figure.draw_without_rendering()
    names = {name.get_text(): name for name in axes.texts if name.get_text()}
    assert "6 students:\ns0\ns1\ns2\nand 3 more" in names and not {f"s{i}" for i in range(6)} & set(names)
    (front,) = [line for line in axes.lines if line.get_label() == "_front"]
    (x, y), path = front.get_data(), []
    for (left, low), (right, high) in itertools.pairwise(zip(x, y, strict=True)):
        path += [np.linspace((left, low), (right, low), 200), np.linspace((right, low), (right, high), 200)]
    on_it = axes.transData.transform(np.concatenate(path))
    for name in names.values():
        box = name.get_window_extent()
        assert not ((on_it > [box.x0, box.y0]) & (on_it < [box.x1, box.y1])).all(1).any(), name.get_text()
        assert name.get_bbox_patch().get_alpha() >= 0.9  # where there is no room beside it


def test_of_many_models_those_on_the_front_are_named(tmp_path):
    content = {"base_model/result.json": records_of_a_tree()["base_model/result.json"]}
    places = [(200 * 2**i, 0.3 + 0.05 * i) for i in range(5)] + [
        (900 + 700 * i, 0.25 + 0.02 * (i % 3)) for i in range(9)
    ]
    for number, (parameters, acc) in enumerate(places):
        content[f"m{number:02}/result.json"] = content["base_model/result.json"] | {
            "sha256": f"{number:02}" * 32,
            "parameters": parameters,
            "val_acc": acc,
        }
    content.pop("base_model/result.json")
    points = records.read_tree(write_all(tmp_path, content)).points
    (axes,) = report_plots.plot_front(points, "parameters")[0].axes
    names = {name.get_text() for name in axes.texts}
    assert names >= {f"m{number:02}" for number in range(5)} and len(points) > report_plots.NAMED


def test_a_step_is_told_of_where_there_is_one(tmp_path):
    content = {
        name: record
        for name, record in records_of_a_tree().items()
        if name in ("base_model/result.json", "kd_model/result.json")
    }
    for acc, stepped in ((0.8, True), (0.96, False)):  # the smaller student beats its base
        content["kd_model/result.json"]["val_acc"] = acc
        section = sections.models_section(records.read_tree(write_all(tmp_path / str(acc), content)))
        assert ("A step joins" in section.parts[0][1]) == stepped


@pytest.mark.slow
def test_numbers_at_the_limits_are_drawn(tmp_path):
    content = records_of_a_tree()
    content["base_model/result.json"] |= {"parameters": 10**15, "macs": 1, "bytes": 10**18, "val_acc": 1}
    content["kd_model/result.json"] |= {"parameters": 1, "compression_rate": 1e9, "val_acc": 0}
    result, _ = make(write_all(tmp_path, content), "--no-models")
    assert result["skipped"] == [] and all(path.is_file() for path in result["figures"])


def test_damaged_and_foreign_files_are_told_and_the_rest_is_shown(tmp_path):
    strangers = {
        "package.json": '{"name": "x"}',
        "list.json": "[1]",
        "torn.json": '{"val_acc": 0.',
        "empty.json": "",
        "deep.json": "[" * 5000,
        "curves.json": '{"val_acc": [0.5]}',
        "running/history.json": '{"loss": [1]}',
        "rows.json": '{"rows": [1], "split": "validation"}',
        ".hidden/result.json": "{",
        "x.txt": "{",
    }
    write_all(tmp_path, records_of_a_tree() | strangers)
    (tmp_path / "running" / "state.npz").write_bytes(b"")
    (tmp_path / "latin.json").write_bytes(b"\xff\xfe{")
    result, page = make(tmp_path, "--no-models")
    reasons = dict(result["skipped"])
    assert set(reasons) == {*strangers, "latin.json"} - {".hidden/result.json", "x.txt"}
    assert reasons["package.json"] == "none of the suite's records"
    assert "not finished" in reasons["running/history.json"]
    assert "expected JSON" in reasons["torn.json"] and "holds a list" in reasons["list.json"]
    assert [line for line in page.lines if line.startswith("not shown")] == [
        f"not shown: {file}, {why}" for file, why in result["skipped"]
    ]
    assert result["runs"] == 7


@pytest.mark.parametrize("content", [{}, {"bad.json": "{"}, {"x/history.json": '{"val_acc": [0.5]}'}])
def test_a_folder_without_records_is_an_error_and_nothing_is_written(tmp_path, capsys, content):
    write_all(tmp_path, content)
    before = sorted(tmp_path.rglob("*"))
    assert report.main(["--root_folder", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"report.py: --root_folder: received {tmp_path}") and error.count("\n") == 1
    assert "bad.json" in error or not content.get("bad.json")
    assert sorted(tmp_path.rglob("*")) == before
    assert report.main(["--root_folder", str(tmp_path / "missing")]) == 2
    assert report.main(["--root_folder", str(tmp_path), "--output", "page.pdf"]) == 2


@pytest.mark.slow
def test_a_page_goes_where_output_says_and_replaces_the_old_one_whole(tmp_path, monkeypatch):
    write_all(tmp_path / "runs", records_of_a_tree())
    words = ("--no-models", "--output", str(tmp_path / "out" / "a b#.html"))
    result, page = make(tmp_path / "runs", *words)
    assert result["output"] == tmp_path / "out" / "a b#.html" and result["figures"][0].parent.name == "a b#"
    assert any(attrs.get("href") == "a%20b%23/pruning-1.png" for _, attrs in page.tags)
    assert not list((tmp_path / "runs").rglob("*.png"))
    monkeypatch.setattr(files.os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match="No space left"):
        make(tmp_path / "runs", *words)
    assert result["output"].read_text(encoding="utf-8") == page.raw
    assert not list(tmp_path.rglob(f"{files.PARTIAL}*"))


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6).map(lambda n: n / 6)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(points):
    chosen = size_axes.front(points)
    beaten = [any(size <= s and acc >= a and (size, acc) != (s, a) for size, acc in points) for s, a in points]
    assert {points[i] for i in chosen} == {p for p, lost in zip(points, beaten, strict=True) if not lost}
    assert [points[i] for i in chosen] == sorted(points[i] for i in chosen) and len(set(chosen)) == len(
        {points[i] for i in chosen}
    )


def test_chains_end_at_strangers_and_circles(tmp_path):
    content = records_of_a_tree()
    content["base_model/result.json"] |= {"parent_sha256": "9" * 64}
    tree = records.read_tree(write_all(tmp_path / "a", content))
    assert tree.chain(STUDENT) == ["9" * 64, BASE, FIRST, SECOND, STUDENT]
    content["base_model/result.json"] |= {"parent_sha256": STUDENT}
    tree = records.read_tree(write_all(tmp_path / "b", content))
    assert tree.chain(STUDENT) == [BASE, FIRST, SECOND, STUDENT]
    assert cards.cards(tree)[0][0]["name"] == "base_model"


def test_a_figure_in_a_page_has_text_and_ids_of_its_own():
    figure = plots.plot_channels({"a_1": [100, 90, 5]})
    figure.axes[0].texts[0].set_gid("cell")
    svg, other = (report_svg.inline_svg(figure, slug, "<title>", {"cell": "<tip>"}) for slug in ("x", "y"))
    assert {"5", "90", "a_1"} <= {*re.findall(r"<text[^>]*>([^<]*)</text>", svg)}
    assert 'aria-label="&lt;title&gt;"' in svg and "http" not in svg and "<style" not in svg
    assert re.search(r'<g id="x-cell">\s*<title>&lt;tip&gt;</title>', svg)
    ids, others = ({*re.findall(r' id="([^"]*)"', text)} for text in (svg, other))
    assert ids and not ids & others and {*re.findall(r'(?:url\(|href=")#([\w-]*)', svg)} <= ids


def test_labels_hold_no_control_characters():
    assert shared_style.plain_text("a\x00b\x1b[1m\u202e") == "a\ufffdb\ufffd[1m\ufffd"
    assert text("x" * 500, 20) == "xxxxxxxxx…xxxxxxxxxx" and text({"a": [1]}) == '{"a": [1]}'


# What needs the models themselves: narrow ones on the digits data set.


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder, models, images): base, pruned twice by APoZ, and a student, with the records that tell of them."""
    import resnets

    import prune

    folder = tmp_path_factory.mktemp("whole")
    images = dataset.load_data(configs.DataConfig(**DATA, data_dir="./data", class_num=10))
    base = randomised(resnets.build_resnet(widths=narrow_widths(inner=12)), 3)
    content, models, masks = records_of_a_tree(), [base], []
    for _ in range(2):
        masks.append(prune.create_mask(prune.compute_apoz(models[-1], images.val.images), prune_ratio=0.3))
        models.append(prune.trim_model(models[-1], masks[-1]))
    models.append(randomised(resnets.build_resnet(widths=narrow_widths(inner=4)), 5))
    places = ["base_model", "pruned_model/iter1", "pruned_model/iter2", "kd_model"]
    sums = []
    for place, model in zip(places, models, strict=True):
        (folder / place).mkdir(parents=True)
        checkpoints.save_model(model, folder / place / "model.h5")
        sums.append(files.sha256(folder / place / "model.h5"))
    for place, mask in zip(places[1:3], masks, strict=True):
        np.savez_compressed(folder / place / "mask.npz", **mask)
    channels = {name: [12, *(int(resnets.widths_of(model)[name]) for model in models[1:3])] for name in masks[0]}
    channels["conv2_block1_1_conv"][2] = resnets.widths_of(models[2])["conv2_block1_1_conv"]
    text_of = json.dumps(content)
    for old, new in zip((BASE, FIRST, SECOND, STUDENT), sums, strict=True):
        text_of = text_of.replace(old, new)
    content = json.loads(text_of)
    content["pruned_model/result.json"]["channels"] = channels
    return write_all(folder, content), models, images, masks


@pytest.mark.slow
def test_confusion_and_classes_are_counted_from_the_models_answers(whole):
    folder, models, images, _ = whole
    result, page = make(folder)
    assert {"apoz-1", "confusion-1-base", "confusion-1-student", "classes-1"} <= {p.stem for p in result["figures"]}
    labels, count = images.val.labels, len(images.val)
    answers = [models[i].predict(images.val.images, verbose=0).argmax(1) for i in (0, 3)]
    accuracies = [[float(np.mean(answer[labels == c] == c)) for c in range(10)] for answer in answers]
    rows = page.rows("table-classes-1")
    for c, name in enumerate(images.class_names):
        (row,) = rows[name]
        assert row["images"][1] == str(np.sum(labels == c))
        assert [float(row[key][1]) for key in ("base_model", "kd_model")] == pytest.approx([a[c] for a in accuracies])
    changes = [float(row["change, points"][1]) for (row,) in rows.values()]
    assert changes == sorted(changes) and changes[0] < changes[-1]
    assert f"base_model: {100 * np.mean(answers[0] == labels):.2f} %" in page.lines
    assert f"base_model and kd_model on {count} validation images." in page.lines


def test_apoz_is_that_of_the_base_and_knows_what_was_cut(whole):
    folder, models, images, masks = whole

    (run,) = records.read_tree(folder).of_kind("pruned")
    layers, count = measure.apoz_of_cut_layers(
        measure.Images(configs.ReportConfig(verbose=0)), run, folder / "base_model" / "model.h5"
    )
    assert count == len(images.val) and len(layers) == measure.MOST_LAYERS
    from compress.pruning import criteria

    wanted = criteria.compute_apoz(models[0], images.val.images)
    for name, (apoz, left) in layers.items():
        layer = f"{name}_conv"
        np.testing.assert_allclose(apoz, wanted[layer])
        alive = np.flatnonzero(masks[0][layer])[masks[1][layer]]
        assert list(np.flatnonzero(left)) == list(alive) and 0 < len(alive) < 12
    figure = report_plots.plot_apoz(layers)
    for axes, (apoz, _) in zip(figure.axes, layers.values(), strict=True):
        assert sum(bar.get_height() for bar in axes.patches) == len(apoz)
        assert axes.lines[0].get_xdata()[0] == pytest.approx(apoz.mean() + apoz.std())


@pytest.mark.slow
def test_what_cannot_be_measured_has_a_note(tmp_path):
    content = records_of_a_tree()
    _, page = make(write_all(tmp_path, content))
    assert "pruned_model: not shown, the model.h5 of base_model is not below this folder." in page.lines
    assert "kd_model: not shown, the model.h5 of kd_model is not below this folder." in page.lines
    (tmp_path / "base_model" / "model.h5").write_bytes(b"no model")
    _, page = make(tmp_path)
    why = f"pruned_model: not shown, received {tmp_path}/base_model/model.h5, which is damaged or was replaced"
    assert any(line.startswith(why) for line in page.lines)
    _, page = make(tmp_path, "--no-models")
    assert not any("not shown" in line for line in page.lines)


def test_a_record_cannot_name_a_place_that_is_read(tmp_path, monkeypatch):
    config = configs.ReportConfig(data_dir=str(tmp_path))
    asked = measure.data_config(config, DATA | {"data_dir": "/etc", "num_worker": None})
    assert (asked.data_dir, asked.dataset, asked.subset, asked.val_split) == (str(tmp_path), "digits", 80, 0.2)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    for flags, why in (
        (DATA | {"dataset": "/etc"}, "doesn't name that folder"),
        (DATA | {"subset": -1}, "`subset`"),
        (DATA | {"dataset": "cifar10"}, "downloads nothing"),
        (DATA | {"val_split": "x"}, "`val_split`"),
        (DATA | {"val_split": None}, "`val_split`"),
        ({}, "None"),
        (DATA | {"image_size": 1e9}, "size"),
    ):
        with pytest.raises(InputError, match=why):
            measure.data_config(config, flags)
    config = configs.ReportConfig(dataset=str(tmp_path))
    assert measure.data_config(config, DATA | {"dataset": f"{tmp_path}/."}).dataset


def test_images_that_a_folder_had_not_when_a_model_was_trained_are_not_measured(tmp_path, monkeypatch):
    run = Run("pruned_model", "pruned", tmp_path, {"run": {"flags": DATA | {"dataset": str(tmp_path)}}}, [])
    split = dataset.Split(np.zeros((2, 8, 8, 3), "uint8"), [0, 1], "validation", source=[str(tmp_path), "0" * 64])
    monkeypatch.setattr(measure.headers, "read_header", lambda *_: headers.Header("", 2, None))
    monkeypatch.setattr(
        measure.dataset, "load_data", lambda *_, **__: dataset.Data("mine", None, split, None, ("a", "b"), "")
    )
    images = measure.Images(configs.ReportConfig(dataset=str(tmp_path), verbose=0))
    for name, digit in (("then", "0"), ("now", "1")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.h5").write_bytes(b"x")
        (tmp_path / name / "history.json").write_text(json.dumps({"run": {"source": [str(tmp_path), digit * 64]}}))
    assert images.of(run, tmp_path / "then" / "model.h5").val is split
    with pytest.raises(InputError, match="holds other images than when"):
        images.of(run, tmp_path / "now" / "model.h5")


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    outside, inside = write_all(tmp_path / "outside", records_of_a_tree()), tmp_path / "inside"
    write_all(inside, {"base_model/result.json": records_of_a_tree()["base_model/result.json"]})
    (inside / "linked").mkdir()
    (inside / "linked" / "result.json").symlink_to(outside / "kd_model" / "result.json")
    (inside / "base_model" / "history.json").symlink_to(outside / "base_model" / "history.json")
    (inside / "base_model" / "model.h5").symlink_to(outside / "results.json")
    result, _ = make(inside, "--no-models")
    assert (
        result["skipped"]
        == [(name, "a link out of the folder") for name in ("base_model/history.json", "linked/result.json")]
        and len(result["models"]) == 1
    )
    assert not [path for path in result["figures"] if path.stem.startswith("history")]
    tree = records.read_tree(inside)
    with pytest.raises(InputError, match="is not below this folder"):
        sections.existing(tree, BASE, "the base")


def test_a_damaged_mask_is_no_mask(tmp_path):
    left, name = [8, 3], "conv2_block1_1_conv"
    mask, place = np.array([1, 0, 1, 0, 0, 1, 0, 0], bool), tmp_path / "iter1" / "mask.npz"
    place.parent.mkdir()
    np.savez_compressed(place, **{name: mask})
    assert list(measure.survivors(tmp_path, name, left)) == list(mask)
    assert measure.survivors(tmp_path, name, [8, 4]) is None  # another run's
    whole_file = place.read_bytes()
    for bad in (whole_file[:60], whole_file[:-30], b"", b"PK"):
        place.write_bytes(bad)
        assert measure.survivors(tmp_path, name, left) is None
    np.savez(place, **{name: mask.astype(int)})
    assert measure.survivors(tmp_path, name, left) is None
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.npy", b"\x93NUMPY" + bytes(10**7))
    assert measure.survivors(tmp_path, name, left) is None


@pytest.mark.parametrize("role", [*roles.LOOKS, None])
def test_confusion_cells_hold_their_counts_which_contrast_with_them(role):
    matrix = np.array([[5, 1, 0], [0, 4, 2], [3, 0, 0]])
    (axes,) = report_plots.plot_confusion(matrix, ["a", "b", "c"], "m", role).axes
    cells = np.asarray(axes.images[0].get_array())
    assert {t.get_position(): t.get_text() for t in axes.texts} == {
        (c, r): str(matrix[r, c]) for r in range(3) for c in range(3) if matrix[r, c]
    }
    for t in axes.texts:
        column, row = t.get_position()
        assert contrast(cells[row, column], t.get_color()) >= 4.5
    light = np.array([[luminance(cell) for cell in row] for row in cells])  # opaque, so alike on a dark page
    assert cells.shape[-1] == 3 and np.ptp(light[matrix == 0]) == 0 and light[0, 2] > light[0, 1] > light[1, 2]
    np.testing.assert_allclose(cells[0, 0], matplotlib.colors.to_rgb(roles.colour(role)), atol=0.17)  # 5 of 6 right


def dom(page, folder, width=375, scheme=0):
    """The HTML of a page as a browser has it once its script has run; `folder`: where the browser may write."""
    return subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            f"--user-data-dir={folder / 'profile'}",
            f"--window-size={width},800",
            "--dump-dom",
            f"--blink-settings=preferredColorScheme={scheme}",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_a_desk_shows_the_table_of_models_whole(tmp_path):
    """With names as a sweep makes them, and a model that is on every front; on a phone it is cut, and says so."""
    content = {}
    for name, record in records_of_a_tree().items():
        if name in ("base_model/result.json", "pruned_model/result.json", "kd_model/result.json", "results.json"):
            content[f"a_step/base.learning_rate=0.1,prune.row=taylor,seed=1/{name}"] = record
    page = make(write_all(tmp_path / "runs", content), "--no-models")[1]
    path = tmp_path / "runs" / "report.html"
    fronts = {row["front"][0] for rows in page.rows("table-models").values() for row in rows}
    assert "parameters, file size, MACs, latency" in fronts
    for width, cut in ((1300, False), (600, True)):
        opening = re.search(
            r'<div class="table"([^>]*)><div class="scroll"[^>]*>\s*<table[^>]*table-models', dom(path, tmp_path, width)
        )
        assert ("data-right" in opening[1]) == cut


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
@pytest.mark.parametrize("scheme", [0, 1])
def test_in_a_browser(made, tmp_path, scheme):
    """A phone shows it without sideways scrolling, and a heading sorts; its one script runs under its policy."""
    page = Path(made[1]["output"])
    probe = """<script>addEventListener("load", function () {
      var root = document.documentElement, heads = document.querySelectorAll("#table-models thead th");
      root.dataset.overflow = root.scrollWidth - root.clientWidth;
      root.dataset.dark = getComputedStyle(document.body).backgroundColor;
      heads[1].querySelector("button").click();
      root.dataset.up = Array.from(document.querySelectorAll("#table-models tbody tr")).map(
        function (row) { return row.children[1].textContent; }).join();
      heads[9].querySelector("button").click(); heads[9].querySelector("button").click();
      root.dataset.down = Array.from(document.querySelectorAll("#table-models tbody tr")).map(
        function (row) { return row.children[9].textContent; }).join();
      var box = document.querySelector("#table-models").parentElement, figures = document.querySelectorAll("figure");
      root.dataset.first = document.querySelector("#table-models tbody th").offsetWidth / innerWidth;
      root.dataset.stacked = new Set(Array.from(figures).map(function (f) { return f.offsetLeft; })).size;
      root.dataset.cut = Array.from(document.querySelectorAll("main *")).filter(function (e) {
        return !e.closest(".scroll") && e.getBoundingClientRect().right > root.clientWidth; }).length;
      root.dataset.broken = Array.from(document.querySelectorAll("td, .cards strong")).filter(function (e) {
        var range = document.createRange(); range.selectNodeContents(e);
        var words = e.classList.contains("number") ? 1 : e.textContent.trim().split(/[\\s-]+/).length;
        return range.getClientRects().length > words; }).length;
      root.dataset.more = box.parentElement.hasAttribute("data-right") + "," + box.tabIndex;
      root.dataset.fade = getComputedStyle(box.parentElement, "::after").opacity;
      box.scrollLeft = 9999; box.dispatchEvent(new Event("scroll"));
      root.dataset.end = box.parentElement.hasAttribute("data-right") + "," +
        box.parentElement.hasAttribute("data-left");
      root.dataset.sorted = Array.from(heads).map(function (head) { return head.getAttribute("aria-sort"); }).join();
    });</script></body>"""
    copy = tmp_path / "probe.html"
    raw = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    copy.write_text(raw.replace("</body>", probe), encoding="utf-8")

    found = dict(re.findall(r'data-([a-z]+)="([^"]*)"', dom(copy, tmp_path, scheme=scheme).partition("<head>")[0]))
    assert found["overflow"] == "0"
    assert found["dark"] == ("rgb(20, 23, 27)", "rgb(255, 255, 255)")[scheme]
    up = [float(cell.removesuffix(" %")) for cell in found["up"].split(",")]
    assert up == sorted(up) and len(up) == 11
    assert found["down"].split(",") == ["7.50 ms", "1.50 ms", "1.25 ms", "1.00 ms", "0.50 ms", *["-"] * 6]
    assert found["sorted"].split(",").index("descending") == 9 and found["sorted"].count("none") == 10
    assert (found["more"], found["fade"], found["end"]) == ("true,0", "1", "false,true")
    assert float(found["first"]) < 0.5 and (found["stacked"], found["cut"], found["broken"]) == ("1", "0", "0")
    assert re.search(
        r'class="table" data-right[^>]*><div class="scroll"[^>]*tabindex="0"', dom(page, tmp_path, scheme=scheme)
    )
