"""Heads on the MusicFM encoder: classes for every frame at a task's own rate, or for a whole clip."""

import json
import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, find_adapter_config_file, logging
from transformers.utils.generic import can_return_tuple

from .configuration_musicfm import MusicFMConfig
from .features_musicfm import item_lengths, valid_frames
from .modeling_musicfm import MusicFMModel, MusicFMPreTrainedModel

# What weights must agree on, so that an adapter of one encoder fits another.
_SHAPE = ("encoder_type", "front_end", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


def average_frames(
    frames: torch.Tensor,
    frame_rate: float,
    target_rate: float,
    frame_offset: float = 0.0,
    centered: bool = False,
    counts: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Bring frames to another rate by averaging over time, parts of frames weighted by their length. Frame k is centred
    at (k + `frame_offset`) / `frame_rate` and stands for the time around it, the first one from 0 on. Output j is the
    mean over [j, j + 1) / `target_rate`, or with `centered` over [j - ½, j + ½) / `target_rate`.

    Args:
        frames (`torch.Tensor` of shape `(batch, frames, …)`): Any values at `frame_rate`.
        frame_rate, target_rate (`float`): In Hz.
        frame_offset (`float`): Centre of the first frame, in frames; `config.frame_offset` of a model.
        counts (`torch.Tensor` of shape `(batch,)`, *optional*): Frames of each item that are not padding.

    Returns:
        `(batch, count_averages(frames, …), …)` in the dtype of `frames`; zeros where an output has no frames.
    """
    num_frames = frames.shape[1]
    num_outputs = count_averages(num_frames, frame_rate, target_rate, frame_offset, centered)
    device, double = frames.device, torch.float64
    # Time in input frames: frame k covers [k - ½, k + ½) + offset, output j covers [start, stop).
    step, shift = frame_rate / target_rate, frame_offset - 0.5
    start = (torch.arange(num_outputs, device=device, dtype=double) - 0.5 * centered) * step
    stop = start + step
    span = math.ceil(step) + 1
    first = (start - shift + 1e-9).floor().long()  # the first frame that an output touches
    index = first[:, None] + torch.arange(span, device=device)  # (outputs, span)
    begin = torch.where(index == 0, 0.0, index + shift)
    overlap = torch.minimum(stop[:, None], index + 1 + shift) - torch.maximum(start[:, None], begin)
    overlap = overlap.clamp(min=0) * ((index >= 0) & (index < num_frames))
    weights = overlap[None].float()  # (1 or batch, outputs, span)
    if counts is not None:
        weights = weights * (index < counts[:, None, None])
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-6)
    flat = frames[..., None].flatten(2)  # (batch, frames, values)
    # A sum over the span, so that memory is that of the outputs.
    output = flat.new_zeros(flat.shape[0], num_outputs, flat.shape[2], dtype=torch.float32)
    for place in range(span):
        gathered = flat[:, index[:, place].clamp(0, num_frames - 1)]
        output = torch.addcmul(output, gathered.float(), weights[..., place, None])
    return output.to(frames.dtype).reshape(output.shape[:2] + frames.shape[2:])


def count_averages(num_frames, frame_rate: float, target_rate: float, frame_offset: float = 0.0, centered=False):
    """How many outputs [`average_frames`] gives for a number of frames (0: none), or for a tensor of such numbers."""
    if isinstance(num_frames, torch.Tensor):
        num_frames = num_frames.double()  # in float32, a count could differ from that of the number
    ends = (num_frames - 0.5 + frame_offset) * (target_rate / frame_rate) + 0.5 * centered
    if isinstance(num_frames, torch.Tensor):
        return torch.where(num_frames > 0, (ends - 1e-6).ceil().long(), 0)
    return math.ceil(ends - 1e-6) if num_frames > 0 else 0


class MusicFMClassifier(nn.Module):
    """
    Hidden states → logits: one hidden layer of `config.classifier_proj_size` units behind a layer norm, as in the
    paper but for the norm (layers differ in scale by orders of magnitude). Where `config.use_weighted_layer_sum` says
    so, a learned weighted sum of all hidden states comes before.

    It can be trained alone on stored hidden states.

    Args:
        config ([`MusicFMConfig`]): Labels, outputs, rates.
        input_size (`int`, *optional*): Width of the input; `config.hidden_size` by default.
    """

    def __init__(self, config: MusicFMConfig, input_size: int | None = None):
        super().__init__()
        self.config = config
        input_size = input_size or config.hidden_size
        if config.use_weighted_layer_sum:
            self.layer_weights = nn.Parameter(torch.zeros(config.num_hidden_layers + 1))
        self.layer_norm = nn.LayerNorm(input_size, eps=config.layer_norm_eps)
        self.projector = nn.Linear(input_size, config.classifier_proj_size)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.output = nn.Linear(config.classifier_proj_size, config.num_labels)

    def forward(
        self, hidden_states: torch.Tensor, counts: torch.Tensor | None = None, labels: torch.Tensor | None = None
    ) -> "MusicFMClassifierOutput":
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(batch, frames, width)`): At the encoder's rate; where a weighted
                sum is learned `(batch, frames, layers + 1, width)`, or that sum itself.
            counts (`torch.Tensor` of shape `(batch,)`, *optional*): Frames of each item that are not padding.
            labels (*optional*): As in the models.

        Returns:
            [`MusicFMClassifierOutput`]: of label frames where `config.label_rate` is set, else of the whole item.
        """
        hidden_states = self.pool(self.mix(hidden_states), counts)
        logits = self.score(hidden_states)
        return MusicFMClassifierOutput(
            loss=None if labels is None else classification_loss(self.config, logits, labels), logits=logits
        )

    def mix(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The weighted sum over axis 2, if there is that axis."""
        if hidden_states.ndim == 3:
            return hidden_states
        return torch.einsum("btlh,l->bth", hidden_states, self.layer_weights.softmax(0).to(hidden_states.dtype))

    def pool(self, hidden_states: torch.Tensor, counts: torch.Tensor | None) -> torch.Tensor:
        """`(batch, frames, width)` → `(batch, label frames, width)` or `(batch, width)`."""
        if self.config.label_rate is not None:
            return average_frames(hidden_states, *label_settings(self.config), counts)
        if counts is None:
            return hidden_states.mean(1)
        mask = valid_frames(0, hidden_states.shape[1], counts)[..., None]
        total = hidden_states.masked_fill(~mask, 0.0).sum(1, dtype=torch.float32)
        return (total / counts[:, None]).to(hidden_states.dtype)

    def score(self, pooled: torch.Tensor) -> torch.Tensor:
        """`(…, width)` → logits `(…, num_labels)`."""
        hidden = nn.functional.relu(self.projector(self.layer_norm(pooled.to(self.projector.weight.dtype))))
        return self.output(self.dropout(hidden))


def label_settings(config: MusicFMConfig) -> tuple[float, float, float, bool]:
    """The arguments of [`average_frames`] that a configuration gives."""
    return config.frame_rate, config.label_rate, config.frame_offset, config.label_centered


def classification_loss(config: MusicFMConfig, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    The weighted sum of the losses of all outputs of a head; each is averaged over what is not ignored.

    Args:
        logits (`torch.Tensor` of shape `(…, num_labels)`): As from the model.
        labels (`torch.Tensor`): Floating point of the same shape: for each output the probabilities of its classes,
            -1 where it is to be ignored. Or integers `(…)`, -100 where ignored, for one output of one class each.
            Fewer or more frames than logits have are not accepted.

    Raises:
        ValueError: if the shape does not fit.
    """
    outputs = config.classifier_slices
    if not labels.is_floating_point() and labels.shape == logits.shape[:-1]:
        kinds = [output["problem_type"] for output in outputs]
        if kinds != ["single_label_classification"]:
            raise ValueError(f"Integer labels need one output of one class each, the configuration has {kinds}.")
        ignored = (labels < 0)[..., None]
        labels = nn.functional.one_hot(labels.clamp(min=0), logits.shape[-1]).float().masked_fill(ignored, -1.0)
    if labels.shape != logits.shape:
        raise ValueError(f"`labels` must have shape {tuple(logits.shape)}, got {tuple(labels.shape)}.")
    logits, labels = logits.float(), labels.float()
    weights = logits.new_tensor(config.class_weights or [1.0] * logits.shape[-1])
    loss, start = logits.new_zeros(()), 0
    for output in outputs:
        part = slice(start, start + output["size"])
        start = part.stop
        target, weight = labels[..., part], weights[part]
        valid = (target >= 0).all(-1)
        target, scores = target.clamp(min=0), logits[..., part]
        if output["problem_type"] == "single_label_classification":
            weighted = target * weight * valid[..., None]
            own = -(weighted * scores.log_softmax(-1)).sum() / weighted.sum().clamp(min=1e-6)
        else:
            own = nn.functional.binary_cross_entropy_with_logits(scores, target, pos_weight=weight, reduction="none")
            own = (own.mean(-1) * valid).sum() / valid.sum().clamp(min=1)
        loss = loss + output.get("loss_weight", 1.0) * own
    return loss


@dataclass
class MusicFMClassifierOutput(ModelOutput):
    """
    Output of the models with a head.

    Attributes:
        loss (`torch.Tensor` of shape `()`): If labels were given.
        logits (`torch.Tensor` of shape `(batch, label frames, num_labels)` or `(batch, num_labels)`): Before softmax
            or sigmoid.
        hidden_states, attentions (`tuple`): As in the encoder, if asked for.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


def check_base(config: MusicFMConfig, base_model: str, **kwargs) -> None:
    """
    Raises:
        ValueError: if the model in a folder or repository is no base for an adapter with this configuration: it has
            another shape.
    """
    base = MusicFMConfig.from_pretrained(base_model, **kwargs)
    differ = [
        f"{name} {getattr(config, name)} (it has {getattr(base, name)})"
        for name in _SHAPE
        if getattr(config, name) != getattr(base, name)
    ]
    if differ:
        raise ValueError(f"The adapter cannot be used with {base_model}: it was trained for {', '.join(differ)}.")


class _MusicFMWithClassifier(MusicFMPreTrainedModel):
    """Encoder and head; which of frames and clips it is about is `config.label_rate`."""

    accepts_loss_kwargs = False
    _keys_to_ignore_on_load_unexpected = [r"^quantizer\.", r"^head\.", r"^cqt_head\."]

    def __init__(self, config: MusicFMConfig):
        super().__init__(config)
        # The configuration's own list is that of pretraining, which leaves the logits out.
        config.keys_to_ignore_at_inference = ["hidden_states", "attentions"]
        self.musicfm = MusicFMModel(config)
        self.classifier = MusicFMClassifier(config)
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, adapter_kwargs=None, **kwargs):
        """
        As in [`PreTrainedModel`]; and from an adapter of peft whose folder or repository also has the configuration of
        the model with its head. The base model is then loaded at the revision that the adapter names.
        """
        adapter_kwargs = adapter_kwargs or {}
        adapter = adapter_kwargs.get("_adapter_model_path") or pretrained_model_name_or_path
        given = kwargs | adapter_kwargs  # of an Auto class, which may have gone on to the base model: the adapter's
        hub = {name: given[name] for name in HUB_ARGUMENTS if name in given}
        file = find_adapter_config_file(adapter, **hub)
        if file is None:
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        with open(file, encoding="utf-8") as content:
            named = json.load(content)
        config = MusicFMConfig.from_pretrained(adapter, **hub)
        kwargs = {name: value for name, value in kwargs.items() if name not in ("config", "output_loading_info")}
        base = {"revision": named.get("revision") or "main", "subfolder": ""}
        check_base(config, named["base_model_name_or_path"], **hub | base)
        model = cls.from_encoder(named["base_model_name_or_path"], config, **kwargs | base)
        model.load_adapter(adapter, adapter_kwargs=hub)
        return model

    @classmethod
    def from_encoder(cls, pretrained_model_name_or_path, config: MusicFMConfig, **kwargs):
        """
        The encoder of a saved model under a new head, whatever head it was saved with.

        Args:
            config ([`MusicFMConfig`]): Of the model with its head.
            kwargs: As in [`PreTrainedModel.from_pretrained`].

        Raises:
            ValueError: if weights of the encoder are not there, or have other shapes.
        """
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # that the head is new is no news
        try:
            model, loaded = super().from_pretrained(
                pretrained_model_name_or_path,
                config=config,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # of the head that was saved
                **kwargs,
            )
        finally:
            logging.set_verbosity(verbosity)
        others = {name for name, *_ in loaded["mismatched_keys"]}
        wanting = sorted(name for name in {*loaded["missing_keys"], *others} if not name.startswith("classifier."))
        if wanting:
            raise ValueError(
                f"{pretrained_model_name_or_path} lacks {len(wanting)} weights of the encoder that the configuration "
                f"describes, such as {wanting[0]}."
            )
        if any(f"classifier.{name}" not in loaded["missing_keys"] for name in model.classifier.state_dict()):
            model.classifier = MusicFMClassifier(config).to(model.classifier.projector.weight)
            model.classifier.apply(model._init_weights)
        return model

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MusicFMClassifier) and self.config.use_weighted_layer_sum:
            init.zeros_(module.layer_weights)

    def freeze_base_model(self) -> None:
        """Train the head only: the encoder gets no gradients, and stays in eval mode whatever `train` says."""
        self.musicfm.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True):
        """As in torch; an encoder without a weight that is trained stays in eval mode."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.musicfm.parameters()):
            self.musicfm.eval()
        return self

    def _encode(self, input_values, attention_mask, **kwargs):
        """Output of the encoder up to where the head reads, what the head reads, and how many frames are valid."""
        config = self.config
        if config.use_weighted_layer_sum:
            wanted = kwargs.pop("output_hidden_states", None)
            outputs = self.musicfm(input_values, attention_mask, output_hidden_states=True, return_dict=True, **kwargs)
            features = torch.stack(outputs.hidden_states, dim=2)
            if not (config.output_hidden_states if wanted is None else wanted):
                outputs.hidden_states = None
        else:
            outputs = self.musicfm(
                input_values, attention_mask, layer=config.classifier_layer, return_dict=True, **kwargs
            )
            features = outputs.last_hidden_state
        counts = None
        if attention_mask is not None:
            counts = config.frame_counts(item_lengths(input_values, attention_mask.bool()))[-1]
        return outputs, features, counts

    def _classify(self, input_values, attention_mask, labels, **kwargs) -> MusicFMClassifierOutput:
        outputs, features, counts = self._encode(input_values, attention_mask, **kwargs)
        result = self.classifier(features, counts, labels)
        return MusicFMClassifierOutput(result.loss, result.logits, outputs.hidden_states, outputs.attentions)


class MusicFMForAudioFrameClassification(_MusicFMWithClassifier):
    """
    Classes for every frame at `config.label_rate`: beats, chords, sections, key. Padding changes nothing: the logits
    of an item in a padded batch equal its logits alone, in every label frame that it has.
    """

    def __init__(self, config: MusicFMConfig):
        if config.label_rate is None:
            config.label_rate = config.frame_rate
        super().__init__(config)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MusicFMClassifierOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch, samples)`): Waveforms at `config.sampling_rate`, float32.
            attention_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*): 1 for audio, 0 for padding.
            labels (`torch.Tensor` of shape `(batch, label frames, num_labels)`, *optional*): Floating point, for each
                output (`config.classifier_outputs`) the probabilities of its classes, -1 to ignore a frame. Or
                integers of shape `(batch, label frames)`, -100 to ignore.
            output_hidden_states, output_attentions, return_dict (*optional*): As in [`MusicFMModel`].

        Returns:
            [`MusicFMClassifierOutput`] with `logits` of shape `(batch, label frames, num_labels)`; `label_frames` says
            how many of them belong to so much audio, `label_times` where they are.

        Raises:
            ValueError: if a shape is not as described, or an item is shorter than `config.min_samples`.
        """
        return self._classify(input_values, attention_mask, labels, **kwargs)

    def label_frames(self, num_samples):
        """How many label frames so many samples give: a number, or a tensor of them."""
        return count_averages(self.config.frame_counts(num_samples)[-1], *label_settings(self.config))

    def label_times(self, num_frames: int) -> torch.Tensor:
        """The centres of the first label frames in seconds, float64."""
        frame = torch.arange(num_frames, dtype=torch.float64)
        return (frame + (0.0 if self.config.label_centered else 0.5)) / self.config.label_rate


class MusicFMForAudioClassification(_MusicFMWithClassifier):
    """Classes for a whole clip, from the mean over its frames: tags, genres. Padding changes nothing."""

    def __init__(self, config: MusicFMConfig):
        if config.label_rate is not None:
            raise ValueError(
                f"A clip has one label, but `label_rate` is {config.label_rate}; "
                "use MusicFMForAudioFrameClassification."
            )
        super().__init__(config)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MusicFMClassifierOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch, samples)`): Waveforms at `config.sampling_rate`, float32.
            attention_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*): 1 for audio, 0 for padding.
            labels (`torch.Tensor` of shape `(batch, num_labels)`, *optional*): Floating point, the probability of each
                class, -1 to ignore an item. Or integers of shape `(batch,)`, -100 to ignore.
            output_hidden_states, output_attentions, return_dict (*optional*): As in [`MusicFMModel`].

        Returns:
            [`MusicFMClassifierOutput`] with `logits` of shape `(batch, num_labels)`.

        Raises:
            ValueError: if a shape is not as described, or an item is shorter than `config.min_samples`.
        """
        return self._classify(input_values, attention_mask, labels, **kwargs)


__all__ = ["MusicFMForAudioClassification", "MusicFMForAudioFrameClassification"]
