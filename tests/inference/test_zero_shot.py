"""Zero-shot tags, in Python and with `musicfm annotate --tags`."""

import json

import numpy as np
import pytest
import soundfile
import torch
from helpers.audio import music
from helpers.models import TINY, head
from helpers.text_audio import processor, save_adapter, text_audio_model

from musicfm_hf import MusicFMFeatureExtractor, ZeroShotTagger, annotate
from musicfm_hf.cli.main import main
from musicfm_hf.integrations.vectors import audio_vectors

TAGS = ["piano", "sad", "drums"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mulan")
    text_audio_model().save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    path = tmp_path_factory.mktemp("songs") / "song.wav"
    soundfile.write(path, music(2.3), 24000, subtype="FLOAT")
    return path


@pytest.fixture(scope="module")
def expected(song) -> dict[str, float]:
    """Cosine similarities, computed from the outputs of the model."""
    inputs = processor()(text=[f"music with {tag}" for tag in TAGS], audio=music(2.3), sampling_rate=24000)
    with torch.no_grad():
        outputs = text_audio_model()(**inputs)
    similarities = (outputs.audio_embeds @ outputs.text_embeds.T)[0].tolist()
    return dict(sorted(zip(TAGS, similarities, strict=True), key=lambda pair: -pair[1]))


def test_similarities_of_a_song(song, expected):
    model = text_audio_model().train()
    tagger = ZeroShotTagger(model, processor(), TAGS, "music with {}")
    found = tagger(song)
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, abs=1e-5)
    assert tagger(music(2.3), 24000) == pytest.approx(expected, abs=1e-5)
    assert model.training
    assert len(tagger(music(0.01), 24000)) == 3  # shorter than the model needs


def test_encoders_that_take_normalized_audio():
    """Loudness then makes no difference, and the outputs are those of the feature extractor and the model."""
    audio = music(2.3)
    model = text_audio_model(audio_config=TINY | {"do_normalize": True})
    inputs = processor(model.config)(text=TAGS, audio=audio, sampling_rate=24000)
    with torch.no_grad():
        outputs = model(**inputs)
        vectors = audio_vectors(model, torch.from_numpy(audio)[None], torch.ones(1, len(audio), dtype=torch.long))
    torch.testing.assert_close(vectors, outputs.audio_embeds, rtol=0, atol=1e-5)
    expected = dict(zip(TAGS, (outputs.audio_embeds @ outputs.text_embeds.T)[0].tolist(), strict=True))
    tagger = ZeroShotTagger(model, processor(model.config), TAGS)
    for loudness in (1.0, 0.1):
        assert tagger(loudness * audio, 24000) == pytest.approx(expected, abs=1e-4)


def test_beside_heads(song, expected):
    tagger = ZeroShotTagger(text_audio_model(), processor(), TAGS, "music with {}")
    annotation = annotate(head("chord"), song, tagger=tagger)
    assert annotation.chords == annotate(head("chord"), song).chords
    assert annotation.similarities == pytest.approx(expected, abs=1e-5)
    assert annotation.to_dict()["similarities"] == {tag: pytest.approx(v, abs=1e-4) for tag, v in expected.items()}
    alone = annotate([], song, tagger=tagger)
    assert (alone.chords, alone.tags) == (None, None)
    assert alone.similarities == annotation.similarities
    assert annotate([], np.zeros(24000, dtype=np.float32), 24000, tagger=tagger).similarities == {}
    with pytest.raises(ValueError, match="`models` is empty"):
        annotate([], song)


