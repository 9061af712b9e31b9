"""Audio and text in one space: an audio tower on a MusicFM encoder, and a text tower on XLM-RoBERTa."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn
from transformers import XLMRobertaModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .adapters_musicfm import HUB_ARGUMENTS, MusicFMWithAdapters, find_base
from .configuration_text_audio_musicfm import MusicFMTextAudioConfig
from .int8_musicfm import is_int8
from .keywords_musicfm import check_keywords
from .modeling_musicfm import MusicFMModel, eager_attention_forward
from .padding_musicfm import align_left, check_input, item_lengths, zero_padding

_CLIPS_AT_ONCE = 8  # clips that the audio encoder gets at once, so that long songs need bounded memory


@dataclass
class MusicFMTextAudioOutput(ModelOutput):
    """
    Output of [`MusicFMTextAudioModel`].

    Attributes:
        loss (`torch.Tensor` of shape `()`): Contrastive loss, if `return_loss` is true.
        logits_per_audio (`torch.Tensor` of shape `(songs, texts)`): Similarities, times `logit_scale.exp()`.
        logits_per_text (`torch.Tensor` of shape `(texts, songs)`): Its transpose.
        text_embeds (`torch.Tensor` of shape `(texts, projection_dim)`): Embeddings of the texts, of norm 1.
        audio_embeds (`torch.Tensor` of shape `(songs, projection_dim)`): Embeddings of the songs; of norm 1 for a
            single clip.
        text_model_output, audio_model_output ([`BaseModelOutputWithPooling`]): Outputs of the towers.
    """

    loss: torch.Tensor | None = None
    logits_per_audio: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    audio_embeds: torch.Tensor | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    audio_model_output: BaseModelOutputWithPooling | None = None


class MusicFMTowerAttention(nn.Module):
    """
    Self-attention without positions. Queries and keys have norm 1 in each head before learned scales (Dehghani et al.,
    arXiv 2302.05442), and similarities are multiplied by 8.
    """

    def __init__(self, config: MusicFMTextAudioConfig, settings: dict[str, Any]):
        super().__init__()
        self.config = config
        self.head_dim = settings["head_dim"]
        self.attention_dropout = settings["attention_dropout"]
        self.is_causal = False
        width, inner = settings["hidden_size"], settings["num_attention_heads"] * settings["head_dim"]
        self.q_proj = nn.Linear(width, inner, bias=False)
        self.k_proj = nn.Linear(width, inner, bias=False)
        self.v_proj = nn.Linear(width, inner, bias=False)
        self.out_proj = nn.Linear(inner, width, bias=False)
        self.q_scale = nn.Parameter(torch.ones(self.head_dim))
        self.k_scale = nn.Parameter(torch.ones(self.head_dim))

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """`(batch, frames, hidden_size)` → the same shape."""
        heads_shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query, key, value = (
            projection(hidden_states).view(heads_shape).transpose(1, 2)  # (batch, heads, frames, head_dim)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query = nn.functional.normalize(query, dim=-1) * self.q_scale
        key = nn.functional.normalize(key, dim=-1) * self.k_scale
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.attention_dropout if self.training else 0.0
        output, _ = attention(self, query, key, value, attention_mask, dropout=dropout, scaling=8.0)
        return nn.functional.dropout(self.out_proj(output.flatten(2)), dropout)


class MusicFMTowerLayer(GradientCheckpointingLayer):
    """A pre-norm transformer layer with a gated feed-forward module; linear layers and norms have no bias."""

    def __init__(self, config: MusicFMTextAudioConfig, settings: dict[str, Any]):
        super().__init__()
        width, inner = settings["hidden_size"], settings["intermediate_size"]
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.attention = MusicFMTowerAttention(config, settings)
        self.feed_forward_norm = nn.LayerNorm(width, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)
        self.dropout = nn.Dropout(settings["hidden_dropout"])

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """`(batch, frames, hidden_size)` → the same shape."""
        attended = self.attention(self.attention_norm(hidden_states), attention_mask)
        hidden_states = hidden_states + attended
        normed = self.feed_forward_norm(hidden_states)
        gated = nn.functional.gelu(self.gate_proj(normed)) * self.up_proj(normed)
        return hidden_states + self.down_proj(self.dropout(gated))


class MusicFMTower(nn.Module):
    """
    Transformer, mean over time and projection on top of an encoder.

    Args:
        config ([`MusicFMTextAudioConfig`]): Configuration of the model.
        settings (`dict`): `config.audio_transformer` or `config.text_transformer`.
        input_size (`int`): Width of the encoder.
        has_input_projection (`bool`): Project the input even if it has the width of the transformer.
    """

    def __init__(
        self, config: MusicFMTextAudioConfig, settings: dict[str, Any], input_size: int, has_input_projection: bool
    ):
        super().__init__()
        self.config = config
        width = settings["hidden_size"]
        is_projected = has_input_projection or input_size != width
        self.input_projection = nn.Linear(input_size, width) if is_projected else nn.Identity()
        self.layers = nn.ModuleList(MusicFMTowerLayer(config, settings) for _ in range(settings["num_hidden_layers"]))
        self.projection = nn.Linear(width, config.projection_dim)

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        `(batch, frames, input_size)` and their bool mask `(batch, frames)` → hidden states
        `(batch, frames, hidden_size)`, and embeddings of norm 1 `(batch, projection_dim)`.
        """
        hidden_states = self.input_projection(hidden_states)
        attention_mask = create_bidirectional_mask(self.config, hidden_states, mask)
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask)
        mean = zero_padding(hidden_states, mask[..., None]).sum(1) / mask.sum(-1, keepdim=True)
        return hidden_states, nn.functional.normalize(self.projection(mean), dim=-1)


