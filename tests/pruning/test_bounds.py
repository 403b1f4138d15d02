"""`max_accuracy_drop` and `target_latency` of prune_model.py: what is kept, what is discarded, what is timed."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

import prune_model
from compress.cli import configs, flags
from compress.graph.network import Graph
from compress.pruning import budgets, iterations, latency
from compress.pruning.scope import Scope
from compress.storage import files, records, saving

pytestmark = pytest.mark.usefixtures("without_figures")


def network(width=24):
    """A chain of three convolutions, two groups of which are inner."""
    image = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 255)(image)
    for name in ("one", "two", "three"):
        x = keras.layers.Conv2D(width, 3, strides=2, padding="same", activation="relu", name=name)(x)
    return keras.Model(image, keras.layers.Dense(10, name="logits")(keras.layers.GlobalAveragePooling2D()(x)))


@pytest.fixture
def words(tmp_path, monkeypatch):
    """The command line of a run in tmp_path/run on a small network and a few digits, without its target."""
    saving.save_network(network(), tmp_path / "base.h5")
    monkeypatch.chdir(tmp_path)
    return [
        *("--dataset", "digits", "--epoch_num", "1", "--batch_size", "32", "--subset", "64"),
        *("--verbose", "0", "--criterion", "l2", "--recalibrate_images", "0", "--sensitivity_images", "16"),
        *("--base_model_path", "base.h5", "--root_folder", "run"),
    ]


@pytest.fixture
def answers(monkeypatch):
    """A list of what fine-tuning leads to, in points above the base's accuracy; None stands for Ctrl-C."""
    left, real = [], {}

    def fine_tune(args, model, images, folder, run_record, title):
        change = left.pop(0)
        if change is None:
            raise KeyboardInterrupt
        saving.save_network(model, folder / "model.h5")
        records.write_json(folder / "history.json", {"loss": [1.0], "val_acc": [0.5], "run": run_record})
        return real["base"] + change / 100, 1.0

    def trim_once(config, model, base, images, step, before):
        found, row = trim(config, model, base, images, step, before)
        real.setdefault("base", row["base_acc"])
        return found, row

    from compress.pruning import cut

    trim = cut.trim_once
    monkeypatch.setattr(cut, "trim_once", trim_once)
    monkeypatch.setattr(prune_model, "fine_tune", fine_tune)
    return left


def outcome():
    return json.loads(Path("run/result.json").read_text())


def macs_of(path):
    return Graph(keras.models.load_model(path, compile=False)).cost().macs


def test_a_step_that_loses_too_much_is_discarded_and_halved_until_the_last(words, answers, tmp_path):
    answers += [0.3, -0.5, -0.51, 0, -3, -0.4, -0.6, -9, 1e9]
    assert prune_model.main([*words, "--max_accuracy_drop", "0.5", "--prune_iter", "9"]) == 0
    result, whole = outcome(), macs_of("base.h5")
    # kept: 0.3, -0.5 (on the bound), 0 and -0.4; the fourth that was discarded was the end
    assert answers == [1e9] and result["finished"] is True
    first = result["base_acc"][0]
    np.testing.assert_allclose(100 * (np.array(result["final_acc"]) - first), [0.3, -0.5, 0, -0.4], atol=1e-9)
    assert [row["iteration"] for row in result["discarded"]] == [3, 4, 5, 5]
    # a step leaves 0.8 of the MACs, half a step the root of that, and so on: no more, and a channel less at most
    narrower = [whole, *result["macs"]]
    for before, after, halvings in zip(narrower, narrower[1:], (0, 0, 1, 2), strict=False):
        share = 0.8 ** (0.5**halvings)
        assert 0.9 * share * before < after <= share * before
    befores = narrower[2], narrower[3], narrower[4], narrower[4]
    for halvings, (row, before) in enumerate(zip(result["discarded"], befores, strict=True)):
        assert row["macs"] <= 0.8 ** (0.5**halvings) * before
    assert [path.name for path in sorted(tmp_path.joinpath("run").glob("iter*"))] == [f"iter{i}" for i in range(1, 5)]
    for i, digest in enumerate(result["sha256"], 1):
        assert files.sha256(f"run/iter{i}/model.h5") == digest
    assert files.sha256("run/best/model.h5") == result["sha256"][-1] and macs_of("run/best/model.h5") == narrower[-1]
    nets = [keras.models.load_model(f"run/iter{i}/model.h5") for i in range(1, 5)]
    assert result["channels"]["two"] == [24, *(net.get_layer("two").filters for net in nets)]


