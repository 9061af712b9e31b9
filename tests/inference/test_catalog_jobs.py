"""Catalogs that several processes embed and annotate into one folder, and that are killed in the middle."""

import json
import os
import shutil
import signal
from contextlib import suppress

import pytest
import soundfile
import torch
from accelerate import PartialState
from helpers.audio import music
from helpers.models import TINY, head, random_model
from helpers.processes import on_ranks
from safetensors.torch import load_file

from musicfm_hf import MusicFMConfig, WindowSettings, embed_files
from musicfm_hf.audio.windows import Window
from musicfm_hf.cli import annotate as annotate_command
from musicfm_hf.data.catalog import list_sources
from musicfm_hf.data.shares import Share
from musicfm_hf.inference import embed_files as embed_files_module
from musicfm_hf.inference.annotate_files import AnnotatedFiles, annotate_files
from musicfm_hf.inference.embedding import _PendingWindow, _PendingWindows

RATE = 24000
SETTINGS = WindowSettings(batch_size=2)
SECONDS = [1.0, 0.5, 2.0, 0.7, 1.5, 0.4]


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """Six songs; two have one name in different formats, and belong to different jobs of two."""
    folder = tmp_path_factory.mktemp("songs")
    for number, seconds in enumerate(SECONDS):
        path = folder / f"{number // 2}.{('wav', 'flac')[number % 2]}"
        soundfile.write(path, music(seconds, seed=number), RATE)
    jobs = [{name for name, _ in chosen(folder, Share(job, 2))} for job in (1, 2)]
    assert any({f"{number}.wav", f"{number}.flac"} <= job for number in range(3) for job in jobs) is False
    return folder


def chosen(folder, share: Share):
    sources = list_sources(folder)
    return [sources[position] for position in share.select(sources)]


def states(folder) -> dict:
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_jobs_embed_into_one_folder(tiny_model, songs, tmp_path):
    sources = list_sources(songs)
    for job in (2, 1):
        share = Share(job, 2)
        embed_files(tiny_model, sources, tmp_path, SETTINGS, num_workers=0, progress=False, share=share)
        mine = {f"{name}.safetensors" for name, _ in chosen(songs, share)}
        assert states(tmp_path).keys() == (mine if job == 2 else {f"{name}.safetensors" for name, _ in sources})
    before = states(tmp_path)
    assert embed_files(tiny_model, sources, tmp_path, SETTINGS, num_workers=0, progress=False) == []
    assert states(tmp_path) == before


def test_names_of_songs_of_other_jobs_are_not_taken(tiny_model, songs, tmp_path):
    """A song whose name another folder has taken avoids names in the whole catalog, not only in its share."""
    (tmp_path / "other").mkdir()
    for name in ("a.wav", "a.wav-2"):
        soundfile.write(tmp_path / "other" / name, music(0.5), RATE, format="WAV")
    output = tmp_path / "out"
    sources = [(name, str(tmp_path / "other" / name)) for name in ("a.wav", "a.wav-2")]
    embed_files(tiny_model, [("a.wav", str(songs / "0.wav"))], output, SETTINGS, num_workers=0, progress=False)
    (job,) = [job for job in range(1, 65) if 0 in Share(job, 64).select(sources)]
    assert Share(job, 64).select(sources) == [0]
    share = Share(job, 64)
    embed_files(tiny_model, sources, output, SETTINGS, num_workers=0, progress=False, share=share)
    assert states(output).keys() == {"a.wav.safetensors", "a.wav-3.safetensors"}


def embed_until_killed(songs, output, count):
    """Embed the songs, and kill this process and its workers when it begins to write a file after `count` others."""
    write, written = embed_files_module.write_safetensors, []

    def write_or_die(path, *arguments):
        if len(written) == count:
            os.killpg(0, signal.SIGKILL)
        write(path, *arguments)
        written.append(path)

    embed_files_module.write_safetensors = write_or_die
    embed_files(random_model(MusicFMConfig(**TINY)), list_sources(songs), output, SETTINGS, num_workers=1)


def test_a_killed_run_goes_on(tiny_model, songs, tmp_path, server):
    output = tmp_path / "out"
    code, log = server.run(embed_until_killed, songs, output, 3, log=tmp_path / "log")
    assert code == -signal.SIGKILL, log
    before = states(output)
    complete = {name for name in before if name.endswith(".safetensors")}
    assert len(complete) == 3
    assert embed_files(tiny_model, list_sources(songs), output, SETTINGS, num_workers=0, progress=False) == []
    after = states(output)
    assert {name for name in complete if before[name] != after[name]} == set()
    embed_files(tiny_model, list_sources(songs), tmp_path / "alone", WindowSettings(), num_workers=0, progress=False)
    assert len(states(tmp_path / "alone")) == len(SECONDS)
    for name in states(tmp_path / "alone"):
        expected = load_file(tmp_path / "alone" / name)
        torch.testing.assert_close(load_file(output / name), expected, rtol=0, atol=1e-4)


def annotated(songs, output, share, existing="skip") -> AnnotatedFiles:
    models = {"chord": head("chord")}
    arguments = (models, list_sources(songs), output, SETTINGS, ["lab"], existing, False, False)
    return annotate_files(*arguments, num_workers=0, share=share)


def test_jobs_annotate_into_one_folder(songs, tmp_path):
    """Names depend on the whole catalog: no job has two songs called 0, but the folder has."""
    for job in (1, 2):
        assert annotated(songs, tmp_path, Share(job, 2), "refuse") == AnnotatedFiles(0, [])
    files = {f"{number}.{ending}.chords.lab" for number in range(3) for ending in ("wav", "flac")}
    before = states(tmp_path)
    assert {name for name in before if not name.startswith(".")} == files
    assert annotated(songs, tmp_path, Share()) == AnnotatedFiles(len(SECONDS), [])
    assert states(tmp_path) == before
    with pytest.raises(ValueError, match=f"has files of {len(chosen(songs, Share(1, 2)))} of"):
        annotated(songs, tmp_path, Share(1, 2), "refuse")


