"""Songs held out for validation are neither trained on nor measured."""

import os
from pathlib import Path

import pytest
import soundfile
import torch
from datasets import Dataset
from helpers.audio import music
from transformers import logging as transformers_logging

import musicfm_hf.pretraining.model as model_module
import musicfm_hf.pretraining.quantizers as quantizer_module
from musicfm_hf.data.splits import split_by_name
from musicfm_hf.data.statistics import MelStatistics, mel_statistics
from musicfm_hf.pretraining.arguments import (
    DataArguments,
    ModelArguments,
    PretrainingArguments,
    QuantizerArguments,
)
from musicfm_hf.pretraining.data import build_data, open_music
from musicfm_hf.pretraining.model import build_model
from musicfm_hf.pretraining.quantizers import train_quantizer

SIZE = '{"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32, '
SIZE += '"subsampling_conv_channels": 8, "codebook_size": 4, "quantizer_type": "%s"}'
FRACTION = 0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    for number in range(6):
        soundfile.write(folder / f"{number}.wav", music(1.0, seed=number), 24000)
    return folder


@pytest.fixture
def held_out(folder) -> set[str]:
    names = [(path.name, None) for path in sorted(folder.iterdir())]
    training, validation = ({name for name, _ in part} for part in split_by_name(names, FRACTION))
    assert len(training) >= 2
    assert len(validation) >= 2
    return validation


@pytest.fixture
def measured(monkeypatch) -> list[str]:
    """Names of the songs whose spectrogram is measured."""
    names: list[str] = []

    def spy(songs, **settings) -> MelStatistics:
        names.extend(Path(name).name for name, _ in songs)
        return mel_statistics(songs, **settings)

    monkeypatch.setattr(model_module, "mel_statistics", spy)
    return names


def pretraining(folder: Path, output: Path) -> tuple[ModelArguments, DataArguments, PretrainingArguments]:
    data = DataArguments(train=[str(folder)], validation_fraction=FRACTION, crop_seconds=0.5, validation_crops=2)
    settings = ModelArguments(config=SIZE % "random_projection", statistics="global")
    arguments = PretrainingArguments(
        str(output), max_steps=4, per_device_train_batch_size=2, report_to="none", use_cpu=True
    )
    return settings, data, arguments


def test_statistics_are_those_of_the_training_songs(folder, held_out, measured, tmp_path):
    model = build_model(*pretraining(folder, tmp_path))
    assert set(measured) == {path.name for path in folder.iterdir()} - held_out
    assert model.config.mel_mean != 0


def test_given_validation_songs_leave_all_others(folder, measured, tmp_path):
    settings, data, arguments = pretraining(folder, tmp_path)
    names = {path.name for path in folder.iterdir()}
    (tmp_path / "valid").mkdir()
    for number in (0, 4):
        os.symlink(folder / f"{number}.wav", tmp_path / f"valid/{number}.wav")  # another path of the same file
    data.validation = [str(tmp_path / "valid")]
    build_model(settings, data, arguments)
    assert set(measured) == names - {"0.wav", "4.wav"}
    (source,), validation = open_music(data)
    assert {name for name, _ in source.songs} == names - {"0.wav", "4.wav"}
    assert [name for name, _ in validation] == ["0.wav", "4.wav"]
    data.validation = [str(folder)]  # all: a test of overfitting
    assert {name for name, _ in open_music(data)[0][0].songs} == names


def test_a_file_of_two_sources_is_not_trained_on_if_one_holds_it_out(folder, tmp_path, caplog):
    """Favorites that are drawn more often, in a folder within the other one and in a list."""
    favorites = tmp_path / "favorites"
    favorites.mkdir()
    for number in range(4):
        os.symlink(folder / f"{number}.wav", favorites / f"other-{number}.wav")
    (tmp_path / "list.txt").write_text("".join(f"{folder}/{number}.wav\n" for number in range(3)))
    names = [str(folder), str(favorites), str(tmp_path / "list.txt")]
    sources, validation = open_music(DataArguments(train=names, validation_fraction=FRACTION))
    held = [os.path.realpath(audio) for _, audio in validation]
    assert len(held) == len(set(held)) >= 2
    assert not {os.path.realpath(audio) for source in sources for _, audio in source.songs} & set(held)


def test_rows_are_not_compared(folder, tmp_path, caplog):
    rows = Dataset.from_dict({"audio": [str(path) for path in sorted(folder.iterdir())]})
    rows.save_to_disk(tmp_path / "rows")
    data = DataArguments(train=[str(folder)], validation=[str(tmp_path / "rows")])
    transformers_logging.enable_propagation()
    try:
        _, validation = open_music(data)
    finally:
        transformers_logging.disable_propagation()
    assert len(validation) == 6
    assert "Rows of data sets are not compared with the training songs" in caplog.text


def test_statistics_are_those_of_the_spectrogram_of_the_model(folder, tmp_path):
    settings, data, arguments = pretraining(folder, tmp_path)
    usual = build_model(settings, data, arguments).config
    settings.set = ["n_fft=512", "num_mel_bins=64"]
    other = build_model(settings, data, arguments).config  # measured again, into the same file
    (source,), _ = open_music(data)
    expected = mel_statistics(source.songs, 1.0, arguments.seed, progress=False, config=other)
    assert (other.mel_mean, other.mel_std) == pytest.approx((expected.mean, expected.std))
    assert usual.mel_mean - other.mel_mean > 3


def test_batches_have_no_crop_of_a_held_out_song(folder, held_out, tmp_path):
    settings, data, arguments = pretraining(folder, tmp_path)
    loader, validation = build_data(data, arguments, build_model(settings, data, arguments).config)
    songs = {path.name: torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in folder.iterdir()}
    seen = set()
    for _, batch in zip(range(12), loader, strict=False):
        for crop in batch["input_values"]:
            seen |= {name for name, song in songs.items() if (song.unfold(0, 100, 1) == crop[:100]).all(1).any()}
    assert seen == songs.keys() - held_out
    assert {Path(name).name for name in validation.names} <= held_out


@pytest.mark.parametrize("is_given", [False, True])
def test_a_quantizer_is_fitted_to_training_songs(folder, held_out, measured, tmp_path, monkeypatch, is_given):
    """Whether the songs to validate on are a share of the music or some of its files."""
    trained: list[str] = []
    loader_class = quantizer_module.CropLoader

    def spy(sources, weights, **settings):
        trained.extend(Path(song[0]).name for source in sources for song in source.songs)
        return loader_class(sources, weights, **settings)

    monkeypatch.setattr(quantizer_module, "CropLoader", spy)
    arguments = QuantizerArguments(
        train=[str(folder)],
        output_dir=str(tmp_path / "quantizer"),
        validation_fraction=FRACTION,
        validation=[str(folder / name) for name in sorted(held_out)] if is_given else [],
        config=SIZE % "kmeans",
        crop_seconds=0.5,
        batch_size=2,
        hours=0.001,
        num_workers=0,
    )
    report = train_quantizer(arguments)
    names = {path.name for path in folder.iterdir()}
    assert set(trained) == set(measured) == names - held_out
    assert report["validation"]
