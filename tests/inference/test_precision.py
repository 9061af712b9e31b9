"""The choice of the fastest dtype, with measurements and devices that are given."""

import json

import pytest
import torch

from musicfm_hf import MusicFMConfig, MusicFMInt8Config, MusicFMTextAudioConfig, fastest_precision
from musicfm_hf.inference import precision

CONFIG = MusicFMConfig(hidden_size=32, intermediate_size=64)


def fastest(device=None, config=CONFIG):
    """Return the name of the fastest precision."""
    chosen = fastest_precision(config, device)
    if "quantization_config" in chosen:
        assert isinstance(chosen["quantization_config"], MusicFMInt8Config)
        assert chosen["dtype"] is torch.float32
        return "int8"
    assert chosen.keys() == {"dtype"}
    return str(chosen["dtype"]).removeprefix("torch.")


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A processor with bfloat16, int8 and a cache folder of its own; the seconds to measure, and the measurements."""
    monkeypatch.setattr(precision.constants, "HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(precision, "has_bfloat16", lambda: True)
    monkeypatch.setattr(precision, "has_fast_int8", lambda: True)
    seconds, calls = {"float32": 2.0, "bfloat16": 1.0, "int8": 0.9}, []

    def measure(names, width, inner_width):
        calls.append((list(names), width, inner_width))
        return {name: seconds[name] for name in names}

    monkeypatch.setattr(precision, "measure_products", measure)
    return seconds, calls


@pytest.mark.parametrize(
    ("bfloat16", "int8", "expected"),
    [
        (1.0, 0.9, "bfloat16"),  # int8 is faster than bfloat16, but by less than the least gain
        (1.0, 0.7, "int8"),
        (1.25, 1.0, "bfloat16"),
        (1.6, 1.5, "int8"),  # bfloat16 is not fast enough beside float32
        (1.6, 1.6, "float32"),
        (90.0, 1.4, "int8"),
        (90.0, 1.9, "float32"),
    ],
)
def test_a_precision_that_rounds_more_has_to_be_faster_by_the_least_gain(measured, bfloat16, int8, expected):
    measured[0].update(bfloat16=bfloat16, int8=int8)
    assert fastest("cpu") == expected
    assert measured[1] == [(["float32", "bfloat16", "int8"], 32, 64)]


@pytest.mark.parametrize(
    ("has_bfloat16", "has_int8", "names"),
    [(True, False, ["float32", "bfloat16"]), (False, True, ["float32", "int8"]), (False, False, None)],
)
def test_only_what_the_processor_has_is_measured(measured, monkeypatch, has_bfloat16, has_int8, names):
    monkeypatch.setattr(precision, "has_bfloat16", lambda: has_bfloat16)
    monkeypatch.setattr(precision, "has_fast_int8", lambda: has_int8)
    assert fastest("cpu") == ("float32" if names is None else names[1])
    assert [call[0] for call in measured[1]] == ([] if names is None else [names])


def test_int8_models_stay_as_they_are(measured):
    config = MusicFMConfig(hidden_size=32, intermediate_size=64)
    config.quantization_config = MusicFMInt8Config().to_dict()
    assert fastest("cpu", config) == "float32"
    assert measured[1] == []


def test_the_size_is_that_of_the_audio_tower(measured):
    fastest("cpu", MusicFMTextAudioConfig(audio_config={"hidden_size": 64, "intermediate_size": 96}))
    assert [call[1:] for call in measured[1]] == [(64, 96)]


def test_the_measurement_is_kept_by_threads_version_and_size(measured, monkeypatch):
    assert fastest("cpu") == "bfloat16"
    measured[0]["bfloat16"] = 3.0
    assert fastest("cpu") == "bfloat16"  # as recorded
    assert len(measured[1]) == 1
    ((key, seconds),) = json.loads(precision.record_path().read_text()).items()
    assert seconds == {"float32": 2.0, "bfloat16": 1.0, "int8": 0.9}
    assert f"torch {torch.__version__}" in key
    assert f"{torch.get_num_threads()} threads" in key
    assert fastest("cpu", MusicFMConfig(hidden_size=64, intermediate_size=64)) == "int8"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert fastest("cpu") == "int8"
    assert len(measured[1]) == 3
    assert len(json.loads(precision.record_path().read_text())) == 3


@pytest.mark.parametrize(
    "content",
    ["", "{", "[1]", '{"%s": {"float32": 1.0, "bfloat16": 1.0}}', '{"%s": 1}', '{"%s": {"float32": 0}}'],
)
def test_a_damaged_record_is_measured_again(measured, content):
    fastest("cpu")
    (key,) = json.loads(precision.record_path().read_text())
    precision.record_path().write_text(content.replace("%s", key))
    assert fastest("cpu") == "bfloat16"
    assert len(measured[1]) == 2
    assert fastest("cpu") == "bfloat16"
    assert len(measured[1]) == 2


def test_a_cache_that_cannot_be_written_is_measured_each_time(measured, tmp_path):
    (tmp_path / "cache").write_text("a file in place of the folder")
    for number in (1, 2):
        assert fastest("cpu") == "bfloat16"
        assert len(measured[1]) == number


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True, "avx512_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
    ],
)
def test_processors_without_bfloat16_are_not_measured(measured, monkeypatch, capabilities, expected):
    monkeypatch.undo()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert precision.has_bfloat16() is expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({"avx2"}, False), ({"avx2", "avx512_bf16"}, True), ({"asimd", "bf16"}, True), (set(), True)],
)
def test_older_versions_of_pytorch_read_the_flags_of_linux(monkeypatch, flags, expected):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset(flags))
    assert precision.has_bfloat16() is expected


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((9, 0), "bfloat16"),
        ((8, 0), "bfloat16"),
        ((7, 5), "float16"),
        ((7, 0), "float16"),
        ((6, 1), "float32"),
    ],
)
def test_gpus_by_compute_capability(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert fastest("cuda:1") == expected
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert fastest() == expected


def test_other_devices_take_float32(measured):
    assert fastest(torch.device("mps")) == "float32"
    assert measured[1] == []


def test_products_are_measured(monkeypatch):
    monkeypatch.setattr(precision, "ROWS", 2)
    state = torch.random.get_rng_state()
    seconds = precision.measure_products(["float32", "bfloat16", "int8"], 8, 16)
    assert seconds.keys() == {"float32", "bfloat16", "int8"}
    assert all(0 < value < 60 for value in seconds.values())
    assert torch.equal(torch.random.get_rng_state(), state)