def test_a_run_that_is_interrupted_at_each_point_ends_as_one_that_is_not(words, answers, tmp_path):
    command = [*words, "--max_accuracy_drop", "1", "--prune_ratio", "0.3", "--prune_iter", "3"]
    answers += [0, -2, 0, 0]
    assert prune_model.main([*command, "--root_folder", "whole"]) == 0
    answers += [None, 0, None, -2, None, 0, None, 0]
    for status in (130, 130, 130, 130, 0):
        assert prune_model.main(command) == status
    whole, found = (json.loads(tmp_path.joinpath(name, "result.json").read_text()) for name in ("whole", "run"))
    assert not answers and whole["channels"] == found["channels"]
    for key in ("base_acc", "final_acc", "pruned_acc", "macs", "discarded"):
        assert whole[key] == found[key], key
    # 24 channels: 0.3 of them go, then 0.15 of the rest in each iteration
    assert found["channels"]["two"][1:] == [17, 14, 12]


def test_without_any_iteration_within_the_bound_there_is_no_best(words, answers, capsys):
    answers += [-5, -5, -5, -5]
    words[words.index("--verbose") + 1] = "1"
    assert prune_model.main([*words, "--max_accuracy_drop", "0"]) == 0
    result, printed = outcome(), capsys.readouterr().out
    assert result["final_acc"] == [] and result["finished"] and len(result["discarded"]) == 4
    assert "no iteration stayed within 0 points" in printed and printed.count("discarded") >= 8
    assert printed.count("tried again with half the step") == 3


def test_a_target_is_the_end_also_with_a_bound(words, answers, capsys):
    answers += [0, 0, 0, 1e9]
    assert prune_model.main([*words, "--max_accuracy_drop", "1", "--target_macs", "2x", "--prune_iter", "3"]) == 0
    result = outcome()
    assert answers == [1e9] and result["macs"][-1] <= macs_of("base.h5") / 2 < result["macs"][-2]
    assert "was not reached" not in capsys.readouterr().err


def test_a_target_that_the_bound_keeps_out_of_reach_is_told(words, answers, capsys):
    answers += [0, -5, -5, -5, -5]
    assert prune_model.main([*words, "--max_accuracy_drop", "1", "--target_macs", "2x", "--prune_iter", "3"]) == 0
    left, half = outcome()["macs"][-1], macs_of("base.h5") / 2
    assert f"the target of {half:,.0f} MACs was not reached: {left:,.0f} MACs are left" in capsys.readouterr().err


def test_a_fine_tuning_that_made_it_worse_is_told(words, monkeypatch, capsys):
    from compress.pruning import cut

    trim, left = cut.trim_once, [0.6, 0.4375]

    def fine_tune(args, model, images, folder, run_record, title):
        saving.save_network(model, folder / "model.h5")
        return left.pop(0), 1.0

    def trim_once(*args):
        model, row = trim(*args)
        return model, row | {"recalibrated_acc": 0.6}

    monkeypatch.setattr(prune_model, "fine_tune", fine_tune)
    monkeypatch.setattr(cut, "trim_once", trim_once)
    assert prune_model.main([*words, "--prune_ratio", "0.2", "--prune_iter", "2", "--learning_rate", "0.25"]) == 0
    assert outcome()["final_acc"] == [0.6, 0.4375]
    told = [line for line in capsys.readouterr().err.splitlines() if "worse" in line]
    assert told == [  # of the second alone
        "warning: iteration 2/2: fine-tuning made the network worse, from 60.00 % validation accuracy after trimming "
        "to 43.75 %; try a lower --learning_rate than 0.25, or a larger --epoch_num"
    ]


def test_a_fine_tuning_that_changed_nothing_or_few_images_is_not_worse(capsys):
    for final, images in ((0.5, 5000), (0.4932, 5000), (0.48, 100)):  # standard errors of 0.71 and 5 points
        row = {"recalibrated_acc": 0.5, "final_acc": final}
        iterations.warn_of_worse(configs.PruneConfig(), row, "iteration 1/1", 0.01, images)
        assert not capsys.readouterr().err
    row = {"recalibrated_acc": 0.5, "final_acc": 0.4926}
    iterations.warn_of_worse(configs.PruneConfig(), row, "iteration 1/1", 0.01, 5000)
    assert "from 50.00 % validation accuracy after recalibration to 49.26 %;" in capsys.readouterr().err


def milliseconds(model):
    """A runtime in which the second convolution is ten times as slow a MAC as the others."""
    width = {layer.name: layer.output.shape[-1] for layer in model.layers}
    one, two, three = (width[name] for name in ("one", "two", "three"))
    return 0.02 + 9 * (256 * 3 * one + 10 * 64 * one * two + 16 * two * three) / 1e6


