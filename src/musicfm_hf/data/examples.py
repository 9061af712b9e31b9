"""Labelled songs → training examples of a task: a crop at random, and its targets."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ..audio.reading import load_audio
from ..model.configuration_musicfm import MusicFMConfig
from ..model.frames_musicfm import count_averages, label_settings
from ..tasks import label_names, task_module
from ..tasks.annotations import Beats
from .labelled import LabelledSong

# Task → what its annotations are called, in a song as in a data set.
COLUMNS = {"beat": "beats", "chord": "chords", "structure": "sections", "key": "keys", "tagging": "tags"}
_TRIES = 100  # to find a crop that has a label
_ORDER, _CROP = range(2)  # what random numbers are for: the second of the integers that seed a generator


def annotation_of(song: LabelledSong, task: str) -> Any:
    """What a song was annotated with for a task: [`Beats`], segments or tags; `None` if it was not."""
    return getattr(song, COLUMNS[task])


def with_annotation(songs: Sequence[LabelledSong], task: str, where: str) -> list[LabelledSong]:
    """
    The songs that are annotated for a task; segments or beats without any are no annotation.

    Raises:
        ValueError: if there is none; names `where`.
    """
    found = [annotation_of(song, task) for song in songs]
    chosen = [
        song
        for song, annotation in zip(songs, found, strict=True)
        if annotation is not None and (task == "tagging" or len(getattr(annotation, "times", annotation)))
    ]
    if not chosen:
        raise ValueError(f"None of the {len(songs)} songs of {where} has {COLUMNS[task]}, which {task} needs.")
    return chosen


def task_labels(task: str, songs: Sequence[LabelledSong]) -> list[str]:
    """Names of the logits: the task's own, or all tags of the songs in alphabetical order."""
    if task == "tagging":
        return sorted({tag for song in songs for tag in song.tags})
    return list(task_module(task).LABELS)


def crop_targets(
    config: MusicFMConfig, song: LabelledSong, start: float, num_frames: int, tempo: float = 1.0
) -> torch.Tensor:
    """
    Targets of a crop, as the model wants its labels.

    Args:
        config ([`MusicFMConfig`]): Of the model with its head.
        start (`float`): Seconds at which the crop begins, in the song as it was annotated.
        num_frames (`int`): Frames of the encoder.
        tempo (`float`): How much faster the crop is played than it was annotated.

    Returns:
        float32 `(label frames, num_labels)`, or `(num_labels,)` where a clip has one label.
    """
    module, annotation = task_module(config.task), annotation_of(song, config.task)
    if config.label_rate is None:
        labels = label_names(config)
        return torch.from_numpy(module.targets([tag for tag in annotation if tag in labels], labels))
    count = count_averages(num_frames, *label_settings(config))
    if isinstance(annotation, Beats):
        annotation = annotation._replace(times=annotation.times / tempo)
    elif tempo != 1.0:
        annotation = [segment._replace(start=segment.start / tempo, end=segment.end / tempo) for segment in annotation]
    return torch.from_numpy(module.targets(annotation, count, config.label_rate, start / tempo))


def transpose_targets(targets: torch.Tensor, semitones: int) -> torch.Tensor:
    """Targets of chords or keys `(…, 25)`, 12 major, 12 minor and none, of music that was transposed."""
    major, minor, none = targets.split([12, 12, 1], dim=-1)
    return torch.cat([major.roll(semitones, -1), minor.roll(semitones, -1), none], dim=-1)


class TaskCrops(Dataset):
    """
    `count` crops of songs at random places, with a label if one is found in a hundred tries. Every song is taken once
    before one is taken again. A crop is a function of its number and the seed alone, so that a run that resumes
    is the run that was not interrupted.

    Items have `labels` and what `read` gives.

    Args:
        config ([`MusicFMConfig`]): Of the model with its head.
        songs: Annotated for `config.task`.
        read (`Callable`): `(song, first frame, frames, generator)` → a mapping for the model, with `semitones` and
            `tempo` where it changed them, and `readable` where there may be no audio.
        count (`int`): How many crops.
        crop_seconds (`float`): Length of a crop; songs that are shorter are taken whole.
        seed (`int`): From which order and places are drawn.

    Raises:
        ValueError: if a crop is shorter than a frame.
    """

    def __init__(
        self,
        config: MusicFMConfig,
        songs: Sequence[LabelledSong],
        read: Callable[[LabelledSong, int, int, np.random.Generator], Mapping[str, Any]],
        count: int,
        crop_seconds: float,
        seed: int,
    ):
        self.config, self.songs, self.read, self.count, self.seed = config, songs, read, count, seed
        self.crop_frames = round(crop_seconds * config.frame_rate)
        if self.crop_frames < 1:
            raise ValueError(f"`crop_seconds` must be at least {1 / config.frame_rate:g}, got {crop_seconds}.")
        self._pass, self._order = -1, np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> dict[str, Any]:
        turn, place = divmod(number, len(self.songs))
        if turn != self._pass:
            self._pass = turn
            self._order = np.random.default_rng([self.seed, _ORDER, turn]).permutation(len(self.songs))
        song = self.songs[self._order[place]]
        config, generator = self.config, np.random.default_rng([self.seed, _CROP, number])
        whole = config.frame_counts(round(song.duration * config.sampling_rate))[-1]
        frames = min(self.crop_frames, whole)
        for _ in range(_TRIES):
            start = int(generator.integers(whole - frames + 1))
            labels = crop_targets(config, song, start / config.frame_rate, frames)
            if (labels[..., 0] >= 0).any():
                break
        item = dict(self.read(song, start, frames, generator))
        tempo, semitones = item.pop("tempo", 1.0), item.pop("semitones", 0)
        if not item.pop("readable", True):
            return item | {"labels": torch.full_like(labels, -1.0)}
        if tempo != 1.0:
            labels = crop_targets(config, song, start / config.frame_rate, frames, tempo)
        if semitones and config.task in ("chord", "key"):
            labels = transpose_targets(labels, semitones)
        return item | {"labels": labels}


