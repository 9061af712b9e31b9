"""
Measure what bfloat16 and int8 cost in accuracy, on a CPU.

    python benchmarks/precision.py --data data/pop909
    python benchmarks/precision.py --data data/pop909 --encoder musicfm-msd --output_file precision_msd.json

Trained heads, by default those of the small model, are scored on the test songs in float32, in bfloat16, and with the
encoder in int8 and heads in float32; heads on one encoder share a pass. Differences from float32 are over songs, with
the paired bootstrap. The frames of an encoder of the size of the published checkpoints, with random weights unless
`--encoder` names a model, are compared by their cosine similarity to those in float32, on excerpts from the middle of
test songs.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from machine import describe
from reporting import RESULTS, markdown_table, write_report
from tasks_table import STUDY
from tqdm.auto import tqdm
from transformers import AutoModel

import musicfm_hf
from musicfm_hf.audio.reading import load_audio
from musicfm_hf.data.examples import with_annotation
from musicfm_hf.data.labeled import LabeledSong
from musicfm_hf.data.labeled_dataset import load_songs
from musicfm_hf.evaluation.scoring import average_scores, difference_of_systems, score_song
from musicfm_hf.inference.annotators import group_by_encoder, load_annotators
from musicfm_hf.inference.embedding import HeadModel, WindowSettings, embed_songs
from musicfm_hf.inference.logits import head_logits, layer_mix
from musicfm_hf.training.records import strip_absolute_paths

PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": torch.float32},
    "bfloat16": {"dtype": torch.bfloat16},
    "int8": {"dtype": torch.float32, "quantization_config": musicfm_hf.MusicFMInt8Config()},
}
REDUCED = [name for name in PRECISIONS if name != "float32"]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SMALL |= {"subsampling_conv_channels": 8, "conv_depthwise_kernel_size": 7}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    heads = "folders that `musicfm finetune` wrote; by default the small model"
    parser.add_argument("--heads", nargs="*", default=[musicfm_hf.SMALL_MODEL], help=heads)
    parser.add_argument("--data", required=True, help="data set made by `musicfm prepare`")
    parser.add_argument("--limit", type=int, help="maximum number of test songs")
    parser.add_argument("--encoder", help="encoder for the cosines; by default full size and random weights")
    parser.add_argument("--small", action="store_true", help="a narrow model with random weights, for a trial")
    parser.add_argument("--excerpts", type=int, default=10, help="number of excerpts for the cosines")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of an excerpt")
    parser.add_argument("--layers", nargs="+", type=int, default=[3, 7, 12])
    parser.add_argument("--output_file", type=Path, default=RESULTS / "precision.json")
    arguments = parser.parse_args()
    songs = load_songs(arguments.data, "test")[: arguments.limit]
    results: dict[str, Any] = {"machine": describe("cpu"), "data": Path(arguments.data).name, "songs": len(songs)}
    results["scores"] = measure_scores(arguments.heads, songs) if arguments.heads else []
    results["encoder"] = arguments.encoder and strip_absolute_paths({"encoder": arguments.encoder})["encoder"]
    results["cosines"] = measure_cosines(excerpts(songs, arguments), arguments)
    write_report(arguments.output_file, results, report(results))


def measure_scores(folders: Sequence[str], songs: Sequence[LabeledSong]) -> list[dict[str, Any]]:
    """Return a row for each score of each head, with its value in every precision."""
    scores: dict[str, dict[str, dict[str, Any]]] = {}  # precision → task → song → scores
    for precision, settings in PRECISIONS.items():
        heads = [head for head in load_annotators(folders, **settings).values() if head.config.task in STUDY]
        scores[precision] = {}
        for group in group_by_encoder(heads):
            scores[precision] |= score_heads(group, songs, precision)
    rows = []
    for head in heads:
        task = head.config.task
        averages = {precision: average_scores(head.config, scores[precision][task]) for precision in PRECISIONS}
        for metric in STUDY[task]["scores"]:
            row: dict[str, Any] = {"task": task, "score": metric, "songs": len(scores["float32"][task])}
            row |= {precision: averages[precision][metric] for precision in PRECISIONS}
            for precision in REDUCED:
                pair = [scores["float32"][task]], [scores[precision][task]]
                row[f"{precision}_difference"] = difference_of_systems(task, *pair, metric).summary()
            rows.append(row)
    return rows


def score_heads(heads: list[HeadModel], songs: Sequence[LabeledSong], precision: str) -> dict[str, dict[str, Any]]:
    """Return the scores of songs by task, with one pass through the encoder that the heads share."""
    encoder = heads[0].musicfm
    labeled = {head.config.task: {song.id for song in with_annotation(songs, head.config.task, "")} for head in heads}
    scores: dict[str, dict[str, Any]] = {task: {} for task in labeled}
    waveforms = ((song, load_audio(song.audio, encoder.config.sampling_rate)) for song in songs)
    mix = torch.stack([layer_mix(head).float() for head in heads])
    embedded = embed_songs(encoder, waveforms, WindowSettings(batch_size=8), mix)
    for song, (frames, _) in tqdm(embedded, total=len(songs), desc=precision, unit="song"):
        for index, head in enumerate(heads):
            if song.id in labeled[head.config.task]:
                logits = head_logits(head.classifier, frames[:, index])
                scores[head.config.task][song.id] = score_song(head.config, song, logits)
    return {task: dict(sorted(rows.items())) for task, rows in scores.items()}


def excerpts(songs: Sequence[LabeledSong], arguments: argparse.Namespace) -> Iterator[torch.Tensor]:
    """Yield waveforms `(1, samples)` at 24 kHz from the middle of songs."""
    for song in songs[: arguments.excerpts]:
        waveform = load_audio(song.audio, 24000)
        length = round(arguments.seconds * 24000)
        start = max(0, (len(waveform) - length) // 2)
        yield torch.from_numpy(waveform[start : start + length])[None]


def measure_cosines(audio: Iterator[torch.Tensor], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the mean and the least cosine similarity of frames to those in float32, by precision and layer."""
    models = {name: load_encoder(arguments, settings) for name, settings in PRECISIONS.items()}
    found: dict[tuple[str, int], list[torch.Tensor]] = {}
    for waveform in audio:
        states = {}
        for name, model in models.items():
            with torch.inference_mode():
                states[name] = model(waveform, output_hidden_states=arguments.layers).hidden_states
        for name in REDUCED:
            for layer in arguments.layers:
                pair = (states[precision][layer].float() for precision in ("float32", name))
                found.setdefault((name, layer), []).append(torch.cosine_similarity(*pair, dim=-1).flatten())
    frames = {key: torch.cat(values) for key, values in found.items()}
    return [
        {"precision": name, "layer": layer, "frames": len(values), "mean": values.mean().item()}
        | {"least": values.min().item()}
        for (name, layer), values in frames.items()
    ]


