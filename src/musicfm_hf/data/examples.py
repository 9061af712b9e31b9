"""Training examples of a task from labeled songs: random crops and their targets."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ..audio.effect_chain import EffectChain
from ..audio.reading import load_audio
from ..model.configuration_musicfm import MusicFMConfig
from ..model.feature_extraction_musicfm import normalize_waveform
from ..model.frames_musicfm import count_averages, label_settings
from ..model.losses_musicfm import IGNORED
from ..tasks import get_task, label_names, task_of
from ..tasks.events import stretch
from .labeled import LabeledSong

_TRIES = 100  # number of attempts to find a crop with a label
_ORDER, _CROP = range(2)  # purposes of random numbers; the second of the integers that seed a generator


def annotation_of(song: LabeledSong, task: str) -> Any:
    """Return the annotation of a song for a task: [`Beats`], segments or tags, or `None` if it has none."""
    return get_task(task).annotation_of(song)


def with_annotation(songs: Sequence[LabeledSong], task: str | None, where: str) -> list[LabeledSong]:
    """
    Return the songs that are annotated for a task. Empty segments or beats do not count as an annotation.

    Args:
        where (`str`): Name of the songs in the error message.

    Raises:
        ValueError: if no song is annotated for the task.
    """
    spec = get_task(task)
    annotated = [song for song in songs if spec.is_annotated(song)]
    if not annotated:
        raise ValueError(f"None of the {len(songs)} songs of {where} has {spec.column}, which {task} needs.")
    return annotated


def crop_targets(
    config: MusicFMConfig, song: LabeledSong, start: float, num_frames: int, tempo: float = 1.0
) -> torch.Tensor:
    """
    Compute the targets of a crop, in the format of the `labels` of the model.

    Args:
        config ([`MusicFMConfig`]): Configuration of the model with its head.
        start (`float`): Start of the crop in seconds, in the annotated song.
        num_frames (`int`): Number of encoder frames.
        tempo (`float`): Tempo of the crop, relative to that of the annotated song.

    Returns:
        float32 `(label frames, num_labels)`, or `(num_labels,)` if a clip has one label.
    """
    spec = task_of(config)
    count = 0 if config.label_rate is None else count_averages(num_frames, *label_settings(config))
    annotation = stretch(spec.annotation_of(song), tempo)
    return torch.from_numpy(spec.make_targets(config, annotation, count, start / tempo))


class TaskCrops(Dataset):
    """
    `count` crops of songs at random positions, with a label if one is found in a hundred attempts. Every song is used
    once before a song is used again. A crop depends only on its index and the seed, so a resumed run equals an
    uninterrupted one.

    Items have `labels` and the values that `read` returns.

    Args:
        config ([`MusicFMConfig`]): Configuration of the model with its head.
        songs: Songs that are annotated for `config.task`.
        read (`Callable`): `(song, first frame, frames, generator)` → a mapping for the model, with `semitones` and
            `tempo` if it changed them, and `audio_frames`, the number of frames with audio, if some have none because
            the file is truncated. Labels after these frames are ignored.
        count (`int`): Number of crops.
        crop_seconds (`float`): Length of a crop; shorter songs are used as a whole.
        seed (`int`): Seed of the order of songs and the positions of crops.

    Raises:
        ValueError: if a crop is shorter than a frame.
    """

    def __init__(
        self,
        config: MusicFMConfig,
        songs: Sequence[LabeledSong],
        read: Callable[[LabeledSong, int, int, np.random.Generator], Mapping[str, Any]],
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
            labels, is_labeled = self.labels_of(song, start, frames)
            if is_labeled:
                break
        item = dict(self.read(song, start, frames, generator))
        changes = {name: item.pop(name) for name in ("tempo", "semitones", "audio_frames") if name in item}
        if changes.get("tempo", 1.0) != 1.0 or changes.get("semitones") or "audio_frames" in changes:
            labels, _ = self.labels_of(song, start, frames, **changes)
        return item | {"labels": labels}

    def labels_of(self, song: LabeledSong, start: int, frames: int, **changes: Any) -> tuple[Any, bool]:
        """Return the `labels` of a crop, as [`read_labels`] does, and whether it has a label."""
        labels = read_labels(self.config, song, start, frames, **changes)
        return labels, bool((labels[..., 0] >= 0).any())


def read_labels(
    config: MusicFMConfig,
    song: LabeledSong,
    start: int,
    frames: int,
    tempo: float = 1.0,
    semitones: int = 0,
    audio_frames: int | None = None,
) -> torch.Tensor:
    """
    Compute the labels of a crop that may have been augmented; see [`crop_targets`].

    Args:
        start, frames (`int`): First encoder frame in the song, and number of frames.
        tempo (`float`), semitones (`int`): Changes of the crop.
        audio_frames (`int`, *optional*): Number of frames before the end of truncated audio. Later labels are ignored.
    """
    labels = crop_targets(config, song, start / config.frame_rate, frames, tempo)
    transpose = task_of(config).transpose
    if semitones and transpose is not None:
        labels = torch.from_numpy(transpose(labels.numpy(), semitones))
    if audio_frames is not None and audio_frames < frames:
        labels[_label_frames(config, audio_frames) :] = IGNORED
    return labels


def no_labels(config: MusicFMConfig, frames: int) -> torch.Tensor:
    """Return the labels of a crop without an annotation: -100 throughout, in the shape of [`read_labels`]."""
    count, num_labels = _label_frames(config, frames), len(label_names(config))
    return torch.full((num_labels,) if config.label_rate is None else (count, num_labels), float(IGNORED))


def _label_frames(config: MusicFMConfig, frames: int) -> int:
    """Return the number of labels within encoder frames; the labels of a clip are those of any part of it."""
    if config.label_rate is None:
        return int(config.num_labels or 0) if frames > 0 else 0
    return count_averages(frames, *label_settings(config))


class ReadWaveform:
    """
    Reads the audio of a crop for [`TaskCrops`], and augments it on demand. Returns `input_values` `(samples,)`.

    The part of a crop that cannot be decoded, because the file is truncated, is replaced with silence and gets no
    labels in [`TaskCrops`]. This raises a warning instead of an error, so that a long run does not stop.

    Args:
        config ([`MusicFMConfig`]): Configuration of the model with its head.
        transpose (`bool`): Pitch-shift by −5 to 6 semitones (`librosa.effects`).
        tempo (`float`): Time-stretch to 1 / (1 + `tempo`) to 1 + `tempo` times the tempo of the song
            (`librosa.effects`).
        speed (`int`): Play faster or slower by up to this number of semitones in pitch, which only needs one
            resampling (Ko et al., *Audio Augmentation for Speech Recognition*, Interspeech 2015).
        effects (`float`): Share of the crops that get audio effects; see [`EffectChain`].

    Raises:
        ValueError: if `tempo` is not in [0, 1), `speed` not in [0, 12], or `effects` not in [0, 1].
        ImportError: see [`EffectChain`].
    """

    def __init__(
        self,
        config: MusicFMConfig,
        transpose: bool = False,
        tempo: float = 0.0,
        speed: int = 0,
        effects: float = 0.0,
    ):
        if not 0 <= tempo < 1:
            raise ValueError(f"`tempo` must be at least 0 and less than 1, got {tempo}.")
        if not 0 <= speed <= 12:
            raise ValueError(f"`speed` must be 0 to 12 semitones, got {speed}.")
        self.config, self.transpose, self.tempo, self.speed = config, transpose, tempo, speed
        self.effects = EffectChain(effects, config.sampling_rate)

    def __call__(self, song: LabeledSong, start: int, frames: int, generator: np.random.Generator) -> dict[str, Any]:
        config = self.config
        samples, rate = config.window_samples(frames), config.sampling_rate
        semitones = int(generator.integers(-5, 7)) if self.transpose else 0
        tempo = float((1 + self.tempo) ** generator.uniform(-1, 1))
        speed_semitones = int(generator.integers(-self.speed, self.speed + 1)) if self.speed else 0
        read_rate = round(rate / 2 ** (speed_semitones / 12))  # read at this rate, and played at `rate`
        begin = start * config.samples_per_frame / rate
        try:
            waveform = load_audio(song.audio, read_rate, begin, samples * tempo / read_rate)
        except ValueError as error:
            warnings.warn(f"{song.id}: {error} This crop is not trained on.", stacklevel=2)
            return {"input_values": torch.zeros(samples), "audio_frames": 0}
        if semitones or tempo != 1.0:
            import librosa

            if semitones:
                waveform = librosa.effects.pitch_shift(waveform, sr=rate, n_steps=semitones)
            if tempo != 1.0:
                # Windows of 43 ms, because librosa's default of 85 ms moves single drum hits by up to 40 ms.
                waveform = librosa.effects.time_stretch(waveform, rate=tempo, n_fft=1024)
        waveform = self.effects(waveform[:samples].astype(np.float32), generator)
        changes: dict[str, Any] = {"semitones": semitones + speed_semitones, "tempo": tempo * rate / read_rate}
        if len(waveform) < samples:  # the song ends within the last frame, or the file is truncated
            if len(waveform) < samples - config.samples_per_frame:
                changes["audio_frames"] = len(waveform) // config.samples_per_frame
            waveform = np.pad(waveform, (0, samples - len(waveform)))
        if config.do_normalize:
            waveform = normalize_waveform(waveform)
        return {"input_values": torch.from_numpy(waveform)} | changes


def collate_examples(items: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """
    Collate items whose audio and label frames may differ in length, such as those of [`TaskCrops`], into a batch.

    Args:
        items: Mappings with `input_values` `(samples,)` or `hidden_states` `(frames, …)`, as tensors, arrays or lists.
            `attention_mask` `(samples,)` marks padding of `input_values`, which is cut off. `labels` are `(label
            frames, num_labels)` or `(label frames,)`, or, for whole clips, `(num_labels,)` or a number; `pitch_labels`
            are `(frames, values)`.

    Returns:
        `input_values` `(batch, samples)`, float32, with `attention_mask` if lengths differ, or `hidden_states`
        `(batch, frames, …)` with `counts` `(batch,)`; `labels`, float32 or int64, with -100 after the last label
        frame of an item; and `pitch_labels`, float32, with -100 after the last frame.

    Raises:
        ValueError: if values are missing, or have other shapes.
    """
    if not items:
        raise ValueError("The batch is empty.")
    if "hidden_states" in items[0]:
        values = [torch.as_tensor(item["hidden_states"]) for item in items]
        lengths = torch.tensor([len(value) for value in values])
        batch = {"hidden_states": _stack(values, 0), "counts": lengths}
    else:
        values = [_waveform(item) for item in items]
        lengths = torch.tensor([len(value) for value in values])
        batch = {"input_values": _stack(values, 0)}
        if int(lengths.min()) < int(lengths.max()):
            batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    if "pitch_labels" in items[0]:
        batch["pitch_labels"] = _stack([torch.as_tensor(item["pitch_labels"]).float() for item in items], IGNORED)
    labels = [torch.as_tensor(item["labels"]) for item in items if "labels" in item]
    return batch | {"labels": stack_labels(labels, len(items))} if labels else batch


def _waveform(item: Mapping[str, Any]) -> torch.Tensor:
    """Return the audio of an item, float32 `(samples,)`."""
    if "input_values" not in item:
        raise ValueError(f"An item needs `input_values`, the waveform; it has {', '.join(item)}.")
    waveform = torch.as_tensor(item["input_values"]).float()
    if waveform.ndim != 1:
        raise ValueError(f"`input_values` of an item must have shape (samples,), got {tuple(waveform.shape)}.")
    mask = item.get("attention_mask")
    return waveform if mask is None else waveform[torch.as_tensor(mask).bool()]


def stack_labels(labels: Sequence[torch.Tensor], num_items: int) -> torch.Tensor:
    """Pad labels and stack them, in float32 or int64: most other types do not have the value that pads them."""
    if len(labels) < num_items:
        raise ValueError(f"Some items have `labels`, others do not: {len(labels)} of {num_items} have them.")
    if len({(label.ndim, label.shape[1:]) for label in labels}) > 1:
        shapes = ", ".join(sorted({str(tuple(label.shape)) for label in labels}))
        raise ValueError(f"`labels` of the items have shapes {shapes}, which differ in more than the label frames.")
    dtype = torch.float32 if any(label.is_floating_point() for label in labels) else torch.int64
    labels = [label.to(dtype) for label in labels]
    return torch.stack(labels) if labels[0].ndim == 0 else _stack(labels, IGNORED)


def _stack(tensors: Sequence[torch.Tensor], value: int) -> torch.Tensor:
    """Pad tensors at the end to a common length, and stack them."""
    return torch.nn.utils.rnn.pad_sequence(list(tensors), batch_first=True, padding_value=value)