class ReadWaveform:
    """
    Reads the audio of a crop for [`TaskCrops`]; with `transpose` pitch-shifted by −5 to 6 semitones, with `tempo`
    stretched to a tempo of 1 / (1 + `tempo`) to 1 + `tempo` of its own (`librosa.effects`); with `speed` played so
    much faster or slower that it sounds up to so many semitones higher or lower, which costs one resampling (Ko et
    al., *Audio Augmentation for Speech Recognition*, Interspeech 2015).

    Gives `input_values` `(samples,)`. A place that cannot be decoded, in a file that breaks off before its header
    says, is silence, with a warning, and [`TaskCrops`] gives it no label: a run of days does not end there.
    """

    def __init__(self, config: MusicFMConfig, transpose: bool = False, tempo: float = 0.0, speed: int = 0):
        if not 0 <= tempo < 1:
            raise ValueError(f"`tempo` must be at least 0 and less than 1, got {tempo}.")
        if not 0 <= speed <= 12:
            raise ValueError(f"`speed` must be 0 to 12 semitones, got {speed}.")
        self.config, self.transpose, self.tempo, self.speed = config, transpose, tempo, speed

    def __call__(self, song: LabelledSong, start: int, frames: int, generator: np.random.Generator) -> dict[str, Any]:
        config = self.config
        samples, rate = config.window_samples(frames), config.sampling_rate
        semitones = int(generator.integers(-5, 7)) if self.transpose else 0
        tempo = float((1 + self.tempo) ** generator.uniform(-1, 1))
        played = int(generator.integers(-self.speed, self.speed + 1)) if self.speed else 0
        own_rate = round(rate / 2 ** (played / 12))  # what is read at this rate and played at that one
        begin = start * config.samples_per_frame / rate
        try:
            waveform = load_audio(song.audio, own_rate, begin, samples * tempo / own_rate)
        except ValueError as error:
            warnings.warn(f"{song.id}: {error} Nothing is learned from there.", stacklevel=2)
            return {"input_values": torch.zeros(samples), "readable": False}
        if semitones or tempo != 1.0:
            import librosa

            if semitones:
                waveform = librosa.effects.pitch_shift(waveform, sr=rate, n_steps=semitones)
            if tempo != 1.0:
                # Windows of 43 ms: librosa's own of 85 ms move single drum hits by up to 40 ms.
                waveform = librosa.effects.time_stretch(waveform, rate=tempo, n_fft=1024)
        waveform = waveform[:samples].astype(np.float32)
        if len(waveform) < samples:  # the song ends here
            waveform = np.pad(waveform, (0, samples - len(waveform)))
        if config.do_normalize:
            waveform = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
        changes = {"semitones": semitones + played, "tempo": tempo * rate / own_rate}
        return {"input_values": torch.from_numpy(waveform)} | changes


def collate_examples(items: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """
    Items of [`TaskCrops`] → a batch: `input_values` `(batch, samples)` with `attention_mask` where lengths differ, or
    `hidden_states` `(batch, frames, …)` with `counts` `(batch,)`; and `labels`, -1 where an item has no such frame.
    """
    name = "input_values" if "input_values" in items[0] else "hidden_states"
    values = [item[name] for item in items]
    batch = {name: _stack(values, 0.0), "labels": _stack([item["labels"] for item in items], -1.0)}
    lengths = torch.tensor([len(value) for value in values])
    if name == "hidden_states":
        batch["counts"] = lengths
    elif int(lengths.min()) < int(lengths.max()):
        batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    return batch


def _stack(tensors: Sequence[torch.Tensor], value: float) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(tensors), batch_first=True, padding_value=value)
