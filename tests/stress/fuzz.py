"""Hostile files for every reader: mutations of good ones and structures that hypothesis makes up.

Each reader may answer or raise errors.InputError; anything else counts as wrong, and so does any file that it writes.
A part is a function(fuzz, count, seed) that tries `count` inputs.
"""

import contextlib
import importlib.util
import io
import json
import pickle
import re
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path

import h5py
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from compress.errors import InputError

# share of all inputs that each part gets
SHARES = {
    "json": 0.24,
    "history": 0.1,
    "pickle": 0.25,
    "binary": 0.05,
    "h5": 0.07,
    "keras": 0.03,
    "network": 0.01,
    "state": 0.1,
    "image": 0.1,
    "flags": 0.05,
}


class Fuzz:
    """Counts what the readers do.

    Args:
        folder: where inputs are written, each over the one before.
        seed: of all that is random.
    """

    def __init__(self, folder, seed):
        self.folder, self.rng = Path(folder), np.random.default_rng(seed)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.tried, self.refused, self.wrong = {}, {}, []

    def attempt(self, part, read, content):
        """Tries one reader on what was just written."""
        self.tried[part] = self.tried.get(part, 0) + 1
        before = sorted(p.name for p in self.folder.iterdir())
        try:
            with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
                warnings.simplefilter("ignore")
                read()
        except InputError as error:
            self.refused[part] = self.refused.get(part, 0) + 1
            if "\n" in str(error):
                self.wrong.append((part, "two lines", content))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            self.wrong.append((part, repr(error)[:300], content))
        if sorted(p.name for p in self.folder.iterdir()) != before:
            self.wrong.append((part, "a file was written", content))

    def mutated(self, good):
        """A good file with bytes changed, cut out, doubled, or its end gone."""
        data, rng = bytearray(good), self.rng
        for _ in range(rng.integers(1, 6)):
            if not data:
                break
            a, b = sorted(rng.integers(0, len(data) + 1, 2))
            b = min(b, a + int(rng.exponential(16)) + 1)
            kind = rng.integers(6)
            if kind <= 1:
                data[min(a, len(data) - 1)] = rng.integers(256)
            elif kind == 2:
                data[a:b] = bytes([(0, 255, 127, 128)[rng.integers(4)]]) * (b - a)
            elif kind == 3:
                del data[a:b]
            elif kind == 4:
                data[a:a] = data[a:b]
            elif rng.random() < 0.3:
                del data[a:]
        return bytes(data)


def by_hypothesis(strategy, count, seed, attempt):
    """Gives `attempt` as many examples of a strategy."""
    from hypothesis import seed as seeded

    @seeded(seed)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def walk(value):
        attempt(value)

    walk()


