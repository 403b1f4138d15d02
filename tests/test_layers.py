"""The architecture: imports run downward only, files stay short, --help does not wait for Keras."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

from errors import InputError

ROOT = Path(__file__).parent.parent
FLOORS = [{"decoding", "errors", "messages", "native", "tables"}, {"display", "formats", "scanning", "values"},
          {"label_tables"},
          {"calls", "completion", "files", "interrupts", "keras_config", "stock", "folders", "reading", "drawing",
           "graphs"},
          {"duplicates"}, {"model", "data", "metrics", "records", "flags", "app", "archives", "operations"},
          {"folding", "walking", "kinds", "preprocess"}, {"recognition", "twins", "bare"},
          {"readers", "classes", "events", "fast", "roles", "optimizers", "pixels", "states", "report_tree",
           "student_flags"},
          {"folded", "checkpoints", "metadata", "histories", "resuming", "shipped", "plots", "foreign",
           "report_records", "report_tables"},
          {"criteria", "recording", "exporting", "report_svg", "curves", "size_axes", "iterations"},
          {"prune", "predicting"}, {"allocation"},
          {"distillation", "students", "comparison_plots", "training", "trimming", "report_models"},
          {"report_plots", "report_page"}, {"report_sections"},
          {"train_base_model", "prune_model", "knowledge_distillation", "evaluate_model", "plot_train_history",
           "export_model", "report", "sensitivity"}]
HEIGHT = {name: height for height, floor in enumerate(FLOORS) for name in floor}
SCRIPTS = sorted(FLOORS[-1])


def imported(path):
    """Names of all modules that a file imports, at the top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.py")), ids=lambda path: path.name)
def test_imports_run_downward(path):
    assert path.stem in HEIGHT, f"{path.name} has no floor in FLOORS"
    upward = [name for name in imported(path) if HEIGHT.get(name, -1) >= HEIGHT[path.stem]]
    assert not upward


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.py")), ids=lambda path: path.name)
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    assert not [f.name for f in functions if f.end_lineno - f.lineno + 1 > 50]


def test_an_error_is_one_line_whatever_a_library_says():
    assert str(InputError("--data_dir: received a  b (no such\n  file\n), expected\x0ba folder")) == (
        "--data_dir: received a  b (no such file ), expected a folder")


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_quick_and_has_an_example(script):
    code = (f"import sys, {script}\ntry: {script}.main(['--help'])\nexcept SystemExit as end: assert end.code == 0\n"
            "heavy = {'keras', 'tensorflow', 'jax', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
            "assert not heavy, heavy")
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "example:" in done.stdout and f"python {script}.py" in done.stdout
    assert time.monotonic() - start < 3  # 0.1 s where nothing else runs
