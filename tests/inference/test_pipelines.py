"""The pipelines of Transformers on MusicFM models, with the package and with the code that travels to the Hub."""

import http.server
import io
import threading
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, Dataset
from helpers.audio import music
from helpers.models import TINY, head, random_model
from helpers.remote_code import run_without_the_package
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AudioClassificationPipeline,
    BertConfig,
    BertModel,
    FeatureExtractionPipeline,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    pipeline,
)
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.pt_utils import KeyDataset
from transformers.utils import logging

from musicfm_hf import (
    MusicFMConfig,
    MusicFMFeatureExtractor,
    MusicFMForAudioClassification,
    MusicFMForPreTraining,
    MusicFMModel,
    load_audio,
    register_auto_classes,
)
from musicfm_hf.model.pipeline_musicfm import MusicFMAudioClassificationPipeline, MusicFMFeatureExtractionPipeline

RATE = 24000
LABELS = ("drums", "voice", "strings", "noise")
SPEECH = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "num_labels": 3,
    "conv_dim": (8, 8), "conv_stride": (160, 2), "conv_kernel": (160, 2), "num_feat_extract_layers": 2,
    "classifier_proj_size": 8, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
embedder_of_the_package = partial(pipeline, "feature-extraction", device="cpu")
embedder_of_the_hub = partial(MusicFMFeatureExtractionPipeline, task="feature-extraction", device="cpu")
both = pytest.mark.parametrize("embedder", [embedder_of_the_package, embedder_of_the_hub], ids=["package", "hub"])


@pytest.fixture(scope="module")
def encoder() -> MusicFMModel:
    return random_model(MusicFMConfig(**TINY))


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    """A stereo file at 44.1 kHz."""
    path = tmp_path_factory.mktemp("song") / "song.wav"
    stereo = np.stack([music(2.0, 44100), music(2.0, 44100, seed=1)], axis=1)
    soundfile.write(path, stereo, 44100, subtype="FLOAT")
    return path


def embedding(model, waveform, **arguments) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.from_numpy(waveform)[None], **arguments).last_hidden_state


def classifier(**settings) -> MusicFMForAudioClassification:
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {label: index for index, label in enumerate(LABELS)}}
    torch.manual_seed(0)
    return MusicFMForAudioClassification(MusicFMConfig(**TINY, **names, **settings)).eval()


# Audio


@both
def test_every_kind_of_audio(embedder, encoder, song):
    embed = embedder(encoder, return_tensors=True)
    expected = embedding(encoder, load_audio(song))
    mono, rate = soundfile.read(song, dtype="float32", always_2d=True)
    mono = mono.mean(axis=1)
    decoder = SimpleNamespace(
        get_all_samples=lambda: SimpleNamespace(data=torch.from_numpy(mono)[None], sample_rate=rate)
    )
    files = [song, str(song), song.read_bytes(), io.BytesIO(song.read_bytes())]
    rows = [
        {"array": mono, "sampling_rate": rate},
        {"raw": torch.from_numpy(mono), "sampling_rate": rate},
        {"array": mono.tolist(), "sampling_rate": rate, "path": None},
        {"bytes": song.read_bytes(), "path": "song.wav"},
        {"bytes": None, "path": str(song)},
        decoder,
    ]
    for audio in files + rows:
        torch.testing.assert_close(embed(audio), expected, rtol=0, atol=2e-5)
    for audio in (mono, torch.from_numpy(mono)):
        torch.testing.assert_close(embed(audio, sampling_rate=rate), expected, rtol=0, atol=2e-5)
    # An array without a rate is at the rate of the model, as in Transformers. Integers are scaled.
    pcm = (load_audio(song) * 2**15).round().astype(np.int16)
    torch.testing.assert_close(embed(pcm), embedding(encoder, pcm / np.float32(2**15)), rtol=0, atol=1e-5)