class MusicFMTextAudioModel(MusicFMWithAdapters):
    """
    Two towers that embed music and text in one space, where a song is near the texts that describe it: MuQ-MuLan (Zhu
    et al., arXiv 2501.01108), after MuLan (Huang et al., arXiv 2208.12415).

    Padding has no effect: the embedding of a song or text in a padded batch equals that of the song or text alone. In
    the public code, texts attend to padding, and their mean includes it.
    """

    config_class = MusicFMTextAudioConfig
    config: MusicFMTextAudioConfig
    base_model_prefix = "musicfm_text_audio"
    main_input_name = "input_ids"
    input_modalities = ["audio", "text"]
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _no_split_modules = [
        *MusicFMModel._no_split_modules,
        "XLMRobertaLayer",
        "XLMRobertaEmbeddings",
        "MusicFMTowerLayer",
    ]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: MusicFMTextAudioConfig):
        super().__init__(config)
        audio_size, text_size = config.audio_config.hidden_size, config.text_config.hidden_size
        self.audio_model = MusicFMModel(config.audio_config)
        self.audio_tower = MusicFMTower(config, config.audio_transformer, audio_size, has_input_projection=True)
        self.text_model = XLMRobertaModel(config.text_config, add_pooling_layer=False)
        self.text_tower = MusicFMTower(config, config.text_transformer, text_size, has_input_projection=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(config.logit_scale_init_value)))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialize the weights of one module."""
        super()._init_weights(module)
        if isinstance(module, MusicFMTowerAttention):
            init.ones_(module.q_scale)
            init.ones_(module.k_scale)
        elif isinstance(module, MusicFMTextAudioModel):
            init.constant_(module.logit_scale, math.log(self.config.logit_scale_init_value))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *model_args: Any,
        config: MusicFMTextAudioConfig | str | os.PathLike | None = None,
        adapter_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """
        Load a model as [`PreTrainedModel`] does, or a PEFT adapter on the base model that it names, at the revision
        that it names. With a [`MusicFMInt8Config`] as `quantization_config`, the adapter is merged into the model,
        which is then quantized.

        Raises:
            ValueError: if the adapter does not fit its base model.
            OSError: if the base model cannot be loaded.
        """
        adapter_kwargs = adapter_kwargs or {}
        # An Auto class may pass the path of the base model instead of that of the adapter.
        adapter: Any = adapter_kwargs.get("_adapter_model_path", pretrained_model_name_or_path)
        hub = {name: value for name, value in (kwargs | adapter_kwargs).items() if name in HUB_ARGUMENTS}
        base = None if adapter is None else find_base(adapter, **hub)
        load = super(MusicFMWithAdapters, cls).from_pretrained
        if base is None:
            return load(pretrained_model_name_or_path, *model_args, config=config, **kwargs)
        base_model, revision = base
        quantize = is_int8(kwargs.get("quantization_config"))
        if quantize:
            del kwargs["quantization_config"]
        with_info = kwargs.pop("output_loading_info", False)
        model = load(base_model, *model_args, config=config, **kwargs | {"revision": revision, "subfolder": ""})
        loading = model.load_adapter(adapter, adapter_kwargs=hub)
        if quantize:
            model._merge_and_quantize()
        return (model, loading.to_dict()) if with_info else model  # type: ignore[return-value]  # as Transformers does

    def get_input_embeddings(self) -> nn.Module:
        """Return the embeddings of text tokens."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embeddings of text tokens."""
        self.text_model.set_input_embeddings(value)

    def freeze_audio_encoder(self) -> None:
        """Train everything but the audio encoder; its tower is trained."""
        self.audio_model.requires_grad_(False)
        self.train(self.training)

    def freeze_text_encoder(self) -> None:
        """Train everything but the text encoder, as MuQ-MuLan does; its tower is trained."""
        self.text_model.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode as in torch, except that an encoder without trainable weights stays in eval mode."""
        super().train(mode)
        for encoder in (self.audio_model, self.text_model):
            if not any(parameter.requires_grad for parameter in encoder.parameters()):
                encoder.eval()
        return self

    @can_return_tuple
    def get_audio_features(
        self, input_values: torch.Tensor, audio_attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        r"""
        Embed songs of any length. A song is cut into clips of `config.clip_seconds`, and the last, shorter one is
        filled up from the start of the song. The embedding of the song is the mean of those of its clips.

        Args:
            input_values (`torch.Tensor` of shape `(songs, samples)`): Waveforms at `config.sampling_rate`, float32
                even if the model is in half precision.
            audio_attention_mask (`torch.Tensor` of shape `(songs, samples)`, *optional*): 1 for audio, 0 for padding.
            output_hidden_states, output_attentions, return_dict (*optional*): As in [`MusicFMModel`].

        Returns:
            [`BaseModelOutputWithPooling`] with the embeddings `pooler_output` `(songs, projection_dim)`, and
            `last_hidden_state` `(clips, frames, hidden_size)` of the tower, with the clips of all songs in order.
            `hidden_states` and `attentions` are those of the encoder.

        Raises:
            ValueError: if a shape or the mask is not as described, or a song is shorter than
                `config.audio_config.min_samples`.
            TypeError: if the model does not use a keyword argument.
        """
        check_keywords(kwargs, self.get_audio_features)
        mask = check_input(input_values, audio_attention_mask, self.config.audio_config.min_samples)
        clips, clips_mask, songs = self._cut_into_clips(input_values, mask)
        parts: list[Any] = []
        if torch.compiler.is_compiling():  # a graph cannot loop over a number of clips that may change
            parts.append(self._encode_clips(clips, clips_mask, **kwargs))
        else:
            for start in range(0, len(clips), _CLIPS_AT_ONCE):
                rows = slice(start, start + _CLIPS_AT_ONCE)
                parts.append(self._encode_clips(clips[rows], clips_mask[rows], **kwargs))
        embeds = _join([part.pooler_output for part in parts])
        sums = embeds.new_zeros(input_values.shape[0], embeds.shape[1]).index_add(0, songs, embeds)
        counts = songs.new_zeros(input_values.shape[0]).index_add(0, songs, torch.ones_like(songs))
        return BaseModelOutputWithPooling(
            last_hidden_state=_join([part.last_hidden_state for part in parts]),
            pooler_output=sums / counts[:, None],
            hidden_states=_join_each([part.hidden_states for part in parts]),
            attentions=_join_each([part.attentions for part in parts]),
        )

    @can_return_tuple
    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        r"""
        Embed texts.

        Args:
            input_ids (`torch.Tensor` of shape `(texts, tokens)`): Tokens of XLM-RoBERTa's tokenizer.
            attention_mask (`torch.Tensor` of shape `(texts, tokens)`, *optional*): 1 for tokens, 0 for padding; by
                default, padding is recognized by its token.
            output_hidden_states, output_attentions, return_dict (*optional*): As in [`XLMRobertaModel`].

        Returns:
            [`BaseModelOutputWithPooling`] with the embeddings `pooler_output` `(texts, projection_dim)`, and
            `last_hidden_state` `(texts, tokens, hidden_size)` of the tower. `hidden_states` and `attentions` are those
            of the encoder.

        Raises:
            ValueError: if a shape is not as described, a text has no tokens, or the texts are too long.
            TypeError: if the model does not use a keyword argument.
        """
        check_keywords(kwargs, self.get_text_features)
        mask = self._check_texts(input_ids, attention_mask)
        outputs = self.text_model(input_ids, mask, return_dict=True, **kwargs)
        hidden_states, embeds = self.text_tower(outputs.last_hidden_state, mask)
        return BaseModelOutputWithPooling(hidden_states, embeds, outputs.hidden_states, outputs.attentions)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        audio_attention_mask: torch.Tensor | None = None,
        return_loss: bool | None = None,
        **kwargs: Any,
    ) -> MusicFMTextAudioOutput:
        r"""
        Args:
            input_ids (`torch.Tensor` of shape `(texts, tokens)`): As in [`get_text_features`].
            input_values (`torch.Tensor` of shape `(songs, samples)`): As in [`get_audio_features`].
            attention_mask (`torch.Tensor` of shape `(texts, tokens)`, *optional*): Mask of the texts.
            audio_attention_mask (`torch.Tensor` of shape `(songs, samples)`, *optional*): Mask of the waveforms.
            return_loss (`bool`, *optional*): Compute the contrastive loss; song i and text i are a pair.
            output_hidden_states, output_attentions, return_dict (*optional*): As in the encoders.

        Returns:
            [`MusicFMTextAudioOutput`].

        Raises:
            ValueError: if a shape or a mask is not as described, or `return_loss` is true and the batch does not
                consist of at least two pairs.
            TypeError: if the model does not use a keyword argument.
        """
        check_keywords(kwargs, self.forward)
        audio = self.get_audio_features(input_values, audio_attention_mask, **kwargs | {"return_dict": True})
        text = self.get_text_features(input_ids, attention_mask, **kwargs | {"return_dict": True})
        logits = audio.pooler_output @ text.pooler_output.t() * self.logit_scale.exp()
        return MusicFMTextAudioOutput(
            loss=contrastive_loss(logits, self.config.use_decoupled_loss) if return_loss else None,
            logits_per_audio=logits,
            logits_per_text=logits.t(),
            text_embeds=text.pooler_output,
            audio_embeds=audio.pooler_output,
            text_model_output=text,
            audio_model_output=audio,
        )

    def _check_texts(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Return the bool mask of tokens `(texts, tokens)`. For errors, see [`get_text_features`]."""
        config = self.config.text_config
        if input_ids.ndim != 2 or input_ids.is_floating_point():
            raise ValueError(
                f"`input_ids` must be integers of shape (texts, tokens), got {input_ids.dtype} of shape "
                f"{tuple(input_ids.shape)}."
            )
        mask = input_ids != config.pad_token_id if attention_mask is None else attention_mask.bool()
        if mask.shape != input_ids.shape:
            raise ValueError(
                f"`attention_mask` must have the shape of `input_ids`, {tuple(input_ids.shape)}, got "
                f"{tuple(mask.shape)}."
            )
        most = config.max_position_embeddings - config.pad_token_id - 1  # positions begin after that of padding
        if input_ids.shape[1] > most:
            raise ValueError(
                f"A text has {input_ids.shape[1]} tokens, but the model takes at most {most}. The processor cuts "
                "longer texts unless `truncation=False`."
            )
        if not torch.compiler.is_compiling() and not mask.is_meta and not mask.any(-1).all():
            raise ValueError("A text has no tokens.")
        return mask

    def _cut_into_clips(
        self, input_values: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Cut waveforms `(songs, samples)` into clips `(clips, clip_samples)`. Return them, their mask, and the song of
        each clip `(clips,)`. Only a song of less than half a clip leaves a part of its clip empty. Without a mask, no
        shape depends on values, so that the model can be exported.
        """
        length = item_lengths(input_values, mask)[:, None]
        waveforms = input_values if mask is None else align_left(input_values, mask)
        longest = input_values.shape[1] if mask is None else int(length.max())
        size = self.config.clip_samples
        count = -(-longest // size)
        position = torch.arange(count * size, device=waveforms.device)[None]
        source = torch.where(position < length, position, position - length)
        valid = source < length
        clips = waveforms.gather(1, source.clamp(max=waveforms.shape[1] - 1)) * valid
        clips, valid = clips.unflatten(1, (count, size)), valid.unflatten(1, (count, size))
        songs = torch.arange(waveforms.shape[0], device=waveforms.device)[:, None].expand(-1, count)
        if mask is None:
            return clips.flatten(0, 1), valid.flatten(0, 1), songs.flatten()
        is_clip = torch.arange(0, count * size, size, device=waveforms.device) < length
        return clips[is_clip], valid[is_clip], songs[is_clip]

    def _encode_clips(self, clips: torch.Tensor, mask: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Embed clips `(clips, samples)`."""
        outputs = self.audio_model(clips, mask, layer=self.config.audio_layer, **kwargs | {"return_dict": True})
        hidden_states, embeds = self.audio_tower(outputs.last_hidden_state, self.audio_model.frames_mask(mask))
        return BaseModelOutputWithPooling(hidden_states, embeds, outputs.hidden_states, outputs.attentions)


def contrastive_loss(logits: torch.Tensor, decoupled: bool = False) -> torch.Tensor:
    """
    Compute the mean cross-entropy, in nats, of finding the text of each song and the song of each text.

    Args:
        logits (`torch.Tensor` of shape `(pairs, pairs)`): Similarities; those of matching pairs are on the diagonal.
        decoupled (`bool`): Leave matching pairs out of the denominators (arXiv 2110.06848).

    Raises:
        ValueError: if the numbers of songs and texts differ, or are less than two.
    """
    songs, texts = logits.shape
    if songs != texts or songs < 2:
        raise ValueError(
            f"The contrastive loss needs at least two pairs of a song and its text, got {songs} and {texts}."
        )
    logits = logits.float()
    is_pair = torch.eye(songs, dtype=torch.bool, device=logits.device)
    others = logits.masked_fill(is_pair, -torch.inf) if decoupled else logits
    return ((others.logsumexp(0) + others.logsumexp(1)) / 2 - logits.diagonal()).mean()


def _join(parts: list[torch.Tensor]) -> torch.Tensor:
    """Concatenate batches."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _join_each(parts: list[Any]) -> tuple | None:
    """Concatenate batches of tuples of tensors, entry by entry; entries may be `None`."""
    if parts[0] is None:
        return None
    return tuple(None if entries[0] is None else _join(list(entries)) for entries in zip(*parts, strict=True))


__all__ = ["MusicFMTextAudioModel", "MusicFMTextAudioOutput", "contrastive_loss"]
