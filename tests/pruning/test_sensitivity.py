"""allocation.py and sensitivity.py: masked against trimmed networks, the search against every choice there is."""

import dataclasses
import itertools
import json

import keras
import numpy as np
import pytest
import resnets
from conftest import narrow_widths, randomised
from hypothesis import example, given, settings
from hypothesis import strategies as st

import evaluate_model
import prune_model
import sensitivity
from compress import metrics
from compress.cli import configs
from compress.data import dataset
from compress.engine import folding
from compress.errors import InputError
from compress.plots import comparison
from compress.pruning import allocation, budgets, criteria, cut, masks, removal, scope, search
from compress.storage import checkpoints, opening

IMAGES = np.random.default_rng(5).integers(0, 256, (10, 32, 32, 3)).astype("uint8")
LABELS = np.random.default_rng(6).integers(0, 10, 10)
DIGITS = [
    "--dataset",
    "digits",
    "--subset",
    "80",
    "--val_split",
    "0.2",
    "--batch_size",
    "32",
    "--verbose",
    "0",
    "--precision",
    "float32",
]
PAIR = ("conv2_block1_1_conv", "conv2_block1_2_conv")


@pytest.fixture(scope="module", params=["imagenet", pytest.param("cifar", marks=pytest.mark.slow)])
def network(request):
    """Narrow, its last maps of 1x1 (every kind of `operations.arranged`) or 2x4 positions."""
    shape = (32, 32, 3) if request.param == "imagenet" else (9, 26, 3)
    net = randomised(resnets.build_resnet(widths=narrow_widths(12, 8, 6), stem=request.param, input_shape=shape), 3)
    net.get_layer("predictions").kernel.assign(np.random.default_rng(1).normal(0, 1, (8, 10)))
    return net


def pictures(net):
    return np.random.default_rng(2).integers(0, 256, (10, *net.input_shape[1:])).astype("uint8")


def test_curves_are_the_metrics_of_trimmed_networks(network, monkeypatch):
    images, scores = pictures(network), criteria.compute_scores("l2", network, None, None)
    before = network.get_weights()
    traced, run = [], folding.Folding.run
    monkeypatch.setattr(folding.Folding, "run", lambda *args: traced.append(1) or run(*args))
    whole, curves = allocation.measure_curves(
        network, scores, (images, LABELS), (0.25, 0.5, 1), configs.CriterionConfig(batch_size=4)
    )
    assert len(traced) == 2  # a trace a batch size, none a layer
    wanted = metrics.classification_metrics(np.asarray(network(images)), LABELS)
    assert whole["loss"] == pytest.approx(wanted["loss"], rel=1e-3) and whole["acc"] == wanted["acc"]
    assert list(curves) == list(scores) and all(curve["kept"] == [9, 6, 4] for curve in curves.values())
    for layer in ("conv2_block1_1_conv", "conv2_block2_2_conv", "conv4_block1_1_conv", "conv5_block1_2_conv"):
        for place, kept in enumerate((9, 6, 4)):
            small = removal.trim_model(network, {layer: masks.least_idle(scores[layer], kept)})
            wanted = metrics.classification_metrics(np.asarray(small(images)), LABELS)
            assert curves[layer]["loss"][place] == pytest.approx(wanted["loss"], rel=1e-3)
            assert curves[layer]["acc"][place] == pytest.approx(wanted["acc"])
    assert len({round(curve["loss"][2], 6) for curve in curves.values()}) == 10  # each layer has its own
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


def test_curves_round_and_skip_what_removes_nothing(narrow_model):
    scores = criteria.compute_scores("l1", narrow_model, None, None)  # 6 channels a layer
    steps = []
    whole, curves = allocation.measure_curves(
        narrow_model,
        scores,
        (IMAGES, LABELS),
        (0.1, 0.5, 0.9),
        configs.CriterionConfig(round_to=8),
        progress=lambda walk: (steps.append(i) or i for i in walk),
    )
    assert steps == [0]  # nothing but the whole network
    assert all(
        curve == {"kept": [6, 6, 6], "loss": [whole["loss"]] * 3, "acc": [whole["acc"]] * 3}
        for curve in curves.values()
    )
    with pytest.raises(ValueError, match="needs images"):
        allocation.measure_curves(narrow_model, scores, (IMAGES[:0], LABELS[:0]))


