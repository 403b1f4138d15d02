"""The architecture: imports run downward only, the package knows no script, --help does not wait for Keras."""

import ast
import re
import subprocess
import sys
import time

import pytest
from conftest import ROOT, SCRIPTS

from compress.errors import InputError

# Folders of compress/, each of which needs only those before it, but for TOGETHER: records and images are shown on the
# command line, which names them in its errors. A module of the top belongs to none.
FOLDERS = [
    "graph",
    "engine",
    "cli",
    "data",
    "storage",
    "plots",
    "export",
    "pruning",
    "distillation",
    "training",
    "sweeps",
    "report",
]
TOGETHER = {"cli", "data", "storage"}
MODULES = {
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path
    for path in [*ROOT.glob("*.py"), *ROOT.glob("compress/**/*.py")]
    if path.stem != "__init__"
}


def imported(path):
    """Full names of the project's modules that a file imports, at the top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            yield from (name for name in names if name in MODULES)


def test_no_module_imports_itself_by_any_way():
    needs = {name: set(imported(path)) for name, path in MODULES.items()}
    while ready := [name for name, others in needs.items() if not others & needs.keys()]:
        for name in ready:
            del needs[name]
    assert not needs


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_needs_only_those_before_it(folder):
    modules = [path for name, path in MODULES.items() if name.startswith(f"compress.{folder}.")]
    needed = {name.split(".")[1] for path in modules for name in imported(path)} & {*FOLDERS}
    allowed = {*FOLDERS[: FOLDERS.index(folder) + 1]} | (TOGETHER if folder in TOGETHER else set())
    assert modules and needed <= allowed


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("compress.")])
def test_the_package_imports_no_script(name):
    assert all(other.startswith("compress.") for other in imported(MODULES[name]))


@pytest.mark.parametrize("path", MODULES.values(), ids=MODULES)
def test_functions_are_short(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    assert not [f.name for f in functions if f.end_lineno - f.lineno + 1 > 60]


def test_an_error_is_one_line_whatever_a_library_says():
    assert str(InputError("`data_dir`: received a  b (no such\n  file\n), expected\x0ba folder")) == (
        "`data_dir`: received a  b (no such file ), expected a folder"
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_quick_and_has_an_example(script):
    code = (
        f"import sys, {script}\ntry: {script}.main(['--help'])\nexcept SystemExit as end: assert end.code == 0\n"
        "heavy = {'keras', 'tensorflow', 'jax', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "example:" in done.stdout and f"python {script}.py" in done.stdout
    assert time.monotonic() - start < 3  # 0.1 s where nothing else runs


def imports_before_keras(function):
    """The imports of a function in front of its call that starts Keras with its settings and holds back its chatter."""
    calls = [n for n in ast.walk(function) if isinstance(n, ast.Call) and ast.unparse(n.func) == "app.start_keras"]
    found = [node for node in ast.walk(function) if isinstance(node, (ast.Import, ast.ImportFrom))]
    return [ast.unparse(node) for node in found if calls and node.lineno < calls[0].lineno]


def test_nothing_starts_keras_before_its_settings_are_made():
    functions = [
        node
        for script in SCRIPTS
        for node in ast.walk(ast.parse((ROOT / f"{script}.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    ]
    assert imports_before_keras(ast.parse("def f():\n    import keras\n    app.start_keras(args)").body[0])
    early = dict.fromkeys(line for function in functions for line in imports_before_keras(function))
    code = "\n".join([*early, "import sys", "assert 'keras' not in sys.modules"])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert early and done.returncode == 0, done.stderr


# ---- the command line ends in cli: nothing else takes a namespace or knows how a flag is spelled ----

LIBRARY = {
    name: path
    for name, path in MODULES.items()
    if name.startswith("compress.") and not name.startswith("compress.cli.")
}


def traces_of_the_command_line(path):
    """What a file says of namespaces and flags outside its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = [n for n in ast.walk(tree) if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef))]
    docs = {id(n.body[0].value) for n in documented if n.body and isinstance(n.body[0], ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and (node.arg in ("args", "flag") or node.arg.endswith("_flag")):
            yield f"{node.lineno}: a parameter {node.arg}"
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docs
            and (re.search(r"--[a-z]\w", node.value))
        ):
            yield f"{node.lineno}: {node.value!r:.60}"


@pytest.mark.parametrize("name", LIBRARY)
def test_the_library_knows_no_command_line(name):
    assert not list(traces_of_the_command_line(LIBRARY[name]))


@pytest.mark.parametrize("path", MODULES.values(), ids=MODULES)
def test_messages_name_parameters(path):
    """`run` is called from Python too: the command line makes flags of the parameters that stand between backticks."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
        if name in ("InputError", "OutputError", "Diverged", "warn", "say"):
            texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
            assert not [text for text in texts if re.search(r"--[a-z]\w", text)], node.lineno


@pytest.mark.parametrize("path", MODULES.values(), ids=MODULES)
def test_what_belongs_together_travels_together(path):
    """At most seven parameters a function, self apart."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            assert len([n for n in names if n not in ("self", "cls")]) <= 7, node.name


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs_in_at_most_eight_steps(script):
    """`run` is read from top to bottom: at most eight statements in all, its docstring apart."""
    tree = ast.parse(MODULES[script].read_text(encoding="utf-8"))
    (run,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "run"]
    count = sum(isinstance(node, ast.stmt) for statement in run.body[1:] for node in ast.walk(statement))
    assert ast.get_docstring(run) and count <= 8
