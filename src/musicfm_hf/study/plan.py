"""The plan of a study: from its file to a list of cells, each a pretraining and its probes."""

import difflib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

from ..model.configuration_musicfm import MusicFMConfig
from ..pretraining.model import QUANTIZER_FIELDS
from ..tasks import get_task
from ..training.recipes import merge_settings, read_recipe, recipe_names

EXPECTATIONS = {"better": 1, "not worse": 1, "worse": -1, "not better": -1}  # and the direction that supports each

SONGS = "songs"  # setting of a level: share of the training songs


@dataclass(frozen=True)
class Finding:
    """
    A finding that a study can support or contradict.

    Attributes:
        factor, level (`str`): The level that is compared with the base, which has the first level of each factor.
        claim (`str`): The finding, as a sentence.
        expected (`str`): Scores of the level relative to the base, if the finding holds: one of `EXPECTATIONS`.
        paper (`list[str]`): Rows of `Study.paper` with the levels of the base and of `level`; none by default.
    """

    factor: str
    level: str
    claim: str
    expected: str
    paper: Sequence[str] = ()


@dataclass(frozen=True)
class Study:
    """
    The contents of a study's file.

    Attributes:
        pretrain: Recipes of `musicfm pretrain` for all cells.
        tasks: Tasks to probe.
        factors: Factor → level → settings of `musicfm pretrain` that the level changes, and `songs`, the share of the
            training songs. The first level of each factor is that of the base.
        settings: Settings of `musicfm pretrain` for all cells, over those of the recipes.
        probe: Recipes of `musicfm finetune` for all probes, over `TASK/probe`.
        probe_settings: Settings of `musicfm finetune`, over those of the recipes.
        quantizer: Settings of `musicfm train-quantizer`.
        seeds: Seeds of each variant.
        findings: Findings to compare the results with.
        paper: Rows of the published table: `settings` (factor → text), and `scores` (task → score → value).
        gigaflops: Operations per second of a training on this machine, in billions, for the estimates of the plan
            until a cell is finished.
    """

    pretrain: Sequence[str]
    tasks: Sequence[str]
    factors: Mapping[str, Mapping[str, Mapping[str, Any]]]
    settings: Mapping[str, Any]
    probe: Sequence[str]
    probe_settings: Mapping[str, Any]
    quantizer: Mapping[str, Any]
    seeds: Sequence[int]
    findings: Sequence[Finding]
    paper: Mapping[str, Mapping[str, Any]]
    gigaflops: float | None = None

    @property
    def base(self) -> dict[str, str]:
        """Factor → level of the base."""
        return {factor: next(iter(levels)) for factor, levels in self.factors.items()}

    def metrics(self, task: str) -> list[str]:
        """Return the scores of a task to show: the one that selects layers, and those of the paper."""
        of_paper = [metric for row in self.paper.values() for metric in row["scores"].get(task, {})]
        return list(dict.fromkeys([get_task(task).metric, *of_paper]))


@dataclass(frozen=True)
class Cell:
    """
    One pretraining and its probes.

    Attributes:
        variant (`str`): `base`, or the levels that differ from the base, such as `encoder_bert+rate_50_hz`.
        levels: Factor → level.
        seed (`int`): Seed of the pretraining and of the probes.
        settings: Settings of `musicfm pretrain`, without places.
        songs (`float`): Share of the training songs.
        quantizer (`str`, *optional*): Name of the quantizer, which cells with the same tokens share.
    """

    variant: str
    levels: Mapping[str, str]
    seed: int
    settings: Mapping[str, Any]
    songs: float
    quantizer: str | None

    @property
    def name(self) -> str:
        """Name of the cell and of its files."""
        return f"{self.variant}-seed{self.seed}"

    @property
    def config(self) -> MusicFMConfig:
        """Configuration of the model, without the statistics of the music."""
        return MusicFMConfig(**self.settings.get("config", {}))

    def changed(self, base: Mapping[str, str]) -> dict[str, str]:
        """Return the levels that differ from the base."""
        return {factor: level for factor, level in self.levels.items() if level != base[factor]}


def read_study(name: str) -> Study:
    """
    Read the file of a study.

    Args:
        name (`str`): Path to a YAML file, or the name of one in `recipes`: `study` or `study_full`. Like other
            recipes, it may begin with `base: NAME`.

    Raises:
        ValueError: The file does not exist, an entry is missing or unknown, or a task, factor or level is unknown.
    """
    studies = [known for known in recipe_names("") if re.fullmatch(r"study\w*", known)]
    if not name.endswith((".yaml", ".yml")) and name not in studies:
        raise ValueError(f"No study is called {name!r}. Studies: {', '.join(studies)}; or pass a path to a YAML file.")
    entries: dict[str, Any] = {"settings": {}, "probe": [], "probe_settings": {}, "quantizer": {}, "seeds": [0]}
    entries |= {"findings": [], "paper": {}} | read_recipe(name, kind="")
    _check_names(entries, [field.name for field in fields(Study)], name, "entry")
    if missing := [entry for entry in ("pretrain", "tasks", "factors") if not entries.get(entry)]:
        raise ValueError(f"{name} has no `{missing[0]}`.")
    entries["factors"] = _read_factors(entries["factors"], name)
    for task in entries["tasks"]:
        get_task(task)  # raises for an unknown task
    findings = [_read_finding(finding, entries, name) for finding in entries["findings"]]
    return Study(**entries | {"findings": findings})