@both
def test_audio_at_an_address(embedder, encoder, song):
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(song.parent))
    handler.func.log_message = lambda *arguments: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}"
        frames = embedder(encoder)(f"{place}/song.wav", return_tensors=True)
        with pytest.raises(Exception, match="404"):
            embedder(encoder)(f"{place}/missing.wav")
        server.shutdown()
    torch.testing.assert_close(frames, embedding(encoder, load_audio(song)), rtol=0, atol=2e-5)


@both
def test_audio_that_cannot_be_used(embedder, encoder, song, tmp_path):
    embed = embedder(encoder)
    waveform = music(1.0)
    (tmp_path / "text.wav").write_text("not audio" * 100)
    wrong = [
        (None, ValueError, "null"),
        ({"path": None, "bytes": None}, (ValueError, TypeError), "."),
        ({"array": waveform}, ValueError, "sampling_rate"),
        (str(tmp_path / "missing.wav"), FileNotFoundError, "missing.wav"),
        (tmp_path / "text.wav", ValueError, "not audio"),
        (np.stack([waveform, waveform]), ValueError, "shape"),
        (waveform[:100], ValueError, "at least"),
        (0.5, (ValueError, TypeError), "."),
    ]
    for audio, error, message in wrong:
        with pytest.raises(error, match=message):
            embed(audio)
    with pytest.raises(ValueError, match="own sampling rate"):
        embed(song, sampling_rate=RATE)


def test_a_long_song_is_named(caplog, monkeypatch):
    monkeypatch.setattr(logging.get_logger("transformers"), "propagate", True)
    logging.warning_once.cache_clear()
    embed = embedder_of_the_package(random_model(MusicFMConfig(**TINY, context_seconds=1.0)))
    embed(music(2.0))
    assert "encoded at once" not in caplog.text
    embed(music(3.0))
    assert "3 s of audio are encoded at once, but the encoder was trained on 1 s" in caplog.text


# Batches


@both
def test_items_of_a_batch_do_not_depend_on_its_padding(embedder, encoder):
    embed = embedder(encoder, return_tensors=True)
    songs = [music(1.0), music(3.0, seed=1), music(2.21, seed=2), music(0.5, seed=3)]
    for size in (1, 2, 3):
        for song, frames in zip(songs, embed(songs, batch_size=size), strict=True):
            torch.testing.assert_close(frames, embedding(encoder, song), rtol=0, atol=1e-5)


def test_data_sets(encoder, tmp_path):
    songs = [music(1.0, seed=seed) for seed in range(3)]
    for index, song in enumerate(songs):
        soundfile.write(tmp_path / f"{index}.wav", song, RATE, subtype="FLOAT")
    paths = [str(tmp_path / f"{index}.wav") for index in range(3)]
    rows = Dataset.from_dict({"audio": paths}).cast_column("audio", Audio(decode=False))
    embed = embedder_of_the_package(encoder, return_tensors=True)
    expected = [embedding(encoder, song) for song in songs]
    for inputs in (rows["audio"], tuple(paths), KeyDataset(rows, "audio"), (path for path in paths)):
        for size in (1, 2):
            if size == 2 and not hasattr(inputs, "__len__"):
                continue  # the generator is exhausted
            found = list(embed(inputs, batch_size=size))
            assert len(found) == 3
            for frames, one in zip(found, expected, strict=True):
                torch.testing.assert_close(frames, one, rtol=0, atol=1e-5)
    assert isinstance(embed(rows["audio"]), list)


# Feature extraction


def test_output_of_feature_extraction(encoder):
    embed = embedder_of_the_package(encoder)
    waveform = music(2.0)
    expected = embedding(encoder, waveform)
    nested = embed(waveform)
    assert np.shape(nested) == (1, 50, 32)
    np.testing.assert_allclose(nested, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        embed(waveform, layer=1, return_tensors=True), embedding(encoder, waveform, layer=1), rtol=0, atol=1e-5
    )
    always = embedder_of_the_package(encoder, layer=0, return_tensors=True)
    torch.testing.assert_close(always(waveform), embedding(encoder, waveform, layer=0), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="`layer` must be between 0 and 3"):
        embed(waveform, layer=4)