# ---- the prediction ----


def test_a_rise_is_monotone_linear_between_points_and_hits_them():
    curve = {"kept": [8, 6, 4, 2], "loss": [1.4, 1.2, 2.0, 0.9]}
    rise = allocation.predicted_rise(10, 1.0, curve, np.arange(2, 11))
    np.testing.assert_allclose(rise, [1.0, 1.0, 1.0, 0.7, 0.4, 0.4, 0.4, 0.2, 0.0])
    assert not allocation.predicted_rise(6, 1.0, {"kept": [6, 5], "loss": [1.0, 0.5]}, np.array([5, 6])).any()


# ---- the search ----


def curves_of(names, channels, rng, floor=1):
    """Random curves that grow ever steeper, so that one multiplier can reach every budget's best."""
    found = {}
    for name in names:
        kept = list(range(channels - 1, floor - 1, -1))
        found[name] = {"kept": kept, "loss": list(1 + np.cumsum(np.sort(rng.exponential(1, len(kept)))))}
    return found


def allocated(curves, channels, cost, limit):
    """What the search finds, from the curves of a network whose loss is 1; every layer may go down to one channel."""
    widths = {name: np.arange(1, count + 1) for name, count in channels.items()}
    rise = {name: allocation.predicted_rise(channels[name], 1.0, curves[name], widths[name]) for name in channels}

    def costs(table):
        return np.array([cost(dict(zip(channels, map(int, row), strict=True))) for row in table])

    return search.Search(widths, rise, costs).within(limit)


def cost_of(price):
    """Cost of blocks as a network's is: a x first + b x second + c x first x second each, and 7 for the rest."""

    def cost(left):
        pairs = [(name, name.replace("_1_conv", "_2_conv")) for name in left if name.endswith("_1_conv")]
        return 7 + sum(
            p * left[m] + q * left[n] + r * left[m] * left[n] for (m, n), (p, q, r) in zip(pairs, price, strict=True)
        )

    return cost


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.05, 0.95), blocks=st.integers(1, 2))
@example(seed=41154, share=0.0625, blocks=1)  # no single step leads from the multiplier's choice to the best one
def test_the_search_is_near_the_best_of_all_choices_and_within_the_budget(seed, share, blocks):
    rng = np.random.default_rng(seed)
    names = [f"conv2_block{b + 1}_{i}_conv" for b in range(blocks) for i in (1, 2)]
    channels, cost = dict.fromkeys(names, 6), cost_of(rng.integers(1, 9, (blocks, 3)))
    curves = curves_of(names, 6, rng)
    limit = cost(dict.fromkeys(names, 1)) * (1 - share) + cost(channels) * share

    def predicted(left):
        return sum(allocation.predicted_rise(6, 1.0, curves[name], [n])[0] for name, n in left.items())

    choices = [dict(zip(names, widths, strict=True)) for widths in itertools.product(range(1, 7), repeat=len(names))]
    found = allocated(curves, channels, cost, limit)
    assert cost(found) <= limit and found in choices
    assert all(cost(found | {name: n + 1}) > limit for name, n in found.items() if n < 6)
    best = min(predicted(left) for left in choices if cost(left) <= limit)
    worst = max(predicted(left) for left in choices)
    assert predicted(found) - best <= 0.2 * (worst - best) + 1e-9  # one jump of one block, on so coarse a grid
    exact = allocated(curves, channels, cost, cost(found))
    assert predicted(exact) <= predicted(found) + 1e-9


def test_what_costs_nothing_goes_first_and_what_matters_stays():
    channels = dict.fromkeys(PAIR, 40)
    curves = {PAIR[0]: {"kept": [20, 4], "loss": [1.0, 1.0]}, PAIR[1]: {"kept": [20, 4], "loss": [3.0, 9.0]}}
    cost = cost_of([(5, 5, 0)])
    found = allocated(curves, channels, cost, cost(channels) - 5 * 30)
    assert found == {PAIR[0]: 10, PAIR[1]: 40}


@pytest.fixture(scope="module")
def twenty():
    """The scope of a ResNet with 20 channels in every inner layer."""
    return scope.Scope.of(resnets.build_resnet(widths=narrow_widths(20, 16, 8)))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1), round_to=st.integers(1, 9), which=st.sampled_from([0, 1]))
