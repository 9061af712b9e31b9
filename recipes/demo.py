"""
Embed real audio end to end: songs → embeddings → saved model → the same embeddings from `AutoModel` → a picture.

    make demo                                   # a few synthesised songs and a small model with random weights
    make demo AUDIO=my_song.mp3 CHECKPOINT=pretrained_msd.pt
"""

import argparse
import tempfile
import time
from pathlib import Path

import soundfile
import torch
from transformers import AutoFeatureExtractor, AutoModel

import musicfm_hf
from musicfm_hf.analysis import find_boundaries, plot_self_similarity, self_similarity
from musicfm_hf.data.catalogue import list_sources
from musicfm_hf.data.synthetic import compose, synthesize

SEEDS = (1, 2, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, help="a file or a folder; by default songs are synthesised")
    parser.add_argument("--checkpoint", type=Path, help="a published .pt, or a converted folder")
    parser.add_argument("--output", type=Path, default=Path("demo_output"))
    arguments = parser.parse_args()
    arguments.output.mkdir(exist_ok=True)

    songs = synthetic_songs(arguments.output / "audio") if arguments.audio is None else audio_files(arguments.audio)
    model, extractor = small_model() if arguments.checkpoint is None else load(arguments.checkpoint)
    config = model.config
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"\nmodel: {config.num_hidden_layers} layers of width {config.hidden_size}, {num_parameters:,} parameters")

    layer = min(7, config.num_hidden_layers)
    embeddings = {}
    for path in songs:
        audio = musicfm_hf.load_audio(path, config.sampling_rate)
        began = time.perf_counter()
        frames, times = embeddings[path] = musicfm_hf.embed(model, audio, config.sampling_rate, layer=layer)
        speed = len(audio) / config.sampling_rate / (time.perf_counter() - began)
        print(f"{path.name}: {len(audio) / config.sampling_rate:.1f} s → {tuple(frames.shape)}, last frame at "
              f"{times[-1]:.2f} s, {speed:.0f} times real time")  # fmt: skip

    folder = arguments.output / "model"
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    check_reload(folder, songs, embeddings, layer)
    for path, sections in songs.items():
        similarity, features, times = self_similarity(embeddings[path].frames, config.frame_rate)
        num_segments = len(sections) if sections else max(2, round(times[-1] / 20))
        boundaries = find_boundaries(features, times, num_segments)
        picture = arguments.output / f"{path.stem}.png"
        plot_self_similarity(similarity, times, boundaries, picture, f"{path.name}, layer {layer}", sections)
        print(f"{picture}: {num_segments} sections")


def synthetic_songs(folder: Path) -> dict[Path, list]:
    """Songs from seeds, as flac and ogg, with their sections."""
    folder.mkdir(exist_ok=True)
    songs = {}
    for seed in SEEDS:
        song = compose(seed)
        path = folder / f"song_{seed}.{'ogg' if seed % 2 else 'flac'}"
        audio = synthesize(song, sampling_rate=44100)
        with soundfile.SoundFile(path, "w", 44100, channels=2) as file:
            for start in range(0, len(audio), 44100):  # libsndfile's Vorbis encoder needs it in pieces
                file.write(audio[start : start + 44100])
        print(
            f"{path}: {song.key}, {song.tempo:g} beats a minute, {song.beats_per_bar}/4, {len(song.sections)} sections"
        )
        songs[path] = song.sections
    return songs


def audio_files(source: Path) -> dict[Path, list]:
    if source.is_file():
        return {source: []}
    return {Path(path): [] for _, path in list_sources(source)}


def small_model() -> tuple[musicfm_hf.MusicFMModel, musicfm_hf.MusicFMFeatureExtractor]:
    """The published architecture, small, with random weights."""
    torch.manual_seed(0)
    config = musicfm_hf.MusicFMConfig(
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        subsampling_conv_channels=64,
    )
    return musicfm_hf.MusicFMModel(config).eval(), musicfm_hf.MusicFMFeatureExtractor()


def load(checkpoint: Path) -> tuple[torch.nn.Module, musicfm_hf.MusicFMFeatureExtractor]:
    """A folder as it is; a published file through the conversion."""
    with tempfile.TemporaryDirectory() as temporary:
        if checkpoint.is_file():
            converted = musicfm_hf.convert_checkpoint(checkpoint, Path(temporary) / "converted")
            checkpoint = converted.output_dir
        return AutoModel.from_pretrained(checkpoint).eval(), AutoFeatureExtractor.from_pretrained(checkpoint)


def check_reload(folder: Path, songs, embeddings, layer: int) -> None:
    """The saved model, through the Auto classes, gives the same, and gives the same in a padded batch."""
    model, extractor = AutoModel.from_pretrained(folder).eval(), AutoFeatureExtractor.from_pretrained(folder)
    rate = extractor.sampling_rate
    crops = [musicfm_hf.load_audio(path, rate, 0.0, 4.0 + 3 * index) for index, path in enumerate(list(songs)[:3])]
    batch = extractor(crops, sampling_rate=rate, return_tensors="pt")
    with torch.inference_mode():
        together = model(**batch, layer=layer).last_hidden_state
        alone = [model(torch.from_numpy(crop)[None], layer=layer).last_hidden_state[0] for crop in crops]
    padding = max(float((x[: len(y)] - y).abs().max()) for x, y in zip(together, alone, strict=True))
    path = next(iter(songs))
    again = musicfm_hf.embed(model, musicfm_hf.load_audio(path, rate), rate, layer=layer).frames
    reload = float((again - embeddings[path].frames).abs().max())
    print(f"saved to {folder}, reloaded through AutoModel: largest difference {reload:.1e}")
    print(f"{len(crops)} crops of different lengths in one padded batch: largest difference {padding:.1e}")
    if reload > 1e-6 or padding > 1e-4:
        raise SystemExit("The reloaded model or the padded batch does not agree.")


if __name__ == "__main__":
    main()
