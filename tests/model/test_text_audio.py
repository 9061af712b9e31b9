"""Models with an audio tower and a text tower."""

import math

import numpy as np
import pytest
import torch
from helpers.audio import music
from helpers.models import TINY
from helpers.remote_code import run_without_the_package
from helpers.text_audio import TOWER, processor, text_audio_config, text_audio_model
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor, pipeline

import musicfm_hf
from musicfm_hf import MusicFMModel, MusicFMTextAudioConfig, MusicFMTextAudioModel, MusicFMTextAudioProcessor
from musicfm_hf.model.modeling_text_audio_musicfm import contrastive_loss

RATE = 24000


@pytest.fixture(scope="module")
def model() -> MusicFMTextAudioModel:
    return text_audio_model()


@pytest.fixture(scope="module")
def songs() -> list[np.ndarray]:
    """Less than half a clip, between half a clip and a clip, two clips and a part, and exactly two clips."""
    return [music(seconds, seed=number) for number, seconds in enumerate((0.4, 0.7, 2.3, 2.0))]


def embed(model, waveform, **arguments) -> torch.Tensor:
    with torch.no_grad():
        return model.get_audio_features(torch.from_numpy(waveform)[None], **arguments).pooler_output[0]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_songs_in_a_padded_batch(model, songs, attention, side):
    model.set_attn_implementation(attention)
    longest = max(map(len, songs))
    batch, mask = torch.full((4, longest), 5.0), torch.zeros(4, longest, dtype=torch.long)
    for row, song in enumerate(songs):
        part = slice(0, len(song)) if side == "right" else slice(longest - len(song), None)
        batch[row, part], mask[row, part] = torch.from_numpy(song), 1
    with torch.no_grad():
        outputs = model.get_audio_features(batch, mask)
    assert outputs.last_hidden_state.shape == (1 + 1 + 3 + 2, 25, 16)
    for row, song in enumerate(songs):
        torch.testing.assert_close(outputs.pooler_output[row], embed(model, song), rtol=0, atol=1e-5)
    model.set_attn_implementation("sdpa")


