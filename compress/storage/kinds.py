"""What a file or folder is that is given as a model and is none, and what can be done with it. Imports no Keras.

Told from names and the first bytes: nothing is run, and nothing unpacked.
"""

import contextlib
import os
import re
import zipfile

from compress.errors import quoted
from compress.storage import archives

WHOLE = "expected an .h5 or .keras file of Keras"
SAVED = "the Keras model that it was made from, as model.save('model.keras') writes it"
BUILT = "expected the same network built in Keras, these weights given to it by set_weights"
ANYWHERE = re.IGNORECASE | re.DOTALL

# (pattern of the first 512 bytes, what the file is, what is expected)
OTHERS = (
    (r"version https://git-lfs", "a pointer of Git LFS in place of the file itself, which git lfs pull fetches", WHOLE),
    (r"\s*<(!doctype|html|\?xml)", "a web page in place of what was to be downloaded from it", WHOLE),
    (
        r".{4}TFL3",
        "a LiteRT (TFLite) file, which is made from a model and can't be trained",
        f"expected {SAVED}",
    ),
    (
        r"PK.*(data\.pkl|\.data/|/version|byteorder)|\x80\x02(\x8a\nl\xfc|\})",
        "a file of PyTorch",
        f"{BUILT} (a kernel (out, in, h, w) transposed to (h, w, in, out), a matrix (out, in) to (in, out)), and saved",
    ),
    (
        r'.{4}\0{4}\{"',
        "a safetensors file, of arrays without layers",
        f"{BUILT} (those of PyTorch: a kernel (out, in, h, w) transposed to (h, w, in, out), a matrix (out, in) to "
        "(in, out)), and saved",
    ),
    (
        r'\s*\{.*"modelTopology"|\s*\{.*"format":\s*"(layers|graph)-model"',
        "a model of TensorFlow.js",
        "expected the Keras model that it was converted from, or what the package tensorflowjs makes of it: "
        "tensorflowjs_converter, from tfjs_layers_model to keras",
    ),
    (
        r'\s*\{.*"class_name":\s*"(Functional|Model|Sequential)"',
        "the config of a model, as model.to_json() gives it, without its weights",
        "expected a file of both: model = keras.models.model_from_json(pathlib.Path('model.json').read_text()), then "
        "model.load_weights(...) with the file of its weights, and model.save('model.keras')",
    ),
    (
        r"\s*(backend|class_name): ",
        "the config of a model, as model.to_yaml() gave it, without its weights",
        "expected a file of both, as model.save('model.keras') writes it",
    ),
    (r"\x93NUMPY", "an array of NumPy without layers", f"{BUILT}, and saved"),
    (
        r"\x1f\x8b|BZh|\xfd7zXZ|Rar!|7z\xbc\xaf",
        "a compressed archive",
        "expected the .h5 or .keras file in it, unpacked",
    ),
    (r"\x80[\x02-\x05]", "a pickle of Python, which is code", f"expected {SAVED}"),
    (r"model_checkpoint_path:", "a part of a TensorFlow checkpoint", None),
    (r"$", "an empty file", WHOLE),
)
SUFFIXES = (  # likewise, by a pattern of the name
    (r"\.onnx$", "an ONNX file, which is made from a model and can't be trained", f"expected {SAVED}"),
    (r"\.ml(model|package)$", "a Core ML model, which is made from a model and can't be trained", f"expected {SAVED}"),
    (r"\.npz$", "an archive of NumPy's arrays without layers", f"{BUILT}, and saved"),
    (r"(\.index|\.data-\d{5}-of-\d{5}|\.ckpt(-\d+)?\.meta)$", "a part of a TensorFlow checkpoint", None),
    (r"\.pb$", "a part of TensorFlow's SavedModel, which is made from a model", f"expected {SAVED}"),
)


def of_other(path):
    """(what a file or folder is that is no model of Keras, what is expected in its place); None of any that may be one.

    Args:
        path: what is given as a model, which may be missing.
    """
    path, name = str(path), os.path.basename(os.path.normpath(path))
    if os.path.isdir(path):
        return _of_folder(path)
    if not os.path.exists(path):
        is_checkpoint = os.path.isfile(f"{path}.index")  # TensorFlow calls a checkpoint by what its files begin with
        return (
            ("the name of a TensorFlow checkpoint, which has no layers", _checkpoint(path)) if is_checkpoint else None
        )
    if name == "config.json" and os.path.isfile(os.path.join(os.path.dirname(path), archives.WEIGHTS)):
        folder = os.path.dirname(path) or "."
        return "a part of an unpacked .keras file", _packed(folder, os.listdir(folder))
    with open(path, "rb") as file:
        begin = file.read(512).decode("latin-1")
    found = [kind[1:] for kind in OTHERS if re.match(kind[0], begin, ANYWHERE)] + [
        kind[1:] for kind in SUFFIXES if re.search(kind[0], name, re.IGNORECASE)
    ]
    if found:
        what, way = found[0]
        return what, way.replace("'model.json'", repr(path)) if way else _checkpoint(path)
    return _of_zip(path) if begin.startswith("PK") and zipfile.is_zipfile(path) else None


