import copy
import os
import shutil
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, Dataset
from helpers.audio import music
from helpers.models import TINY, random_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from musicfm_hf import MusicFMConfig, embed
from musicfm_hf.data.catalog import DatasetAudio, list_sources
from musicfm_hf.data.decoding import SongLoader
from musicfm_hf.data.identity import audio_state
from musicfm_hf.inference.embed_files import embed_files
from musicfm_hf.inference.embedding import WindowSettings, embed_songs
from musicfm_hf.inference.encoder_digest import weights_digest
from musicfm_hf.model.frames_musicfm import average_frames

RATE = 24000


def test_a_short_song_is_the_model_itself(tiny_model):
    audio = music(3.3)
    frames, times = embed(tiny_model, audio, RATE, layer=2)
    with torch.inference_mode():
        expected = tiny_model(torch.from_numpy(audio)[None], layer=2).last_hidden_state[0]
    assert frames.equal(expected)
    assert times.tolist() == [k / 25 for k in range(83)]
    assert embed(tiny_model, torch.from_numpy(audio), RATE, layer=2).frames.equal(expected)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_windows_join_without_seams(tiny_model, batch_size):
    """Frames of a long song are those of its windows, each from the window where it lies deepest."""
    audio = music(21.7)
    frames, times = embed(tiny_model, audio, RATE, window_seconds=8.0, overlap_seconds=4.0, batch_size=batch_size)
    assert len(frames) == len(times) == tiny_model.output_frames(len(audio))
    starts = [0, 100, 200, 300, 343]  # frames; the last window is moved back to end with the song
    seams = [0, 150, 250, 350, 421, len(frames)]
    with torch.inference_mode():
        for start, first, stop in zip(starts, seams, seams[1:], strict=False):
            window = torch.from_numpy(audio[start * 960 : start * 960 + 8 * RATE])[None]
            expected = tiny_model(window).last_hidden_state[0, first - start : stop - start]
            torch.testing.assert_close(frames[first:stop], expected, rtol=0, atol=1e-5)


def test_embeddings_can_be_trained_on_and_modes_stay(tiny_model):
    tiny_model.train()
    tiny_model.layers[1].conv_module.batch_norm.eval()
    before = {name: module.training for name, module in tiny_model.named_modules()}
    frames = embed(tiny_model, music(1.0), RATE).frames
    assert {name: module.training for name, module in tiny_model.named_modules()} == before
    probe = torch.nn.Linear(32, 2)
    probe(frames).sum().backward()
    torch.testing.assert_close(probe.weight.grad[0], frames.sum(0))


def test_an_offloaded_model_embeds(tiny_model, tmp_path):
    expected = embed(tiny_model, music(1.0), RATE).frames
    tiny_model.save_pretrained(tmp_path / "model")
    places = {"subsampling": "disk", "layers": "disk", "layer_norm": "disk", "log_mel": "cpu"}
    model = AutoModel.from_pretrained(tmp_path / "model", device_map=places, offload_folder=tmp_path / "offload")
    torch.testing.assert_close(embed(model, music(1.0), RATE).frames, expected, rtol=0, atol=1e-5)


def test_other_rates_are_resampled_and_the_model_is_left_as_it_was(tiny_model):
    tiny_model.train()
    frames, _ = embed(tiny_model, music(2.0, 48000), 48000)
    assert tiny_model.training
    assert frames.shape == (50, 32)
    assert frames.dtype == torch.float32
    assert embed(tiny_model.to(torch.bfloat16), music(2.0), RATE).frames.dtype == torch.float32


def test_a_normalized_song_is_scaled_as_a_whole_without_copies():
    plain, scaled = (random_model(MusicFMConfig(**TINY, do_normalize=value)) for value in (False, True))
    quiet = np.concatenate([0.01 * music(30.0), 0.1 * music(42.0)])
    settings = {"window_seconds": 10.0, "batch_size": 2}
    expected = embed(plain, (quiet - quiet.mean()) / np.sqrt(quiet.var() + 1e-7), 24000, **settings).frames
    tracemalloc.start()
    found = embed(scaled, quiet, 24000, **settings).frames
    _, peak = tracemalloc.get_traced_memory()  # of NumPy; PyTorch's is not traced
    tracemalloc.stop()
    torch.testing.assert_close(found, expected)
    assert peak < 1.3 * quiet.nbytes  # differences from the mean, while the variance is computed


