"""
Int8 inference of encoders on processors, as a quantization method of Transformers: `from_pretrained(…,
quantization_config=MusicFMInt8Config())` quantizes a model while it is loaded, and a saved int8 model loads without
arguments.

Weights of linear layers are symmetric int8 with a scale for each output. Each frame of the input is rounded to int8
with a scale of its own when the layer runs (dynamic quantization), so that an item does not depend on its padding or
on its batch. Sums of products are exact. In inference, the 3×3 convolutions of the front end are computed in the same
way from their float weights. Spectrogram, norms, attention and heads are not quantized.
"""

import functools
import time
from typing import Any, Self, cast

import torch
from torch import nn
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING, register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

INT8_METHOD = "musicfm_int8"  # `quant_method` in the configuration of a model

_ROWS_AT_ONCE = 256  # frames that are quantized and multiplied together; a feed-forward layer then stays in the cache
_LARGEST = 127
_ZERO = 128  # of the inputs, which the kernels take as unsigned integers
_LEAST_SCALE = 1e-30  # of a frame of zeros


class MusicFMInt8Linear(nn.Module):
    """
    Linear layer with int8 weights and dynamic int8 inputs, for inference on a processor.

    Args:
        in_features (`int`): Size of an input frame.
        out_features (`int`): Size of an output frame.
        bias (`bool`): Whether the layer has a bias.
        dtype (`torch.dtype`, *optional*): dtype of the bias; the scales are always float32.
    """

    weight_scale: torch.Tensor

    def __init__(self, in_features: int, out_features: int, bias: bool = True, dtype: torch.dtype | None = None):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features, dtype=torch.int8), requires_grad=False)
        self.register_buffer("weight_scale", torch.empty(out_features, dtype=torch.float32))
        self.bias = nn.Parameter(torch.empty(out_features, dtype=dtype), requires_grad=False) if bias else None
        self._packed: tuple[torch.Tensor, torch.Tensor] | None = None  # the weight, and its copy for the kernel

    @classmethod
    @torch.no_grad()
    def from_linear(cls, linear: nn.Linear) -> Self:
        """Quantize a linear layer, which is not changed."""
        layer = cls(linear.in_features, linear.out_features, bias=False)
        layer.weight.data, layer.weight_scale = quantize_rows(linear.weight)
        if linear.bias is not None:
            layer.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=False)
        return layer.train(linear.training)

    @torch.no_grad()
    def to_linear(self, dtype: torch.dtype) -> nn.Linear:
        """Return a linear layer in `dtype` with the rounded weights."""
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        linear.weight = nn.Parameter((self.weight * self.weight_scale[:, None]).to(dtype))
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.to(dtype))
        return linear.train(self.training)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """
        `(..., in_features)` → `(..., out_features)`.

        Raises:
            ValueError: if the input is not on the CPU, or needs gradients.
        """
        if hidden_states.device.type not in ("cpu", "meta"):
            raise ValueError(
                f"Int8 models run on CPUs only, but the input is on {hidden_states.device}: move the model to "
                "the CPU, or load it without `quantization_config` (`--quantize`), in bfloat16 for example."
            )
        if hidden_states.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                "Int8 layers have no gradients: train the model that was quantized, or the result of "
                "`model.dequantize()`."
            )
        frames = hidden_states.reshape(-1, self.in_features).float()
        if frames.is_meta or torch.compiler.is_compiling() or torch.jit.is_tracing() or not has_fast_int8():
            output = self._plain(frames)
        else:
            output = self._fast(frames)
        return output.to(hidden_states.dtype).view(*hidden_states.shape[:-1], self.out_features)

    def _plain(self, frames: torch.Tensor) -> torch.Tensor:
        """`(frames, in_features)` → `(frames, out_features)`, both float32, without the kernel."""
        values, scales = quantize_frames(frames)
        output = multiply_plainly(values, self.weight, self.weight_scale) * scales
        return output if self.bias is None else output + self.bias.float()

    def _fast(self, frames: torch.Tensor) -> torch.Tensor:
        """Compute what `_plain` does, with the kernel and few passes over the memory."""
        if self._packed is None or self._packed[0] is not self.weight:
            self._packed = (self.weight, _pack(self.weight))
        zero_points = torch.zeros(self.out_features, dtype=torch.long)
        output = frames.new_empty(len(frames), self.out_features)
        rows = frames.new_empty(min(_ROWS_AT_ONCE, len(frames)), self.in_features)
        buffers = rows, torch.empty_like(rows, dtype=torch.uint8)
        for chunk, target in zip(frames.split(_ROWS_AT_ONCE), output.split(_ROWS_AT_ONCE), strict=True):
            values, scales = quantize_frames(chunk, buffers)
            product = _multiply_packed(values, self._packed[1], self.weight_scale, zero_points)
            if self.bias is None:
                torch.mul(product, scales, out=target)
            else:
                torch.addcmul(self.bias, product, scales, out=target)
        return output

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Move or cast as torch does, but leave the scales in float32: rounded ones would change the weights."""
        scale, self._packed = self.weight_scale, None
        super()._apply(fn, recurse)
        if not scale.is_meta:
            self.weight_scale = scale.to(self.weight.device)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Load as torch does; the weight changes in place."""
        self._packed = None
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_packed": None}

    def extra_repr(self) -> str:
        """Return the sizes for `repr`."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Int8Convolution:
    """
    3×3 convolution with int8 weights and int8 inputs, padded in frequency but not in time: a product of matrices,
    whose rows are the neighbors of an output. The scale of the inputs is that of the three frames of an output, so
    that other items, and frames further away, do not matter.

    Args:
        weight (`torch.Tensor`): `(outputs, channels, 3, 3)`, float32.
        bias (`torch.Tensor`): `(outputs,)`.
        strides (`tuple[int, int]`): Strides in time and frequency.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, strides: tuple[int, int]):
        self.bias, self.strides = bias, strides
        rows, self.weight_scale = quantize_rows(weight.permute(0, 2, 3, 1).flatten(1))
        self.packed = _pack(rows)
        self.zero_points = torch.zeros(len(bias), dtype=torch.long)

    @staticmethod
    def applies(weight: torch.Tensor) -> bool:
        """Return whether it is faster than in float32: with a kernel for int8, and enough channels."""
        return weight.device.type == "cpu" and weight.shape[1] >= 64 and has_fast_int8()

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """`(batch, time, bands, channels)` → `(batch, output frames, output bands, outputs)`."""
        batch, time, bands, channels = frames.shape
        stride, band_stride = self.strides
        count, width = (time - 3) // stride + 1, (bands - 1) // band_stride + 1
        output = frames.new_empty(batch, count, width, len(self.bias))
        largest = torch.maximum(frames.amax((2, 3)), -frames.amin((2, 3)))
        scales = largest.unfold(1, 3, stride).amax(-1).clamp_(min=_LEAST_SCALE).div_(_LARGEST)  # (batch, count)
        step = max(1, _ROWS_AT_ONCE // width)
        values = torch.full((step, 3, bands + 2, channels), _ZERO, dtype=torch.uint8)  # with padding in frequency
        buffers = frames.new_empty(step, bands, channels), values
        for item in range(batch):
            for start in range(0, count, step):
                stop = min(start + step, count)
                scale = scales[item, start:stop, None, None]
                rows = self._gather(frames[item, start * stride : (stop - 1) * stride + 3], scale, buffers)
                product = _multiply_packed(rows, self.packed, self.weight_scale, self.zero_points)
                product = product.view(stop - start, width, -1)
                torch.addcmul(self.bias, product, scale, out=output[item, start:stop])
        return output

    def _gather(
        self, frames: torch.Tensor, scale: torch.Tensor, buffers: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """
        Quantize frames `(time, bands, channels)` with the scale `(output frames, 1, 1)` of each output, and gather
        `(output frames · output bands, 9 · channels)`.
        """
        count, (_, bands, channels) = len(scale), frames.shape
        stride, band_stride = self.strides
        rounded, values = (buffer[:count] for buffer in buffers)
        half, factor = frames.new_tensor(_ZERO + 0.5), scale.reciprocal()
        for tap in range(3):
            torch.addcmul(half, frames[tap : tap + stride * (count - 1) + 1 : stride], factor, out=rounded)
            values[:, tap, 1 : bands + 1] = rounded
        neighbors = values.unfold(2, 3, band_stride)  # (output frames, 3, output bands, channels, 3)
        return neighbors.permute(0, 2, 1, 4, 3).reshape(-1, 9 * channels)


def quantize_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round `(outputs, inputs)` to int8, and return it with the scale of each output, `(outputs,)` float32."""
    weight = weight.float()
    scales = weight.abs().amax(1).clamp_(min=_LEAST_SCALE).div_(_LARGEST)
    return weight.div(scales[:, None]).round_().to(torch.int8), scales


def quantize_frames(
    frames: torch.Tensor, buffers: tuple[torch.Tensor, torch.Tensor] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Round frames to integers between -127 and 127.

    Args:
        frames (`torch.Tensor`): `(frames, size)`, float32.
        buffers (*optional*): Memory to use, `(at least that many frames, size)`: float32, and uint8 for the result.

    Returns:
        The integers plus 128, `(frames, size)` uint8, and the scale of each frame, `(frames, 1)` float32, which is not
        finite for a frame that is not.
    """
    if buffers is None:
        buffers = torch.empty_like(frames), torch.empty_like(frames, dtype=torch.uint8)
    rows, values = (buffer[: len(frames)] for buffer in buffers)
    scales = torch.abs(frames, out=rows).amax(-1, keepdim=True).clamp_(min=_LEAST_SCALE).div_(_LARGEST)
    torch.addcmul(frames.new_tensor(_ZERO + 0.5), frames, scales.reciprocal(), out=rows)
    return values.copy_(rows), scales  # which truncates, so the added half rounds


def multiply_plainly(values: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor) -> torch.Tensor:
    """
    Multiply quantized frames in float32, on any processor, without a gain in speed.

    Args:
        values (`torch.Tensor`): Output of [`quantize_frames`], `(frames, inputs)` uint8.
        weight (`torch.Tensor`): `(outputs, inputs)` int8.
        weight_scale (`torch.Tensor`): `(outputs,)` float32.

    Returns:
        `(frames, outputs)` float32, without the scales of the frames.
    """
    with torch.autocast(values.device.type if not values.is_meta else "cpu", enabled=False):
        return nn.functional.linear(values.float() - _ZERO, weight.float()).mul_(weight_scale)


def _pack(weight: torch.Tensor) -> torch.Tensor:
    """Copy an int8 weight to the layout of the kernel."""
    return torch.ops.onednn.qlinear_prepack(weight.detach(), None)


def _multiply_packed(
    values: torch.Tensor, packed: torch.Tensor, weight_scale: torch.Tensor, zero_points: torch.Tensor
) -> torch.Tensor:
    """Compute what [`multiply_plainly`] does with oneDNN's int8 kernel; `packed` is the output of [`_pack`]."""
    return torch.ops.onednn.qlinear_pointwise(
        values, 1.0, _ZERO, packed, weight_scale, zero_points, None, 1.0, 0, torch.float32, "none", [], ""
    )


@functools.cache
def has_fast_int8() -> bool:
    """
    Return whether oneDNN's int8 kernel exists, is exact and is fast. Without the instructions for it (VNNI, AMX), it
    saturates on some processors, and on others oneDNN falls back to a kernel that is a thousand times slower.
    """
    values = torch.full((16, 256), 255, dtype=torch.uint8)
    values[1::2] = 1
    weight = torch.full((64, 256), 127, dtype=torch.int8)
    weight[:, ::3] = -127
    scales, zero_points = torch.ones(64), torch.zeros(64, dtype=torch.long)
    dense = weight.float()
    durations: dict[str, float] = {}
    try:
        packed = _pack(weight)
        result = _multiply_packed(values, packed, scales, zero_points)
        for _ in range(3):
            for name, function in {
                "int8": lambda: _multiply_packed(values, packed, scales, zero_points),
                "float32": lambda: nn.functional.linear(values.float(), dense),
            }.items():
                began = time.perf_counter()
                function()
                durations[name] = min(durations.get(name, float("inf")), time.perf_counter() - began)
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
    is_exact = torch.equal(result, multiply_plainly(values, weight, scales))
    return is_exact and durations["int8"] < 20 * durations["float32"]  # both take microseconds, or a calculation fails


class MusicFMInt8Config(QuantizationConfigMixin):
    """
    Configuration of int8 inference on a processor, for `from_pretrained(…, quantization_config=MusicFMInt8Config())`.
    It applies to the linear layers and 3×3 convolutions of encoders, also in models with a head and in models of music
    and text.

    Args:
        kwargs: `quant_method`, as a saved configuration has it.

    Raises:
        TypeError: if another argument is given.
    """

    def __init__(self, **kwargs: Any):
        self.quant_method = kwargs.pop("quant_method", INT8_METHOD)
        if kwargs:
            raise TypeError(f"MusicFMInt8Config has no settings, got {', '.join(kwargs)}.")


class MusicFMInt8Quantizer(HfQuantizer):
    """Replaces linear layers by [`MusicFMInt8Linear`] when Transformers loads a model."""

    def validate_environment(self, *args: Any, device_map: Any = None, **kwargs: Any) -> None:
        """
        Raises:
            ValueError: if a part of the model would be on a GPU.
        """
        devices = device_map.values() if isinstance(device_map, dict) else [device_map]
        kinds = {str(device).partition(":")[0] for device in devices if device is not None}
        if kinds - {"cpu", "disk", "meta", "auto"}:
            raise ValueError(
                f"Int8 models run on CPUs only, got the device {', '.join(sorted(kinds))}: use the CPU, or "
                "leave out `quantization_config`."
            )

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        """Put empty int8 layers in place of linear layers, for weights that were saved as int8."""
        if self.pre_quantized:
            with torch.device("meta"):
                _replace(
                    model,
                    nn.Linear,
                    lambda layer: MusicFMInt8Linear(
                        layer.in_features, layer.out_features, layer.bias is not None, layer.weight.dtype
                    ),
                )
        return model

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        """Quantize linear layers whose weights were not saved as int8."""
        if not self.pre_quantized:
            _replace(model, nn.Linear, MusicFMInt8Linear.from_linear)
        _require_grad(model, False)
        return model

    def _dequantize(self, model: Any, dtype: torch.dtype | str | None = None) -> Any:
        """Put linear layers in place of int8 layers."""
        if isinstance(dtype, str):  # which the dtype in the configuration of a saved model is
            dtype = getattr(torch, dtype)
        _replace(model, MusicFMInt8Linear, lambda layer: layer.to_linear(dtype or model.dtype))
        _require_grad(model, True)
        return model

    def is_serializable(self) -> bool:
        """True: int8 models can be saved."""
        return True

    @property
    def is_trainable(self) -> bool:
        """False: int8 models have no gradients."""
        return False

    @property
    def is_compileable(self) -> bool:
        """True: int8 models can be compiled, but are then not faster than in float32."""
        return True


def is_int8(settings: Any) -> bool:
    """Return whether a configuration of a model, or a `quantization_config`, is one of int8."""
    quantization = getattr(settings, "quantization_config", settings)
    if isinstance(quantization, dict):
        return quantization.get("quant_method") == INT8_METHOD
    return getattr(quantization, "quant_method", None) == INT8_METHOD


def quantize_to_int8(model: Any) -> None:
    """Quantize a model in memory, in place, as `from_pretrained` does while it loads one."""
    quantizer = MusicFMInt8Quantizer(MusicFMInt8Config(), pre_quantized=False)
    quantizer.preprocess_model(model)
    model.hf_quantizer = quantizer
    quantizer.postprocess_model(model)


def check_float(config: Any, name: Any, purpose: str) -> None:
    """
    Check that a model is not an int8 model, which has no gradients.

    Args:
        config: Configuration of the model.
        name: Folder or repository, for the message.
        purpose (`str`): What the model is for, such as `"trained"`.

    Raises:
        ValueError: if it is an int8 model.
    """
    if is_int8(config):
        raise ValueError(
            f"{name} is an int8 model, which cannot be {purpose}: use the model that it was quantized from, or the "
            "result of `model.dequantize()`."
        )


def _replace(model: nn.Module, kind: type[nn.Module], convert: Any) -> None:
    """Replace the layers of this class in the parts of encoders that `int8_modules` names."""
    for encoder in list(model.modules()):
        for part in getattr(encoder, "int8_modules", ()):
            root = encoder.get_submodule(part)
            for name, module in list(root.named_modules()):
                if type(module) is kind:
                    parent, _, child = name.rpartition(".")
                    setattr(root.get_submodule(parent), child, convert(module))


def _require_grad(model: nn.Module, is_trained: bool) -> None:
    """Set whether the parts of encoders that `int8_modules` names can be trained."""
    for encoder in model.modules():
        for part in getattr(encoder, "int8_modules", ()):
            encoder.get_submodule(part).requires_grad_(is_trained)


# The code of a saved model is loaded as another module, and may be loaded repeatedly; the first registration stays.
if INT8_METHOD not in AUTO_QUANTIZER_MAPPING:
    register_quantization_config(INT8_METHOD)(MusicFMInt8Config)
    register_quantizer(INT8_METHOD)(cast(Any, MusicFMInt8Quantizer))

__all__ = [
    "INT8_METHOD",
    "Int8Convolution",
    "MusicFMInt8Config",
    "MusicFMInt8Linear",
    "check_float",
    "is_int8",
    "multiply_plainly",
    "quantize_frames",
    "quantize_to_int8",
]
