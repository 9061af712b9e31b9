"""Files and sets of files are complete or absent, whatever happens while they are written."""

import os
import re
import signal

import pytest
from helpers.writers import (
    TEMPORARY,
    WRITERS,
    KilledError,
    contents,
    disk_with,
    killed_before,
    leftovers,
    write_and_die,
)
from safetensors import SafetensorError
from soundfile import LibsndfileError

from musicfm_hf import MusicFMForAudioFrameClassification
from musicfm_hf.data.labeled_dataset import load_songs
from musicfm_hf.inference.annotation_records import OUTDATED, SongFiles
from musicfm_hf.training import files
from musicfm_hf.training.files import complete_file, complete_files, is_hidden, list_files, temporary_path, write_text


@pytest.fixture(scope="session")
def versions(tmp_path_factory):
    """What a writer leaves in a folder: version 1, and then version 2 over it."""
    known: dict[str, tuple[dict, dict]] = {}

    def of(name: str) -> tuple[dict, dict]:
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            found = []
            for version in (1, 2):
                WRITERS[name](folder, version)
                found.append(contents(folder))
                assert leftovers(folder) == []
            known[name] = (found[0], found[1])
        return known[name]

    return of


def changed(first: dict, second: dict) -> list[int]:
    """Half the sizes of the smallest and of the largest file that a writer writes anew."""
    sizes = sorted(len(content) for name, content in second.items() if first.get(name) != content)
    return sorted({sizes[0] // 2, sizes[-1] // 2})


@pytest.mark.parametrize("name", WRITERS)
def test_disk_full(name, versions, tmp_path):
    """In the middle of the smallest and of the largest file: nothing has changed, and nothing is left over."""
    first, second = versions(name)
    WRITERS[name](tmp_path, 1)
    before = contents(tmp_path)
    for size in changed(first, second):
        with disk_with(size), pytest.raises((OSError, SafetensorError, LibsndfileError)):
            WRITERS[name](tmp_path, 2)
        assert contents(tmp_path) == before
        assert leftovers(tmp_path) == []
    WRITERS[name](tmp_path, 2)
    assert contents(tmp_path).keys() == second.keys()


@pytest.mark.parametrize("name", WRITERS)
def test_killed_while_writing(name, versions, tmp_path, server):
    """The files are what they were; what is left over is hidden, has a known name, and does not disturb the next."""
    first, second = versions(name)
    folder = tmp_path / "out"
    folder.mkdir()
    WRITERS[name](folder, 1)
    before = contents(folder)
    code, log = server.run(write_and_die, name, folder, changed(first, second)[-1], log=tmp_path / "log")
    assert code == -signal.SIGXFSZ, log
    assert contents(folder) == before
    assert leftovers(folder)
    ours = [path for path in leftovers(folder) if not re.fullmatch(r"\.tmp\w{6}", path)]  # of safetensors itself
    assert [path for path in ours if not TEMPORARY.search(path)] == []
    WRITERS[name](folder, 2)
    assert contents(folder).keys() == second.keys()


def is_one_version(folder, name, versions) -> bool:
    """Whether what can be loaded from a folder is all of one version; nothing can be loaded from an incomplete set."""
    if name == "model":
        try:
            MusicFMForAudioFrameClassification.from_pretrained(folder)
        except (OSError, ValueError):
            return not (folder / "config.json").exists()
        names = ("config.json", "model.safetensors")
    else:
        try:
            songs = load_songs(folder, "train")
        except FileNotFoundError:
            return True
        assert len({song.id[0] for song in songs}) == 1
        names = ("train.txt", f"train/{next((folder / 'train').glob('*.arrow')).name}")
    found = contents(folder)
    return any({key: found.get(key) for key in names} == {key: version[key] for key in names} for version in versions)


@pytest.mark.parametrize("name", ["dataset", "model"])
def test_killed_between_two_files(name, versions, tmp_path):
    """At every renaming and removal: what can be loaded is all old or all new; and the next writing completes it."""
    number = 1
    while True:
        folder = tmp_path / str(number)
        folder.mkdir()
        WRITERS[name](folder, 1)
        first = contents(folder)
        with killed_before(number) as calls:
            WRITERS[name](folder, 2)
        second = versions(name)[1]
        assert is_one_version(folder, name, (first, second)), f"killed before {calls[number - 1]} {number}"
        if len(calls) < number:
            break
        WRITERS[name](folder, 2)
        assert contents(folder).keys() == second.keys()
        number += 1
    assert number > 4


def test_killed_between_the_files_of_a_song(versions, tmp_path):
    """Complete is what has the record of its audio, and all files of it."""
    endings = ["json", "beats", "chords.lab", "keys.lab", "tags", "png"]
    second = versions("annotation")[1]
    number, complete = 1, 0
    while True:
        folder = tmp_path / str(number)
        WRITERS["annotation"](folder, 1)
        first = contents(folder)
        with killed_before(number) as calls:
            WRITERS["annotation"](folder, 2)
        song = SongFiles(folder, "a/song", endings)
        record = song.record()
        if record["files"] is None:
            assert song.status({"models": {}}, None) == OUTDATED
        else:
            assert contents(folder) == (first if record["state"] == "1" else second)
            complete += record["state"] == "2"
        if len(calls) < number:
            break
        WRITERS["annotation"](folder, 2)
        assert contents(folder) == second
        number += 1
    assert number > len(endings)
    assert complete


FILES = ["json", "table", "text", "safetensors", "beats", "curves", "song", "model", "dataset", "annotation"]


@pytest.mark.parametrize("name", FILES)
def test_processes_with_the_same_id(name, versions, tmp_path, monkeypatch):
    """
    Two containers that share a folder: while one is about to rename its files, another one with the same process id
    writes its own there, from beginning to end.
    """
    monkeypatch.setattr(os, "getpid", lambda: 7)
    first, second = versions(name)
    replace = os.replace
    interrupted = []

    def meanwhile(source, target):
        if not interrupted:
            interrupted.append(source)
            WRITERS[name](tmp_path, 2)
            assert contents(tmp_path).keys() == (second if name != "dataset" else contents(tmp_path)).keys()
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", meanwhile)
    WRITERS[name](tmp_path, 1)
    assert interrupted
    assert contents(tmp_path).keys() >= first.keys()
    assert {key: contents(tmp_path)[key] for key in first} == first
    assert leftovers(tmp_path) == []


def test_names_of_temporary_files(tmp_path):
    path = tmp_path / "a" / f"{'ä' * 120}.safetensors"
    names = {temporary_path(path) for _ in range(100)}
    assert len(names) == 100
    for name in names:
        assert name.parent == path.parent
        assert TEMPORARY.fullmatch(name.name)
        assert is_hidden(name.name)
        assert len(os.fsencode(name.name)) <= 255
    write_text(path, "x")
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_text("x")
    write_text(tmp_path / "b/complete", "x")
    with complete_files(tmp_path / "b") as folder:
        (folder / "other").write_text("x")
    modes = {(tmp_path / name).stat().st_mode for name in ("plain", "b/complete", "b/other")}
    assert len(modes) == 1


def fail_in(context) -> None:
    with context as temporary:
        (temporary / "a" if temporary.is_dir() else temporary).write_text("half")
        raise KilledError


def test_nothing_is_left_of_a_failure(tmp_path):
    (tmp_path / "a").write_text("before")
    for context in (complete_file(tmp_path / "a"), complete_files(tmp_path)):
        with pytest.raises(KilledError):
            fail_in(context)
    assert contents(tmp_path) == {"a": b"before"}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("path", "hidden"),
    [
        ("a/b.mp3", False), (".a.mp3", True), ("._a.mp3", True), (".git/a.mp3", True), ("__MACOSX/a.mp3", True),
        ("a/__MACOSX/b/c.mp3", True), ("./a.mp3", False), ("../a.mp3", False), ("a.b/...mp3", False), ("a.", False),
        ("..a/b.mp3", False), ("a/...b.12ef.part", True), ("a/...b.made_from.json", True), (".a/...b.mp3", True),
    ],
)  # fmt: skip
def test_hidden(path, hidden):
    assert is_hidden(path) is hidden


def test_listing(tmp_path):
    root = tmp_path / ".music"  # a hidden folder may be listed itself
    for name in ("b.wav", "a/c.wav", ".d.wav", ".e/f.wav", "__MACOSX/a/._c.wav", "a/.g/h.wav", "._b.wav"):
        write_text(root / name, "x")
    (root / "a/folder.wav").mkdir()
    (root / "linked").symlink_to(root / "a", target_is_directory=True)
    (root / "link.wav").symlink_to(root / "b.wav")
    assert [path.relative_to(root).as_posix() for path in list_files(root)] == ["a/c.wav", "b.wav", "link.wav"]
