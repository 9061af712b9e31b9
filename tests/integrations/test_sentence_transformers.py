"""The module of sentence-transformers."""

import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, Dataset
from helpers.audio import encode, music
from helpers.documents import blocks, write_stand_ins
from helpers.models import TINY, random_model
from helpers.text_audio import processor, text_audio_config, text_audio_model

import musicfm_hf
from musicfm_hf import MusicFMConfig, MusicFMFeatureExtractor

sentence_transformers = pytest.importorskip("sentence_transformers", reason="pip install '.[sentence-transformers]'")

from musicfm_hf.integrations.sentence_transformers import MusicFMTransformer  # noqa: E402

RATE = 24000
WITHOUT_DROPOUT = dict.fromkeys(
    ("hidden_dropout", "attention_dropout", "activation_dropout", "conformer_conv_dropout"), 0.0
)
TEXTS = ["piano", "the sad song of a slow guitar"]


def sentence_model(module: MusicFMTransformer):
    return sentence_transformers.SentenceTransformer(modules=[module], device="cpu")


def encoder_module(layer: int | None = None, **changes) -> MusicFMTransformer:
    model = random_model(MusicFMConfig(**TINY | changes))
    return MusicFMTransformer(model, MusicFMFeatureExtractor.from_model_config(model.config), layer)


@pytest.fixture(scope="module")
def songs() -> list[np.ndarray]:
    return [music(2.3), music(0.6, seed=1), music(5.0, seed=2)]


@pytest.fixture(scope="module")
def two_towers():
    return sentence_model(MusicFMTransformer(text_audio_model(), processor()))


