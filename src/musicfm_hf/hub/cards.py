"""Model cards with contents, usage, scores, training data and license, generated from the files of a folder."""

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData
from transformers import PreTrainedConfig

from ..model.configuration_musicfm import MusicFMConfig
from ..model.configuration_text_audio_musicfm import MusicFMTextAudioConfig
from ..model.int8_musicfm import is_int8
from ..tasks import label_names, task_of
from ..tasks.retrieval import RETRIEVAL_TASKS
from ..training.files import write_text
from ..training.records import strip_absolute_paths
from .card_scores import (
    MUSIC_AND_TEXT,
    eval_results,
    joint_score_rows,
    pretraining_rows,
    retrieval_heads,
    score_rows,
    text_audio_rows,
)
from .licenses import license_metadata, license_of

TAGS = ["musicfm", "music", "music-information-retrieval"]

# File with the results → template of the card; `results.json` is written by both kinds of training.
RESULTS_FILES = {"conversion.json": "converted", "report.json": "quantizer", "results.json": None}

# Fields of a data source or of a template that may be missing.
_SOURCE_FIELDS = dict.fromkeys(("licence", "homepage", "citation", "hub_id"))
_CARD_FIELDS: dict[str, Any] = {"plot": None, "sources": [], "settings": [], "scores": [], "tags": [], "base": {}}


def write_card(
    folder: str | Path, repo: str | None = None, license: str | None = None, place: str | None = None
) -> Path:
    """
    Write `README.md` into the folder of a trained or converted model, an adapter or a quantizer. Scores come from its
    `results.json`, and from JSON files of `musicfm evaluate` in its subfolder `evaluations`.

    Args:
        folder: Folder with `config.json`, and `results.json`, `report.json` or `conversion.json`.
        repo (`str`, *optional*): ID of the repository that the card is for; the name of the folder by default.
        license (`str`, *optional*): License of the weights, as an identifier of the Hub. By default, the license on
            the current card, or that of the base model, or `other` (not stated).
        place (`str`, *optional*): Python expression for the model in snippets; by default `repo` in quotation marks.

    Returns:
        The path of the card.

    Raises:
        FileNotFoundError: the folder has none of these files.
        ValueError: an evaluation is for another model, or for songs that this model was trained on.
    """
    folder = Path(folder)
    config = _read_config(folder)
    kind, results = _read_results(folder)
    fields, metadata = _CARDS[kind](folder, config, results)
    repo = repo or folder.resolve().name
    names = {"repo": repo, "title": repo.rpartition("/")[2], "place": place or f'"{repo}"'}
    fields = _CARD_FIELDS | names | {"config": config, "int8": is_int8(config), "results": results} | fields
    fields["sources"] = [_SOURCE_FIELDS | source for source in fields["sources"]]
    fields["license"] = license or _known_license(folder, results, fields["base"])
    write_text(folder / "README.md", _render(kind, fields, metadata))
    return folder / "README.md"


def eval_result_entries(folder: str | Path) -> list[EvalResultEntry]:
    """Return the scores in a folder for data sets on the Hub, as entries of `.eval_results`."""
    kind, results = _read_results(Path(folder))
    if kind == "joint":
        return [
            EvalResultEntry(dataset_id=row["hub_id"], task_id=row["task"], value=row["value"], notes=row["label"])
            for row in joint_score_rows(Path(folder), results)
            if row["hub_id"]
        ]
    if kind not in ("finetuned", "retrieval"):
        return []
    return [
        EvalResultEntry(dataset_id=row["hub_id"], task_id=results["task"], value=row["value"], notes=row["label"])
        for row in score_rows(Path(folder), results)
        if row["hub_id"]
    ]


def _read_config(folder: Path) -> Any:
    """Return the configuration of a model."""
    values, _ = PreTrainedConfig.get_config_dict(folder)
    is_text_audio = values.get("model_type") == MusicFMTextAudioConfig.model_type
    return (MusicFMTextAudioConfig if is_text_audio else MusicFMConfig).from_pretrained(folder)