@pytest.mark.parametrize(
    ("audio", "settings", "message"),
    [
        (np.zeros(1000, np.float32), {}, "1000 samples"),
        (np.zeros(0, np.float32), {}, "is empty"),
        (np.full(5000, np.nan), {}, "NaN"),
        (np.zeros((2, 5000)), {}, "one waveform"),
        (np.zeros((5000, 2)), {}, r"one waveform of shape \(samples,\), got \(5000, 2\). Average its channels"),
        (np.zeros(5000), {"sampling_rate": None}, "`sampling_rate` must be the rate of the waveform in Hz, got None"),
        (np.ones(1), {"sampling_rate": 192000}, "`audio` is empty at 24000 Hz: it has 1 samples"),
        (music(1.0), {"layer": 9}, "`layer` must be between"),
        (music(1.0), {"batch_size": 0}, "`batch_size` must be"),
        (music(1.0), {"window_seconds": 0.01}, "`window_seconds` must be at least 0.12, got 0.01"),
        (music(1.0), {"window_seconds": float("inf")}, "`window_seconds` must be a number of seconds, got inf"),
        (music(1.0), {"window_seconds": float("nan")}, "`window_seconds` must be a number of seconds, got nan"),
        (music(1.0), {"overlap_seconds": float("nan")}, "`overlap_seconds` must be at least 0 and less.*got nan"),
        (music(1.0), {"window_seconds": 5.0, "overlap_seconds": 5.0}, "overlap"),
    ],
)
def test_wrong_requests(tiny_model, audio, settings, message):
    with pytest.raises(ValueError, match=message):
        embed(tiny_model, audio, **{"sampling_rate": RATE} | settings)


def test_songs_of_many_lengths_in_batches(tiny_model):
    songs = {name: music(seconds, seed=name) for name, seconds in enumerate([0.3, 9.0, 2.0, 0.05, 14.2, 2.1])}
    settings = WindowSettings(window_seconds=4.0, overlap_seconds=1.0, batch_size=4)
    found = dict(embed_songs(tiny_model, songs.items(), settings))
    assert found.keys() == songs.keys()
    for name, audio in songs.items():
        expected = embed(tiny_model, audio, RATE, window_seconds=4.0, overlap_seconds=1.0).frames
        torch.testing.assert_close(found[name].frames, expected, rtol=0, atol=1e-5)


def test_threads_that_embed_with_a_model_in_train_mode(tiny_model):
    """The mode is that of before when the last of them ends, and none of them sees another one."""
    tiny_model.train()
    audio, expected = music(1.0), embed(tiny_model, music(1.0), RATE).frames
    began, forward = threading.Barrier(3), tiny_model.layers[0].forward

    def wait(*args, **kwargs):
        began.wait(30)  # all threads are in the model
        result = forward(*args, **kwargs)
        assert not tiny_model.layers[1].training
        return result

    tiny_model.layers[0].forward = wait
    with ThreadPoolExecutor(3) as pool:
        for frames in pool.map(lambda _: embed(tiny_model, audio, RATE).frames, range(9)):
            torch.testing.assert_close(frames, expected, rtol=0, atol=1e-6)
    assert tiny_model.training
    assert tiny_model.layers[1].training


# Catalogs