def test_encoder_of_any_model(encoder):
    waveform = music(1.0)
    lora = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    adapted = get_peft_model(random_model(MusicFMConfig(**TINY)), lora).eval()
    models = [
        (classifier(), lambda model: model.musicfm),
        (head("beat"), lambda model: model.musicfm),
        (MusicFMForPreTraining(MusicFMConfig(**TINY, codebook_size=16, codebook_dim=4)), lambda model: model.musicfm),
        (adapted, lambda model: model.get_base_model()),
    ]
    for model, encoder_of in models:
        frames = embedder_of_the_package(model)(waveform, return_tensors=True)
        torch.testing.assert_close(frames, embedding(encoder_of(model).eval(), waveform), rtol=0, atol=1e-5)
    assert not torch.allclose(embedding(adapted, waveform), embedding(encoder, waveform))


@both
def test_a_model_in_training_mode_gives_the_same_frames(embedder, encoder):
    model = random_model(MusicFMConfig(**TINY)).train()
    frames = embedder(model)(music(1.0), return_tensors=True)
    torch.testing.assert_close(frames, embedding(encoder, music(1.0)), rtol=0, atol=1e-5)


@both
def test_the_waveform_stays_in_full_precision(embedder):
    half = random_model(MusicFMConfig(**TINY)).to(torch.bfloat16)
    waveform = 1e-4 * music(1.0) + 0.1  # in half precision, the offset would leave little of the music
    frames = embedder(half)(waveform, return_tensors=True)
    torch.testing.assert_close(frames, embedding(half, waveform), rtol=0, atol=0.02)
    rounded = torch.from_numpy(waveform).to(torch.bfloat16).float().numpy()
    assert (embedding(half, rounded) - frames).abs().max() > 0.1


@both
def test_unknown_arguments(embedder, encoder):
    embed = embedder(encoder)
    for unknown in ({"truncation": True}, {"tokenize_kwargs": {}}, {"layers": 1}):
        with pytest.raises(TypeError, match=f"no argument `{next(iter(unknown))}`; it has sampling_rate, layer"):
            embed(music(1.0), **unknown)
    with pytest.raises(TypeError, match="no argument `layers`"):
        embedder(encoder, layers=1)


def test_from_a_folder(encoder, song, tmp_path):
    encoder.save_pretrained(tmp_path)  # without a feature extractor: the configuration has all that it needs
    for name in (str(tmp_path), tmp_path):
        embed = pipeline("feature-extraction", name, device="cpu", local_files_only=True)
        torch.testing.assert_close(
            embed(song, return_tensors=True), embedding(encoder, load_audio(song)), rtol=0, atol=1e-5
        )
    embed.save_pretrained(tmp_path / "again")
    again = pipeline("feature-extraction", str(tmp_path / "again"), device="cpu")
    assert again(song, return_tensors=True).equal(embed(song, return_tensors=True))


# Classification


@pytest.mark.parametrize(
    "classify_with",
    [
        partial(pipeline, "audio-classification", device="cpu"),
        partial(MusicFMAudioClassificationPipeline, task="audio-classification", device="cpu"),
    ],
    ids=["package", "hub"],
)
def test_scores_of_every_output_of_a_head(classify_with, song):
    outputs = [
        {"name": "instrument", "size": 2, "problem_type": "single_label_classification"},
        {"name": "more", "size": 2, "problem_type": "multi_label_classification"},
    ]
    model = classifier(classifier_outputs=outputs)
    classify = classify_with(model=model)
    with torch.no_grad():
        logits = model(torch.from_numpy(load_audio(song))[None]).logits[0]
    scores = torch.cat([logits[:2].softmax(-1), logits[2:].sigmoid()])
    expected = dict(zip(LABELS, scores.tolist(), strict=True))
    for audio in (song, str(song), song.read_bytes(), {"path": str(song)}, {"bytes": song.read_bytes()}):
        answer = classify(audio)
        assert {entry["label"]: entry["score"] for entry in answer} == pytest.approx(expected, abs=1e-5)
        assert [entry["score"] for entry in answer] == sorted((entry["score"] for entry in answer), reverse=True)
    raw = {entry["label"]: entry["score"] for entry in classify(song, function_to_apply="none")}
    assert raw == pytest.approx(dict(zip(LABELS, logits.tolist(), strict=True)), abs=1e-5)
    softmax = {entry["label"]: entry["score"] for entry in classify(song, function_to_apply="softmax")}
    assert sum(softmax.values()) == pytest.approx(1)