def fuzz_json(fuzz, count, seed):
    """records.read_json and what `iterations` makes of an unfinished result.json."""
    from compress.pruning import iterations
    from compress.storage import records

    path = fuzz.folder / "result.json"
    leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    value = st.recursive(
        leaf,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=8,
    )
    keys = st.sampled_from(["finished", "run", "final_acc", "channels", "sha256", "begun", "row", "base_acc"])

    def attempt(content):
        path.write_text(json.dumps(content))
        fuzz.attempt("json", lambda: iterations.check_unfinished(records.read_json(path), fuzz.folder), content)

    base = {"finished": False, "run": {}, "final_acc": [], "channels": {"conv1_conv": [64], "conv3_stream": [512]}}
    by_hypothesis(
        st.dictionaries(keys, value | st.just(base["channels"]), max_size=8).map(lambda d: base | d) | value,
        count // 2,
        seed,
        attempt,
    )
    text = json.dumps(base | {"begun": {"row": {}, "sha256": "0" * 64}}).encode()
    for _ in range(count - count // 2):
        content = fuzz.mutated(text)
        path.write_bytes(content)
        fuzz.attempt("json", lambda: iterations.check_unfinished(records.read_json(path), fuzz.folder), content)


def fuzz_history(fuzz, count, seed):
    """histories.read, records.read_history and the checksums that a record may name."""
    from compress.storage import histories, records

    path = fuzz.folder / "history.json"
    good = json.dumps(
        {
            "train_loss": [1.5, 0.25],
            "val_acc": [0.1, 0.9],
            "history": {"loss": [1e9]},
            "checkpoint": {"sha256": "0" * 64, "previous_sha256": None},
        }
    ).encode()

    def read():
        assert all(len(value) == 64 for value in records.recorded_sha256(fuzz.folder / "model.h5"))
        try:
            histories.read(path)
        finally:
            records.read_history(path)

    def attempt(content):
        path.write_bytes(content)
        fuzz.attempt("history", read, content)

    for _ in range(count // 2):
        attempt(fuzz.mutated(good))
    curve = st.lists(st.integers() | st.floats() | st.text(max_size=3) | st.none(), max_size=3) | st.floats()
    names = st.sampled_from(["train_loss", "val_loss", "loss", "history", "checkpoint", "learning_rate"])
    by_hypothesis(
        st.dictionaries(names, curve | st.dictionaries(names, curve, max_size=3), max_size=5).map(
            lambda content: json.dumps(content).encode()
        ),
        count - count // 2,
        seed,
        attempt,
    )


def fuzz_pickle(fuzz, count, seed):
    """stock.read_batch on pickles."""
    from compress.data import stock

    path, rows = fuzz.folder / "data_batch_1", np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072)

    class Calls:
        def __reduce__(self):
            return Path.touch, (fuzz.folder / "was_here",)

    # protocol 4, the oldest that Python 3 writes bytes in without a call, as Python 2 wrote the official files
    goods = [
        pickle.dumps(content, 4)
        for content in (
            {b"data": rows, b"labels": [3, 7]},
            Calls(),
            {b"data": rows, b"labels": [Calls(), 7]},
            {b"data": rows[:0], b"labels": []},
        )
    ]
    for i in range(count):
        content = goods[i] if i < len(goods) else fuzz.mutated(goods[int(fuzz.rng.choice([0, 0, 0, 1, 2]))])
        if i % 2:  # damage in the pixels alone teaches little: leave them short
            content = content.replace(rows.tobytes()[200:6000], b"")
        path.write_bytes(content)
        fuzz.attempt("pickle", lambda: stock.read_batch(path, b"labels", 10), content)


def fuzz_binary(fuzz, count, seed):
    """stock.read_batch on binary batches."""
    from compress.data import stock

    path, good = fuzz.folder / "data_batch_1.bin", bytes(3073 * 2)
    for _ in range(count):
        content = fuzz.mutated(good)
        path.write_bytes(content)
        fuzz.attempt("binary", lambda: stock.read_batch(path, b"labels", 10), content[:64])


def fuzz_h5(fuzz, count, seed):
    """Files of .h5: structure made up, and bytes changed in the first part, where the structure lies."""
    from torture import write_base

    from compress.storage import headers, opening

    path = fuzz.folder / "x.h5"
    write_base(path)
    good = path.read_bytes()
    with h5py.File(path) as file:
        names = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    for i in range(count):
        if i % 4:
            place = int(fuzz.rng.integers(0, len(good) - 4096))
            content = good[:place] + fuzz.mutated(good[place : place + 4096]) + good[place + 4096 :]
            path.write_bytes(content)
        else:
            path.write_bytes(good)
            _distorted(path, names, fuzz.rng)
        fuzz.attempt("h5", lambda read=(headers.read_header, opening.open_network)[i % 2]: read(path), None)


def _distorted(path, names, rng):
    """Swaps one array of a good file for something that is none, or its description for another."""
    name = str(rng.choice(names))
    with h5py.File(path, "r+") as file:
        shape = file[name].shape
        kind = rng.integers(10 if "model_config" in file.attrs else 9)
        if kind == 9:
            config = json.loads(file.attrs["model_config"])
            layers = config["config"]["layers"]
            mark = {"name": "normalization", "function": f"__import__('os').system('touch {path.parent}/was_here')"}
            layers[int(rng.integers(len(layers)))] = [{}, None, {"class_name": "Lambda", "config": mark}][
                rng.integers(3)
            ]
            file.attrs["model_config"] = json.dumps(config)
            return
        del file[name]
        if kind == 0:
            file[name] = h5py.SoftLink("/" + str(rng.choice(names)))
        elif kind == 1:
            file[name] = h5py.ExternalLink("/etc/passwd", "/")
        elif kind == 2:
            file.create_dataset(name, shape, "f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])
        elif kind == 3:  # a shape bomb: gigabytes of nothing
            file.create_dataset(name, (2**20, 2**14), "f4", chunks=(64, 64), compression="gzip")
        elif kind == 4:
            file.create_dataset(name, shape, "i8")
        elif kind == 5:
            file[name] = "text"
        elif kind == 6:
            file.create_group(name)
        elif kind == 8:
            file[name] = np.float32(1)
        elif kind == 7:
            file.create_dataset(name, (0, *shape[1:]), "f4")


def fuzz_keras(fuzz, count, seed):
    """Files of .keras: bytes changed anywhere and in the directory, members made up."""
    import keras
    from torture import write_base

    from compress.storage import headers, opening

    path, inner = fuzz.folder / "x.keras", fuzz.folder / "inner.h5"
    write_base(inner)
    keras.models.load_model(inner, compile=False).save(path)
    good = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    inner.write_bytes(members["model.weights.h5"])
    with h5py.File(inner) as file:
        names = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    for i in range(count):
        if i % 3:
            place = len(good) - 4096 if i % 3 == 1 else int(fuzz.rng.integers(0, len(good) - 4096))
            path.write_bytes(good[:place] + fuzz.mutated(good[place : place + 4096]) + good[place + 4096 :])
        else:
            _packed(path, members, inner, names, fuzz)
        fuzz.attempt("keras", lambda read=(headers.read_header, opening.open_network)[i % 2]: read(path), None)


def _packed(path, members, inner, names, fuzz):
    """A .keras file with one member distorted, gone, doubled, or swollen."""
    kind, members = fuzz.rng.integers(5), dict(members)
    if kind == 0:
        members["config.json"] = fuzz.mutated(members["config.json"])
    elif kind == 1:
        inner.write_bytes(members["model.weights.h5"])
        _distorted(inner, names, fuzz.rng)
        members["model.weights.h5"] = inner.read_bytes()
    elif kind == 2:
        del members[str(fuzz.rng.choice(list(members)))]
    elif kind == 3:
        members["config.json"] = b'{"config": {"layers": [' + b" " * 2**25
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's, of doubled names
        for name, content in members.items():
            archive.writestr(name, content)
            if kind == 4:
                archive.writestr(name, content[::-1])


def fuzz_network(fuzz, count, seed):
    """opening.open_network on files of any network: values of the config exchanged for others, bytes changed."""
    import keras

    from compress.storage import opening

    inner = keras.Sequential([keras.layers.RandomFlip(), keras.layers.Conv2D(2, 3, activation="relu")])
    image = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization()(inner(image / 127.5 - 1.0)[..., ::-1])
    net = keras.Model(image, keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(x)))
    goods = {}
    for suffix in ("h5", "keras"):
        net.save(fuzz.folder / f"x.{suffix}")
        goods[suffix] = (fuzz.folder / f"x.{suffix}").read_bytes()
    for i in range(count):
        suffix = ("h5", "keras")[i % 2]
        path = fuzz.folder / f"x.{suffix}"
        path.write_bytes(goods[suffix])
        if i % 8 > 5:
            path.write_bytes(fuzz.mutated(goods[suffix]))
        elif suffix == "h5":
            with h5py.File(path, "r+") as file:
                file.attrs["model_config"] = _exchanged(file.attrs["model_config"], fuzz.rng)
        else:
            with zipfile.ZipFile(path) as archive:
                members = {name: archive.read(name) for name in archive.namelist()}
            members["config.json"] = _exchanged(members["config.json"], fuzz.rng)
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in members.items():
                    archive.writestr(name, content)
        fuzz.attempt("network", lambda path=path: opening.open_network(path), None)
        path.write_bytes(goods[suffix])


OTHERS = (
    *(None, True, -1, 0, 3, 10**9, 10**30, 1e999, "", "relu", "os.system", "../x", "a" * 500, [], {}, [[]], [1, 2]),
    *({"class_name": "Lambda", "config": {}}, {"class_name": "system", "module": "os", "config": {}}),
    {"class_name": "function", "module": "builtins", "config": "eval", "registered_name": "eval"},
    {"class_name": "__lambda__", "config": {"value": ["4wAAAAA=", None, None]}},
    {"class_name": "__numpy__", "config": {"value": [[1], [2, 3]], "dtype": "object"}},
)


def _exchanged(text, rng):
    """A config as JSON with some values exchanged for others, or for values of other places in it."""
    config, places = json.loads(text), []

    def collect(value):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], (dict, list)):
                collect(value[key])

    collect(config)
    for _ in range(rng.integers(1, 4)):
        holder, key = places[rng.integers(len(places))]
        source, other = places[rng.integers(len(places))]
        holder[key] = OTHERS[rng.integers(len(OTHERS))] if rng.random() < 0.7 else json.loads(json.dumps(source[other]))
    return json.dumps(config)


