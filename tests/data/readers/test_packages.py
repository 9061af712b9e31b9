"""Recordings of Debian packages: packages that are built here, and an `apt-get` that hands them out."""

import csv
import io
import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers.recipes import prepare

from musicfm_hf.data.catalog import list_sources
from musicfm_hf.data.debian_packages import find_license, parse_copyright
from musicfm_hf.data.readers import packages as reader
from musicfm_hf.data.readers.packages import list_tracks

RATE = 8000

COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: game

Files: *
Copyright: 2001, The Team
License: GPL-2+

Files: base/music/three.ogg
 data/music/slow_*
Copyright: 2002-2003, A. Composer
           2004 B. Other
License: CC-BY-SA-3.0
 The text of the license.
 .
 Its second paragraph.

Files: debian/*
Copyright: 2005, A Maintainer
License: Expat
"""

FAKE_APT = """#!/bin/sh
echo "$@" >> "$POOL/calls"
for package; do :; done
case "$package" in
  offline) echo "E: Failed to fetch http://deb.debian.org/x  Could not resolve 'deb.debian.org'" >&2; exit 100;;
  *) cp "$POOL/${package}.deb" "${package}_1%3a2-3_all.deb" 2>/dev/null && exit 0
     [ -f sources.list ] || [ "$package" = --error-on=any ] && exit 0
     echo "E: Unable to locate package $package" >&2; exit 100;;
esac
"""


def tone(seconds: float, pitch: float, **tags) -> bytes:
    buffer = io.BytesIO()
    waveform = 0.3 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * RATE)) / RATE)
    with soundfile.SoundFile(buffer, "w", RATE, 1, format="OGG", subtype="VORBIS") as file:
        for name, value in tags.items():
            setattr(file, name, value)
        file.write(waveform)
    return buffer.getvalue()


def build_package(pool: Path, name: str, files: dict[str, bytes], copyright_text: str) -> None:
    """Build `POOL/NAME.deb` from files below `/usr/share`."""
    root = pool / f"tree_{name}"
    files = files | {f"doc/{name}/copyright": copyright_text.encode()}
    for path, content in files.items():
        (root / "usr/share" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "usr/share" / path).write_bytes(content)
    (root / "DEBIAN").mkdir()
    fields = f"Package: {name}\nVersion: 1:2-3\nSource: game (1:2)\nArchitecture: all\nMaintainer: A <a@b.org>\n"
    (root / "DEBIAN/control").write_text(f"{fields}Homepage: https://game.org\nDescription: game\n")
    subprocess.run(["dpkg-deb", "--build", "-Zgzip", root, pool / f"{name}.deb"], check=True, capture_output=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Two packages with eight usable songs."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb builds the packages")
    pool = tmp_path_factory.mktemp("pool")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("music/three.ogg", tone(2.0, 330))
        file.writestr("../../evil.ogg", tone(2.0, 340))
        file.writestr("readme.txt", "text")
    one = tone(2.0, 220, title="The\tFirst", artist="A. Composer")
    game = {
        "games/game/base/0data.pk3": archive.getvalue(),
        "games/game/base/music/one.ogg": one,
        "games/game/base/music/one_again.ogg": one,
        "games/game/data/music/slow_dance1.ogg": tone(2.0, 240),
        "games/game/data/music/slow_dance2.ogg": tone(2.5, 250),
        "games/game/data/music/short.ogg": tone(0.5, 260),
        "games/game/data/music/broken.ogg": b"OggS but nothing else",
        "games/game/data/sounds/wind.ogg": tone(3.0, 270),
        "games/game/data/music/song.xm": b"Extended Module: ",
    }
    build_package(pool, "game-music", game, COPYRIGHT)
    others = {
        f"games/other/{name}.ogg": tone(2.0, pitch) for name, pitch in zip("abcd", (300, 310, 350, 360), strict=True)
    }
    build_package(pool, "other-music", others, "Free: see /usr/share/common-licenses/GPL-2.\n")
    (pool / "apt-get").write_text(FAKE_APT)
    (pool / "apt-get").chmod(0o755)
    return pool


@pytest.fixture
def pool(built, monkeypatch):
    """The packages, with the command that downloads them."""
    monkeypatch.setenv("POOL", str(built))
    monkeypatch.setenv("PATH", f"{built}{os.pathsep}{os.environ['PATH']}")
    (built / "calls").unlink(missing_ok=True)
    return built


BOTH = {"packages": ["game-music", "other-music"], "min_seconds": 1.0, "test_songs": 2, "valid_songs": 1}


def test_songs_of_packages(pool, tmp_path, monkeypatch, capsys):
    flags = ["--packages", *BOTH["packages"], "--min_seconds", "1", "--test_songs", "2", "--valid_songs", "1"]
    prepare(monkeypatch, "packages", "--output_dir", tmp_path / "out", *flags)
    out = tmp_path / "out"
    with (out / "tracks.tsv").open(encoding="utf-8", newline="") as file:
        rows = {Path(row["path"]).stem: row for row in csv.DictReader(file, delimiter="\t")}
    assert sorted(rows) == ["a", "b", "c", "d", "one", "slow_dance1", "slow_dance2", "three"]
    assert rows["one"] == {
        "path": "audio/game-music/usr/share/games/game/base/music/one.ogg",
        "split": rows["one"]["split"],
        "license": "GPL-2+",
        "title": "The First",
        "artist": "A. Composer",
        "copyright": "2001, The Team",
        "package": "game-music",
        "version": "1:2-3",
        "source_package": "game",
        "homepage": "https://game.org",
        "seconds": "2.00",
    }
    assert (rows["three"]["license"], rows["three"]["copyright"]) == (
        "CC-BY-SA-3.0",
        "2002-2003, A. Composer; 2004 B. Other",
    )
    assert (rows["slow_dance2"]["title"], rows["slow_dance2"]["license"]) == ("slow dance2", "CC-BY-SA-3.0")
    assert {rows[name]["license"] for name in "abcd"} == {"GPL-2"}
    problems = dict(line.split("\t") for line in (out / "problems.tsv").read_text().splitlines())
    reasons = {Path(path).stem: reason for path, reason in problems.items()}
    assert sorted(reasons) == ["broken", "one_again", "short", "wind"]
    assert reasons["one_again"] == f"is a copy of {rows['one']['path']}"
    assert reasons["short"] == "has 0.5 s, fewer than 1"
    assert reasons["wind"] == "is in the folder sounds, which has recordings of another kind"
    listed = {name: [path for _, path in list_sources(out / f"{name}.txt")] for name in ("train", "valid", "test")}
    assert sum(map(len, listed.values())) == 8
    assert len(listed["test"]) in (2, 3)  # the two parts of the dance are never divided
    assert len(listed["valid"]) in (1, 2)
    assert all(Path(path).is_file() for paths in listed.values() for path in paths)
    assert len({rows[name]["split"] for name in ("slow_dance1", "slow_dance2")}) == 1
    info = json.loads((out / "info.json").read_text())
    assert info["licences"] == {"GPL-2": 4, "CC-BY-SA-3.0": 3, "GPL-2+": 1}
    assert (info["kind"], info["packages"]) == ("music", BOTH["packages"])
    assert not list(tmp_path.rglob("evil.ogg"))
    assert not list(out.rglob("*.deb"))
    assert "4 problems" in capsys.readouterr().out


def test_complete_packages_are_not_downloaded_again(pool, tmp_path):
    with pytest.raises(OSError, match=r"Could not resolve 'deb.debian.org'\. Check the network, then repeat"):
        list_tracks(tmp_path, **BOTH | {"packages": ["game-music", "offline"]})
    assert (pool / "calls").read_text().count("download") == 2
    tracks = list_tracks(tmp_path, **BOTH)
    assert (pool / "calls").read_text().splitlines()[2:] == ["-q download other-music"]
    assert list_tracks(tmp_path, **BOTH) == tracks


def test_songs_in_training_stay_there_if_packages_are_added(pool, tmp_path):
    for seed in range(20):
        settings = BOTH | {"seed": seed, "test_songs": 1}
        few = list_tracks(tmp_path, **settings | {"packages": ["other-music"]})
        many = {track.path: track.split for track in list_tracks(tmp_path, **settings)}
        assert all(many[track.path] == "train" for track in few if track.split == "train")
        assert all(many[track.path] in ("train", "validation") for track in few if track.split == "validation")


def test_packages_that_do_not_exist(pool, tmp_path, monkeypatch):
    """An error if they were asked for; otherwise a problem, because names depend on the release."""
    with pytest.raises(ValueError, match=r"Unable to locate package gone-music\. Run `apt-get update`"):
        list_tracks(tmp_path, **BOTH | {"packages": ["gone-music"]})
    kind = reader.KINDS["music"]._replace(packages=("gone-music", "other-music"))
    monkeypatch.setitem(reader.KINDS, "music", kind)
    missing, *others = list_tracks(tmp_path, **BOTH | {"packages": None})
    assert str(missing.path) == "audio/gone-music"
    assert "Unable to locate" in missing.problem
    assert len(others) == 4


def test_a_mirror_has_an_index_of_its_own(pool, tmp_path):
    list_tracks(tmp_path, **BOTH, mirror="http://mirror.example/debian", suite="trixie")
    sources = (tmp_path / ".debs/apt/sources.list").read_text()
    assert sources.endswith("http://mirror.example/debian trixie main\n")
    update, *downloads = (pool / "calls").read_text().splitlines()
    assert update.endswith("update --error-on=any")
    assert len(downloads) == 2
    assert all(f"Dir::Etc::SourceList={tmp_path}/.debs/apt/sources.list" in call for call in (update, *downloads))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "noise"}, "`kind` must be one of music, speech, sounds, got 'noise'"),
        ({"test_songs": -1}, "`test_songs` and `valid_songs` must be 0 or more"),
        ({"test_songs": 8}, "have 8 files to use, too few to hold out 8 for test and 1 for validation"),
        ({"packages": ["../escape"]}, "'../escape' cannot be the name of a Debian package"),
    ],
)
def test_wrong_settings(pool, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        list_tracks(tmp_path, **BOTH | changes)


def test_without_apt(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match="apt-get is not installed, which downloads Debian packages"):
        list_tracks(tmp_path, **BOTH)


def test_a_damaged_download_is_named(pool, tmp_path):
    (pool / "damaged.deb").write_bytes(b"!<arch>\nnothing")
    with pytest.raises(OSError, match=r"damaged_1%3a2-3_all.deb is not a complete package .*delete it and repeat"):
        list_tracks(tmp_path, **BOTH | {"packages": ["damaged"]})
    assert not (tmp_path / "audio/damaged").exists()


def test_licenses_of_files():
    licenses = parse_copyright(COPYRIGHT)
    assert [(entry.name, entry.holders) for entry in licenses] == [
        ("GPL-2+", "2001, The Team"),
        ("CC-BY-SA-3.0", "2002-2003, A. Composer; 2004 B. Other"),
        ("Expat", "2005, A Maintainer"),
    ]
    for path, name in (
        ("usr/share/game/data/music/slow_1.ogg", "CC-BY-SA-3.0"),
        ("usr/share/game/music/three.ogg", "CC-BY-SA-3.0"),  # the package installs it elsewhere
        ("usr/share/game/base/music/four.ogg", "GPL-2+"),
    ):
        assert find_license(licenses, path).name == name
    assert parse_copyright("See /usr/share/common-licenses/GPL-2 and /usr/share/common-licenses/LGPL-2.1.") == []
    assert find_license([], "a.ogg") is None