def test_a_networks_budget_is_met_with_permitted_widths_and_nothing_to_give_back(seed, share, round_to, which, twenty):
    rng, widths = np.random.default_rng(seed), narrow_widths(20, 16, 8)
    names = resnets.inner_names((2, 1, 1, 1))
    channels = dict.fromkeys(names, 20)
    curves = {name: {"kept": [15, 10, 4], "loss": 1 + rng.random(3)} for name in names}  # not even monotone
    floors = dict.fromkeys(names, masks.rounded(0, 20, round_to))

    def cost(left):
        return resnets.cost_of(widths | left)[which]

    limit = cost(floors) * (1 - share) + cost(channels) * share
    by = (lambda table: twenty.costs(table)[:, which]), 1.0, curves
    found = allocation.allocate(twenty, *by, limit, round_to)
    assert cost(found) <= limit and set(found) == set(names)
    for name, n in found.items():
        assert n in (20, masks.rounded(n, 20, round_to)) and n >= floors[name]
        assert n == 20 or cost(found | {name: masks.rounded(n + 1, 20, round_to)}) > limit
    with pytest.raises(ValueError, match="out of reach"):
        allocation.allocate(twenty, *by, cost(floors) - 1, round_to)


# ---- prune_model.py ----


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "base.h5"
    checkpoints.save_model(randomised(resnets.build_resnet(widths=narrow_widths(20, 16, 8))), path)
    return path


def pruned(base, folder, *more):
    argv = [
        *DIGITS,
        "--epoch_num",
        "1",
        "--base_model_path",
        str(base),
        "--root_folder",
        str(folder),
        "--prune_iter",
        "2",
        "--target_macs",
        "1.5x",
        *more,
    ]
    return prune_model.main(argv)


@pytest.mark.slow
def test_pruning_by_sensitivity_meets_its_budget_in_equal_steps_and_goes_on_as_trimmed(base, tmp_path, monkeypatch):
    from compress.training import fit

    measured, original = [], allocation.measure_curves
    monkeypatch.setattr(
        allocation,
        "measure_curves",
        lambda model, scores, split, *more: measured.append(len(split[0])) or original(model, scores, split, *more),
    )
    words = ["--allocation", "sensitivity", "--sensitivity_images", "12", "--criterion", "l1"]
    with monkeypatch.context() as patch:

        def stop(*_, **__):
            raise KeyboardInterrupt

        patch.setattr(fit, "fit", stop)
        assert pruned(base, tmp_path / "run", *words) == 130
    assert measured == [12]  # images
    trimmed = resnets.widths_of(keras.models.load_model(tmp_path / "run" / "iter1" / cut.TRIMMED))
    assert pruned(base, tmp_path / "run", *words[:-1], "l2") == 2
    assert pruned(base, tmp_path / "run", *words[:1], "threshold", *words[2:]) == 2  # another run
    assert pruned(base, tmp_path / "run", *words) == 0
    assert measured == [12, 12]  # the second iteration's; the first was not measured or trimmed again
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    # the graph calls a stream by the first convolution that writes it
    by_graph = {name.replace("_stream", "_block1_3_conv"): width for name, width in trimmed.items()}
    assert {name: left[1] for name, left in result["channels"].items()} == by_graph
    whole = resnets.cost_of(narrow_widths(20, 16, 8))[1]
    for step, macs in enumerate(result["macs"], 1):
        limit = whole / 1.5 ** (step / 2)
        assert 0.97 * limit < macs <= limit
    inner = {tuple(left) for name, left in result["channels"].items() if name.endswith(("_1_conv", "_2_conv"))}
    assert len(inner) > 3  # not one share for all