def fuzz_state(fuzz, count, seed):
    """states.load_state; the caller, training.fit, turns whatever it raises into an InputError."""
    import keras

    from compress.storage import recording, records, resuming, states

    path = fuzz.folder / "state.npz"
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    model.optimizer.build(model.trainable_variables)
    meta = {
        "epoch": 1,
        "step": 0,
        "seconds": 0.5,
        "history": {name: [0.5] for name in (*records.CURVES, "learning_rate", "seconds")}
        | {"run": {"flags": {}}, "checkpoint": {"sha256": "0" * 64, "epoch": 1}},
    }
    states.save_state(model, path, meta)
    good, wanted = path.read_bytes(), [np.array(v) for v in model.variables]
    np.savez(path, meta=np.array([{"a": 1}], object), **{f"{i:05}": np.array([print], object) for i in range(4)})
    goods = [good, path.read_bytes()]

    def read():
        try:
            before = recording.Progress.checked(states.load_state(model, path), 4, 5).history["run"]
            resuming.check_same_run(before, {"flags": {}}, "x")
        except Exception as error:
            raise InputError(repr(error)) from None
        finally:
            changed = [not np.array_equal(v, w) for v, w in zip(model.variables, wanted, strict=True)]
            for variable, value in zip(model.variables, wanted, strict=True):
                variable.assign(value)
            assert not any(changed), "a damaged weight was taken"

    for i in range(count // 2):
        content = fuzz.mutated(goods[i % 8 == 0])
        path.write_bytes(content)
        fuzz.attempt("state", read, content)

    def attempt(change):
        """A sound file that says what no run says."""
        key, inner, value = change
        said = json.loads(json.dumps(meta))
        (said if inner is None else said["history"])[key if inner is None else inner] = value
        try:
            progress = recording.Progress.checked(said, 4, 5)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            raise InputError("refused, as training.fit refuses it") from None
        resuming.check_same_run(progress.history["run"], {"flags": {}}, "x")
        assert max(progress.history["val_acc"], default=-1.0) < 1e400 and progress.seconds + 1.5
        assert "checkpoint" not in progress.history or f"{progress.history['checkpoint']['sha256']:.8}"

    value = st.recursive(
        st.none() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=70),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(st.sampled_from(["sha256", "epoch", "flags"]), inner, max_size=2)
        ),
        max_leaves=4,
    )
    by_hypothesis(
        st.tuples(st.sampled_from(list(meta)), st.none() | st.sampled_from(list(meta["history"])), value),
        count - count // 2,
        seed,
        lambda change: fuzz.attempt("state", lambda: attempt(change), change),
    )


