"""The Trainer of models of music and text."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch.utils.data import DataLoader

from ..data.captions import CaptionedSong
from ..data.crop_reader import AudioProblem, ProblemLog
from ..model.modeling_text_audio_musicfm import MusicFMTextAudioModel, contrastive_loss
from ..training.files import write_json
from ..training.optimizer import two_rate_optimizer
from ..training.trainer import ResumableTrainer
from .arguments import TextAudioTrainingArguments
from .data import CaptionCrops, CollatePairs, WholeSongs
from .model import is_encoder
from .scores import MAIN_SCORE, SCORES, SongScores, averages, caption_matrix, song_scores

# The scores of each song, which texts are captions of which songs, and the names of the songs.
ScoredSongs = tuple[SongScores, np.ndarray, list[str]]

PROGRESS = "text_audio.json"


class TextAudioTrainer(ResumableTrainer):
    """
    A [`Trainer`] for [`MusicFMTextAudioModel`] on pairs of music and text. The pairs of a batch, over all processes,
    are each other's negatives. Evaluations embed whole songs, and search songs by captions and captions by songs.

    Args:
        model: The model, optionally with LoRA.
        train_dataset ([`CaptionCrops`]): Training pairs.
        songs: Validation songs.
        processor ([`MusicFMTextAudioProcessor`]): Processor of the model.
        text_audio_model ([`MusicFMTextAudioModel`], *optional*): The model without the wrapper of PEFT; `model` by
            default.
        fingerprint (`dict`, *optional*): What the run depends on, which is written to checkpoints.
        seconds (`float`): Duration of earlier starts.
    """

    model: torch.nn.Module
    args: TextAudioTrainingArguments
    eval_dataset: Sequence[CaptionedSong]

    def __init__(
        self,
        model: Any,
        args: TextAudioTrainingArguments,
        train_dataset: CaptionCrops,
        songs: Sequence[CaptionedSong],
        processor: Any,
        text_audio_model: MusicFMTextAudioModel | None = None,
        fingerprint: dict[str, dict[str, Any]] | None = None,
        seconds: float = 0.0,
        **kwargs: Any,
    ):
        args.choose_by(MAIN_SCORE, SCORES)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=songs,
            data_collator=CollatePairs(processor),
            **kwargs,
        )
        self.processor = processor
        self.text_audio_model: MusicFMTextAudioModel = model if text_audio_model is None else text_audio_model
        self.fingerprint = fingerprint or {}
        self.problem_log = ProblemLog()
        self.evaluated: dict[int, ScoredSongs] = {}  # step → scores of validation songs
        self.model_accepts_loss_kwargs = False
        self._started = time.perf_counter() - seconds

    @property
    def seconds(self) -> float:
        """
        Duration of the run in seconds over all starts, without work lost between a checkpoint and an interruption.
        """
        return time.perf_counter() - self._started

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """
        Create the optimizer with separate learning rates for towers and encoders; see [`two_rate_optimizer`].
        """
        if self.optimizer is None:
            trained = self.model if model is None else model
            self.optimizer = two_rate_optimizer(self.args, trained, self.args.encoder_learning_rate, is_encoder)
        return self.optimizer

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Move a batch to the device, and log its problems."""
        for problem in inputs["problems"]:
            self.problem_log.add(AudioProblem(*problem))
        return super()._prepare_inputs({name: value for name, value in inputs.items() if name != "problems"})

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """
        Compute the contrastive loss of the pairs of all processes. Every process computes the whole loss. DDP averages
        gradients over processes, which undoes the sum over processes in the backward pass of gathering.
        """
        is_pair = inputs.pop("is_pair")
        outputs = model(**inputs)
        audio, text = (self._gather(embeds.float()) for embeds in (outputs.audio_embeds, outputs.text_embeds))
        is_pair = self.accelerator.gather(is_pair)
        scale = self.text_audio_model.logit_scale.exp()
        with torch.autocast(audio.device.type, enabled=False):
            logits = audio[is_pair] @ text[is_pair].t() * scale
        if len(logits) < 2:  # hardly any song of the batch can be read
            loss = (audio.sum() + text.sum() + scale) * 0
        else:
            loss = contrastive_loss(logits, self.text_audio_model.config.use_decoupled_loss)
        return (loss, outputs) if return_outputs else loss

    def _gather(self, embeds: torch.Tensor) -> torch.Tensor:
        """Concatenate the embeddings of all processes, so that gradients flow back to each of them."""
        if self.args.world_size == 1:
            return embeds
        from torch.distributed.nn.functional import all_gather

        return torch.cat(list(all_gather(embeds.contiguous())))

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Average the retrieval scores of whole songs, which are divided among processes."""
        songs = self.eval_dataset if eval_dataset is None else eval_dataset
        scored = self.score_songs(songs, "validation")
        if eval_dataset is None:
            self.evaluated[self.state.global_step] = scored
        scores, _, _ = scored
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in averages(scores).items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def score_songs(self, songs: Sequence[CaptionedSong], split: str) -> ScoredSongs:
        """
        Search songs by their captions, and captions by songs, in the precision of training. Songs that cannot be read
        are left out, and logged.

        Args:
            songs: The songs; all of them are the ones to find.
            split (`str`): Their split, for the log of problems.

        Returns:
            The scores of each song, which texts are captions of which songs, and the names of the songs, on every
            process.

        Raises:
            ValueError: none of the songs can be read.
        """
        embeds = self._embed_songs(songs, split)
        usable = [song for index, song in enumerate(songs) if index in embeds]
        if not usable:
            raise self.problem_log.refusal(f"the songs of {split}", self.text_audio_model.config.clip_seconds)
        texts, is_caption = caption_matrix([song.captions for song in usable])
        audio = np.stack([embeds[index] for index in sorted(embeds)])
        similarities = audio @ self._embed_texts(texts).T
        return song_scores(similarities, is_caption), is_caption, [song.name for song in usable]

    def _embed_songs(self, songs: Sequence[CaptionedSong], split: str) -> dict[int, np.ndarray]:
        """Return the embeddings of the songs that can be read, by index."""
        model, rank, processes = self.text_audio_model.eval(), self.args.process_index, self.args.world_size
        rate, least = model.config.sampling_rate, model.config.audio_config.min_samples
        share = range(rank, len(songs), processes)
        waveforms = DataLoader(
            WholeSongs([songs[index] for index in share], split, rate, least),
            batch_size=None,
            num_workers=self.args.dataloader_num_workers,
            generator=torch.Generator(),
        )
        rows: list[tuple[int, np.ndarray]] = []
        problems: list[AudioProblem] = []
        for index, (waveform, problem) in zip(share, waveforms, strict=True):
            if problem is not None:
                problems.append(problem)
                continue
            inputs = self.processor(audio=np.asarray(waveform), sampling_rate=rate).to(self.args.device)
            with torch.no_grad(), self.accelerator.autocast():
                rows.append((index, model.get_audio_features(**inputs).pooler_output[0].float().cpu().numpy()))
        if processes > 1:
            rows, problems = gather_object(rows), gather_object(problems)
        for problem in problems:
            self.problem_log.add(AudioProblem(*problem))
        return dict(rows)

    def _embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return the embeddings of texts: float32 `(texts, projection_dim)`."""
        model, size, parts = self.text_audio_model.eval(), self.args.eval_batch_size, []
        for start in range(0, len(texts), size):
            inputs = self.processor(text=list(texts[start : start + size])).to(self.args.device)
            with torch.no_grad(), self.accelerator.autocast():
                parts.append(model.get_text_features(**inputs).pooler_output.float().cpu().numpy())
        return np.concatenate(parts)

    def problems(self) -> ProblemLog:
        """Return the songs that could not be used so far, on all processes."""
        log = ProblemLog()
        for problem in gather_object(self.problem_log.records):
            log.add(AudioProblem(*problem))
        return log

    def save_progress(self, folder: Path) -> None:
        """Write the fingerprint, the step, the seconds and the problems so far."""
        problems = self.problems().records
        if self.args.should_save:
            progress = {"steps": self.state.global_step, "seconds": self.seconds, "problems": problems}
            write_json(folder / PROGRESS, self.fingerprint | progress)