@pytest.mark.slow
def test_the_mask_is_the_searchs_and_the_threshold_stays_what_it_was(base):
    model = opening.load_network(base)
    args = prune_model.build_parser().parse_args(
        [
            *DIGITS,
            "--criterion",
            "l2",
            "--target_macs",
            "2x",
            "--prune_iter",
            "1",
            "--round_to",
            "4",
            "--allocation",
            "threshold",
        ]
    )
    images = dataset.load_data(configs.DataConfig.of(args), (32, 32))
    widths, scores = resnets.widths_of(model), criteria.compute_scores("l2", model, None, None)
    config = configs.PruneConfig.of(args)
    whole_net = scope.Scope.of(model)
    budget = budgets.of(config, whole_net)
    step = cut.Step(budget)

    def cost(left):
        return resnets.cost_of(widths | left)[1]

    for name, keep in masks.create_global_mask(scores, lambda left: cost(left) <= budget.end, 4).items():
        np.testing.assert_array_equal(cut.choose_mask(config, model, images, step)[name], keep)
    config = dataclasses.replace(config, allocation="sensitivity")
    mask = cut.choose_mask(config, model, images, step)
    whole, curves = allocation.measure_curves(
        model,
        scores,
        dataset.sample(images.val, 1000),
        (*allocation.SHARES, 1),
        configs.CriterionConfig(round_to=4, batch_size=32),
    )
    kept = allocation.allocate(whole_net, budget.costs(whole_net), whole["loss"], curves, budget.end, 4)
    assert {name: int(keep.sum()) for name, keep in mask.items()} == kept
    for name, keep in mask.items():
        np.testing.assert_array_equal(keep, masks.least_idle(scores[name], kept[name]))


@pytest.mark.parametrize(
    ("words", "allocation"),
    [
        ([], "threshold"),
        (["--prune_ratio", "0.3"], "threshold"),
        (["--target_macs", "2x"], "sensitivity"),
        (["--target_compression", "2"], "sensitivity"),
        (["--target_macs", "2x", "--allocation", "threshold"], "threshold"),
    ],
)
def test_a_target_is_spread_by_sensitivity_unless_told_otherwise(words, allocation, base, tmp_path, monkeypatch):
    monkeypatch.setattr(prune_model, "begin", lambda args, plan: (plan, None, None, {"run": plan.record}))
    argv = [*DIGITS, "--base_model_path", str(base), "--root_folder", str(tmp_path / "run"), *words]
    args = prune_model.build_parser().parse_args(argv)
    again = prune_model.run(args)["run"]["flags"]
    assert again["allocation"] == allocation
    assert prune_model.run(**again)["run"]["flags"] == again  # what a record tells makes the same run


def test_sensitivity_without_a_budget_is_refused_before_any_work(base, tmp_path, capsys):
    assert (
        prune_model.main(
            ["--allocation", "sensitivity", "--base_model_path", str(base), "--root_folder", str(tmp_path / "new")]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--allocation: received sensitivity" in error and "--target_macs" in error
    assert not list(tmp_path.iterdir())


# ---- sensitivity.py ----


@pytest.mark.slow
def test_preprocessing_bears_on_the_accuracies(tmp_path):
    """A file of keras.applications, measured as what it was trained on, has evaluate_model.py's accuracy."""
    keras.applications.ResNet50(weights=None, classes=10, input_shape=(32, 32, 3)).save(tmp_path / "net.keras")
    words = [*DIGITS, "--model_path", str(tmp_path / "net.keras"), "--verbose", "0", "--preprocessing"]
    judged = {
        kind: evaluate_model.run(
            evaluate_model.build_parser().parse_args([*words, kind, "--split", "validation", "--latency_runs", "0"])
        )["models"][0]
        for kind in ("tf", "none")
    }
    assert judged["tf"]["loss"] != pytest.approx(judged["none"]["loss"], rel=1e-3)
    result = sensitivity.run(
        sensitivity.build_parser().parse_args([*words, "tf", "--shares", "0.5", "--images", "16", "--criterion", "l1"])
    )
    assert result["images"] == judged["tf"]["images"] == 16
    assert result["loss"] == pytest.approx(judged["tf"]["loss"], rel=1e-4)


def test_the_script_shows_and_records_what_trimmed_networks_do(base, tmp_path, capsys):
    out = tmp_path / "deep" / "sensitivity.json"
    argv = [
        *DIGITS,
        "--verbose",
        "1",
        "--model_path",
        str(base),
        "--output",
        str(out),
        "--criterion",
        "l1",
        "--images",
        "12",
        "--shares",
        "0.5",
        "0.25",
        "0.5",
    ]
    assert sensitivity.main(argv) == 0
    result = json.loads(out.read_text())
    assert result["shares"] == [0.25, 0.5] and (result["split"], result["images"]) == ("validation", 12)
    assert len(result["layers"]) == 10 and result["run"]["flags"]["criterion"] == "l1"
    assert out.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    args = sensitivity.build_parser().parse_args(argv)
    part = dataset.sample(dataset.load_data(configs.DataConfig.of(args), (32, 32)).val, 12)
    model = opening.load_network(base)
    judge = folding.FoldedModel(model)
    assert result["acc"] == metrics.evaluate(judge, dataset.Split(*part, "validation"))["acc"]
    row = result["layers"][9]
    assert (row["channels"], row["kept"]) == (20, [15, 10])
    scores = criteria.compute_scores("l1", model, None, None)[row["layer"]]
    small = removal.trim_model(model, {row["layer"]: masks.least_idle(scores, 10)})
    wanted = metrics.evaluate(folding.FoldedModel(small), dataset.Split(*part, "validation"))
    assert row["acc"][1] == pytest.approx(wanted["acc"]) and row["loss"][1] == pytest.approx(wanted["loss"], rel=1e-3)
    printed = " ".join(capsys.readouterr().out.split())
    assert "12 images" in printed and "conv5_block1_2 " in printed and "25%" in printed


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--shares", "1"], "--shares"),
        (["--shares", "0"], "--shares"),
        (["--images", "0"], "--images"),
        (["--criterion", "best"], "--criterion"),
        (["--output", "x.txt"], "--output"),
        (["--model_path", "no.h5"], "no.h5"),
    ],
)
def test_what_cannot_be_used_is_one_line(words, named, base, capsys):
    try:
        status = sensitivity.main(["--model_path", str(base), *words])
    except SystemExit as end:
        status = end.code
    error = capsys.readouterr().err
    assert status == 2 and error.count("\n") == 1 and named in error