def annotate_on_rank(songs, models, output):
    """What a process of `accelerate launch` does."""
    PartialState(cpu=True, backend="gloo")
    words = ["--models", str(models), "--output_dir", str(output), "--device", "cpu", "--num_workers", "0"]
    annotate_command.main([str(songs), *words, "--no_picture", "--existing", "skip"])


def test_odd_names_of_songs(songs, tmp_path):
    """Bytes that are not UTF-8 are in no title, and a name that is too long is a problem of its song."""
    latin, long = os.fsdecode(b"caf\xe9"), "n" * 300
    sources = [(f"{name}.wav", str(songs / "0.wav")) for name in (long, latin)]
    options = {"settings": SETTINGS, "num_workers": 0, "progress": False, "formats": ("json", "jams")}
    for existing in ("refuse", "skip"):
        result = annotate_files({"beat": head("beat")}, sources, tmp_path, existing=existing, **options)
        assert [name for name, _ in result.problems] == [long]
        assert "too long" in result.problems[0][1]
    written = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert written == {f"{latin}.json", f"{latin}.jams", f"{latin}.png"}
    title = json.loads((tmp_path / f"{latin}.jams").read_text(encoding="utf-8"))["file_metadata"]["title"]
    assert title == "caf\ufffd"


def test_a_song_and_its_folder_are_annotated_once(songs, tmp_path, capsys):
    """From other folders, it would be another song of the name."""
    head("beat").save_pretrained(tmp_path / "model")
    (tmp_path / "music").mkdir()
    song = shutil.copy(songs / "0.wav", tmp_path / "music/0.wav")
    words = ["--models", str(tmp_path / "model"), "--output_dir", str(tmp_path / "out"), "--no_picture"]
    words += ["--format", "json", "--device", "cpu", "--num_workers", "0"]
    with suppress(SystemExit):
        annotate_command.main([str(song), str(tmp_path / "music"), str(song), *words])
    assert {path.name for path in (tmp_path / "out").glob("[!.]*")} == {"0.json"}
    assert "1 song" in capsys.readouterr().out


def test_links_to_audio_that_is_gone_are_problems(songs, tmp_path):
    (tmp_path / "music").mkdir()
    shutil.copy(songs / "0.wav", tmp_path / "music/a.wav")
    (tmp_path / "music/b.wav").symlink_to(tmp_path / "unmounted/b.wav")
    sources = list_sources(tmp_path / "music")
    models = {"beat": head("beat")}
    result = annotate_files(models, sources, tmp_path / "out", SETTINGS, ["json"], picture=False, num_workers=0)
    assert [name for name, _ in result.problems] == ["b"]
    assert "does not exist" in result.problems[0][1]


def test_two_processes_divide_the_songs(songs, tmp_path, server):
    head("chord").save_pretrained(tmp_path / "chord")
    (tmp_path / "music").mkdir()
    for path in songs.iterdir():
        (tmp_path / "music" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "music/broken.wav").write_text("no music")
    arguments = (tmp_path / "music", tmp_path / "chord", tmp_path / "out")
    done = on_ranks(server, annotate_on_rank, *arguments, log=tmp_path / "log")
    assert [code for code, _ in done] == [1, 0], "\n".join(text for _, text in done)  # one song with a problem
    assert f"{len(SECONDS) + 1} songs, 1 with problems:\n  broken: " in done[0][1]
    assert "songs" not in done[1][1]
    assert len(list((tmp_path / "out").glob("[!.]*.json"))) == len(SECONDS)


def lengths_of(batch) -> list[int]:
    return [window.length for window in batch]


def windows(*lengths: int) -> list[_PendingWindow]:
    return [_PendingWindow(None, Window(0, length, 0, 0, number)) for number, length in enumerate(lengths)]


def test_windows_of_similar_length_share_a_batch():
    pending = _PendingWindows(batch_size=3, window_samples=100)
    pending.add(windows(40, 100, 12, 100, 10, 60, 41, 100, 11, 43))
    assert not pending.are_enough  # 517 of 1200 samples
    batches = [lengths_of(pending.take()) for _ in range(4)]
    # Padding of 0, of 4 in 124, and of 3 in 33; then of what is left
    assert batches == [[100, 100, 100], [43, 41, 40], [12, 11, 10], [60]]
    assert (pending.windows, pending.are_enough) == ([], False)


def test_windows_of_a_song_are_taken_in_order():
    pending = _PendingWindows(batch_size=2, window_samples=100)
    pending.add(windows(100, 100, 100, 99))  # the last one ends within a frame
    taken = [window for _ in range(2) for window in pending.take()]
    assert [window.window.first_kept for window in taken] == [0, 1, 2, 3]


def test_windows_wait_for_others_up_to_a_limit_of_memory():
    pending = _PendingWindows(batch_size=2, window_samples=100)
    pending.add(windows(*[100] * 7))
    assert not pending.are_enough
    pending.add(windows(100))
    assert pending.are_enough  # four batches of whole windows
    pending.take()
    assert not pending.are_enough
    short = _PendingWindows(batch_size=2, window_samples=100)
    short.add(windows(*[1] * 31))
    assert not short.are_enough
    short.add(windows(1))
    assert short.are_enough
    alone = _PendingWindows(batch_size=1, window_samples=100)
    alone.add(windows(1))
    assert alone.are_enough