def fuzz_image(fuzz, count, seed):
    """reading.Reader on images of every format and depth, PostScript among them."""
    from compress.data import reading

    path, pixels, goods = fuzz.folder / "x.png", np.arange(768, dtype=np.uint8).reshape(16, 16, 3), []
    picture, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 16)
    for image, kind, more in (
        *[(picture, kind, {}) for kind in ("PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "EPS")],
        (picture, "JPEG", {"exif": exif}),
        (deep, "PNG", {}),
        (deep, "TIFF", {}),
        (deep, "PPM", {}),
        (Image.fromarray(pixels[..., 0] / np.float32(255)), "TIFF", {}),
        (picture.convert("RGBA"), "PNG", {}),
        (Image.fromarray(pixels[..., :2]), "PNG", {"exif": exif}),
        (picture.convert("P"), "PNG", {"transparency": bytes(range(256))}),
        (picture, "GIF", {"save_all": True, "append_images": [deep.convert("L")], "transparency": 3}),
    ):
        stream = io.BytesIO()
        image.save(stream, kind, **more)
        goods.append(stream.getvalue())
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    for i in range(count):
        content = [*goods, bomb.getvalue()][i] if i <= len(goods) else fuzz.mutated(goods[i % len(goods)])
        path.write_bytes(content)

        def read():
            reader = reading.Reader([str(path)], workers=1, note=lambda line: None)
            reader.size = reader.common_size([str(path)])
            assert reader.read([str(path)])[0].shape == (1, *reader.size, 3)

        fuzz.attempt("image", read, content[:200])


def fuzz_flags(fuzz, count, seed):
    """The parsers of all scripts: any words give a namespace or exit status 2."""
    from conftest import SCRIPTS

    parsers = [importlib.import_module(script).build_parser() for script in SCRIPTS]
    flags = sorted(
        {flag for parser in parsers for action in parser._actions for flag in action.option_strings} - {"-h", "--help"}
    )
    words = st.lists(
        st.sampled_from(flags)
        | st.text(max_size=8)
        | st.sampled_from(["0", "-1", "1e999", "nan", "4x", "9" * 5000, "inf,", "auto"]),
        max_size=8,
    )

    def attempt(content):
        def read():
            for parser in parsers:
                try:
                    parser.parse_args(list(content))
                except SystemExit as end:
                    assert end.code == 2, end.code
                    raise InputError("as asked") from None

        fuzz.attempt("flags", read, content)

    by_hypothesis(words, count, seed, attempt)


def run_guided(inputs, seed, folder):
    """Lets atheris, where it is installed, make up inputs by the lines that they reach; returns as `run` does."""
    if importlib.util.find_spec("atheris") is None:
        print("guided: atheris is not installed (requirements-torture.txt)")
        return 0, 0
    tried = wrong = 0
    seeds = {
        "pickle": pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [3]}, 4),
        "history": b'{"train_loss": [1.5, 2], "history": {"val_acc": [0.5, 1e-3]}}',
    }
    for part, good in seeds.items():
        corpus, start = Path(folder) / f"guided_{part}", time.monotonic()
        corpus.mkdir(parents=True)
        (corpus / "good").write_bytes(good)
        done = subprocess.run(
            [
                sys.executable,
                Path(__file__).with_name("fuzz_guided.py"),
                part,
                corpus,
                f"-runs={inputs}",
                f"-seed={seed + 1}",
                f"-artifact_prefix={folder}/",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        count = re.search(r"Done (\d+) runs", done.stderr)
        tried, wrong = tried + int(count[1] if count else 0), wrong + (done.returncode != 0 or not count)
        print(
            f"guided {part}: {int(count[1]) if count else 0:,} inputs, {len(list(corpus.iterdir())):,} of them "
            f"reached new lines, {int(done.returncode != 0)} wrong, {time.monotonic() - start:.0f} s",
            flush=True,
        )
        if done.returncode:
            print(done.stderr[-2000:])
    return tried, wrong


PARTS = {
    "json": fuzz_json,
    "history": fuzz_history,
    "pickle": fuzz_pickle,
    "binary": fuzz_binary,
    "h5": fuzz_h5,
    "keras": fuzz_keras,
    "network": fuzz_network,
    "state": fuzz_state,
    "image": fuzz_image,
    "flags": fuzz_flags,
}


def run(inputs, seed, folder, parts=PARTS):
    """Tries `inputs` inputs; prints the counts; returns how many there were and how many of them went wrong."""
    count = bad = 0
    for part in parts:
        fuzz, start = Fuzz(folder / part, seed), time.monotonic()
        PARTS[part](fuzz, round(inputs * SHARES[part]), seed)
        tried, refused = fuzz.tried[part], fuzz.refused.get(part, 0)
        count, bad = count + tried, bad + len(fuzz.wrong)
        print(
            f"{part}: {tried:,} inputs, {refused:,} refused in one line, {tried - refused - len(fuzz.wrong):,} read, "
            f"{len(fuzz.wrong)} wrong, {time.monotonic() - start:.0f} s",
            flush=True,
        )
        for _, what, content in fuzz.wrong[:5]:
            print(f"  {what}: {content!r:.300}")
    return count, bad
