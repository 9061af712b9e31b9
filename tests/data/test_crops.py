import io
import json
import os
import random
import shutil
import tarfile
import threading
import zlib

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from helpers.audio import music

from musicfm_hf import load_audio
from musicfm_hf.audio import reading as audio
from musicfm_hf.audio.reading import read_part
from musicfm_hf.data.catalog import list_sources
from musicfm_hf.data.crop_reader import CropReader, CropReference
from musicfm_hf.data.crops import CropLoader, collate_crops, fixed_crops
from musicfm_hf.data.sources import ListedSource, open_source
from musicfm_hf.data.splits import split_by_name
from musicfm_hf.data.streams import StreamedSource

RATE = 24000
SONGS = 12
STEP = 0.01  # the level of song k is between k + 1 and k + 1.5 times this
SLOPE = 5e-7  # and rises with every sample
CROP = {"crop_seconds": 0.1, "batch_size": 2}  # 2400 samples


def song(number: int, seconds: float = 0.4) -> np.ndarray:
    return (STEP * (number + 1) + SLOPE * np.arange(round(seconds * RATE))).astype(np.float32)


def content(number: int, format: str = "WAV", subtype: str = "FLOAT") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, song(number), RATE, subtype, format=format)
    return file.getvalue()


def songs_of(batches) -> list[int]:
    return [int(crop.mean() // STEP) - 1 for batch in batches for crop in batch["input_values"]]


def take(loader, number: int) -> list[dict]:
    iterator = iter(loader)
    batches = [next(iterator) for _ in range(number)]
    iterator.close()
    return batches


def assert_equal(batches, expected) -> None:
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            assert batch[name].dtype == other[name].dtype
            assert batch[name].equal(other[name]), name


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The same twelve songs as files, as a saved data set, in three `.parquet` files and in three tar shards."""
    root = tmp_path_factory.mktemp("data")
    (root / "files").mkdir()
    rows = []
    for number in range(SONGS):
        kind = ("WAV", "FLOAT") if number % 2 else ("FLAC", "PCM_24")
        name = f"{number:02d}.{kind[0].lower()}"
        (root / "files" / name).write_bytes(content(number, *kind))
        rows.append({"bytes": content(number, *kind), "path": name})
    datasets.Dataset.from_dict({"audio": rows}).save_to_disk(root / "saved")
    (root / "parquet [1]").mkdir()
    (root / "tar").mkdir()
    for shard, part in enumerate((rows[:3], rows[3:7], rows[7:])):
        table = pa.table({"text": ["x"] * len(part), "audio": part})
        pq.write_table(table, root / f"parquet [1]/{shard}.parquet", row_group_size=2)
        with tarfile.open(root / f"tar/{shard}.tar", "w") as archive:
            for row in part:
                for name, text in ((row["path"], row["bytes"]), (row["path"][:2] + ".json", b"{}")):
                    member = tarfile.TarInfo(name)
                    member.size = len(text)
                    archive.addfile(member, io.BytesIO(text))
    return root


@pytest.fixture
def listed(data):
    return open_source(data / "files")


KINDS = ["files", "saved", "parquet", "tar", "Hub", "paths", "mixed"]


@pytest.fixture(scope="module")
def sources(data):
    """Sources of every kind, all of the same songs."""
    parquet = {"data_files": {"train": str(data / "parquet [[]1]/*")}, "streaming": True}
    column = datasets.Audio()
    hub = datasets.load_dataset("parquet", **parquet)
    hub["train"] = hub["train"].cast_column("audio", column)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_dataset", lambda name, streaming: hub)
        from_hub = open_source("someone/songs", streaming=True, block_songs=4)
    paths = [{"sound": str(path)} for path in sorted((data / "files").iterdir())]
    by_path = datasets.Dataset.from_list(paths).to_iterable_dataset(num_shards=3)
    opened = {
        "files": open_source(data / "files"),
        "saved": open_source(data / "saved"),
        "parquet": open_source(data / "parquet [1]", block_songs=4),
        "tar": open_source(str(data / "tar" / "*.tar"), block_songs=4),
        "Hub": from_hub,
        "paths": open_source(by_path, audio_column="sound", block_songs=4),
    }
    opened = {kind: ([source], None) for kind, source in opened.items()}
    opened["mixed"] = ([opened["files"][0][0], opened["tar"][0][0]], [1.0, 2.0])
    return opened


# The stream


def test_the_stream_depends_on_the_seed_alone(listed):
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    expected = take(CropLoader([listed], **CROP, seed=3), 8)
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert torch.get_rng_state().equal(states[2])
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    assert_equal(take(CropLoader([listed], **CROP, seed=3), 8), expected)
    assert_equal(take(CropLoader([listed], **CROP, seed=3, num_workers=2), 8), expected)
    assert expected[0].keys() == {"input_values", "seeds"}
    assert expected[0]["input_values"].shape == (2, 2400)
    assert expected[0]["input_values"].dtype == torch.float32
    seeds = torch.cat([batch["seeds"] for batch in expected])
    assert seeds.dtype == torch.int64
    assert len(seeds.unique()) == 16
    other = take(CropLoader([listed], **CROP, seed=4), 8)
    assert songs_of(other) != songs_of(expected)
    assert not set(torch.cat([batch["seeds"] for batch in other]).tolist()) & set(seeds.tolist())


def start_of(crop, number: int) -> int:
    """The place of a crop in its song, by its level."""
    return round((float(crop[0]) - STEP * (number + 1)) / SLOPE)


def test_a_crop_is_a_part_of_its_song(listed):
    starts = []
    for batch in take(CropLoader([listed], **CROP), 60):
        for crop, number in zip(batch["input_values"], songs_of([batch]), strict=True):
            start = start_of(crop, number)
            expected = song(number)[start : start + 2400]
            np.testing.assert_allclose(crop, expected, rtol=0, atol=0 if number % 2 else 1e-6)
            starts.append(start)
    # Spread evenly over the places where a crop fits.
    counts, _ = np.histogram(starts, 4, (0, 0.4 * RATE - 2400))
    assert counts.sum() == 120
    assert counts.min() > 30 - 3 * 4.8  # standard deviations


def test_songs_places_and_seeds_of_earlier_versions(listed):
    """A run of version 0.1.0 resumes exactly: crops are drawn as it drew them."""
    recorded = [
        (0, 6717, 6972243501723892456),
        (4, 4921, 396671050602442224),
        (11, 1376, 1986640081639575482),
        (1, 218, 8972613508770738651),
        (2, 1607, 1217030275720699616),
        (5, 1813, 7206102051191514956),
        (10, 5731, 9168317562506836906),
        (7, 5042, 1506679173668474813),
    ]
    batches = take(CropLoader([listed], **CROP, seed=3), 4)
    crops = torch.cat([batch["input_values"] for batch in batches])
    seeds = torch.cat([batch["seeds"] for batch in batches]).tolist()
    drawn = zip(songs_of(batches), crops, seeds, strict=True)
    assert [(number, start_of(crop, number), seed) for number, crop, seed in drawn] == recorded


def test_every_song_once_a_pass_over_all_ranks(listed):
    whole = take(CropLoader([listed], crop_seconds=0.1, batch_size=6), 6)
    for world_size in (1, 2, 3):
        options = {"crop_seconds": 0.1, "batch_size": 6 // world_size, "world_size": world_size}
        ranks = [take(CropLoader([listed], **options, rank=rank), 6) for rank in range(world_size)]
        for step, batches in enumerate(zip(*ranks, strict=True)):
            # Rank r has the crops whose number is r modulo the number of ranks.
            joined = torch.stack([batch["input_values"] for batch in batches], 1).flatten(0, 1)
            assert joined.equal(whole[step]["input_values"])
    passes = np.reshape(songs_of(whole), (3, SONGS))
    for songs in passes:
        assert sorted(songs) == list(range(SONGS))
    assert len({tuple(songs) for songs in passes}) == 3


def test_weights(data, listed, tmp_path):
    shutil.copytree(data / "files", tmp_path / "more")
    sources = [listed, ListedSource(list_sources(data / "files")[:1], "one"), open_source(tmp_path / "more")]

    def shares(weights) -> np.ndarray:
        """The share of each source among 2000 crops."""
        loader = CropLoader(sources, weights, crop_seconds=0.1, batch_size=500)
        take(loader, 4)
        drawn = loader.state_dict()["drawn"]
        assert sum(drawn) == 2000
        return np.array(drawn) / 2000

    # Three standard deviations are 0.03.
    found = shares([3.0, 1.0, 0.0])
    assert found[2] == 0
    assert abs(found[0] - 0.75) < 0.03
    np.testing.assert_allclose(shares(None), [12 / 25, 1 / 25, 12 / 25], atol=0.034)  # by their numbers of songs


@pytest.mark.parametrize("kind", KINDS)
def test_resuming_goes_on_exactly(sources, kind):
    """Everywhere in three passes; blocks of a stream end after 4, 8, 12, 16, … songs, batches after 2, 4, …"""
    opened, weights = sources[kind]
    loader = CropLoader(opened, weights, **CROP, seed=5)
    iterator, batches, states = iter(loader), [], [loader.state_dict()]
    for _ in range(18):
        batches.append(next(iterator))
        states.append(json.loads(json.dumps(loader.state_dict())))
    iterator.close()
    if kind != "mixed":
        passes = np.reshape(songs_of(batches), (3, SONGS)).tolist()
        assert all(sorted(songs) == list(range(SONGS)) for songs in passes)
        assert len({tuple(songs) for songs in passes}) == 3
    for k in range(len(batches) - 2):
        resumed = CropLoader(opened, weights, **CROP, seed=5)
        resumed.load_state_dict(states[k])
        assert_equal(take(resumed, 3), batches[k : k + 3])
    state = states[0]
    for batch in batches:  # an interruption after every batch
        resumed = CropLoader(opened, weights, **CROP, seed=5)
        resumed.load_state_dict(state)
        assert_equal(take(resumed, 1), [batch])
        state = resumed.state_dict()
    for k in (5, 13):
        resumed = CropLoader(opened, weights, **CROP, seed=5, num_workers=2)
        resumed.load_state_dict(states[k])
        assert_equal(take(resumed, 4), batches[k : k + 4])  # and the workers had more in hand
        assert resumed.state_dict()["position"] == states[k + 4]["position"]
        assert_equal(take(resumed, 1), batches[k + 4 : k + 5])  # a second iteration goes on as well


# Streams


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_ranks_share_the_shards_of_a_pass(sources, kind):
    """Shards of 3, 4 and 5 songs for two ranks: one has two of them, one has one, and neither waits."""
    opened, _ = sources[kind]
    options = {"crop_seconds": 0.1, "batch_size": 1, "world_size": 2}
    songs, ends, shards = [], [], [{0, 1, 2}, {3, 4, 5, 6}, {7, 8, 9, 10, 11}]
    for rank in range(2):
        loader = CropLoader(opened, **options, rank=rank)
        iterator, states, drawn = iter(loader), [], []
        for _ in range(30):
            drawn += songs_of([next(iterator)])
            states.append(loader.state_dict())
        iterator.close()
        passes = [state["streams"][0]["pass"] for state in states]
        assert passes[-1] > 2
        songs.append([[song for song, number in zip(drawn, passes, strict=True) if number == n] for n in range(3)])
        ends.append([[shard for shard in shards if shard & set(part)] for part in songs[-1]])
        resumed = CropLoader(opened, **options, rank=rank)
        for k in (5, 16):
            resumed.load_state_dict(states[k])
            assert songs_of(take(resumed, 8)) == drawn[k + 1 : k + 9]
    for first, second in zip(*songs, strict=True):
        assert sorted(first + second) == list(range(SONGS))
    assert all(len(first) == 2 and len(second) == 1 for first, second in zip(*ends, strict=True))
    assert len({str(second) for second in ends[1]}) > 1  # passes divide the shards anew
    with pytest.raises(ValueError, match="The state is from rank 1, but this is rank 0"):
        CropLoader(opened, **options, rank=0).load_state_dict(states[0])
    with pytest.raises(ValueError, match="has 3 shards for 4 ranks"):
        CropLoader(opened, **CROP, world_size=4)


def test_blocks_are_shuffled_and_read_ahead_in_a_thread(sources, monkeypatch):
    """Songs leave a block in another order than they came, and at most one further block is read."""
    opened, _ = sources["tar"]
    read = []
    monkeypatch.setattr(StreamedSource, "song", lambda self, row: read.append(row) or (None, row["audio"]))
    iterator = iter(CropLoader(opened, crop_seconds=0.1, batch_size=1, num_workers=1))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("SongStream")]
    drawn = songs_of([next(iterator)])
    assert [thread for thread in threading.enumerate() if thread.name.startswith("SongStream")]
    drawn += songs_of(next(iterator) for _ in range(11))
    iterator.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("SongStream")]
    came = [int(row["audio"]["path"].split("/")[1][:2]) for row in read]
    assert [sorted(drawn[block : block + 4]) for block in (0, 4, 8)] == [
        sorted(came[block : block + 4]) for block in (0, 4, 8)
    ]
    assert drawn != came[:12]
    assert len(came) <= 24


def test_what_goes_wrong_in_the_thread_is_raised(data, tmp_path):
    shutil.copy(data / "tar/0.tar", tmp_path)
    whole = (data / "tar/1.tar").read_bytes()
    (tmp_path / "1.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"1\.tar is not a tar file that can be read to its end"):
        take(CropLoader([open_source(tmp_path)], **CROP), 12)
    with tarfile.open(tmp_path / "1.tar", "w"):
        pass
    with pytest.raises(ValueError, match="has no songs for this rank"):
        take(CropLoader([open_source(tmp_path / "1.tar")], **CROP), 1)
    batches = take(CropLoader([open_source(tmp_path)], crop_seconds=0.1, batch_size=3, world_size=2), 4)
    assert set(songs_of(batches)) == {0, 1, 2}  # though in some passes the rank has the empty shard
    encoded = datasets.IterableDataset.from_generator(
        lambda: iter([{"audio": {"bytes": b"x"}}]), datasets.Features({"audio": datasets.Audio()})
    )
    with pytest.raises(ImportError, match="Download its files and open the folder"):
        take(CropLoader([open_source(encoded)], **CROP), 1)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("SongStream")]


def test_hidden_files_are_not_streamed(data, tmp_path):
    """In shards, and shards themselves."""
    (tmp_path / "__MACOSX").mkdir()
    shutil.copy(data / "tar/0.tar", tmp_path / "__MACOSX/0.tar")
    shutil.copy(data / "tar/0.tar", tmp_path / ".0.tar")
    with tarfile.open(tmp_path / "1.tar", "w") as archive:
        for name in ("./a.wav", "._a.wav", ".trash/b.wav", "__MACOSX/c.wav", "d/.e.wav", "d/f.wav"):
            member = tarfile.TarInfo(name)
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    source = open_source(tmp_path)
    assert [row["audio"]["path"] for row in source.dataset] == ["1.tar/./a.wav", "1.tar/d/f.wav"]


def test_wrong_sources(data, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_source(tmp_path / "*.tar")
    with pytest.raises(ValueError, match="no column `sound`, only text, audio"):
        open_source(data / "parquet [1]", audio_column="sound")
    with pytest.raises(ValueError, match="numbers` of the stream must hold audio files, got"):
        open_source(datasets.Dataset.from_dict({"numbers": [1]}).to_iterable_dataset(), audio_column="numbers")
    shutil.copy(data / "tar/0.tar", tmp_path)
    shutil.copy(data / "files/00.flac", tmp_path)
    with pytest.raises(ValueError, match=r"mixes kinds of files \(1 of tar, 1 of audio\)"):
        open_source(tmp_path)
    with pytest.raises(TypeError, match=r"must be a path, an id or a `datasets\.IterableDataset`"):
        open_source(3)
    with pytest.raises(ValueError, match="songs has no songs"):
        ListedSource([])
    splits = datasets.IterableDatasetDict({"a": None, "b": None})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_dataset", lambda name, streaming: splits)
        with pytest.raises(ValueError, match="has no split `train`, only a, b"):
            open_source("someone/songs", streaming=True)


# Songs that cannot be used


@pytest.fixture
def bad(tmp_path):
    """One song, and one of every kind that is none; with what is said of them."""
    folder = tmp_path / "bad"
    folder.mkdir()
    soundfile.write(folder / "good.wav", song(0), RATE, "FLOAT")
    (folder / "text.mp3").write_text("no music here")
    (folder / "empty.wav").touch()
    soundfile.write(folder / "short.wav", song(0, 0.09), RATE)
    soundfile.write(folder / "silent.wav", np.full(9600, 9e-5), RATE, "FLOAT")
    soundfile.write(folder / "nan.wav", np.full(9600, np.nan), RATE, "FLOAT")
    soundfile.write(folder / "broken.flac", music(4.0), RATE)
    whole = (folder / "broken.flac").read_bytes()
    (folder / "broken.flac").write_bytes(whole[: len(whole) // 2])
    (folder / "gone.wav").symlink_to(folder / "nothing.wav")
    return folder


def test_placeholders(bad, tmp_path):
    songs = [*list_sources(bad), ("gone.wav", str(bad / "gone.wav"))]
    loader = CropLoader([ListedSource(songs, "bad")], crop_seconds=0.1, batch_size=8, num_workers=2)
    batches = take(loader, 4)
    noises = {}
    for batch in batches:
        for crop, mask, seed in zip(
            *(batch[name] for name in ("input_values", "attention_mask", "seeds")), strict=True
        ):
            if mask.sum() == 2400:  # a crop that can be used
                assert crop.abs().mean() > 0.01
                continue
            assert mask.dtype == torch.int64
            assert mask.tolist() == [1] * 1025 + [0] * 1375
            assert abs(crop[:1025].std() - 0.1) < 0.01
            assert not crop[1025:].any()
            noises[int(seed)] = crop
    assert len({tuple(noise[:4].tolist()) for noise in noises.values()}) == len(noises)  # another one for each seed
    again = CropLoader([ListedSource(songs, "bad")], crop_seconds=0.1, batch_size=8)
    for batch in take(again, 4):
        for crop, seed in zip(batch["input_values"], batch["seeds"].tolist(), strict=True):
            assert seed not in noises or crop.equal(noises[seed])
    # Four passes, each of the bad ones once in the log.
    counts = dict(loader.problems.counts)
    records = {record.name: record for record in loader.problems.records}
    assert records["short.wav"].detail == "has 0.090 s"
    assert records["silent.wav"].reason == "silent"
    assert "NaN" in records["nan.wav"].detail
    assert "does not exist" in records["gone.wav"].detail
    assert counts["too short"] == counts["silent"] == 1
    assert {name for name, record in records.items() if record.reason == "unreadable"} - {"broken.flac"} == {
        "text.mp3", "empty.wav", "nan.wav", "gone.wav",
    }  # fmt: skip
    assert sum(counts.values()) == len(records) == len(loader.problems.records)
    loader.problems.write(tmp_path / "problems.tsv")
    lines = (tmp_path / "problems.tsv").read_text().splitlines()
    assert lines[0] == "source\tname\treason\tdetail"
    assert "bad\tshort.wav\ttoo short\thas 0.090 s" in lines
    assert len(lines) == 1 + len(records)


def test_crops_of_truncated_songs_have_audio(bad):
    """Crops are taken from the audio that exists, and the song is listed."""
    source = ListedSource([("broken.flac", str(bad / "broken.flac"))])
    with pytest.warns(UserWarning, match="is truncated"):
        whole = load_audio(bad / "broken.flac", RATE)
    reader = CropReader([source], 0.1, RATE, 1025)
    windows = np.lib.stride_tricks.sliding_window_view(whole, 2400)
    for seed in range(20):
        item = reader[CropReference(0, 0, seed)]
        assert "problem" not in item
        assert item["damage"].reason == "damaged"
        assert "broken.flac is truncated: its header specifies more than the" in item["damage"].detail
        crop = item["input_values"].numpy()
        assert any(np.array_equal(windows[start], crop) for start in np.flatnonzero(windows[:, 0] == crop[0]))
    loader = CropLoader([source], **CROP)
    take(loader, 3)
    assert [(problem.name, problem.reason) for problem in loader.problems.records] == [("broken.flac", "damaged")]
    validation = fixed_crops(source.songs, 0.1, count=3)
    assert len(validation) == 3
    assert [problem.reason for problem in validation.problems.records] == ["damaged"]
    assert validation[0].keys() == {"input_values", "seeds"}


def test_silence_is_left_for_music_elsewhere_in_the_song(tmp_path):
    values = np.concatenate([np.zeros(48000), music(2.0)])
    soundfile.write(tmp_path / "a.wav", values, RATE, "FLOAT")
    reader = CropReader([open_source(tmp_path)], 0.1, RATE, 1025)
    items = [reader[CropReference(0, 0, seed)] for seed in range(60)]
    loud = [item for item in items if "problem" not in item]
    # A single try would find music half the time, three tries do in seven of eight songs.
    assert 44 <= len(loud) < 60
    for item in loud:
        crop = item["input_values"].numpy()
        windows = np.lib.stride_tricks.sliding_window_view(values.astype(np.float32), 2400)
        assert (windows[:, -1] == crop[-1]).any()
        assert any(np.array_equal(windows[start], crop) for start in np.flatnonzero(windows[:, -1] == crop[-1]))
    assert {item["problem"].reason for item in items if "problem" in item} == {"silent"}


def test_songs_without_a_name(tmp_path):
    rows = [{"bytes": content(0)}, {"bytes": b"nothing"}, None]
    pq.write_table(pa.table({"audio": rows}), tmp_path / "a.parquet")
    loader = CropLoader([open_source(tmp_path / "a.parquet")], **CROP)
    take(loader, 6)
    assert {record.name for record in loader.problems.records} == {
        f"7 bytes, CRC-32 {zlib.crc32(b'nothing'):08x}",
        "0 bytes, CRC-32 00000000",
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["text.mp3", "empty.wav"], r"no file is readable\. 2 unreadable, such as (text|empty)\.\w+: "),
        (["short.wav"], r"every file is shorter than the crop of 0\.1 s \(longest 0\.090 s\)\. 1 too short"),
        (
            ["short.wav", "silent.wav"],
            r"no file has a usable crop of 0\.1 s\. .*1 silent, such as silent\.wav: 3 crops",
        ),
    ],
)
def test_nothing_but_songs_that_cannot_be_used(bad, names, message):
    songs = [(name, str(bad / name)) for name in names]
    with pytest.raises(ValueError, match=f"In songs, {message}"):
        CropLoader([ListedSource(songs)], **CROP).check()
    with pytest.raises(ValueError, match=f"In the songs to validate on, {message}"):
        fixed_crops(songs, 0.1)
    rows = [{"bytes": (bad / name).read_bytes(), "path": name} for name in names]
    streamed = datasets.Dataset.from_dict({"audio": rows}).to_iterable_dataset()
    with pytest.raises(ValueError, match=f"In the stream, {message}"):
        CropLoader([open_source(streamed)], **CROP).check()


def test_check_stops_at_the_first_song_that_can_be_used(data, bad, sources, monkeypatch):
    read = []
    monkeypatch.setattr(
        "musicfm_hf.data.crop_reader.read_part", lambda file, *a: read.append(file.name) or read_part(file, *a)
    )
    (bad / "broken.flac").unlink()
    CropLoader([open_source(bad), open_source(data / "files"), sources["tar"][0][0]], [1, 1, 1], **CROP).check()
    assert [os.path.basename(str(source)) for source in read[:2]] == ["good.wav", "00.flac"]
    assert len(read) == 3


def test_a_crop_reads_little_more_than_itself(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "long.wav", np.tile(music(10.0), 30), RATE, "FLOAT")
    counted = 0

    class Counting(io.FileIO):
        def readinto(self, buffer):
            nonlocal counted
            count = super().readinto(buffer)
            counted += count
            return count

    monkeypatch.setattr(audio, "open", lambda file, mode: Counting(file, mode), raising=False)
    reader = CropReader([open_source(tmp_path)], 1.0, RATE, 1025)
    for seed in range(5):
        assert "problem" not in reader[CropReference(0, 0, seed)]
    crop = 4 * RATE
    assert 5 * crop < counted < 5 * 1.5 * crop  # of 300 times as much


@pytest.mark.parametrize(("rate", "format"), [(44100, "OGG"), (16000, "MP3"), (24000, "FLAC")])
def test_a_song_of_just_one_crop(tmp_path, rate, format):
    path = tmp_path / f"a.{format.lower()}"
    soundfile.write(path, music(2.0, rate), rate)
    reader = CropReader([open_source(path)], 2.0, RATE, 1025)
    item = reader[CropReference(0, 0, 1)]
    assert item["input_values"].shape == (48000,)
    np.testing.assert_array_equal(item["input_values"], load_audio(path, RATE)[:48000])


# Validation


def test_split_by_name():
    songs = [(f"song {number}", number) for number in range(1000)]
    train, validation = split_by_name(songs, 0.1)
    assert len(train) == 897
    assert sorted(train + validation, key=lambda song: song[1]) == songs
    more = [(f"later {number}", number) for number in range(1000)]
    train_more, validation_more = split_by_name(more + songs, 0.1)
    assert set(train) <= set(train_more)
    assert set(validation) <= set(validation_more)
    assert split_by_name(songs, 0.1, seed=1)[1] != validation
    for fraction, message in ((0.0001, "1000 to train on and 0 to validate"), (1.0, "between 0 and 1, got 1.0")):
        with pytest.raises(ValueError, match=message):
            split_by_name(songs, fraction)


def test_fixed_crops(data, bad):
    songs = list_sources(data / "files")
    crops = fixed_crops(songs, 0.1)
    assert len(crops) == SONGS
    assert set(crops.names) == {name for name, _ in songs}
    assert_equal([collate_crops(list(crops))], [collate_crops(list(fixed_crops(songs[::-1], 0.1)))])
    # A song has the same crop, whichever others there are.
    index = crops.names.index("03.wav")
    assert fixed_crops(songs[2:5], 0.1).names != crops.names
    alone = fixed_crops(songs[3:4], 0.1)[0]
    assert alone["input_values"].equal(crops[index]["input_values"])
    assert alone["seeds"] == crops[index]["seeds"]
    assert collate_crops(list(crops)).keys() == {"input_values", "seeds"}
    assert not fixed_crops(songs, 0.1, seed=1)[0]["input_values"].equal(crops[0]["input_values"])

    many = fixed_crops(songs, 0.1, count=29)
    assert many.names == crops.names * 2 + crops.names[:5]
    assert len({item["seeds"] for item in many}) == 29
    assert fixed_crops(songs, 0.1, count=5).names == crops.names[:5]
    loader = torch.utils.data.DataLoader(many, batch_size=7, num_workers=2, collate_fn=collate_crops)
    assert torch.cat([batch["seeds"] for batch in loader]).tolist() == [item["seeds"] for item in many]
    with pytest.raises(ValueError, match="`count` must be at least 1, got 0"):
        fixed_crops(songs, 0.1, count=0)

    few = fixed_crops(list_sources(bad), 0.1, count=4, seed=1)
    assert set(few.names) <= {"good.wav", "broken.flac"}
    assert len(few) == 4
    assert {"short.wav", "silent.wav", "text.mp3"} <= {record.name for record in few.problems.records}
    (bad / "good.wav").unlink()
    (bad / "broken.flac").unlink()
    assert collate_crops([few[0], crops[0]])["attention_mask"].sum(1).tolist() == [1025, 2400]


# The loader


def mark(batch):
    return batch | {"process": os.getpid(), "total": batch["input_values"].sum(1)}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_collate_runs_in_the_worker(listed, num_workers):
    (batch,) = take(CropLoader([listed], **CROP, num_workers=num_workers, collate=mark), 1)
    assert (batch["process"] == os.getpid()) == (num_workers == 0)
    assert batch["total"].equal(batch["input_values"].sum(1))


def test_states_of_other_runs_are_refused(data, listed, tmp_path):
    loader = CropLoader([listed], **CROP, seed=1, world_size=2)
    take(loader, 3)
    state = loader.state_dict()
    shutil.copytree(data / "files", tmp_path / "moved")
    CropLoader([open_source(tmp_path / "moved")], **CROP, seed=1, world_size=2, rank=1).load_state_dict(state)
    fewer = ListedSource(listed.songs[1:])
    for sources, changes, message in [
        ([listed], {"world_size": 3}, "with `world_size` 2, but here it is 3"),
        ([listed], {"batch_size": 3}, "with `batch_size` 2, but here it is 3"),
        ([listed], {"crop_seconds": 1.5}, "with `crop_seconds` .*, but here it is 1.5"),
        ([listed], {"seed": 2}, "with `seed` 1, but here it is 2"),
        ([listed], {"effects": 0.5}, "with `effects` 0.0, but here it is 0.5"),
        ([fewer], {}, r"with `sources` \[\['listed', 12, '.*here it is \[\['listed', 11, "),
    ]:
        other = CropLoader(sources, **CROP | {"seed": 1, "world_size": 2} | changes)
        with pytest.raises(ValueError, match=message):
            other.load_state_dict(state)


def test_states_of_versions_without_effects(listed):
    loader = CropLoader([listed], **CROP)
    take(loader, 1)
    state = loader.state_dict()
    del state["settings"]["effects"]
    CropLoader([listed], **CROP).load_state_dict(state)
    with pytest.raises(ValueError, match=r"with `effects` 0\.0, but here it is 0\.5"):
        CropLoader([listed], **CROP, effects=0.5).load_state_dict(state)


def test_effects_depend_on_the_seed_of_a_crop(listed):
    plain = take(CropLoader([listed], **CROP, seed=3), 6)
    changed = take(CropLoader([listed], **CROP, seed=3, effects=0.6), 6)
    assert_equal(take(CropLoader([listed], **CROP, seed=3, effects=0.6, num_workers=1), 6), changed)
    rows = [
        first.equal(second)
        for batch, other in zip(plain, changed, strict=True)
        for first, second in zip(batch["input_values"], other["input_values"], strict=True)
    ]
    assert 1 <= sum(rows) <= 9  # of 12 crops
    assert all(batch["seeds"].equal(other["seeds"]) for batch, other in zip(plain, changed, strict=True))


def test_wrong_arguments(data, listed, sources):
    for opened, weights, changes, message in [
        ([listed], None, {"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ([listed], None, {"seed": -1}, "`seed` must be at least 0"),
        ([listed], None, {"rank": 2, "world_size": 2}, "`rank` must be at least 0 and less than `world_size`"),
        ([listed], None, {"crop_seconds": 0.04}, r"got 1025 and 0\.04 s, which is 960 samples at 24000 Hz"),
        ([listed], None, {"effects": -0.1}, "`effects` must be a probability from 0 to 1"),
        ([listed], [1.0, 1.0], {}, r"one number for each source \(1\), got 2"),
        ([listed], [-1.0], {}, "0 or more and not all 0"),
        ([listed, *sources["tar"][0]], None, {}, "Pass `weights`"),
        ([], None, {}, "must be at least 1, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            CropLoader(opened, weights, **CROP | changes)
    with pytest.raises(TypeError, match="must come from `open_source`"):
        CropLoader([str(data / "files")], **CROP)
