"""knowledge_distillation.py between networks of any architecture: which student there is, and what the record says."""

import json
import shutil

import keras
import numpy as np
import pytest
import resnets
from conftest import narrow_widths
from keras import layers
from PIL import Image

import evaluate_model
import knowledge_distillation
from compress.cli import configs
from compress.data import dataset
from compress.errors import InputError
from compress.graph.network import Graph
from compress.storage import files, saving

pytestmark = pytest.mark.usefixtures("without_figures")

TINY = {
    "dataset": "digits",
    "subset": 80,
    "val_split": 0.2,
    "batch_size": 32,
    "epoch_num": 1,
    "verbose": 0,
    "gpu": False,
}
ALL_LOSSES = {"lambda1": 0.5, "lambda2": 0.3, "lambda3": 0.2}


def teacher_net():
    """A residual network of two stages and a head of its own."""
    image = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 255)(image)
    for number, filters in enumerate((16, 32)):
        x = layers.Conv2D(filters, 3, strides=2, padding="same", activation="relu", name=f"down{number}")(x)
        y = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"inner{number}")(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        x = layers.ReLU(name=f"out{number}")(layers.Add()([x, layers.Conv2D(filters, 1, name=f"last{number}")(y)]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10, activation="softmax")(x), name="teacher")


def other_net():
    """A plain stack with a model inside, whose maps are larger than those of the teacher."""
    base = keras.Sequential(
        [keras.Input((32, 32, 3)), layers.Conv2D(6, 3, padding="same"), layers.Conv2D(8, 3, strides=2)]
    )
    return keras.Sequential([keras.Input((32, 32, 3)), base, layers.ReLU(), layers.Flatten(), layers.Dense(10)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a teacher.keras, an other.keras and a resnet.h5; three.h5 has other classes."""
    folder = tmp_path_factory.mktemp("students")
    keras.utils.set_random_seed(1)
    saving.save_network(teacher_net(), folder / "teacher.keras")
    saving.save_network(other_net(), folder / "other.keras")
    saving.save_network(resnets.build_resnet(widths=narrow_widths()), folder / "resnet.h5")
    image = keras.Input((32, 32, 3))
    saving.save_network(keras.Model(image, layers.Dense(3)(layers.Flatten()(image))), folder / "three.h5")
    return folder


def test_a_student_of_any_teacher_is_narrowed_trained_recorded_and_evaluated(folder, tmp_path):
    teacher = Graph(teacher_net())
    result = knowledge_distillation.run(
        root_folder=str(folder / "teacher.keras"),
        save_folder=str(tmp_path / "kd"),
        target_macs="2x",
        target_compression=2.0,
        round_to=4,
        **TINY,
        **ALL_LOSSES,
    )
    student = Graph(keras.models.load_model(tmp_path / "kd" / "model.h5"))
    assert list(student.groups) == list(teacher.groups)
    assert result["widths"] == {name: group.width for name, group in student.groups.items()}
    assert all(width % 4 == 0 and width < teacher.groups[name].width for name, width in result["widths"].items())
    whole, cost = teacher.cost(), student.cost()
    assert (result["parameters"], result["macs"]) == (cost.parameters, cost.macs)
    assert cost.parameters <= whole.parameters / 2 and cost.macs <= whole.macs / 2
    assert result["compression_rate"] == whole.parameters / cost.parameters
    assert result["goal"] == {"of": "the teacher", "macs": whole.macs, "left": whole.macs / 2, "reached": cost.macs}
    assert result["student"] == {"from": "teacher", "init": "inherit"}
    history = json.loads((tmp_path / "kd" / "history.json").read_text())
    assert all(len(history[f"train_{name}"]) == 1 for name in ("backbone", "intermediate", "adversarial"))
    words = [
        "--model_path",
        tmp_path / "kd" / "model.h5",
        "--dataset",
        "digits",
        "--split",
        "validation",
        "--subset",
        80,
    ]
    words += ["--val_split", 0.2, "--latency_runs", 2, "--output", tmp_path / "seen.json"]
    assert evaluate_model.main(list(map(str, words))) == 0
    (seen,) = json.loads((tmp_path / "seen.json").read_text())["models"]
    assert seen["acc"] == pytest.approx(result["val_acc"])


@pytest.mark.slow
def test_a_students_file_is_trained_from_its_weights_and_known_by_its_checksum(folder, tmp_path):
    flags = {"root_folder": str(folder / "teacher.keras"), "save_folder": str(tmp_path / "kd"), **TINY, **ALL_LOSSES}
    given = shutil.copy(folder / "other.keras", tmp_path / "other.keras")
    flags["student_learning_rate"] = 1e-9  # the weights stay nearly what they were
    result = knowledge_distillation.run(student_path=str(given), **flags)
    assert result["student"] == {"from": str(given)} and result["goal"] is None
    assert result["run"]["student_sha256"] == files.sha256(given)
    ours, theirs = keras.models.load_model(tmp_path / "kd" / "model.h5"), keras.models.load_model(given)
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    moved = shutil.copy(given, tmp_path / "moved.keras")
    assert knowledge_distillation.run(student_path=str(moved), **flags) == result  # finished: nothing trains
    saving.save_network(other_net(), moved)
    with pytest.raises(InputError, match="holds a finished run with `student_path="):
        knowledge_distillation.run(student_path=str(moved), **flags)


@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["teacher.keras", "other.keras"])
def test_a_student_of_a_named_architecture_starts_from_random_weights(teacher, folder, tmp_path):
    flags = {"root_folder": str(folder / teacher), "student_architecture": "resnet20", **TINY, **ALL_LOSSES}
    one, other = (
        knowledge_distillation.run(save_folder=str(tmp_path / name), deterministic=True, **flags) for name in "ab"
    )
    assert one["student"] == {"from": "resnet20"} and one["parameters"] == 274_826
    assert one["val_loss"] == other["val_loss"]


@pytest.mark.parametrize(
    ("teacher", "flags", "named"),
    [
        ("teacher.keras", ["--student_stem", "imagenet"], "--student_stem: received imagenet, "),
        ("other.keras", ["--student_blocks", 1, 1], "--student_blocks: received 1 1, but the teacher has no residual"),
        (
            "other.keras",
            ["--stream_divisor", 4],
            "--stream_divisor: received 4, but the teacher has no residual streams",
        ),
        ("teacher.keras", ["--target_macs", "900x", "--target_compression", 1], "--target_macs: received 900x"),
        (
            "resnet.h5",
            ["--student_path", "other.keras", "--target_macs", "4x"],
            "--target_macs: received it beside --stu",
        ),
        (
            "resnet.h5",
            ["--student_path", "other.keras", "--student_blocks", 1, 1, 1, 1],
            "--student_blocks: received it",
        ),
        ("resnet.h5", ["--student_path", "other.keras", "--student_init", "random"], "--student_init: received random"),
        ("resnet.h5", ["--student_architecture", "resnet20", "--stage_tilt", 0.7], "--stage_tilt: received it beside"),
        ("resnet.h5", ["--student_architecture", "resnet21"], "--student_architecture: received 'resnet21'"),
        (
            "resnet.h5",
            ["--student_architecture", "InceptionV3"],
            "--student_architecture: received InceptionV3, which takes images from 75x75 on; the images of digits are",
        ),
        (
            "resnet.h5",
            ["--student_path", "missing.keras"],
            "--student_path: received missing.keras, which is not a file",
        ),
        ("resnet.h5", ["--student_path", "other.keras", "--class_num", 7], "received"),
    ],
)
def test_a_student_that_is_not_to_be_had_is_told(teacher, flags, named, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    words = ["--root_folder", teacher, "--save_folder", tmp_path / "new", "--dataset", "digits", *flags]
    try:
        status = knowledge_distillation.main(list(map(str, words)))
    except SystemExit as end:  # of the parser
        status = end.code
    error = capsys.readouterr().err
    assert status == 2 and error.count("\n") == 1 and named in error and "expected" in error
    assert not (tmp_path / "new" / "result.json").exists()


@pytest.mark.slow
def test_a_named_student_that_takes_no_images_of_the_teachers_size_is_told():
    config = configs.StudentConfig(student_architecture="InceptionV3")
    with pytest.raises(InputError, match="^`student_architecture`: received InceptionV3 for images of 48x48"):
        knowledge_distillation.other_student(config, 3, (48, 48, 3))


def test_a_student_of_other_classes_than_its_teacher_is_told_whatever_the_images_have(folder, tmp_path, monkeypatch):
    for number in range(18):
        place = tmp_path / "photos" / f"class{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(place / f"{number}.png")
    monkeypatch.chdir(folder)
    with pytest.raises(
        InputError, match="^`student_path`: received three.h5 with 3 classes, expected 10, as the teacher "
    ):
        knowledge_distillation.run(
            root_folder="resnet.h5", student_path="three.h5", save_folder=tmp_path / "new", dataset=tmp_path / "photos"
        )


def of_any_size():
    """The teacher, for images of any size."""
    given = teacher_net()
    return keras.models.clone_model(given, keras.Input((None, None, 3)))


@pytest.mark.parametrize(
    ("teacher", "flags", "named"),
    [
        ("resnet.h5", {"student_blocks": [3, 4, 6, 9]}, "`student_blocks`: received 3 4 6 9, expected at most"),
        ("resnet.h5", {"student_blocks": [1, 1]}, "`student_blocks`: received 1 1, but the teacher has 4 stages"),
        ("other.keras", {"student_blocks": [1]}, "`student_blocks`: received 1, but the teacher has no residual"),
        ("teacher.keras", {"student_stem": "half"}, "`student_stem`: received half, but the teacher's stem is none"),
        ("any.keras", {"student_stem": "half"}, "`student_stem`: received half, but the teacher's stem is none"),
        ("any.keras", {"student_blocks": [7, 7]}, "`student_blocks`: received 7 7, "),
        ("other.keras", {"stream_divisor": 4}, "`stream_divisor`: received 4, but the teacher has no residual"),
        ("teacher.keras", {"target_macs": "900x"}, "`target_macs`: received 900x"),
    ],
)
def test_a_shape_that_is_not_to_be_had_is_told_before_images_are_read(
    teacher, flags, named, folder, tmp_path, monkeypatch
):
    read = []
    monkeypatch.setattr(dataset, "load_data", lambda *args, **more: read.append(args))
    if teacher == "any.keras":
        saving.save_network(of_any_size(), folder / teacher)
    with pytest.raises(InputError, match=named):
        knowledge_distillation.run(root_folder=str(folder / teacher), save_folder=str(tmp_path), **flags, **TINY)
    assert not read


@pytest.mark.slow
def test_a_teacher_is_opened_once_also_where_its_shape_was_asked_for(folder, tmp_path, monkeypatch):
    from compress.storage import opening

    opened, load = [], opening.load_network

    def counted(*args, **more):
        opened.append(args[0])
        return load(*args, **more)

    def stop(args, path, teacher, images):  # the student is made by then
        raise InputError(f"{len(images.train)} images")

    monkeypatch.setattr(opening, "load_network", counted)
    monkeypatch.setattr(knowledge_distillation, "accuracy_of_teacher", stop)
    flags = {"root_folder": str(folder / "resnet.h5"), "save_folder": str(tmp_path / "kd"), "student_blocks": [1] * 4}
    with pytest.raises(InputError, match="64 images"):
        knowledge_distillation.run(**flags, **TINY)
    assert len(opened) == 1