@pytest.fixture
def folder(tmp_path):
    """Three songs, a text file in disguise, a truncated song and one that is too short."""
    source = tmp_path / "music"
    (source / "more").mkdir(parents=True)
    soundfile.write(source / "a.wav", music(2.0), RATE, "FLOAT")
    soundfile.write(source / "a.flac", music(1.0, 44100), 44100)
    soundfile.write(source / "more" / "b.ogg", music(1.5, 44100), 44100)
    (source / "c.mp3").write_text("no music here")
    soundfile.write(source / "d.wav", music(4.0), RATE)
    content = (source / "d.wav").read_bytes()
    (source / "d.wav").write_bytes(content[: len(content) // 2])
    soundfile.write(source / "e.wav", music(0.01), RATE)
    (source / "cover.jpg").write_bytes(b"x")
    return source


SETTINGS = WindowSettings(batch_size=2)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_catalog(tiny_model, folder, tmp_path, num_workers):
    output = tmp_path / "out"
    note = {"model": "tiny", "revision": "1"}
    problems = embed_files(
        tiny_model, list_sources(folder), output, SETTINGS, "none", note, num_workers, progress=False
    )
    written = sorted(path.relative_to(output).as_posix() for path in output.rglob("*"))
    assert written == [
        "a.flac.safetensors", "a.wav.safetensors", "d.wav.safetensors", "more", "more/b.ogg.safetensors",
    ]  # fmt: skip
    reasons = dict(problems)
    assert reasons.keys() == {"c.mp3", "d.wav", "e.wav"}
    assert "not audio" in reasons["c.mp3"]
    assert "is truncated" in reasons["d.wav"]
    assert "240 samples" in reasons["e.wav"]

    tensors = load_file(output / "a.wav.safetensors")
    torch.testing.assert_close(tensors["embeddings"], embed(tiny_model, music(2.0), RATE).frames, rtol=0, atol=1e-5)
    assert tensors["times"].tolist() == [k / 25 for k in range(50)]
    with safe_open(output / "a.wav.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata == {
        "model": "tiny", "revision": "1", "layer": "3", "frame_rate": "25.0", "pool": "none", "dtype": "float32",
        "window_seconds": "30.0", "overlap_seconds": "5.0", "source": str(folder / "a.wav"), "format": "1",
        "source_place": str(folder / "a.wav"), "source_state": audio_state(folder / "a.wav"),
        "weights": weights_digest(tiny_model),
    }  # fmt: skip


def test_a_second_run_does_what_is_left(tiny_model, folder, tmp_path):
    output = tmp_path / "out"
    sources = list_sources(folder)

    def run(**changes):
        arguments = {"settings": SETTINGS, "pool": "mean", "metadata": {"revision": "1"}} | changes
        embed_files(tiny_model, sources, output, num_workers=0, progress=False, **arguments)
        return {path.name: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")}

    first = run()
    assert run() == first
    (output / "a.wav.safetensors").unlink()
    second = run()
    assert {name for name in second if second[name] != first[name]} == {"a.wav.safetensors"}
    assert run(metadata={"revision": "2"}) == second  # the weights are the same
    for changes in ({"pool": 2.0}, {"settings": WindowSettings(layer=1)}):
        third = run(**changes)
        assert all(third[name] != second[name] for name in second)
        second = third


def test_the_source_of_audio_in_memory_is_its_name(tiny_model, folder, tmp_path):
    embed_files(tiny_model, [("a", (folder / "a.wav").read_bytes())], tmp_path, SETTINGS, num_workers=0)
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert file.metadata()["source"] == "a"


def embedded(model, source, output) -> dict[str, tuple[int, torch.Tensor]]:
    """Embed a catalog once more; the files, with the time of their change and their content."""
    embed_files(model, list_sources(source), output, SETTINGS, "mean", num_workers=0, progress=False)
    paths = sorted(output.rglob("*.safetensors"))
    return {path.name: (path.stat().st_mtime_ns, load_file(path)["embeddings"]) for path in paths}


def assert_embeds(model, tensor, audio):
    torch.testing.assert_close(tensor, embed(model, audio, RATE).frames.mean(0), rtol=0, atol=1e-5)


def test_another_folder_with_the_same_names(tiny_model, tmp_path):
    """Every song has a file, which is found again in whatever order the folders come."""
    for number, folder in enumerate("xyx"):
        (tmp_path / folder).mkdir(exist_ok=True)
        soundfile.write(tmp_path / folder / "a.wav", music(1.0 + number % 2, seed=number % 2), RATE, "FLOAT")
    names = ["a.wav-2.safetensors", "a.wav.safetensors"]
    first = embedded(tiny_model, tmp_path / "x", tmp_path / "out")
    assert list(first) == names[1:]
    second = embedded(tiny_model, tmp_path / "y", tmp_path / "out")
    assert list(second) == names
    assert second[names[1]][0] == first[names[1]][0]
    assert_embeds(tiny_model, second[names[1]][1], music(1.0))
    assert_embeds(tiny_model, second[names[0]][1], music(2.0, seed=1))
    for folder in ("x", "y"):
        again = embedded(tiny_model, tmp_path / folder, tmp_path / "out")
        assert {name: time for name, (time, _) in again.items()} == {name: time for name, (time, _) in second.items()}


@pytest.mark.parametrize("change", ["content", "time", "weights"])
def test_what_has_changed_is_embedded_again(tiny_model, tmp_path, change):
    """Another song under the same name; one that was written again; and other weights. What is equal stays."""
    (tmp_path / "in").mkdir()
    for name in "ab":
        soundfile.write(tmp_path / "in" / f"{name}.wav", music(1.0), RATE, "FLOAT")
    first = embedded(tiny_model, tmp_path / "in", tmp_path / "out")
    model = tiny_model
    if change == "content":
        soundfile.write(tmp_path / "in/a.wav", music(1.0, seed=5), RATE, "FLOAT")
        assert (tmp_path / "in/a.wav").stat().st_size == (tmp_path / "in/b.wav").stat().st_size
    elif change == "time":
        os.utime(tmp_path / "in/a.wav", (1, 1))
    else:
        model = copy.deepcopy(tiny_model)
        with torch.no_grad():
            next(model.layers[2].parameters()).add_(0.5)
    second = embedded(model, tmp_path / "in", tmp_path / "out")
    assert second.keys() == first.keys()
    made_again = {name[0] for name in first if first[name][0] != second[name][0]}
    assert made_again == ({"a", "b"} if change == "weights" else {"a"})
    assert_embeds(model, second["a.wav.safetensors"][1], music(1.0, seed=5 if change == "content" else 0))


def test_rows_that_have_changed_are_embedded_again(tiny_model, tmp_path):
    """A row with other bytes; a row that names a file that was replaced; and a row of another data set."""
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", music(1.0, seed=number), RATE, "FLOAT")
    content = [(tmp_path / f"{number}.wav").read_bytes() for number in range(3)]

    def run(folder, *rows):
        Dataset.from_dict({"audio": [{"bytes": None, "path": None} | row for row in rows]}).save_to_disk(folder)
        return embedded(tiny_model, folder, tmp_path / "out")

    path = str(tmp_path / "2.wav")
    first = run(tmp_path / "data", {"bytes": content[0]}, {"bytes": content[1]}, {"path": path})
    assert run(tmp_path / "data", {"bytes": content[0]}, {"bytes": content[1]}, {"path": path}).keys() == first.keys()
    shutil.copy(tmp_path / "1.wav", path)
    second = run(tmp_path / "data", {"bytes": content[0]}, {"bytes": content[2]}, {"path": path})
    changed = [name for name in first if first[name][0] != second[name][0]]
    assert changed == ["0000001.safetensors", "0000002.safetensors"]
    assert_embeds(tiny_model, second["0000001.safetensors"][1], music(1.0, seed=2))
    assert_embeds(tiny_model, second["0000002.safetensors"][1], music(1.0, seed=1))
    third = run(tmp_path / "other", {"bytes": content[2]})
    assert third["0000000.safetensors"][0] == second["0000000.safetensors"][0]
    assert_embeds(tiny_model, third["0000000-2.safetensors"][1], music(1.0, seed=2))


def test_embeddings_without_a_record_are_made_again(tiny_model, tmp_path):
    """Those of version 0.1 say neither of what nor with which weights they were made."""
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in/a.wav", music(1.0), RATE, "FLOAT")
    embedded(tiny_model, tmp_path / "in", tmp_path / "out")
    path = tmp_path / "out/a.wav.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    old = {name: value for name, value in metadata.items() if name not in ("weights", "format", "source_place")}
    save_file({"embeddings": torch.zeros(32)}, path, old)
    assert_embeds(tiny_model, embedded(tiny_model, tmp_path / "in", tmp_path / "out")[path.name][1], music(1.0))


def test_digest_of_weights(tiny_model, tmp_path):
    """Offloaded weights have the digest of the same weights in memory; the scale of an adapter counts."""
    tiny_model.save_pretrained(tmp_path / "model")
    places = {"subsampling": "disk", "layers": "disk", "layer_norm": "disk", "log_mel": "cpu"}
    offloaded = AutoModel.from_pretrained(tmp_path / "model", device_map=places, offload_folder=tmp_path / "offload")
    assert next(offloaded.layers.parameters()).is_meta
    assert weights_digest(offloaded) == weights_digest(tiny_model)
    peft = pytest.importorskip("peft")
    digests = set()
    for scale in (1, 2):
        torch.manual_seed(0)
        lora = peft.LoraConfig(target_modules=["q_proj"], lora_alpha=scale, init_lora_weights=False)
        adapted = peft.get_peft_model(copy.deepcopy(tiny_model), lora)
        digests.add(weights_digest(adapted.get_base_model()))
        adapted.base_model.disable_adapter_layers()
        digests.add(weights_digest(adapted.get_base_model()))
    assert len(digests) == 4


def test_crash_leftovers_and_earlier_problems(tiny_model, folder, tmp_path):
    arguments = (tiny_model, list_sources(folder), tmp_path / "out", SETTINGS, "mean")
    first = embed_files(*arguments, num_workers=0, progress=False)
    (tmp_path / "out/a.wav.safetensors").write_bytes(b"")
    second = embed_files(*arguments, num_workers=0, progress=False)
    assert sorted(second) == sorted(first)
    assert {name for name, _ in first} == {"c.mp3", "d.wav", "e.wav"}
    assert load_file(tmp_path / "out/a.wav.safetensors")["embeddings"].shape == (32,)


def test_odd_file_names(tiny_model, folder, tmp_path):
    latin = os.fsdecode(b"caf\xe9.wav")
    shutil.copy(folder / "a.wav", folder / latin)
    shutil.copy(folder / "a.wav", folder / f"{'n' * 250}.wav")
    problems = embed_files(tiny_model, list_sources(folder), tmp_path / "out", SETTINGS, num_workers=0, progress=False)
    assert (tmp_path / f"out/{latin}.safetensors").is_file()
    assert "too long" in dict(problems)[f"{'n' * 250}.wav"]


def test_names_that_begin_with_several_dots_are_titles(tmp_path):
    names = ["...And Justice for All/01.wav", "..one more.wav", "song.wav"]
    hidden = [".hidden.wav", "._song.wav", ".folder/song.wav", "....And Justice for All.1a2b.part", ".trash/..one.wav"]
    for name in names + hidden:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [name for name, _ in list_sources(tmp_path)] == names


def test_lists_are_in_utf8(tmp_path):
    (tmp_path / "songs.txt").write_bytes("café.wav\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"songs.txt is not text in UTF-8"):
        list_sources(tmp_path / "songs.txt")


def test_a_song_that_is_too_long_for_memory_is_a_problem(folder):
    def fail(waveform):
        raise MemoryError

    loader = SongLoader([("a", str(folder / "a.wav"))], RATE, transform=fail)
    assert list(loader) == []
    assert loader.unusable == [("a", f"{folder / 'a.wav'} is too long to be decoded in the memory that is left.")]


def test_pooling(tiny_model, folder, tmp_path):
    sources = [("a", str(folder / "a.wav"))]
    full = embed(tiny_model, music(2.0), RATE).frames
    for pool, expected in (("mean", full.mean(0)), (4.0, average_frames(full[None].float(), 25.0, 4.0)[0])):
        embed_files(tiny_model, sources, tmp_path / str(pool), SETTINGS, pool, num_workers=0, progress=False)
        tensors = load_file(tmp_path / str(pool) / "a.safetensors")
        torch.testing.assert_close(tensors["embeddings"], expected, rtol=0, atol=1e-5)
        assert ("times" in tensors) == (pool != "mean")


def test_a_failed_write_leaves_nothing(tiny_model, folder, tmp_path, monkeypatch):
    def disk_full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("musicfm_hf.training.files.save_file", disk_full)
    with pytest.raises(OSError, match="No space left"):
        embed_files(tiny_model, [("a", str(folder / "a.wav"))], tmp_path / "out", SETTINGS, num_workers=0)
    assert list((tmp_path / "out").iterdir()) == []


def test_sources(folder, tmp_path):
    assert [name for name, _ in list_sources(folder)] == [
        "a.flac", "a.wav", "c.mp3", "d.wav", "e.wav", "more/b.ogg",
    ]  # fmt: skip
    listing = tmp_path / "songs.txt"
    listing.write_text(f"\ufeffmusic/a.wav\n\n{folder / 'more' / 'b.ogg'}\n", encoding="utf-8")
    assert list_sources(listing) == [
        ("music/a.wav", str(folder / "a.wav")),
        ("music/more/b.ogg", str(folder / "more/b.ogg")),
    ]
    (tmp_path / "lists").mkdir()
    listing = listing.rename(tmp_path / "lists/songs.txt")
    listing.write_text("../music/a.wav\n../music/more/b.ogg\n")
    assert [name for name, _ in list_sources(listing)] == ["a.wav", "more/b.ogg"]
    listing.write_text("../music/a\u2028\x85b.wav \r\n../music/c.wav", encoding="utf-8")
    assert [name for name, _ in list_sources(listing)] == ["a\u2028\x85b.wav", "c.wav"]
    assert list_sources(folder / "a.wav") == [("a.wav", str(folder / "a.wav"))]
    (folder / "folder.wav").mkdir()
    for name in ("._a.wav", ".trash/b.wav", "__MACOSX/more/._b.ogg", "more/.a.wav.0f.part"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(b"note")
    assert len(list_sources(folder)) == 6
    assert len(list_sources(shutil.copytree(folder, tmp_path / ".hidden/music"))) == 6
    assert list_sources(folder / "._a.wav") == [("._a.wav", str(folder / "._a.wav"))]  # as asked for
    with pytest.raises(FileNotFoundError, match="nothing does not exist"):
        list_sources(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no audio"):
        list_sources(tmp_path / "empty")


def test_a_folder_that_does_not_exist_is_named(monkeypatch):
    """Its path may also be the ID of a data set."""

    def fail(name):
        raise ConnectionError("no hub")

    monkeypatch.setattr("datasets.load_dataset", fail)
    with pytest.raises(FileNotFoundError, match=r"^musik/rock is neither a file or folder nor .* finds \(no hub\)"):
        list_sources("musik/rock")


def test_wrong_catalogs_are_refused_before_any_work(tiny_model, tmp_path):
    for sources, settings, pool, message in [
        ([("a", "x"), ("a", "y")], SETTINGS, "none", "Two sources are named 'a'"),
        ([("../a", "x")], SETTINGS, "none", "leads out of the folder"),
        ([("/a", "x")], SETTINGS, "none", "leads out of the folder"),
        ([("a", "x")], SETTINGS, "maen", "`pool` must be 'none', 'mean', or a rate above 0 and up to 1000 Hz"),
        ([("a", "x")], SETTINGS, -1.0, "`pool` must be"),
        ([("a", "x")], SETTINGS, float("inf"), "`pool` must be .* got inf"),
        ([("a", "x")], WindowSettings(layer=7), "none", "`layer` must be between 0 and 3, got 7"),
    ]:
        with pytest.raises(ValueError, match=message):
            embed_files(tiny_model, sources, tmp_path / "out", settings, pool)
    assert not (tmp_path / "out").exists()


def test_data_set(tiny_model, folder, tmp_path):
    content = (folder / "a.wav").read_bytes()
    rows = [{"bytes": content, "path": "a.wav"}, {"bytes": b"", "path": "bad.wav"}]
    data = Dataset.from_dict({"audio": rows, "other": rows, "text": ["x", "y"]}).cast_column("other", Audio())
    data.save_to_disk(tmp_path / "data")
    sources = list_sources(tmp_path / "data")
    assert [name for name, _ in sources] == ["0000000", "0000001"]
    assert isinstance(sources[0][1], DatasetAudio)
    problems = embed_files(tiny_model, sources, tmp_path / "out", SETTINGS, num_workers=0, progress=False)
    assert [name for name, _ in problems] == ["0000001"]
    with safe_open(tmp_path / "out/0000000.safetensors", "pt") as file:
        assert file.metadata()["source"] == "a.wav"
        assert file.get_tensor("embeddings").shape == (50, 32)
    with pytest.raises(ValueError, match="no column `sound`, only audio, other, text"):
        list_sources(tmp_path / "data", "sound")