def test_clips_of_a_song(model, songs):
    """The last clip is filled up from the start of the song; a short song is repeated once at most."""
    song = songs[2]
    clips = [song[:RATE], song[RATE : 2 * RATE], np.concatenate([song[2 * RATE :], song[: 3 * RATE - len(song)]])]
    clip_embeds = torch.stack([embed(model, clip) for clip in clips])
    torch.testing.assert_close(clip_embeds.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(embed(model, song), clip_embeds.mean(0), rtol=0, atol=1e-6)
    assert embed(model, song).norm() < 0.9999
    for short, repeated in ((songs[1], np.tile(songs[1], 2)[:RATE]), (songs[0], np.tile(songs[0], 2))):
        with torch.no_grad():
            frames = model.audio_model(torch.from_numpy(repeated)[None]).last_hidden_state
            _, expected = model.audio_tower(frames, torch.ones(frames.shape[:2], dtype=torch.bool))
        torch.testing.assert_close(embed(model, short), expected[0], rtol=0, atol=1e-6)


def test_many_clips_need_no_more_memory_at_once(model, monkeypatch):
    """Clips are encoded in groups, and the groups do not show."""
    song = music(11.5)
    batches = []
    forward = type(model.audio_model).forward
    monkeypatch.setattr(
        type(model.audio_model),
        "forward",
        lambda self, clips, *args, **kwargs: batches.append(len(clips)) or forward(self, clips, *args, **kwargs),
    )
    outputs = model.get_audio_features(torch.from_numpy(song)[None], output_hidden_states=True)
    assert batches == [8, 4]
    clips = torch.from_numpy(np.concatenate([song, song[: 12 * RATE - len(song)]])).view(12, RATE)
    whole = model.audio_model(clips, output_hidden_states=True)
    for found, expected in zip(outputs.hidden_states, whole.hidden_states, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_texts_in_a_padded_batch(model):
    texts = ["piano", "the sad song of a slow guitar", "music with voice"]
    inputs = processor()(text=texts)
    assert inputs["input_ids"].shape == (3, 9)
    with torch.no_grad():
        batch = model.get_text_features(**inputs).pooler_output
        unmasked = model.get_text_features(inputs["input_ids"]).pooler_output
        alone = [model.get_text_features(**processor()(text=text)).pooler_output[0] for text in texts]
    torch.testing.assert_close(batch, torch.stack(alone), rtol=0, atol=1e-6)
    torch.testing.assert_close(unmasked, batch, rtol=0, atol=1e-6)
    torch.testing.assert_close(batch.norm(dim=1), torch.ones(3))
    assert (batch[0] - batch[1]).abs().max() > 0.05
    with pytest.raises(ValueError, match="A text has no tokens"):
        model.get_text_features(torch.tensor([[0, 2], [1, 1]]))


def test_logits_and_loss(model, songs):
    inputs = processor()(text=["piano", "sad song"], audio=songs[2:], sampling_rate=RATE)
    assert set(inputs) == {"input_ids", "attention_mask", "input_values", "audio_attention_mask"}
    with torch.no_grad():
        outputs = model(**inputs, return_loss=True)
    cosine = outputs.audio_embeds @ outputs.text_embeds.T
    torch.testing.assert_close(outputs.logits_per_audio, 10 * cosine)
    assert outputs.logits_per_text.equal(outputs.logits_per_audio.T)
    assert model(**inputs).loss is None
    torch.testing.assert_close(outputs.loss, contrastive_loss(10 * cosine, decoupled=True))


def test_contrastive_loss_of_given_logits():
    """Worked out: exponentials of the logits are whole numbers."""
    logits = torch.tensor([[4.0, 2.0, 1.0], [1.0, 5.0, 1.0], [3.0, 1.0, 2.0]]).log()
    rows, columns = (4 / 7, 5 / 7, 2 / 6), (4 / 8, 5 / 8, 2 / 4)
    expected = -sum(map(math.log, rows + columns)) / 6
    assert contrastive_loss(logits).item() == pytest.approx(expected)
    rows, columns = (4 / 3, 5 / 2, 2 / 4), (4 / 4, 5 / 3, 2 / 2)
    expected = -sum(map(math.log, rows + columns)) / 6
    assert contrastive_loss(logits, decoupled=True).item() == pytest.approx(expected)
    for shape in ((1, 1), (2, 3)):
        with pytest.raises(ValueError, match=rf"at least two pairs .* got {shape[0]} and {shape[1]}"):
            contrastive_loss(torch.zeros(shape))


def test_the_layer_that_the_tower_reads(songs):
    """Later layers are not computed."""
    model = text_audio_model(audio_layer=1)
    expected = model.get_audio_features(torch.from_numpy(songs[3])[None], output_hidden_states=True)
    assert len(expected.hidden_states) == 2
    del model.audio_model.layers[1:]
    torch.testing.assert_close(embed(model, songs[3]), expected.pooler_output[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(model, songs, dtype):
    """The waveform stays float32; a quiet song is embedded like itself."""
    half = text_audio_model().to(dtype)
    quiet = 1e-3 * songs[3]
    inputs = processor()(text=["sad song"], audio=[quiet], sampling_rate=RATE).to(dtype)
    assert inputs["input_values"].dtype == torch.float32
    with torch.no_grad():
        outputs = half(**inputs)
    assert outputs.audio_embeds.dtype == dtype
    assert torch.cosine_similarity(outputs.audio_embeds[0].float(), embed(model, quiet), dim=0) > 0.995


def test_training_reaches_both_towers(songs):
    model = text_audio_model()
    model.freeze_text_encoder()
    model.train()
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}
    inputs = processor()(text=["piano", "sad song"], audio=songs[2:], sampling_rate=RATE)
    model(**inputs, return_loss=True).loss.backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {name for name, _ in model.named_parameters() if name.startswith("text_model.")}
    assert all(buffer.equal(statistics[name]) for name, buffer in model.named_buffers() if name in statistics)
    model.freeze_audio_encoder()
    assert not any(parameter.requires_grad for parameter in model.audio_model.parameters())


def test_gradient_checkpointing(songs):
    inputs = processor()(text=["piano", "sad song"], audio=songs[2:], sampling_rate=RATE)
    gradients = []
    for enabled in (False, True):
        model = text_audio_model(
            audio_config=TINY
            | dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout"), 0.0)
            | {"conformer_conv_dropout": 0.0},
            text_config=text_audio_config().text_config.to_dict()
            | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        ).train()
        if enabled:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(**inputs, return_loss=True).loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=1e-4, atol=1e-6)


class Features(torch.nn.Module):
    """One tower, as `torch.export` takes a module."""

    def __init__(self, model: MusicFMTextAudioModel, kind: str):
        super().__init__()
        self.model, self.kind = model, kind

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return getattr(self.model, f"get_{self.kind}_features")(*inputs).pooler_output


AUTO = torch.export.Dim.AUTO


@pytest.mark.parametrize(
    ("kind", "shapes", "others"),
    [
        ("audio", ({0: AUTO},), (torch.randn(5, 55200),)),
        ("text", ({0: AUTO, 1: AUTO}, {0: AUTO, 1: AUTO}), tuple(processor()(text=["sad", "a song of the"]).values())),
    ],
)
def test_export(model, songs, kind, shapes, others):
    """Songs of one length in batches of any size, and texts of any length."""
    audio = torch.from_numpy(np.stack([songs[2], songs[2][::-1], 0.1 * songs[2]]))
    inputs = (audio,) if kind == "audio" else tuple(processor()(text=["sad song", "piano", "drums"]).values())
    module = Features(model, kind)
    exported = torch.export.export(module, inputs, dynamic_shapes=(shapes,)).module()
    with torch.no_grad():
        for values in (inputs, others):
            torch.testing.assert_close(exported(*values), module(*values), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["audio", "text"])
def test_compiles_without_a_graph_break(model, songs, kind):
    inputs = (torch.from_numpy(songs[2])[None],) if kind == "audio" else tuple(processor()(text=["sad song"]).values())
    module = Features(model, kind)
    with torch.no_grad():
        compiled = torch.compile(module, backend="eager", fullgraph=True)(*inputs)
        torch.testing.assert_close(compiled, module(*inputs), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_compiled_on_a_padded_batch(model, songs):
    inputs = processor()(text=["sad song"], audio=songs, sampling_rate=RATE)
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager")(**inputs).logits_per_audio
        torch.testing.assert_close(compiled, model(**inputs).logits_per_audio, rtol=0, atol=1e-4)


def test_offloaded_to_disk(model, songs, tmp_path):
    model.save_pretrained(tmp_path / "model", max_shard_size="50KB")
    assert len(list((tmp_path / "model").glob("model-*.safetensors"))) > 3
    places = {"audio_model": "disk", "audio_tower": "cpu", "text_model": "disk", "text_tower": "disk"}
    loaded = AutoModel.from_pretrained(
        tmp_path / "model", device_map=places | {"logit_scale": "cpu"}, offload_folder=tmp_path / "offload"
    )
    inputs = processor()(text=["sad song"], audio=songs, sampling_rate=RATE)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits_per_audio, model(**inputs).logits_per_audio)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_loading_in_another_dtype(model, songs, dtype, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, dtype=dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    inputs = processor()(text=["sad song"], audio=songs, sampling_rate=RATE)
    with torch.no_grad():
        found, expected = loaded(**inputs), model(**inputs)
    for name in ("audio_embeds", "text_embeds"):
        assert found[name].dtype == dtype
        assert torch.cosine_similarity(found[name].float(), expected[name]).min() > 0.995


def test_processor_pads_texts_to_a_length(songs):
    inputs = processor()(text=["piano"], audio=songs[0], sampling_rate=RATE, padding="max_length", max_length=12)
    assert inputs["input_ids"].shape == (1, 12)
    assert inputs["input_values"].shape == (1, len(songs[0]))


def test_saving_and_loading(model, songs, tmp_path):
    model.save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is MusicFMTextAudioConfig
    assert config.to_dict() == model.config.to_dict() | {"_name_or_path": str(tmp_path)} or config == model.config
    assert "auto_map" not in config.to_dict()["audio_config"]
    loaded, loaded_processor = AutoModel.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert (type(loaded), type(loaded_processor)) == (MusicFMTextAudioModel, MusicFMTextAudioProcessor)
    assert AutoFeatureExtractor.from_pretrained(tmp_path).attention_mask_name == "audio_attention_mask"
    inputs = loaded_processor(text="sad song", audio=songs[2], sampling_rate=RATE)
    expected = model(**processor()(text="sad song", audio=songs[2], sampling_rate=RATE)).logits_per_audio
    torch.testing.assert_close(loaded(**inputs).logits_per_audio, expected)


def test_an_encoder_does_not_load_from_both_towers(model, tmp_path):
    """It would have random weights, because its own are those of `audio_model`."""
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds a model of the type musicfm_text_audio, not musicfm\. Load it with"):
        MusicFMModel.from_pretrained(tmp_path)


WITHOUT_THE_PACKAGE = """
from transformers import AutoModel, AutoProcessor

folder, audio, output = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert not any(name.startswith("musicfm_hf") for name in sys.modules)
inputs = processor(text=["sad song", "piano"], audio=load_file(audio)["audio"], sampling_rate=24000)
save_file({"logits": model(**inputs).logits_per_audio.detach()}, output)
"""


def test_code_in_the_folder(model, songs, tmp_path):
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    processor().save_pretrained(folder)
    save_file({"audio": torch.from_numpy(songs[2])}, tmp_path / "audio")
    run_without_the_package(tmp_path, WITHOUT_THE_PACKAGE, folder, tmp_path / "audio", tmp_path / "logits")
    inputs = processor()(text=["sad song", "piano"], audio=songs[2], sampling_rate=RATE)
    expected = model(**inputs).logits_per_audio.detach()
    torch.testing.assert_close(load_file(tmp_path / "logits")["logits"], expected, rtol=0, atol=1e-5)


def test_zero_shot_pipeline_of_transformers(model, songs, tmp_path):
    model.save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    classify = pipeline("zero-shot-audio-classification", model=str(tmp_path), device="cpu")
    found = classify(songs[2], candidate_labels=["piano", "drums", "sad"], hypothesis_template="music with {}")
    inputs = processor()(text=[f"music with {tag}" for tag in ("piano", "drums", "sad")], audio=songs[2])
    expected = model(**inputs).logits_per_audio[0].softmax(0).tolist()
    assert {entry["label"]: pytest.approx(entry["score"], abs=1e-5) for entry in found} == dict(
        zip(("piano", "drums", "sad"), expected, strict=True)
    )


def test_lora(model, songs, tmp_path):
    model.save_pretrained(tmp_path / "base")
    base = AutoModel.from_pretrained(tmp_path / "base")
    torch.manual_seed(0)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "query"], init_lora_weights=False))
    adapted.eval().save_pretrained(tmp_path / "adapter")
    inputs = processor()(text="sad song", audio=songs[2], sampling_rate=RATE)
    expected = adapted(**inputs).logits_per_audio
    assert (expected - model(**inputs).logits_per_audio).abs().max() > 1e-4
    loaded = AutoModel.from_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(loaded(**inputs).logits_per_audio, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audio_transformer": {"width": 3}}, "`audio_transformer` has no setting `width`"),
        (
            {"text_transformer": TOWER | {"head_dim": 0}},
            r"`text_transformer\['head_dim'\]` must be a positive integer",
        ),
        ({"text_transformer": TOWER | {"hidden_dropout": 2}}, r"\['hidden_dropout'\]` must be a probability"),
        ({"audio_layer": 9}, "`audio_layer` must be between 0 and"),
        ({"clip_seconds": 0.01}, r"`clip_seconds` must be at least 0\.043 s"),
        ({"clip_seconds": -1}, "`clip_seconds` must be a positive number"),
        ({"projection_dim": 1.5}, "`projection_dim` must be a positive integer"),
        ({"text_config": [1]}, "`text_config` must be a XLMRobertaConfig, got a list"),
    ],
)
def test_settings_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        text_audio_config(**changes)


