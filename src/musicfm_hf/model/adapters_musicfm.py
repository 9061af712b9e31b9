"""PEFT adapters: find the base model of an adapter, its configuration, and whether they fit."""

import json
import os
import re
from pathlib import Path
from typing import Any, Self

from torch import nn
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME, cached_file, find_adapter_config_file, logging

from .configuration_musicfm import MusicFMConfig
from .int8_musicfm import check_float, is_int8, quantize_to_int8

logger = logging.get_logger(__name__)

# Arguments that select a file on the Hub.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")

# Arguments of `cached_file` that make it return `None` for a file that does not exist.
_MISSING_IS_ALLOWED = ("_raise_exceptions_for_missing_entries", "_raise_exceptions_for_gated_repo")

# Settings of `MusicFMConfig` that `PreTrainedModel.from_pretrained` takes as arguments of its own.
_OF_THE_MODEL = ("attn_implementation", "dtype", "experts_implementation", "quantization_config", "torch_dtype")

# Settings in which two encoders must agree for an adapter to fit both: all that weights and hidden states depend on.
# Statistics of the spectrogram belong to the weights of the base model.
_ENCODER_SETTINGS = (
    "encoder_type",
    "front_end",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "conv_depthwise_kernel_size",
    "conformer_conv_norm",
    "rotary_embedding_base",
    "rotary_after_projection",
    "use_final_layer_norm",
    "layer_norm_eps",
    "sampling_rate",
    "n_fft",
    "hop_length",
    "num_mel_bins",
    "subsampling_conv_channels",
    "subsampling_time_strides",
    "convnext_channels",
    "convnext_depths",
    "convnext_layer_norm_eps",
    "conv_dim",
    "conv_kernel",
    "conv_stride",
    "feat_extract_activation",
    "do_normalize",
    "do_stable_layer_norm",
    "num_conv_pos_embeddings",
    "num_conv_pos_embedding_groups",
)


def find_base(folder_or_repo: str | os.PathLike, **kwargs: Any) -> tuple[str, str] | None:
    """
    Return the base model that an adapter names, and its revision; `None` if `folder_or_repo` holds no adapter.

    Args:
        folder_or_repo: Folder or Hub repository.
        kwargs: Arguments of the Hub, among [`HUB_ARGUMENTS`].

    Raises:
        ValueError: if the adapter names no base model.
    """
    file = find_adapter_config_file(folder_or_repo, **kwargs)  # type: ignore[arg-type]  # takes paths as well
    if file is None:
        return None
    with open(file, encoding="utf-8") as content:
        recorded = json.load(content)
    base_model = recorded.get("base_model_name_or_path")
    if not base_model:
        raise ValueError(
            f"The adapter {folder_or_repo} names no base model: set `base_model_name_or_path` in its "
            "adapter_config.json to the folder or repository of the model that it was trained on."
        )
    return base_model, recorded.get("revision") or "main"


def _has_config(folder_or_repo: str | os.PathLike, **kwargs: Any) -> bool:
    """Return whether a folder or Hub repository has a configuration. The arguments are those of [`find_base`]."""
    missing = dict.fromkeys(_MISSING_IS_ALLOWED, False)
    return cached_file(folder_or_repo, CONFIG_NAME, **kwargs, **missing) is not None


def adapter_config(folder_or_repo: str | os.PathLike, config_class: Any = MusicFMConfig, **kwargs: Any) -> Any:
    """
    Load the configuration of an adapted model: that beside the adapter, or, without one, that of its base model. A
    model without an adapter has its own.

    Args:
        folder_or_repo: Folder or Hub repository of the adapter.
        config_class: Class of the configuration; `AutoConfig` for a model of any kind.
        kwargs: Arguments of the Hub, among [`HUB_ARGUMENTS`].

    Raises:
        ValueError: if neither `folder_or_repo` nor a base model has a configuration.
        OSError: if the base model does not exist.
    """
    if _has_config(folder_or_repo, **kwargs):
        return config_class.from_pretrained(folder_or_repo, **kwargs)
    base = find_base(folder_or_repo, **kwargs)
    if base is None:
        raise ValueError(f"{folder_or_repo} has neither a {CONFIG_NAME} nor an adapter.")
    return _base_config(folder_or_repo, base[0], config_class, **kwargs | {"revision": base[1], "subfolder": ""})


def _change_config(
    config: MusicFMConfig, given: MusicFMConfig | None, loaded: MusicFMConfig | None, arguments: dict[str, Any]
) -> tuple[MusicFMConfig, dict[str, Any]]:
    """
    Apply the settings that a caller of `from_pretrained` passes to the configuration of an adapted model.

    Args:
        config ([`MusicFMConfig`]): Configuration of the adapted model.
        given ([`MusicFMConfig`], *optional*): Configuration that was passed.
        loaded ([`MusicFMConfig`], *optional*): If an Auto class has loaded `given`, possibly from the base model, and
            changed it, the same file as it is. Otherwise, `given` replaces `config`.
        arguments: Further arguments of `from_pretrained`.

    Returns:
        The configuration, and the arguments that are not settings of it.
    """
    settings = {name: arguments[name] for name in arguments if MusicFMConfig.has_setting(name)}
    settings = {name: value for name, value in settings.items() if name not in _OF_THE_MODEL}
    if given is not None and loaded is None:
        config = given
    elif given is not None and loaded is not None:
        before = loaded.to_dict()
        changed = {name: value for name, value in given.to_dict().items() if value != before.get(name)}
        config = MusicFMConfig.from_dict(config.to_dict() | changed)
        config._attn_implementation = given._attn_implementation
    if settings:
        config = MusicFMConfig.from_dict(config.to_dict(), **settings)
    return config, {name: value for name, value in arguments.items() if name not in settings}


