"""What the records under experiments/records tell of each run: accuracies, sizes, minutes, and what came before."""

import json


def read(folder):
    """All records below a folder.

    Returns:
        ({path below the folder without '/result.json': content}, {sha256: row of an evaluation of the test split}).
    """
    results, tested = {}, {}
    for path in sorted(folder.rglob("result.json")):
        results[path.parent.relative_to(folder).as_posix()] = json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(folder.rglob("evaluation.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["split"] == "test":
            tested |= {row["sha256"]: row for row in content["models"]}
    return results, tested


def last(content, key):
    """A number of a result; of a pruning result the last iteration's."""
    value = content.get(key)
    return value[-1] if isinstance(value, list) else value


def _epochs(content, sha256):
    """Epochs that a run trained up to the model of this checksum."""
    if "epochs" in content:
        return content["epochs"]
    return (content["sha256"].index(sha256) + 1) * content["run"]["flags"]["epoch_num"]


def _made(content):
    """Checksums of the models that a run made; of a pruning run one an iteration."""
    return content["sha256"] if isinstance(content["sha256"], list) else [content["sha256"]]


def _chain(results, sha256):
    """Epochs of every run that a model comes from, the first one first."""
    for content in results.values():
        if sha256 in _made(content):
            return [*_chain(results, content.get("parent_sha256")), _epochs(content, sha256)]
    return []


def machine(run):
    """A run's processor and cores, and the arithmetic of one that trained, as text."""
    arithmetic = [run["flags"]["precision"].removeprefix("mixed_")] if "epoch_num" in run["flags"] else []
    return ", ".join([run["processor"], f"{run['cores']} cores", *arithmetic])


def measured(content, results, tested):
    """What a table can show of one run: {column: number or text}, None where no record tells."""
    sha256, seconds = last(content, "sha256"), content["seconds"]
    test = tested.get(sha256, {})
    return {"validation": last(content, "final_acc" if "final_acc" in content else "val_acc"), "test": test.get("acc"),
            "pruned_acc": last(content, "pruned_acc"), "recalibrated_acc": last(content, "recalibrated_acc"),
            "sparsity": last(content, "sparsity") or test.get("sparsity"), "parameters": last(content, "parameters"),
            "macs": last(content, "macs"), "bytes": last(content, "bytes"),
            "compression rate": last(content, "compression_rate") or 1.0,
            "epochs": " + ".join(map(str, _chain(results, sha256))), "seed": content["run"]["seed"],
            "seconds": sum(seconds) if isinstance(seconds, list) else seconds, "machine": machine(content["run"])}


def gaps(results, tested, tables):
    """What keeps records from fitting together, a line each: a run made again beside records of the one before it.

    Args:
        results: as from `read`.
        tested: as from `read`.
        tables: of tables.json.
    """
    made = {sha256 for content in results.values() for sha256 in _made(content)}
    for path, content in results.items():
        table, seed = path.split("/")[0], content["run"]["seed"]
        again = f"./experiments/reproduce.sh {table} {seed} makes them again"
        if content.get("parent_sha256") and content["parent_sha256"] not in made:
            yield f"experiments/records/{path}: no record tells the model that it was made from; {again}"
        if "test" in tables.get(table, {}).get("columns", ()) and last(content, "sha256") not in tested:
            yield f"experiments/records/{path}: no evaluation.json tells its model's test accuracy; {again}"