def _read_results(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the name of the template for a folder, and the results to fill it with."""
    for name, kind in RESULTS_FILES.items():
        if (folder / name).is_file():
            results = json.loads((folder / name).read_text(encoding="utf-8"))
            if results.get("family") == "mulan":
                return "converted_text_audio", results
            if results.get("task") == MUSIC_AND_TEXT:
                return "trained_text_audio", results
            if kind is None and results.get("task") in RETRIEVAL_TASKS:
                kind = "retrieval"
            if kind is None and results.get("task") == "joint":
                kind = "joint"
            return kind or ("finetuned" if "method" in results else "pretrained"), results
    raise FileNotFoundError(
        f"{folder} has none of {', '.join(RESULTS_FILES)}, which a card is generated from. Pass the output folder of "
        "`musicfm pretrain`, `finetune`, `train-quantizer` or `convert`."
    )


def _known_license(folder: Path, results: dict[str, Any], base: dict[str, Any]) -> str:
    """Return the recorded license, or the license on the card of the base model, or `other`."""
    known = results.get("licence") or license_of(folder) or results.get("base_licence")
    if known is None and base.get("revision"):
        known = license_of(**base)
    return known or "other"


def _render(kind: str, fields: dict[str, Any], metadata: dict[str, Any]) -> str:
    """Return the text of a card with its YAML metadata, checked by the Hub's own parser."""
    metadata = metadata | license_metadata(fields["license"])
    data = ModelCardData(
        model_name=fields["title"],
        library_name="peft" if fields.get("method") == "lora" else "transformers",
        tags=[*TAGS, *fields["tags"]],
        **metadata,
    )
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (files("musicfm_hf.hub_cards") / name).read_text(encoding="utf-8")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template(f"{kind}.md").render(card_data=data.to_yaml(), **fields)
    ModelCard(text)  # raises if the metadata is not valid YAML
    return text


def _converted(folder: Path, config: MusicFMConfig, results: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return dict(results), {"pipeline_tag": "feature-extraction"}


def _converted_text_audio(
    folder: Path, config: MusicFMTextAudioConfig, results: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    return dict(results), {"pipeline_tag": "zero-shot-audio-classification"}


def _pretrained(folder: Path, config: MusicFMConfig, results: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    scores = results.get("scores", {})
    rows = pretraining_rows(scores)
    sources = results.get("music", [])
    metadata: dict[str, Any] = {"pipeline_tag": "feature-extraction", "datasets": _hub_ids(sources)}
    base = results.get("base", {})
    if base:
        metadata |= _base_of(folder, results)[1]
    if rows:
        names = ", ".join(source["name"] for source in sources) or "not stated"
        data: dict[str, Any] = {"dataset_type": names, "dataset_name": names, "dataset_split": "validation"}
        metadata["eval_results"] = [
            EvalResult("masked-token-prediction", **data, metric_type=kind, metric_value=scores[name])
            for name, kind in (("eval_cross_entropy", "cross_entropy"), ("eval_accuracy", "accuracy"))
            if scores.get(name) is not None
        ]
    has_heads = any("PreTraining" in name for name in config.architectures or ["PreTraining"])
    fields = {"scores": rows, "sources": sources, "base": base, "has_heads": has_heads}
    return _training_fields(folder, results) | fields, metadata


def _quantizer(folder: Path, config: MusicFMConfig, results: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    report = results.get("validation") or {}
    columns = [report.get(name, []) for name in ("perplexity", "codes_used", "top_token_share")]
    unexplained = report.get("unexplained_variance", [])
    columns.append([unexplained[index] if index < len(unexplained) else None for index in range(len(columns[0]))])
    rows = [
        [str(index + 1), *("" if value is None else f"{value:.3g}" for value in row)]
        for index, row in enumerate(zip(*columns, strict=True))
    ]
    sources = results.get("music", [])
    fields = _training_fields(folder, results) | {"scores": rows, "sources": sources}
    return fields, {"datasets": _hub_ids(sources)}


def _finetuned(folder: Path, config: MusicFMConfig, results: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    spec = task_of(config)
    fields, metadata = _trained_head(folder, results)
    if config.label_rate is None:  # the pipeline that the tag names cannot decode label frames
        metadata["pipeline_tag"] = "audio-classification"
    return fields | {
        "task_about": spec.about,
        "task_limits": spec.limits,
        "task_file": None if spec.source is None else spec.source.name,
        "result_expression": spec.result_expression,
        "labels": ", ".join(label_names(config)),
        "outputs": _outputs(config),
        "auto_class": config.head_class.replace("MusicFM", "AutoModel"),
    }, metadata


def _retrieval(folder: Path, config: MusicFMConfig, results: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    fields, metadata = _trained_head(folder, results)
    return fields | {"task_about": RETRIEVAL_TASKS[results["task"]].about}, metadata


def _joint(folder: Path, config: MusicFMConfig, results: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    tasks = list(results["data"]["tasks"])
    configs = {task: MusicFMConfig.from_pretrained(folder / task) for task in tasks}
    base, metadata = _base_of(folder / tasks[0], results)
    rows = joint_score_rows(folder, results)
    heads_for_retrieval = retrieval_heads(folder)
    sources = [*results.get("base_music", []), *results["data"]["tasks"].values()]
    sources += [head["data"] for head in heads_for_retrieval.values()]
    sources = list({source["name"]: source for source in sources}.values())
    metadata |= {"datasets": _hub_ids(sources)}
    if rows:
        metadata["eval_results"] = [entry for row in rows for entry in eval_results(row["task"], [row])]
    heads = [
        {
            "task": task,
            "about": task_of(config).about,
            "limits": task_of(config).limits,
            "num_labels": config.num_labels,
            "label_rate": config.label_rate,
            "auto_class": config.head_class.replace("MusicFM", "AutoModel"),
        }
        for task, config in configs.items()
    ]
    fields = {"method": results["method"], "base": base, "scores": rows, "sources": sources, "tags": tasks}
    fields |= {"heads": heads, "retrieval": {name: RETRIEVAL_TASKS[name].about for name in heads_for_retrieval}}
    fields["averaged"] = results.get("averaged", False)
    fields["has_code"] = bool(PreTrainedConfig.get_config_dict(folder)[0].get("auto_map"))
    return _training_fields(folder, results) | fields, metadata


def _trained_head(folder: Path, results: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields and the metadata of the card of every model with a trained head."""
    task = results["task"]
    base, metadata = _base_of(folder, results)
    scores = score_rows(folder, results)
    metadata |= {"datasets": _hub_ids([results["data"]])}
    if scores:
        metadata["eval_results"] = eval_results(task, scores)
    fields = {
        "method": results["method"],
        "base": base,
        "scores": scores,
        "sources": [results["data"]],
        "tags": [task],
    }
    return _training_fields(folder, results) | fields, metadata


def _trained_text_audio(
    folder: Path, config: MusicFMTextAudioConfig, results: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    base, metadata = _base_of(folder, results)
    rows = text_audio_rows(results)
    metadata |= {"datasets": _hub_ids([results["data"]])}
    if results["method"] != "lora":
        metadata["pipeline_tag"] = "zero-shot-audio-classification"
    if rows:
        metadata["eval_results"] = eval_results("music-and-text-retrieval", rows)
    fields = {"method": results["method"], "base": base, "encoders": results["encoders"], "scores": rows}
    return _training_fields(folder, results) | fields | {"sources": [results["data"]]}, metadata


# Template → function that returns the fields of the template and the metadata of the card.
_CARDS: dict[str, Callable] = {
    "converted": _converted,
    "converted_text_audio": _converted_text_audio,
    "pretrained": _pretrained,
    "quantizer": _quantizer,
    "finetuned": _finetuned,
    "trained_text_audio": _trained_text_audio,
    "retrieval": _retrieval,
    "joint": _joint,
}


def _base_of(folder: Path, results: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the base model of a trained model or adapter, and the metadata that names it if it is on the Hub."""
    base, adapter = dict(results["base"]), folder / "adapter_config.json"
    if adapter.is_file():
        adapter_config = json.loads(adapter.read_text(encoding="utf-8"))
        name, revision = adapter_config["base_model_name_or_path"], adapter_config.get("revision")
        base = strip_absolute_paths({"name": name, "revision": revision})
    if base["revision"] is None:
        return base, {}
    relation = "adapter" if adapter.is_file() else "finetune"
    return base, {"base_model": base["name"], "base_model_relation": relation}


def _training_fields(folder: Path, results: dict[str, Any]) -> dict[str, Any]:
    """Return the plot of a training run, and its settings as rows of a table."""
    values = {name: value for name, value in results.get("training", {}).items() if value not in (None, False)}
    if "seconds" in results:
        values["wall time"] = f"{results['seconds'] / 60:.1f} minutes"
    if "energy_kwh" in results:
        values["energy"] = f"{results['energy_kwh']:.3f} kWh"
    machine = results.get("machine", "")
    values["hardware"] = ", ".join(machine) if isinstance(machine, list) else machine
    values["versions"] = ", ".join(f"{name} {value}" for name, value in results.get("versions", {}).items())
    rows = [(name.replace("_", " "), str(value)) for name, value in values.items() if value]
    return {"plot": "curves.png" if (folder / "curves.png").is_file() else None, "settings": rows}


def _outputs(config: MusicFMConfig) -> list[dict[str, Any]]:
    """Return slices of the logits and names of variables, for the code example in a card."""
    outputs, start = [], 0
    for output in config.classifier_slices:
        end = start + output["size"]
        only = output["size"] == config.num_labels
        outputs.append(
            {
                "prefix": "" if only else f"{output['name']}_",
                "slice": "" if only else f"[..., {start}:{end}]",
                "start": start,
                "is_softmax": output["problem_type"] == "single_label_classification",
            }
        )
        start = end
    return outputs


def _hub_ids(sources: list[dict[str, str]]) -> list[str] | None:
    """Return the IDs of the data sets that are on the Hub, for the metadata."""
    return [source["hub_id"] for source in sources if "hub_id" in source] or None