def test_number_of_labels():
    classify = partial(pipeline, "audio-classification", classifier(), device="cpu")
    waveform = music(1.0)
    assert len(classify()(waveform)) == 4
    assert len(classify()(waveform, top_k=2)) == 2
    assert len(classify(top_k=3)(waveform)) == 3
    assert len(classify(top_k=3)(waveform, top_k=None)) == 4
    assert len(classify()(waveform, top_k=9)) == 4
    for arguments, error in (
        ({"top_k": 0}, ValueError),
        ({"function_to_apply": "tanh"}, ValueError),
        ({"topk": 1}, TypeError),
    ):
        with pytest.raises(error, match=next(iter(arguments))):
            classify()(waveform, **arguments)


def test_functions_share_the_sum_of_the_whole_head():
    classify = pipeline("audio-classification", classifier(), device="cpu")
    waveform = music(1.0)
    assert classify(waveform) == classify(waveform, function_to_apply="softmax")


@pytest.mark.parametrize("model", [head("beat"), random_model(MusicFMConfig(**TINY))], ids=["frames", "encoder"])
def test_models_that_do_not_classify_clips(model):
    with pytest.raises(TypeError, match="needs MusicFMForAudioClassification, got MusicFM"):
        pipeline("audio-classification", model, device="cpu")


def test_nothing_is_logged_about_the_model(caplog, monkeypatch):
    monkeypatch.setattr(logging.get_logger("transformers"), "propagate", True)
    pipeline("audio-classification", classifier(), device="cpu")(music(1.0))
    assert "is not supported" not in caplog.text


# Models that are not MusicFM


def test_the_name_of_a_feature_extractor(encoder, song, tmp_path):
    encoder.save_pretrained(tmp_path)
    extractor = MusicFMFeatureExtractor.from_model_config(encoder.config)
    extractor.save_pretrained(tmp_path)
    folder = str(tmp_path)
    found = pipeline("feature-extraction", model=folder, feature_extractor=folder)(song, return_tensors=True)
    expected = pipeline("feature-extraction", model=folder, feature_extractor=extractor)(song, return_tensors=True)
    assert found.equal(expected)


def test_other_models_get_the_pipelines_of_transformers(tmp_path):
    register_auto_classes()  # a second time
    torch.manual_seed(0)
    Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**SPEECH)).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    classify = pipeline("audio-classification", str(tmp_path), device="cpu")
    theirs = pipeline("audio-classification", str(tmp_path), device="cpu", pipeline_class=AudioClassificationPipeline)
    assert type(classify) is AudioClassificationPipeline
    assert classify(music(1.0, 16000)) == theirs(music(1.0, 16000))
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = tmp_path / "text"
    BertModel(BertConfig(vocab_size=7, **small)).save_pretrained(text)
    (text / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "beat", "chord"]))
    embed = pipeline("feature-extraction", str(text), device="cpu")
    theirs = pipeline("feature-extraction", str(text), device="cpu", pipeline_class=FeatureExtractionPipeline)
    assert type(embed) is FeatureExtractionPipeline
    assert embed("beat chord") == theirs("beat chord")


@pytest.mark.parametrize(
    ("task", "pipeline_class", "missing"),
    [
        ("feature-extraction", FeatureExtractionPipeline, "tokenizer"),
        ("audio-classification", AudioClassificationPipeline, "feature extractor"),
    ],
)
def test_other_models_get_the_errors_of_transformers(task, pipeline_class, missing, tmp_path):
    model = Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**SPEECH))
    with pytest.raises(Exception, match=f"Impossible to guess which {missing}"):
        pipeline(task, model, device="cpu")
    model.save_pretrained(tmp_path)
    with pytest.raises((OSError, TypeError, ValueError)) as theirs:
        pipeline(task, str(tmp_path), device="cpu", pipeline_class=pipeline_class)
    with pytest.raises(type(theirs.value)) as ours:
        pipeline(task, str(tmp_path), device="cpu")
    assert str(ours.value) == str(theirs.value)