@pytest.mark.parametrize("layer", [None, 2])
@pytest.mark.parametrize("do_normalize", [False, True])
def test_encoder(songs, layer, do_normalize):
    """Vectors are the means of the frames of `embed`, also for songs of several windows."""
    module = encoder_module(layer, context_seconds=2.0, do_normalize=do_normalize)
    model = sentence_model(module)
    assert (model.modalities, model.get_embedding_dimension()) == (["audio"], 32)
    quiet = [1e-3 * song for song in songs]
    expected = [musicfm_hf.embed(module.model, song, RATE, layer).frames.mean(0).numpy() for song in quiet]
    np.testing.assert_allclose(model.encode(quiet), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(model.encode(quiet[0]), expected[0], rtol=0, atol=1e-5)
    cosines = torch.nn.functional.cosine_similarity(torch.tensor(expected[0]), torch.tensor(np.stack(expected)))
    torch.testing.assert_close(model.similarity(model.encode(quiet[:1]), model.encode(quiet))[0], cosines)


@pytest.mark.parametrize("do_normalize", [False, True])
def test_gradients_change_nothing(songs, do_normalize):
    """What training sees is what `encode` returns."""
    module = encoder_module(do_normalize=do_normalize).eval()
    features = module.preprocess([1e-3 * song for song in songs])
    trained = module(features)["sentence_embedding"]
    with torch.no_grad():
        encoded = module(features)["sentence_embedding"]
    torch.testing.assert_close(trained, encoded, rtol=0, atol=1e-5)
    trained.sum().backward()
    assert all(weight.grad is not None for weight in module.model.layers.parameters())


def test_two_towers(two_towers, songs):
    assert (two_towers.modalities, two_towers.get_embedding_dimension()) == (["audio", "text"], 12)
    reference = text_audio_model()
    with torch.no_grad():
        outputs = reference(**processor()(text=TEXTS, audio=songs, sampling_rate=RATE))
    np.testing.assert_allclose(two_towers.encode(songs), outputs.audio_embeds, rtol=0, atol=1e-5)
    np.testing.assert_allclose(two_towers.encode(TEXTS), outputs.text_embeds, rtol=0, atol=1e-5)
    prompted = two_towers.encode(["piano"], prompt="song with ")
    np.testing.assert_allclose(prompted, two_towers.encode(["song with piano"]), rtol=0, atol=1e-6)


def test_kinds_of_audio(two_towers, songs, tmp_path, monkeypatch):
    """Files, rows of data sets, and waveforms at other rates."""
    monkeypatch.chdir(tmp_path)
    soundfile.write("song.wav", songs[0], RATE, subtype="FLOAT")
    soundfile.write("song.aiff", songs[0], RATE, subtype="FLOAT")
    content = encode(songs[0], RATE, "WAV", "FLOAT")
    expected = two_towers.encode(songs[0])
    kinds = ["song.wav", tmp_path / "song.aiff", {"audio": "song.wav"}, {"bytes": content, "path": None}]
    kinds += [{"array": songs[0], "sampling_rate": RATE}, torch.from_numpy(songs[0])]
    np.testing.assert_allclose(two_towers.encode(kinds), [expected] * len(kinds), rtol=0, atol=1e-5)
    # sentence-transformers takes the name of a file of a format that it does not know for words.
    np.testing.assert_allclose(two_towers.encode("song.aiff"), expected, rtol=0, atol=1e-5)
    slow = {"array": music(2.3, 48000), "sampling_rate": 48000}
    resampled = musicfm_hf.embed(text_audio_model().audio_model, music(2.3, 48000), 48000)
    assert len(resampled.frames) == len(musicfm_hf.embed(text_audio_model().audio_model, songs[0], RATE).frames)
    assert two_towers.encode(slow).shape == (12,)
    assert two_towers.encode(music(0.01)).shape == (12,)  # shorter than the model needs


@pytest.mark.parametrize("kind", ["encoder", "two towers"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saving_and_loading(songs, kind, dtype, tmp_path):
    module = encoder_module(1) if kind == "encoder" else MusicFMTransformer(text_audio_model(), processor())
    model = sentence_model(module.to(dtype))
    model.save_pretrained(str(tmp_path))
    expected = model.encode(songs, convert_to_tensor=True)
    assert expected.dtype == dtype
    loaded = sentence_transformers.SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")
    assert isinstance(loaded[0], MusicFMTransformer)
    assert loaded[0].layer == module.layer
    torch.testing.assert_close(loaded.encode(songs, convert_to_tensor=True), expected)
    plain = MusicFMTransformer.from_pretrained(str(tmp_path), module.layer, dtype=torch.float32)
    assert plain.model.dtype == torch.float32
    vectors = sentence_model(plain).encode(songs, convert_to_tensor=True)
    assert torch.cosine_similarity(vectors, expected.float()).min() > 0.99


def pairs(second: list) -> Dataset:
    rows = [{"bytes": encode(music(1.0, seed=seed), RATE, "WAV", "FLOAT"), "path": None} for seed in range(4)]
    return Dataset.from_dict({"anchor": rows, "positive": second}).cast_column("anchor", Audio(decode=False))


@pytest.mark.parametrize("kind", ["encoder", "two towers"])
def test_training(kind, tmp_path):
    """The Trainer of sentence-transformers lowers the contrastive loss: of songs with texts, or with other takes."""
    if kind == "encoder":
        module = encoder_module(**WITHOUT_DROPOUT)
        takes = [{"bytes": encode(music(0.8, seed=seed), RATE, "WAV", "FLOAT"), "path": None} for seed in range(4)]
        data = pairs(takes).cast_column("positive", Audio(decode=False))
    else:
        texts = text_audio_config().text_config.to_dict()
        dropouts = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
        configs = {"text_config": texts | dropouts, "audio_config": TINY | WITHOUT_DROPOUT}
        module = MusicFMTransformer(text_audio_model(seed=2, **configs), processor())
        data = pairs(["piano", "drums", "sad song", "slow guitar"])
    model = sentence_model(module)
    module.model.gradient_checkpointing_enable()
    trainer = sentence_transformers.SentenceTransformerTrainer(
        model=model,
        args=sentence_transformers.SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path),
            num_train_epochs=15,
            per_device_train_batch_size=4,
            learning_rate=2e-3,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            logging_steps=1,
            disable_tqdm=True,
        ),
        train_dataset=data,
        eval_dataset=data,
        loss=sentence_transformers.sentence_transformer.losses.MultipleNegativesRankingLoss(model),
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.8 * before


def test_wrong_use(two_towers, songs):
    encoder = sentence_model(encoder_module())
    with pytest.raises(ValueError, match=r"(?i)text"):
        encoder.encode(["piano"])
    with pytest.raises(ValueError, match="'piano' is no file, and this model has no text tower"):
        encoder[0].preprocess(["piano"])
    with pytest.raises(ValueError, match="The batch has songs and texts"):
        two_towers[0].preprocess(["piano", songs[0]])
    with pytest.raises(ValueError, match="`layer` must be between 0 and 3, got 4"):
        encoder_module(4)
    with pytest.raises(ValueError, match="`layer` is fixed by the audio tower"):
        MusicFMTransformer(text_audio_model(), processor(), 1)
    with pytest.raises(TypeError, match="must be a MusicFMModel or a MusicFMTextAudioModel, got Linear"):
        MusicFMTransformer(torch.nn.Linear(1, 1), None)
    with pytest.raises(FileNotFoundError):
        encoder[0].preprocess([{"audio": {"path": "missing.wav", "bytes": None}}])


def test_page(labeled, tmp_path, monkeypatch):
    """The blocks of docs/integrations.md run one after the other."""
    write_stand_ins(tmp_path, labeled)
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    code = [block.code for block in blocks("python") if "sentence_transformers" in block.code]
    assert len(code) == 2
    for block in code:
        exec(block, scope)
    assert scope["songs"].shape == (2, 32)
    assert scope["trainer"].state.global_step == 1
