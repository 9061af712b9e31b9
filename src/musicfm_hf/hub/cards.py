"""Model cards: what a folder holds, how to use it, how good it is, by what the files in the folder say."""

import json
import math
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, hf_hub_download

from ..model.configuration_musicfm import MusicFMConfig
from ..tasks import get_task, label_names
from ..training.records import recorded

TAGS = ["musicfm", "music", "music-information-retrieval"]

NOT_STATED = "not-stated"  # the name of a licence that nobody has given

PRETRAINING_SCORES = {
    "eval_cross_entropy": "cross-entropy, nats",
    "eval_unigram_cross_entropy": "… of the tokens' frequencies",
    "eval_accuracy": "accuracy",
    "eval_accuracy_most_frequent": "… of the most frequent token",
    "eval_accuracy_copy": "… of copying the nearest frame that is not masked",
}


def write_card(folder: str | Path, repo: str | None = None, licence: str | None = None) -> Path:
    """
    Write `README.md` into the folder of a model, an adapter or a quantizer that a recipe or the conversion made.
    Scores are those in its `results.json`, and in JSON files of recipes/evaluate.py in its folder `evaluations`.

    Args:
        folder: With `config.json`, and `results.json`, `report.json` or `conversion.json`.
        repo (`str`, *optional*): Id of the repository in which the card will be; the folder's name by default.
        licence (`str`, *optional*): Of the weights, as the Hub names it; by default what the card that is there says,
            or that of the model that was trained further, or `other`, not stated.

    Returns:
        The card's path.

    Raises:
        FileNotFoundError: the folder has none of these files.
        ValueError: an evaluation is of another model, or of songs that this one was trained on.
    """
    folder = Path(folder)
    config = MusicFMConfig.from_pretrained(folder)
    kind, results = _what(folder)
    found = {"repo": repo or folder.resolve().name, "config": config, "results": results}
    found |= {"title": found["repo"].rpartition("/")[2], "plot": None, "sources": [], "settings": [], "scores": []}
    if kind == "converted":
        found |= results
        metadata = {"pipeline_tag": "feature-extraction"}
    else:
        found["plot"] = "curves.png" if (folder / "curves.png").is_file() else None
        found["settings"] = _settings(results)
        own, metadata = {"pretrained": _pretrained, "quantizer": _quantizer, "finetuned": _finetuned}[kind](
            folder, config, results
        )
        found |= own
    known = dict.fromkeys(("licence", "homepage", "citation", "hub_id"))
    found["sources"] = [known | source for source in found["sources"]]
    licence = licence or results.get("licence") or licence_of(folder) or results.get("base_licence")
    if licence is None and found.get("base", {}).get("revision"):
        licence = licence_of(**found["base"])
    found["license"] = licence = licence or "other"
    if licence == "other":
        metadata["license_name"] = NOT_STATED
    library = "peft" if found.get("method") == "lora" else "transformers"
    data = ModelCardData(
        model_name=found["title"],
        library_name=library,
        license=licence,
        tags=[*TAGS, *found.get("tags", [])],
        **metadata,
    )
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (files("musicfm_hf.hub_cards") / name).read_text(encoding="utf-8")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template(f"{kind}.md").render(card_data=data.to_yaml(), **found)
    ModelCard(text)  # raises where the metadata is no YAML
    (folder / ".README.md.part").write_text(text, encoding="utf-8")
    os.replace(folder / ".README.md.part", folder / "README.md")
    return folder / "README.md"


def _what(folder: Path) -> tuple[str, dict[str, Any]]:
    """Which template is meant, and the results it is about."""
    names = {"conversion.json": "converted", "report.json": "quantizer", "results.json": ""}
    for name, kind in names.items():
        if (folder / name).is_file():
            results = json.loads((folder / name).read_text(encoding="utf-8"))
            return kind or ("finetuned" if "method" in results else "pretrained"), results
    raise FileNotFoundError(f"{folder} has none of {', '.join(names)}: was it made by a recipe of musicfm_hf?")


def _settings(results: dict[str, Any]) -> list[tuple[str, str]]:
    """How it was trained, as rows."""
    chosen = {name: value for name, value in results.get("training", {}).items() if value not in (None, False)}
    if "seconds" in results:
        chosen["wall time"] = f"{results['seconds'] / 60:.1f} minutes"
    if "energy_kwh" in results:
        chosen["energy"] = f"{results['energy_kwh']:.3f} kWh"
    machine = results.get("machine", "")
    chosen["hardware"] = ", ".join(machine) if isinstance(machine, list) else machine
    chosen["versions"] = ", ".join(f"{name} {value}" for name, value in results.get("versions", {}).items())
    return [(name.replace("_", " "), str(value)) for name, value in chosen.items() if value]