def test_wrong_input(model):
    audio = torch.from_numpy(music(1.0))[None]
    with pytest.raises(TypeError, match=r"use the argument `attention_mask`\. Did you mean `audio_attention_m"):
        model.get_audio_features(audio, attention_mask=torch.ones_like(audio))
    with pytest.raises(TypeError, match="does not use the argument `labels`"):
        model(torch.tensor([[0, 2]]), audio, labels=torch.tensor([0]))
    with pytest.raises(ValueError, match="An item has 1024 samples, but the model needs at least 1025"):
        model.get_audio_features(audio[:, :1024])
    with pytest.raises(
        ValueError, match=r"`input_ids` must be integers of shape \(texts, tokens\), got torch.int64 of"
    ):
        model.get_text_features(torch.tensor([0, 5, 2]))
    with pytest.raises(
        ValueError, match=r"`attention_mask` must have the shape of `input_ids`, \(1, 3\), got \(1, 4\)"
    ):
        model.get_text_features(torch.tensor([[0, 5, 2]]), torch.ones(1, 4))
    with pytest.raises(ValueError, match="A text has 39 tokens, but the model takes at most 38"):
        model.get_text_features(torch.full((1, 39), 5))
    assert model.get_text_features(torch.full((1, 38), 5)).pooler_output.shape == (1, 12)
    with pytest.raises(
        TypeError, match=r"got MusicFMTextAudioModel\. Use its `get_audio_features`, or pass its encoder"
    ):
        musicfm_hf.embed(model, audio[0], RATE)
    with pytest.raises(ValueError, match="Pass `text`, `audio` or both"):
        processor()()
    with pytest.raises(ValueError, match="The audio is at 44100 Hz, but the model needs 24000 Hz"):
        processor()(audio=audio[0], sampling_rate=44100)
    with pytest.raises(TypeError, match="Without `text`, the processor takes no arguments samplin_rate"):
        processor()(audio=audio[0], samplin_rate=44100)
    stereo = np.stack([audio[0], 0 * audio[0]])
    with pytest.raises(ValueError, match="to_mono"):
        processor()(audio=[stereo], sampling_rate=RATE)
    left = processor()(audio=[stereo], sampling_rate=RATE, to_mono="left")["input_values"]
    assert left.equal(processor()(audio=audio[0], sampling_rate=RATE)["input_values"])