def load_encoder(arguments: argparse.Namespace, settings: dict[str, Any]) -> Any:
    """Return the encoder in a precision."""
    if arguments.encoder:
        return AutoModel.from_pretrained(arguments.encoder, **settings).eval()
    torch.manual_seed(0)
    config = musicfm_hf.MusicFMConfig(**SMALL if arguments.small else {})
    with tempfile.TemporaryDirectory() as folder:
        musicfm_hf.MusicFMModel(config).save_pretrained(folder)
        return AutoModel.from_pretrained(folder, **settings).eval()


def report(results: dict[str, Any]) -> str:
    """Return the table of scores, and that of cosines."""
    parts = []
    if results["scores"]:
        header = ["task", "score", "songs", *PRECISIONS, *(f"{name} - float32" for name in REDUCED)]
        rows = [
            [row["task"], f"`{row['score']}`", f"{row['songs']}", *(f"{row[name]:.4f}" for name in PRECISIONS)]
            + [difference(row[f"{name}_difference"]) for name in REDUCED]
            for row in results["scores"]
        ]
        parts.append(markdown_table(header, rows))
    cosines = [
        [row["precision"], f"{row['layer']}", f"{row['frames']:,}", f"{row['mean']:.5f}", f"{row['least']:.5f}"]
        for row in results["cosines"]
    ]
    encoder = results["encoder"] or "random weights"
    parts.append(markdown_table([encoder, "layer", "frames", "mean cosine", "least"], cosines))
    return "\n".join(parts)


def difference(values: dict[str, Any]) -> str:
    """Return a difference with its interval."""
    low, high = values["interval"]
    return f"{values['mean']:+.4f} [{low:+.4f}, {high:+.4f}]"


if __name__ == "__main__":
    main()