def check_base(adapter: str | os.PathLike, config: MusicFMConfig, base_model: str, **kwargs: Any) -> None:
    """
    Check that an adapter with this configuration can be used with a base model.

    Args:
        adapter: Folder or Hub repository of the adapter.
        config ([`MusicFMConfig`]): Configuration of the adapted model.
        base_model: Folder or Hub repository of the base model.
        kwargs: Arguments of the Hub, among [`HUB_ARGUMENTS`].

    Raises:
        ValueError: if the base model has another architecture or size, or is an int8 model.
        OSError: if the base model cannot be loaded.
    """
    base: MusicFMConfig = _base_config(adapter, base_model, **kwargs)
    check_float(base, base_model, "adapted")
    if differences := encoder_differences(config, base):
        raise ValueError(f"The adapter cannot be used with {base_model}: it was trained for {', '.join(differences)}.")


def encoder_differences(config: MusicFMConfig, base: MusicFMConfig) -> list[str]:
    """Return the settings of an adapted encoder that differ from those of its base, with both values."""
    own, of_base = ({name: getattr(part, name) for name in _ENCODER_SETTINGS} for part in (config, base))
    return [
        f"{name} {value} (it has {of_base[name]})"
        for name, value in own.items()
        if _as_list(value) != _as_list(of_base[name])
    ]


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _base_config(adapter: str | os.PathLike, base_model: str, config_class: Any = MusicFMConfig, **kwargs: Any) -> Any:
    """Load the configuration of the base model of an adapter, or raise an `OSError` that names both."""
    try:
        return config_class.from_pretrained(base_model, **kwargs)
    except OSError as error:
        raise OSError(
            f"The base model of the adapter {adapter}, {base_model}, cannot be loaded. If it has moved, set "
            f"`base_model_name_or_path` in the adapter_config.json of the adapter. ({error})"
        ) from error


def merge_adapters(model: nn.Module) -> None:
    """Replace the layers of a PEFT adapter by plain layers with the sums of the weights, in place."""
    for name, module in list(model.named_modules()):
        layer: Any = module
        if hasattr(layer, "merge") and hasattr(layer, "get_base_layer"):
            layer.merge()
            plain = layer.get_base_layer()
        elif hasattr(layer, "modules_to_save") and hasattr(layer, "original_module"):
            plain = layer.modules_to_save[layer.active_adapters[0]]
        else:
            continue
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, plain)