def _of_folder(path):
    inside = set(os.listdir(path)) if os.access(path, os.R_OK) else set()
    if "saved_model.pb" in inside:
        way = f"expected {SAVED}"
        if "keras_metadata.pb" in inside:  # tf.keras 2 wrote it by model.save
            way = (
                f"expected an .h5 file, which tf.keras 2 (pip install tf_keras) makes of it: "
                f"tf_keras.models.load_model({path!r}).save('model.h5')"
            )
        return "a folder of TensorFlow's SavedModel, which is made from a model and can't be trained", way
    if {"config.json", archives.WEIGHTS} <= inside:
        return "an unpacked .keras file", _packed(path, inside)
    model = os.path.join(path, "model.h5")
    if os.path.isfile(model):
        return f"a folder that holds {model}", WHOLE
    if any(name.endswith(".index") for name in inside):
        return "a folder of a TensorFlow checkpoint, which has no layers", _checkpoint(os.path.join(path, "checkpoint"))
    if "model.json" in inside and (other := of_other(os.path.join(path, "model.json"))):
        return f"a folder with {other[0]}", other[1]
    return "a folder", WHOLE + archives.models_below(path)


def _of_zip(path):
    """As `of_other`, of a zip archive: one that holds a model, or a .keras file with a folder around its parts."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):  # a damaged one, which is called that where it's read
        return None
    if {"config.json", archives.WEIGHTS} & set(names):
        return None
    parts = [name for name in names if name.endswith(f"/{archives.WEIGHTS}")]
    if parts and f"{os.path.dirname(parts[0])}/config.json" in names:
        unpack = f"python -m zipfile -e {quoted(path)} unpacked"
        way = _packed(os.path.join("unpacked", os.path.dirname(parts[0])), {"config.json", archives.WEIGHTS})
        return "a zip file with a .keras file's parts in a folder", f"{way}, behind {unpack}"
    models = [name for name in names if name.endswith((".h5", ".keras", ".hdf5"))]
    return (f"a zip file that holds {models[0][:100]!a}", "expected that file, unpacked") if models else None


def _packed(folder, inside):
    """The command that packs the parts of an unpacked .keras file, of which those are `inside` a folder."""
    folder = os.path.normpath(folder)
    base = os.path.abspath(folder).removesuffix(".keras")
    taken = os.path.lexists(f"{base}.keras")
    target = f"{base}_packed.keras" if taken else f"{base}.keras"
    named = [name for name in ("config.json", archives.METADATA, archives.WEIGHTS) if name in inside]
    words = ["python", "-m", "zipfile", "-c", os.path.relpath(target), *(os.path.join(folder, name) for name in named)]
    return f"expected its parts in one .keras file, as this writes it: {' '.join(map(quoted, words))}"


def _newest(folder):
    """The checkpoint of a folder that its file 'checkpoint' names as the last, else the one of the highest number."""
    made = [name.removesuffix(".index") for name in os.listdir(folder) if name.endswith(".index")]
    with contextlib.suppress(OSError), open(os.path.join(folder, "checkpoint"), "rb") as file:
        text = file.read(10_000).decode(errors="replace")
        named = re.search(r'^model_checkpoint_path: "(?:[^"\n]*/)?([^"/\n]+)"', text, re.MULTILINE)
        if named and named[1] in made:
            return named[1]
    return max(made, key=lambda name: [int(n) for n in re.findall(r"\d+", name)], default="checkpoint")


def _checkpoint(part):
    """What to do with a checkpoint of which a file is given, or the file 'checkpoint' beside them, which is there."""
    prefix = re.sub(r"\.(index|data-\d{5}-of-\d{5}|meta)$", "", part)
    folder = os.path.dirname(part)
    if os.path.basename(part) == "checkpoint":
        prefix = os.path.join(folder, _newest(folder or "."))
    return (
        "expected the model, built by the code that trained it, with these weights: "
        f"model.load_weights({prefix!r}) in tf.keras 2 (pip install tf_keras), then model.save('model.h5')"
    )