def _pretrained(folder: Path, config: MusicFMConfig, results: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    scores = results.get("scores", {})
    rows = [
        {"label": label, "shown": f"{scores[name]:.3f}"}
        for name, label in PRETRAINING_SCORES.items()
        if name in scores
    ]
    sources = results.get("music", [])
    metadata: dict[str, Any] = {"pipeline_tag": "feature-extraction", "datasets": _hub_ids(sources)}
    if rows:
        names = ", ".join(source["name"] for source in sources) or "not stated"
        data = {"dataset_type": names, "dataset_name": names, "dataset_split": "validation"}
        metadata["eval_results"] = [
            EvalResult("masked-token-prediction", **data, metric_type=kind, metric_value=scores[name])
            for name, kind in (("eval_cross_entropy", "cross_entropy"), ("eval_accuracy", "accuracy"))
        ]
    return {"scores": rows, "sources": sources}, metadata


def _quantizer(folder: Path, config: MusicFMConfig, results: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    found = results.get("validation") or {}
    columns = [found.get(name, []) for name in ("perplexity", "codes_used", "top_token_share")]
    unexplained = found.get("unexplained_variance", [])
    columns.append([unexplained[index] if index < len(unexplained) else None for index in range(len(columns[0]))])
    rows = [
        [str(index + 1), *("" if value is None else f"{value:.3g}" for value in row)]
        for index, row in enumerate(zip(*columns, strict=True))
    ]
    sources = results.get("music", [])
    return {"scores": rows, "sources": sources}, {"datasets": _hub_ids(sources)}


def _finetuned(folder: Path, config: MusicFMConfig, results: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    task, base = results["task"], dict(results["base"])
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        named = json.loads(adapter.read_text(encoding="utf-8"))
        base = recorded({"name": named["base_model_name_or_path"], "revision": named.get("revision")})
    scores = _score_rows(folder, results)
    is_clip = config.label_rate is None
    metadata: dict[str, Any] = {"datasets": _hub_ids([results["data"]])}
    if is_clip or not adapter.is_file():
        metadata["pipeline_tag"] = "audio-classification"
    if base["revision"] is not None:
        metadata["base_model"] = base["name"]
        metadata["base_model_relation"] = "adapter" if adapter.is_file() else "finetune"
    if scores:
        metadata["eval_results"] = [
            EvalResult(
                task_type="audio-classification",
                task_name=task,
                dataset_type=row["hub_id"] or row["data"],
                dataset_name=row["data"],
                dataset_split=row["split"],
                metric_type=row["kind"],
                metric_name=row["label"],
                metric_value=row["value"],
            )
            for row in scores
        ]
    fields = {
        "task_about": get_task(task).about,
        "task_limits": get_task(task).limits,
        "found_as": get_task(task).found_as,
        "labels": ", ".join(label_names(config)),
        "auto_class": config.head_class.replace("MusicFM", "AutoModel"),
        "method": results["method"],
        "base": base,
        "scores": scores,
        "sources": [results["data"]],
        "tags": [task],
    }
    return fields, metadata


def _score_rows(folder: Path, results: dict[str, Any]) -> list[dict[str, Any]]:
    """
    Scores on test songs: those of the training run, and of evaluations on other data.

    Raises:
        ValueError: an evaluation is not of this model, or of the songs it was trained on.
    """
    found = [(results["data"], "test", results["scores"].get("test", {}))]
    for path in sorted((folder / "evaluations").glob("*.json")):
        evaluation = json.loads(path.read_text(encoding="utf-8"))
        name = folder.resolve().name
        scores = [own["scores"] for model, own in evaluation["models"].items() if Path(model).name == name]
        if not scores:
            raise ValueError(f"{path} has scores of {', '.join(evaluation['models'])}, not of {name}: remove it.")
        if evaluation["split"] == "train" and evaluation["music"]["name"] == results["data"]["name"]:
            raise ValueError(f"{path} has scores of songs that {name} was trained on: remove it.")
        found.append((evaluation["music"], evaluation["split"], scores[0]))
    rows = []
    for data, split, scores in found:
        for name, score in get_task(results["task"]).scores.items():
            value = scores.get(name)
            if value is not None and value["mean"] is not None and not math.isnan(value["mean"]):
                low, high = value.get("interval", (None, None))
                rows.append(
                    {
                        "data": data["name"],
                        "hub_id": data.get("hub_id"),
                        "split": split,
                        "kind": score.kind,
                        "label": score.label,
                    }
                    | {"value": value["mean"], "shown": f"{value['mean']:.3f}", "songs": value["songs"]}
                    | {"interval": "" if low is None else f"{low:.3f} to {high:.3f}"}
                )
    return rows


def eval_result_entries(folder: str | Path) -> list[EvalResultEntry]:
    """Scores on data sets that are on the Hub, as its `.eval_results` have them."""
    kind, results = _what(Path(folder))
    if kind != "finetuned":
        return []
    return [
        EvalResultEntry(dataset_id=row["hub_id"], task_id=results["task"], value=row["value"], notes=row["label"])
        for row in _score_rows(Path(folder), results)
        if row["hub_id"]
    ]


def _hub_ids(sources: list[dict[str, str]]) -> list[str] | None:
    return [source["hub_id"] for source in sources if "hub_id" in source] or None


def licence_of(name: str | Path, revision: str | None = None) -> str | None:
    """What the card of a model says, if it can be read: of a folder, or with a revision of a repository."""
    try:
        path = Path(name) / "README.md" if revision is None else hf_hub_download(name, "README.md", revision=revision)
        licence = ModelCard.load(path).data.license
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return None if licence == "other" else licence