def _read_factors(factors: Mapping[Any, Any], name: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the factors with names as text, because YAML reads some, such as 25, as numbers."""
    named: dict[str, dict[str, dict[str, Any]]] = {}
    for factor, levels in factors.items():
        if not isinstance(levels, dict) or not levels:
            raise ValueError(f"The factor {factor!r} in {name} must map levels to settings; the first is the base's.")
        for level, settings in levels.items():
            if not isinstance(settings or {}, dict):
                raise ValueError(f"The level {level!r} of {factor!r} in {name} must be a mapping of settings.")
        named[str(factor)] = {str(level): settings or {} for level, settings in levels.items()}
    return named


def _read_finding(entries: Mapping[str, Any], study: Mapping[str, Any], name: str) -> Finding:
    _check_names(entries, [field.name for field in fields(Finding)], name, "entry of a finding")
    try:
        finding = Finding(**entries)
    except TypeError as error:
        raise ValueError(f"A finding in {name} needs `factor`, `level`, `claim` and `expected`.") from error
    _check_names([finding.factor], study["factors"], name, "factor")
    _check_names([finding.level], list(study["factors"][finding.factor])[1:], name, f"level of {finding.factor}")
    _check_names([finding.expected], EXPECTATIONS, name, "value of `expected`")
    _check_names(finding.paper, study["paper"], name, "row of `paper`")
    if len(finding.paper) not in (0, 2):
        raise ValueError(f"`paper` of a finding in {name} names two rows: that of the base and that of the level.")
    return finding


def _check_names(names: Iterable[str], known: Iterable[str], place: str, kind: str) -> None:
    """Raise a `ValueError` for the first name that is not known."""
    known = list(known)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
            raise ValueError(f"{place}: unknown {kind} {name!r}. {hint}")


def plan_cells(study: Study, grid: bool = False, only: Mapping[str, Sequence[str]] | None = None) -> list[Cell]:
    """
    List the cells of a study: seed by seed, the base first.

    Args:
        study ([`Study`]): The study.
        grid (`bool`): All combinations of levels. By default, one factor at a time differs from the base. Cells that
            both plans have are the same, with the same names.
        only: Factor → levels to which the plan is restricted.

    Raises:
        ValueError: `only` names an unknown factor or level or leaves no cell, two cells have the same name, or
            settings are not those of a configuration.
    """
    base = study.base
    for factor, levels in (only or {}).items():
        _check_names([factor], study.factors, "--only", "factor")
        _check_names(levels, study.factors[factor], "--only", f"level of {factor}")
    if grid:
        variants = [dict(zip(base, names, strict=True)) for names in product(*study.factors.values())]
        variants.sort(key=lambda levels: sum(levels[factor] != base[factor] for factor in base))
    else:
        variants = [base]
        for factor, of_factor in study.factors.items():
            variants += [base | {factor: level} for level in list(of_factor)[1:]]
    chosen = [levels for levels in variants if all(levels[factor] in names for factor, names in (only or {}).items())]
    if not chosen:
        raise ValueError(
            "No cell of the plan has these levels. Where one factor at a time differs from the base, `--only` must "
            "allow the base's levels of the other factors; `--grid` combines all levels."
        )
    cells = [_plan_cell(study, levels, seed) for seed in study.seeds for levels in chosen]
    if repeated := [name for name, count in Counter(cell.name for cell in cells).items() if count > 1]:
        raise ValueError(
            f"Two cells are called {repeated[0]}: list each seed once, and use names of levels that differ in letters "
            "or digits."
        )
    return cells


def _plan_cell(study: Study, levels: Mapping[str, str], seed: int) -> Cell:
    """Combine the settings of the recipes, of the study and of the levels."""
    settings = merge_settings(read_recipe(*study.pretrain, kind="pretrain"), study.settings)
    for factor, level in levels.items():
        settings = merge_settings(settings, study.factors[factor][level])
    songs = settings.pop(SONGS, 1.0)
    if not 0 < songs <= 1:
        raise ValueError(f"`songs` must be a share of the training songs, greater than 0 and at most 1, got {songs}.")
    base = study.base
    parts = [f"{_slug(factor)}_{_slug(level)}" for factor, level in levels.items() if level != base[factor]]
    settings["seed"] = seed
    return Cell("+".join(parts) or "base", dict(levels), seed, settings, songs, quantizer_name(settings))


def quantizer_name(settings: Mapping[str, Any]) -> str | None:
    """
    Return the name of the quantizer that a pretraining needs, or `None` for random projections, which are not trained.
    It depends only on the settings that tokens depend on.
    """
    config = MusicFMConfig(**settings.get("config", {}))
    if config.quantizer_type == "random_projection":
        return None
    values = {name: getattr(config, name) for name in QUANTIZER_FIELDS}
    text = json.dumps([values, settings.get("statistics"), settings.get("stats")])
    return f"{config.quantizer_type}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


def divide_cells(
    cells: Sequence[Cell], job: int = 1, jobs: int = 1, process: int = 0, processes: int = 1
) -> list[Cell]:
    """
    Return the cells of one process: the jobs take cells in turn, and so do the processes of a job.

    Args:
        job, jobs (`int`): Number of the job, from 1, and of jobs.
        process, processes (`int`): Number of the process in its job, from 0, and of its processes.
    """
    return list(cells[job - 1 :: jobs][process::processes])


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", str(text).lower()).strip("_")