def test_the_command(folder, song, expected, tmp_path, capsys):
    head("key").save_pretrained(tmp_path / "key")
    MusicFMFeatureExtractor().save_pretrained(tmp_path / "key")
    flags = ["--tags", "piano, sad,drums", "--output_dir", str(tmp_path / "out"), "--device", "cpu"]
    flags += ["--template", "music with {}"]
    with pytest.raises(SystemExit, match="0"):
        main(["annotate", str(song), "--models", str(folder), str(tmp_path / "key"), *flags])
    written = json.loads((tmp_path / "out/song.json").read_text())
    assert written["similarities"] == {tag: pytest.approx(value, abs=1e-4) for tag, value in expected.items()}
    assert (tmp_path / "out/song.keys.lab").is_file()
    assert (tmp_path / "out/song.png").is_file()
    # The same again is skipped; other words are not.
    for words, skipped in (("piano, sad,drums", True), ("piano, sad", False)):
        flags[1] = words
        with pytest.raises(SystemExit, match="0"):
            main(["annotate", str(song), "--models", str(folder), str(tmp_path / "key"), *flags, "--existing", "skip"])
        assert ("1 skipped" in capsys.readouterr().out) == skipped
    assert list(json.loads((tmp_path / "out/song.json").read_text())["similarities"]) == [
        tag for tag in expected if tag != "drums"
    ]


@pytest.mark.parametrize("with_config", [True, False])
def test_the_command_with_an_adapter(folder, song, tmp_path, with_config):
    adapted = save_adapter(folder, tmp_path / "lora", with_config)
    expected = ZeroShotTagger(adapted, processor(), TAGS)(song)
    flags = ["--tags", "piano,sad,drums", "--output_dir", str(tmp_path / "out"), "--device", "cpu"]
    with pytest.raises(SystemExit, match="0"):
        main(["annotate", str(song), "--models", str(tmp_path / "lora"), *flags])
    found = json.loads((tmp_path / "out/song.json").read_text())["similarities"]
    assert found == {tag: pytest.approx(value, abs=1e-4) for tag, value in expected.items()}
    assert found != pytest.approx(ZeroShotTagger(text_audio_model(), processor(), TAGS)(song), abs=1e-3)


def test_wrong_use(folder, song, tmp_path, capsys):
    model = text_audio_model()
    for tags in ([], ["piano", " "], ["piano", "piano"]):
        with pytest.raises(ValueError, match="`tags` must be different texts that are not empty"):
            ZeroShotTagger(model, processor(), tags)
    for tags in ("piano", [1980]):
        with pytest.raises(TypeError, match=r"`tags` must be a list of texts, .* got"):
            ZeroShotTagger(model, processor(), tags)
    with pytest.raises(SystemExit, match=r"Not embedded: .*one embedding for each passage of a song: `musicfm index`"):
        main(["embed", str(song), "--model", str(folder), "--output_dir", str(tmp_path / "out"), "--device", "cpu"])
    with pytest.raises(ValueError, match=r"`template` must contain \{\}"):
        ZeroShotTagger(model, processor(), TAGS, "music")
    with pytest.raises(TypeError, match="must be a MusicFMTextAudioModel, got MusicFMForAudioFrameClassification"):
        ZeroShotTagger(head("chord"), processor(), TAGS)
    text_audio_model().save_pretrained(tmp_path / "bare")
    MusicFMFeatureExtractor.from_model_config(model.config).save_pretrained(tmp_path / "bare")
    with pytest.raises(OSError, match=r"processor of .*bare cannot be loaded\. Convert the model again"):
        ZeroShotTagger.from_pretrained(str(tmp_path / "bare"), TAGS)
    head("key").save_pretrained(tmp_path / "key")
    output = ["--output_dir", str(tmp_path / "out")]
    for models, flags, message in (
        ([folder], [], "needs the words to compare with: pass `--tags"),
        ([tmp_path / "key"], ["--tags", "piano"], "`--tags` needs a model with a text tower"),
        ([folder, tmp_path / "bare"], ["--tags", "piano"], "Pass one model with a text tower, not 2"),
    ):
        with pytest.raises(SystemExit) as error:
            main(["annotate", str(song), "--models", *map(str, models), *flags, *output])
        assert message in str(error.value) + capsys.readouterr().err