@pytest.mark.parametrize("allocation", ["sensitivity", "threshold"])
def test_widths_are_chosen_by_latencies_that_were_timed(words, answers, monkeypatch, allocation):
    pytest.importorskip("ai_edge_litert")
    timed = []
    monkeypatch.setattr(
        latency,
        "Timer",
        lambda *args: lambda net, times: timed.extend([net.count_params()] * times) or [milliseconds(net)] * times,
    )
    command = [*words, "--target_latency", "0.5x", "--prune_iter", "2", "--allocation", allocation]
    answers += [None, 0, 0]
    assert prune_model.main(command) == 130
    before = len(timed)
    assert prune_model.main(command) == 0
    result, whole = outcome(), milliseconds(network())
    nets = [keras.models.load_model(f"run/iter{i}/model.h5") for i in (1, 2)]
    np.testing.assert_allclose(result["latency_ms"], [milliseconds(net) for net in nets])
    assert 0.8 * whole / 2 < result["latency_ms"][1] <= whole / 2
    assert 0.8 * whole / 2**0.5 < result["latency_ms"][0] <= whole / 2**0.5
    # what the first process timed isn't timed again: at most some rounds of the second iteration
    rounds = latency.ROUNDS * latency.SURE
    assert before >= 10 and len(timed) - before <= rounds and len(result["timed"]) == len(timed)


def test_a_latency_out_of_reach_tells_what_is_in_reach(words, answers, monkeypatch, capsys):
    pytest.importorskip("ai_edge_litert")
    monkeypatch.setattr(latency, "Timer", lambda *args: lambda net, times: [milliseconds(net)] * times)
    assert prune_model.main([*words, "--target_latency", "0.01ms"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 2 and "--target_latency: received a target of 0.01 ms, expected one from 0." in error


@pytest.mark.parametrize(
    ("text", "found"), [("2ms", (2.0, False)), ("0.5x", (0.5, True)), (" 1.5 ms", (1.5, False)), (3, (3.0, False))]
)
def test_latencies_are_milliseconds_or_shares(text, found):
    assert flags.latency(text) == found and flags.latency(found) == found


@pytest.mark.parametrize("text", ["2x", "1x", "0ms", "fast", "-1ms", "2s"])
def test_other_latencies_are_refused(text):
    with pytest.raises(Exception, match="expected milliseconds"):
        flags.latency(text)


def test_half_a_step_twice_is_a_step():
    scope = Scope.of(network())
    budget = budgets.Budget("MACs", scope.graph.cost().macs, 0, 0.64)
    assert budget.next_limit(scope, 0) == pytest.approx(0.64 * budget.start)
    assert budget.next_limit(scope, 1) == pytest.approx(0.8 * budget.start)


def test_a_base_in_the_folder_of_the_best_is_not_written_over(words, tmp_path, capsys):
    (tmp_path / "run" / "best").mkdir(parents=True)
    saving.save_network(network(), tmp_path / "run" / "best" / "model.h5")
    words[words.index("base.h5")] = "run/best/model.h5"
    assert prune_model.main([*words, "--max_accuracy_drop", "1", "--resume", "never"]) == 2
    assert "would overwrite" in capsys.readouterr().err and (tmp_path / "run" / "best" / "model.h5").is_file()


def test_networks_whose_macs_are_not_known_are_pruned_and_go_on(words, answers, tmp_path):
    image = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 255)(image)
    for name in ("one", "two", "three"):
        x = keras.layers.Conv2D(24, 3, strides=2, padding="same", activation="relu", name=name)(x)
    x = keras.layers.Flatten()(keras.layers.TimeDistributed(keras.layers.SeparableConv1D(8, 2))(x))
    saving.save_network(keras.Model(image, keras.layers.Dense(10, name="logits")(x)), tmp_path / "base.h5")
    command = [*words, "--prune_ratio", "0.25", "--prune_iter", "2"]
    answers += [0, None, 0]
    assert prune_model.main(command) == 130
    assert prune_model.main(command) == 0
    result = outcome()
    assert len(result["final_acc"]) == 2 and "macs" not in result and result["channels"]["two"] == [24, 18, 14]


@pytest.mark.slow
def test_what_a_killed_run_left_of_a_discarded_iteration_goes(words, answers, tmp_path, monkeypatch):
    command = [*words, "--max_accuracy_drop", "1", "--prune_iter", "1"]
    answers += [-5, -5, -5, -5]

    clear = prune_model.clear

    def killed(folder):
        if (folder / "model.h5").exists():
            raise KeyboardInterrupt
        clear(folder)

    with monkeypatch.context() as patch:
        patch.setattr(prune_model, "clear", killed)
        assert prune_model.main(command) == 130
    assert (tmp_path / "run" / "iter1" / "model.h5").is_file() and len(answers) == 3
    assert prune_model.main(command) == 0
    assert not answers and not (tmp_path / "run" / "iter1").exists()


def test_a_run_that_goes_on_leaves_what_it_never_wrote(words, answers, tmp_path, monkeypatch):
    command = [*words, "--prune_ratio", "0.25", "--prune_iter", "1"]
    (tmp_path / "run" / "iter2").mkdir(parents=True)
    saving.save_network(network(), tmp_path / "run" / "iter2" / "model.h5")
    answers += [0]

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prune_model, "conclude", killed)
        assert prune_model.main(command) == 130
    assert prune_model.main(command) == 0
    assert (tmp_path / "run" / "iter2" / "model.h5").is_file() and len(outcome()["final_acc"]) == 1