class MusicFMWithAdapters(PreTrainedModel):
    """A [`PreTrainedModel`] that loads and saves PEFT adapters, and refuses an adapter that does not fit."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *model_args: Any,
        config: MusicFMConfig | str | os.PathLike | None = None,
        adapter_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """
        Load a model as [`PreTrainedModel`] does, or a PEFT adapter. The base model is loaded at the revision that the
        adapter names. The configuration is that in the folder or repository of the adapter, or, without one, that of
        the base model. The head is that of the adapter, or, if it has none, that of the base model. With a
        [`MusicFMInt8Config`] as `quantization_config`, the adapter is merged into the model, which is then quantized.

        Raises:
            ValueError: if the base model does not fit the adapter, is an int8 model, or neither of them has the head;
                or if the method of `quantization_config` does not support adapters.
            OSError: if the base model cannot be loaded.
        """
        adapter_kwargs = adapter_kwargs or {}
        by_auto_class = "_adapter_model_path" in adapter_kwargs  # which passes the path of the base model instead
        adapter: Any = adapter_kwargs.get("_adapter_model_path", pretrained_model_name_or_path)
        hub = {name: value for name, value in (kwargs | adapter_kwargs).items() if name in HUB_ARGUMENTS}
        base = find_base(adapter, **hub)
        quantization = kwargs.get("quantization_config")
        if base is None:
            if is_int8(config) and is_int8(quantization):
                del kwargs["quantization_config"]  # the saved model is quantized already
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, config=config, **kwargs)
        base_model, revision = base
        given_hub = {name: value for name, value in kwargs.items() if name in HUB_ARGUMENTS}
        if isinstance(config, (str, os.PathLike)):
            config = MusicFMConfig.from_pretrained(config, **given_hub)
        loaded: Any = None
        if by_auto_class:
            loaded = MusicFMConfig.from_pretrained(pretrained_model_name_or_path, **given_hub)  # type: ignore[arg-type]
        own_config = adapter_config(adapter, **hub)
        base_hub = {"revision": revision, "subfolder": ""}
        check_base(adapter, own_config, base_model, **hub | base_hub)
        config, arguments = _change_config(own_config, config, loaded, kwargs)
        if is_int8(quantization):
            del arguments["quantization_config"]
        with_info = arguments.pop("output_loading_info", False)
        model, has_head = cls._load_base(base_model, config, *model_args, **arguments | base_hub)
        loading = model.load_adapter(adapter, adapter_kwargs=hub)
        if not has_head:
            model._check_head(adapter, base_model, _has_config(adapter, **hub))
        if is_int8(quantization):
            model._merge_and_quantize()
        return (model, loading.to_dict()) if with_info else model  # type: ignore[return-value]  # as Transformers does

    @classmethod
    def _load_base(
        cls, pretrained_model_name_or_path: str | os.PathLike, config: MusicFMConfig, *model_args: Any, **kwargs: Any
    ) -> tuple[Self, bool]:
        """Load a model without its adapter, and return whether its head, if it has one, was loaded."""
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, config=config, **kwargs), True

    def _merge_and_quantize(self) -> None:
        """Merge the adapter into the model, and quantize the model to int8."""
        merge_adapters(self)
        self._hf_peft_config_loaded = False
        del self.peft_config
        vars(self).pop("_weight_conversions", None)  # the names of weights in the file of the adapter
        quantize_to_int8(self)

    def load_adapter(self, *args: Any, **kwargs: Any) -> Any:
        """
        Load a PEFT adapter as [`PreTrainedModel`] does, also beside others. If it raises an error, a model with other
        adapters is as before.

        Raises:
            ValueError: if the adapter does not fit the model.
        """
        others = list(getattr(self, "peft_config", {}))
        active = self.active_adapters() if others else []
        adapter = args[0] if args else kwargs.get("peft_model_id")
        try:
            loading = super().load_adapter(*args, **kwargs)
            self._check_loading(loading, adapter, others)
        except Exception as error:
            for name in [name for name in getattr(self, "peft_config", {}) if others and name not in others]:
                self.delete_adapter(name)
            if others:
                self.set_adapter(active)
            if isinstance(error, RuntimeError) and "mismatched_sizes" in str(error):
                raise ValueError(
                    f"The adapter {adapter} does not fit {self.name_or_path or 'the model'}: weights have other sizes "
                    "there, which the log lists. Load it with the base model that it was trained on."
                ) from error
            raise
        return loading

    def _check_loading(self, loading: Any, adapter: Any, others: list[str]) -> None:
        """Raise a `ValueError` if weights of an adapter were left over, or if others than those of `others` lack."""
        ignored = "|".join(self._keys_to_ignore_on_load_unexpected or ["$"])
        unexpected = {name for name in loading.unexpected_keys if re.search(ignored, name) is None}
        fault = f"The adapter {adapter} does not fit {self.name_or_path or 'the model'}:"
        if unexpected:
            raise ValueError(
                f"{fault} {len(unexpected)} of its weights, such as {min(unexpected)}, have no counterpart there. "
                "Load it with the base model that it was trained on."
            )
        if missing := {name for name in loading.missing_keys if set(name.split(".")).isdisjoint(others)}:
            raise ValueError(
                f"{fault} it lacks {len(missing)} weights that its adapter_config.json describes, such as "
                f"{min(missing)}."
            )

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        *args: Any,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        Save, and push, as [`PreTrainedModel`] does. An adapter is saved together with the configuration, which
        describes its head.
        """
        names = ("repo_id", "commit_message", "create_pr", "private", "revision")
        hub = {name: kwargs.pop(name) for name in names if name in kwargs}
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        self._save_more(save_directory)
        if push_to_hub and is_main_process:
            self.push_to_hub(hub.pop("repo_id", Path(save_directory).name), token=kwargs.get("token"), **hub)

    def _save_more(self, save_directory: str | os.PathLike) -> None:
        """Save what [`PreTrainedModel`] leaves out."""
        if getattr(self, "_hf_peft_config_loaded", False):
            self.config.save_pretrained(save_directory)
            if not self.name_or_path:
                logger.warning(
                    f"The adapter in {save_directory} names no base model, and cannot be loaded without one. Save the "
                    "model without the adapter first, and add the adapter to the model loaded from there."
                )

    def _check_head(self, adapter: Any, base_model: str, is_described: bool) -> None:
        """Raise a `ValueError` unless an adapter has the head that its base model lacks, and its configuration."""
        own_head = any("modules_to_save" in name for name, _ in self.named_modules() if name.startswith("classifier"))
        if not own_head:
            raise ValueError(
                f"Neither the adapter {adapter} nor its base model {base_model} has the head of this configuration. "
                'Train the adapter with `modules_to_save=["classifier"]`, and save `model.config` beside it.'
            )
        if not is_described:
            raise ValueError(
                f"The adapter {adapter} has a head, but its base model {base_model} has none, so its labels and their "
                "rate are unknown: save `model.config` beside the adapter (`model.config.save_pretrained(folder)`)."
            )


__all__ = [
    "HUB_ARGUMENTS",
    "MusicFMWithAdapters",
    "adapter_config",
    "check_base",
    "encoder_differences",
    "find_base",
    "merge_adapters",
]
