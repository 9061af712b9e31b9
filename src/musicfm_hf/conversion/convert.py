"""Conversion of published checkpoints to folders that `from_pretrained` loads."""

import json
import shutil
import warnings
from pathlib import Path
from typing import NamedTuple

from ..hub.cards import write_card
from ..model.feature_extraction_musicfm import MusicFMFeatureExtractor
from ..model.modeling_musicfm import MusicFMForPreTraining
from ..model.processing_text_audio_musicfm import MusicFMTextAudioProcessor
from ..training.files import put_in_place, temporary_path, write_json
from .mert import read_mert
from .mert2 import read_mert2
from .mulan import find_tokenizer, read_mulan
from .muq import read_muq
from .musicfm import read_musicfm
from .source import find_model_folder
from .weights import Checkpoint, build_model


class Conversion(NamedTuple):
    """Result of [`convert_checkpoint`]."""

    output_dir: Path
    family: str  # "musicfm", "muq", "mert", "mert2" or "mulan"
    sha256: str  # of the file with the weights
    variant: str | None  # "msd" or "fma", if the source is a published file
    num_parameters: int  # of the encoder, or of both towers
    unused: dict[str, str]  # published keys that were left out, and why


def convert_checkpoint(
    source: str | Path,
    output_dir: str | Path,
    stats: str | Path | None = None,
    variant: str | None = None,
    overwrite: bool = False,
) -> Conversion:
    """
    Convert a published checkpoint to a folder with `config.json`, weights (`*.safetensors`),
    `preprocessor_config.json`, a card and the code:

    - MusicFM (github.com/minzwon/musicfm, Hub repository minzwon/MusicFM): a `.pt` file with its statistics.
    - MuQ (OpenMuQ/MuQ-large-msd-iter), MERT (m-a-p/MERT-v1-95M, m-a-p/MERT-v1-330M) and MERT-v2 (m-a-p/MERT-v2-30s,
      m-a-p/MERT-v2-FullSong): `config.json` and `model.safetensors` or `pytorch_model.bin`.
    - MuQ-MuLan (OpenMuQ/MuQ-MuLan-large): the same files. The configurations of its encoders and the tokenizer are
      downloaded unless the folder has `muq_config.json`, `text_config.json` and `tokenizer.json`.

    The quantizers and prediction heads of MusicFM and MuQ are converted too, for `AutoModelForPreTraining`. MERT's
    layer drop, which matters only for its training, is not converted.

    Args:
        source: A `.pt` file, a folder with the files, or a Hub repository that has them.
        output_dir: Folder to write. It appears only when it is complete.
        stats: For MusicFM, the JSON file with `melspec_2048_mean` and `melspec_2048_std` in dB; by default the one
            beside the weights.
        variant (`str`, *optional*): `"msd"` or `"fma"`, if a MusicFM source has both.
        overwrite (`bool`): Replace `output_dir` if it exists and holds a model.

    Raises:
        FileNotFoundError: if a file is missing.
        FileExistsError: if `output_dir` is not empty, and `overwrite` is false or the folder does not hold a model.
        ValueError: if the file is not such a checkpoint (the message names missing, extra and misshaped tensors), if
            it is a published file of another variant than `variant`, or if it has an unsupported setting.

    A `UserWarning` is raised if statistics differ from the known values for a published file, or if the tokenizer of
    MuQ-MuLan cannot be loaded.
    """
    output_dir = Path(output_dir).resolve()
    _check_output(output_dir, overwrite)
    if variant not in (None, "msd", "fma"):
        raise ValueError(f"`variant` must be 'msd' or 'fma', got {variant!r}.")
    checkpoint = _read_checkpoint(source, stats, variant)
    config, model = checkpoint.config, build_model(checkpoint)
    result = Conversion(
        output_dir=output_dir,
        family=checkpoint.family,
        sha256=checkpoint.sha256,
        variant=checkpoint.variant,
        num_parameters=sum(parameter.numel() for parameter in model.base_model.parameters()),
        unused=checkpoint.unused,
    )
    extractor = MusicFMFeatureExtractor.from_model_config(config)
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary_path(output_dir)
    partial.mkdir()
    try:
        model.save_pretrained(partial)
        extractor.save_pretrained(partial)
        if checkpoint.family == "mulan":
            _save_processor(checkpoint, extractor, partial)
        facts = _facts(result, checkpoint, has_head=isinstance(model, MusicFMForPreTraining))
        write_json(partial / "conversion.json", facts)
        write_card(partial, output_dir.name)
        put_in_place(partial, output_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return result


def _read_checkpoint(source: str | Path, stats: str | Path | None, variant: str | None) -> Checkpoint:
    """Read a checkpoint with the reader for its family."""
    folder = find_model_folder(source, variant)
    if folder is None:
        return read_musicfm(source, stats, variant)
    path = folder / "config.json"
    published_config = json.loads(path.read_text(encoding="utf-8"))
    try:
        if isinstance(published_config, dict) and "encoder_dim" in published_config:
            return read_muq(folder, published_config)
        if isinstance(published_config, dict) and published_config.get("model_type") == "mert_model":
            return read_mert(folder, published_config)
        if isinstance(published_config, dict) and published_config.get("model_type") == "mert2":
            return read_mert2(folder, published_config)
        if isinstance(published_config, dict) and "mulan" in published_config:
            return read_mulan(folder, published_config)
    except KeyError as error:
        raise ValueError(f"The configuration in {folder} lacks the setting {error}.") from error
    raise ValueError(f"{path} is not the configuration of MuQ, MERT, MERT-v2 or MuQ-MuLan.")


def _save_processor(checkpoint: Checkpoint, extractor: MusicFMFeatureExtractor, folder: Path) -> None:
    """Save the processor of MuQ-MuLan, if its tokenizer can be loaded."""
    source = checkpoint.weights_file.parent
    published_config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    tokenizer = find_tokenizer(source, published_config)
    if tokenizer is not None:
        MusicFMTextAudioProcessor(extractor, tokenizer).save_pretrained(folder)
        return
    name = published_config["text_model"]["name"]
    warnings.warn(
        f"The tokenizer of {name} cannot be loaded, so the folder has none and takes no texts. Convert again with "
        f"access to the Hub, or with the file tokenizer.json of {name} in {source}.",
        stacklevel=3,
    )


def _facts(result: Conversion, checkpoint: Checkpoint, has_head: bool) -> dict:
    """Return the content of `conversion.json`, from which the card is written."""
    return {
        "family": result.family,
        "sha256": result.sha256,
        "variant": result.variant,
        "num_parameters": result.num_parameters,
        "source_name": checkpoint.weights_file.name,
        "has_head": has_head,
        "licence": checkpoint.license,
    }


def _check_output(output_dir: Path, overwrite: bool) -> None:
    """Check that the folder can be created, or holds an earlier model that can be replaced."""
    if not output_dir.exists() or (output_dir.is_dir() and not any(output_dir.iterdir())):
        return
    if not output_dir.is_dir():
        raise FileExistsError(f"{output_dir} is a file. Choose a folder.")
    if not overwrite:
        raise FileExistsError(f"{output_dir} is not empty. Choose another folder, or pass `overwrite`.")
    if not (output_dir / "conversion.json").is_file() or list(output_dir.glob("*.pt")):
        raise FileExistsError(f"{output_dir} does not hold just a converted model; it is not replaced.")
