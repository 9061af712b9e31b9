"""The choice of the fastest dtype, with measurements and devices that are given."""

import json

import pytest
import torch

from musicfm_hf import fastest_dtype
from musicfm_hf.inference import precision


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A processor with bfloat16 and a cache folder of its own; the seconds to measure, and the measurements so far."""
    monkeypatch.setattr(precision.constants, "HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(precision, "_has_bfloat16", lambda: True)
    seconds, calls = {"float32": 2.0, "bfloat16": 1.0}, []

    def measure(dtypes):
        calls.append(list(dtypes))
        return dict(seconds)

    monkeypatch.setattr(precision, "measure_products", measure)
    return seconds, calls


@pytest.mark.parametrize(
    ("seconds", "dtype"), [(1.0, torch.bfloat16), (1.25, torch.bfloat16), (1.6, torch.float32), (90.0, torch.float32)]
)
def test_bfloat16_has_to_be_faster_by_the_least_gain(measured, seconds, dtype):
    measured[0]["bfloat16"] = seconds
    assert fastest_dtype("cpu") is dtype
    assert measured[1] == [[torch.float32, torch.bfloat16]]


def test_the_measurement_is_kept_by_threads_and_version(measured, monkeypatch):
    assert fastest_dtype("cpu") is torch.bfloat16
    measured[0]["bfloat16"] = 3.0
    assert fastest_dtype("cpu") is torch.bfloat16  # as recorded
    assert len(measured[1]) == 1
    ((key, seconds),) = json.loads(precision.record_path().read_text()).items()
    assert seconds == {"float32": 2.0, "bfloat16": 1.0}
    assert f"torch {torch.__version__}" in key
    assert f"{torch.get_num_threads()} threads" in key
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert fastest_dtype("cpu") is torch.float32
    assert len(measured[1]) == 2
    assert len(json.loads(precision.record_path().read_text())) == 2


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", '{"%s": {"float32": 1.0}}', '{"%s": 1}', '{"%s": {"float32": 0}}']
)
def test_a_damaged_record_is_measured_again(measured, content):
    fastest_dtype("cpu")
    (key,) = json.loads(precision.record_path().read_text())
    precision.record_path().write_text(content.replace("%s", key))
    assert fastest_dtype("cpu") is torch.bfloat16
    assert len(measured[1]) == 2
    assert fastest_dtype("cpu") is torch.bfloat16
    assert len(measured[1]) == 2


def test_a_cache_that_cannot_be_written_is_measured_each_time(measured, tmp_path):
    (tmp_path / "cache").write_text("a file in place of the folder")
    for number in (1, 2):
        assert fastest_dtype("cpu") is torch.bfloat16
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
    assert precision._has_bfloat16() is expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({"avx2"}, False), ({"avx2", "avx512_bf16"}, True), ({"asimd", "bf16"}, True), (set(), True)],
)
def test_older_versions_of_pytorch_read_the_flags_of_linux(monkeypatch, flags, expected):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset(flags))
    assert precision._has_bfloat16() is expected


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        ((9, 0), torch.bfloat16),
        ((8, 0), torch.bfloat16),
        ((7, 5), torch.float16),
        ((7, 0), torch.float16),
        ((6, 1), torch.float32),
    ],
)
def test_gpus_by_compute_capability(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert fastest_dtype("cuda:1") is dtype
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert fastest_dtype() is dtype


def test_other_devices_take_float32(measured):
    assert fastest_dtype(torch.device("mps")) is torch.float32
    assert measured[1] == []


def test_products_are_measured(monkeypatch):
    monkeypatch.setattr(precision, "ROWS", 2)
    monkeypatch.setattr(precision, "WIDTH", 8)
    state = torch.random.get_rng_state()
    seconds = precision.measure_products([torch.float32, torch.bfloat16])
    assert seconds.keys() == {"float32", "bfloat16"}
    assert all(0 < value < 60 for value in seconds.values())
    assert torch.equal(torch.random.get_rng_state(), state)
