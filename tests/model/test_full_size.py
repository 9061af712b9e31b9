"""What must hold at the size of the published checkpoints. Random weights; minutes."""

import subprocess
import sys

import pytest
import torch
from helpers.audio import music
from helpers.models import full_size_checkpoint, random_model

from musicfm_hf import MusicFMConfig, embed

pytestmark = pytest.mark.slow

PEAK = """
import json, sys
from pathlib import Path

def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1e6  # GB
"""


@pytest.fixture(scope="module")
def model():
    return random_model(MusicFMConfig())


def test_conversion_in_little_memory(tmp_path):
    source = full_size_checkpoint(tmp_path / "pretrained.pt")
    code = PEAK + (
        "import musicfm_hf\n"
        "result = musicfm_hf.convert_checkpoint(sys.argv[1], sys.argv[2])\n"
        "print(json.dumps([result.num_parameters, len(result.unused), resident('VmHWM')]))"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    parameters, unused, peak = eval(done.stdout.splitlines()[-1])
    assert (parameters, unused) == (316_343_296, 7)
    assert source.stat().st_size > 1.3e9
    assert peak < 4.0


def test_padding_changes_nothing(model):
    waveforms = [torch.from_numpy(music(seconds, seed=k)) for k, seconds in enumerate([0.1, 1.0, 12.34, 30.0])]
    input_values = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(w)) for w in waveforms], batch_first=True)
    with torch.no_grad():
        together = model(input_values, mask, output_hidden_states=True).hidden_states
        for row, waveform in enumerate(waveforms):
            alone = model(waveform[None], output_hidden_states=True).hidden_states
            for one, other in zip(together, alone, strict=True):
                torch.testing.assert_close(one[row : row + 1, : other.shape[1]], other, rtol=0, atol=1e-4)


def test_fused_equals_plain(model):
    audio = torch.from_numpy(music(15.0))[None]
    hooks = [  # a hook is enough to have every module called as it is
        module.register_forward_hook(lambda *_: None)
        for module in model.modules()
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d))
    ]
    with torch.no_grad():
        plain = model(audio, output_hidden_states=True).hidden_states
        for hook in hooks:
            hook.remove()
        fused = model(audio, output_hidden_states=True).hidden_states
    for one, other in zip(plain, fused, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_bfloat16_embeds_alike(model):
    audio = torch.from_numpy(music(10.0))[None]
    with torch.no_grad():
        exact = model(audio, output_hidden_states=True).hidden_states
        half = random_model(MusicFMConfig()).to(torch.bfloat16)(audio, output_hidden_states=True).hidden_states
    for one, other in zip(exact, half, strict=True):
        assert torch.cosine_similarity(one, other.float(), dim=-1).min() >= 0.995


def test_twenty_minutes_in_bounded_memory(model, tmp_path):
    """Beyond the model, the waveform and the result. (`benchmarks/embed.py` does the same for an hour.)"""
    model.save_pretrained(tmp_path)
    code = PEAK + (
        "import torch, musicfm_hf\n"
        "model = musicfm_hf.MusicFMModel.from_pretrained(sys.argv[1])\n"
        "audio = 0.1 * torch.randn(24000 * 1200)\n"
        "musicfm_hf.embed(model, audio[:24000], 24000, layer=1)\n"
        "Path('/proc/self/clear_refs').write_text('5')\n"
        "before = resident('VmRSS')\n"
        "frames = musicfm_hf.embed(model, audio, 24000, layer=1).frames\n"
        "print(resident('VmHWM') - before - frames.nbytes / 1e9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < 0.5


def test_an_embedding_of_a_song_longer_than_a_window(model):
    audio = music(41.0)
    frames, times = embed(model, audio, 24000, layer=3)
    assert frames.shape == (1025, 1024)
    assert times[-1] == 40.96