def test_the_registry_of_transformers_is_otherwise_unchanged():
    assert "music-annotation" in PIPELINE_REGISTRY.get_supported_tasks()
    default = PIPELINE_REGISTRY.check_task("audio-classification")[1]["default"]
    assert default["model"][0] == "superb/wav2vec2-base-superb-ks"


# Without the package

REMOTE = """
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, AutoProcessor, pipeline
import torch

encoder, clips, frames, song, output = sys.argv[1:]
outputs = {}
for name in (encoder, clips, frames):
    pipe = pipeline("feature-extraction", model=name, trust_remote_code=True)
    outputs[name] = pipe(song, return_tensors=True)
    first, second = pipe([song, pipe._waveform(song, None)[:24000]], batch_size=2, return_tensors=True)
    outputs[name + " batch"] = first
    assert second.shape == (1, 25, 32)
pipe = pipeline("audio-classification", model=clips, trust_remote_code=True)
scores = {entry["label"]: entry["score"] for entry in pipe(song)}
outputs["scores"] = torch.tensor([scores[label] for label in sorted(scores)])
pipe.save_pretrained("again")
again = pipeline("audio-classification", model="again", trust_remote_code=True)
assert again(song) == pipe(song)
assert pipeline("audio-classification", model=clips, trust_remote_code=True, top_k=1)(song) == pipe(song)[:1]

# Load model directly
extractor = AutoFeatureExtractor.from_pretrained(encoder, trust_remote_code=True)
assert type(AutoProcessor.from_pretrained(encoder, trust_remote_code=True)) is type(extractor)
for name in (encoder, clips, frames):
    model = AutoModel.from_pretrained(name, trust_remote_code=True, dtype="auto")
    assert type(model).__name__ == "MusicFMModel"
AutoModelForAudioClassification.from_pretrained(clips, trust_remote_code=True, dtype="auto")
assert not any(name.startswith("musicfm_hf") for name in sys.modules)
save_file({name: value.clone() for name, value in outputs.items()}, output)
"""


def test_the_snippets_of_the_hub_without_the_package(encoder, song, tmp_path):
    models = {
        "encoder": encoder,
        "clips": classifier(problem_type="multi_label_classification"),
        "frames": head("chord"),
    }
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        embedder_of_the_package(model).feature_extractor.save_pretrained(tmp_path / name)
    folders = [tmp_path / name for name in models]
    run_without_the_package(tmp_path, REMOTE, *folders, song, tmp_path / "output")
    found = load_file(tmp_path / "output")
    waveform = load_audio(song)
    for folder, model in zip(folders, models.values(), strict=True):
        expected = embedding(model.base_model, waveform)
        torch.testing.assert_close(found[str(folder)], expected, rtol=0, atol=2e-5)
        torch.testing.assert_close(found[f"{folder} batch"], expected, rtol=0, atol=2e-5)
    with torch.no_grad():
        scores = models["clips"](torch.from_numpy(waveform)[None]).logits[0].sigmoid()
    names = sorted(LABELS)
    expected = torch.stack([scores[LABELS.index(label)] for label in names])
    torch.testing.assert_close(found["scores"], expected, rtol=0, atol=1e-5)
    # The same calls with the package, which uses its own classes.
    for folder, model in zip(folders, models.values(), strict=True):
        embed = pipeline("feature-extraction", model=str(folder), trust_remote_code=True, device="cpu")
        assert type(embed).__module__ == "musicfm_hf.inference.pipelines"
        torch.testing.assert_close(
            embed(song, return_tensors=True), embedding(model.base_model, waveform), rtol=0, atol=1e-5
        )
    classify = pipeline("audio-classification", model=str(folders[1]), trust_remote_code=True, device="cpu")
    assert {entry["label"] for entry in classify(song)} == set(LABELS)