def test_a_network_of_infinite_logits_is_refused_and_nothing_is_written(tmp_path, capsys):
    net = randomised(resnets.build_resnet(widths=narrow_widths()))
    net.get_layer("predictions").kernel.assign(np.full((8, 10), 3e38, "float32"))
    checkpoints.save_model(net, tmp_path / "model.h5")
    assert (
        sensitivity.main(
            [
                *DIGITS,
                "--model_path",
                str(tmp_path / "model.h5"),
                "--criterion",
                "l1",
                "--output",
                str(tmp_path / "out.json"),
            ]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--model_path" in error and "finite" in error
    assert [path.name for path in tmp_path.iterdir()] == ["model.h5"]


def test_a_table_that_is_not_kept_says_how_it_would_be(capsys):
    result = {
        "acc": 0.9,
        "images": 12,
        "shares": [0.5],
        "layers": [{"layer": "conv2_block1_1_conv", "channels": 6, "acc": [0.8]}],
    }
    for words, told in (([], 1), (["--verbose", "0"], 0)):
        sensitivity.report(sensitivity.build_parser().parse_args(words), result)
        assert capsys.readouterr().out.count("nothing is written; --output FILE.json keeps the table, with a ") == told


def test_the_default_shares_of_script_and_search_are_the_same():
    assert sensitivity.build_parser().parse_args([]).shares == list(allocation.SHARES)


def test_the_heat_map_shows_points_lost():
    result = {
        "acc": 0.8,
        "shares": [0.25, 0.5],
        "criterion": "l1$",
        "images": 1000,
        "layers": [
            {"layer": "conv2_block1_1_conv", "acc": [0.8004, 0.75]},
            {"layer": "conv3_block1_1_conv", "acc": [0.81, 0.3]},
        ],
    }
    figure = comparison.plot_sensitivity(result)
    axes, bar = figure.axes
    np.testing.assert_allclose(axes.images[0].get_array(), [[-0.04, 5], [-1, 50]], atol=1e-9)
    assert [text.get_text() for text in axes.texts] == ["0.0", "5.0", "-1.0", "50.0"]
    assert axes.texts[1].get_color() == "black" and axes.texts[3].get_color() == "white"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["conv2_block1_1", "conv3_block1_1"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["25", "50"]
    assert "80.0 %" in bar.get_ylabel() and "1,000 images" in bar.get_ylabel()
    for bad in (result | {"layers": []}, result | {"shares": [0.25]}, result | {"acc": None}):
        with pytest.raises(InputError):
            comparison.plot_sensitivity(bad)
