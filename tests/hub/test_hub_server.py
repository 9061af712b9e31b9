"""The server for tests of the Hub (hub_server.py), asked by the real client."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.hub_server import HubServer
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    constants,
)
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import close_session, get_session

LARGE = random.Random(0).randbytes(11_000_000)
SMALL = {"config.json": b'{"model_type": "musicfm"}', "notes/réadme.txt": b"so fein", "empty.txt": b""}
WEIGHTS = {"model.safetensors": b"few bytes, but by its name an LFS file"}


@pytest.fixture
def hub(monkeypatch):
    """The server, with a client in this process that uses no Xet and no proxy, and sends no telemetry."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    close_session()
    with HubServer({"hf_alice": "alice", "hf_bob": "bob"}) as server:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)  # nothing is asked of the real one
        yield server
    close_session()


@pytest.fixture
def api(hub) -> HfApi:
    return HfApi(endpoint=hub.url, token="hf_alice")


@pytest.fixture
def naps(monkeypatch) -> list[float]:
    """The client does not sleep between its attempts. For how long it would have slept."""
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def written(folder: Path, files: dict[str, bytes]) -> Path:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def read(folder: str | Path) -> dict[str, bytes]:
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }
    return {path: content for path, content in files.items() if path != ".gitattributes"}


def pushed(api: HfApi, files: dict[str, bytes], name: str = "alice/model", **options) -> str:
    """Makes a repository with one commit."""
    api.create_repo(name, exist_ok=True, **options)
    return commit(api, name, files)


def commit(api: HfApi, name: str, files: dict[str, bytes], **options) -> str:
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    return api.create_commit(name, operations, commit_message="Add files", **options).oid


@pytest.mark.parametrize("chunk_size", [None, 4_000_000])
def test_a_pushed_folder_comes_back_byte_by_byte(hub, api, tmp_path, chunk_size):
    hub.chunk_size = chunk_size
    files = SMALL | WEIGHTS | {"large/data.unknown": LARGE}
    url = api.create_repo("model")
    info = api.upload_folder(repo_id=url.repo_id, folder_path=written(tmp_path / "folder", files))
    assert (url.repo_id, str(url)) == ("alice/model", f"{hub.url}/alice/model")
    assert info.commit_url == f"{hub.url}/alice/model/commit/{info.oid}"
    assert hub.files("alice/model") == files
    puts = sorted(call.received for call in hub.calls("PUT"))
    assert puts == sorted([len(WEIGHTS["model.safetensors"]), *([11_000_000] if not chunk_size else [4e6, 4e6, 3e6])])
    folder = api.snapshot_download("alice/model", cache_dir=tmp_path / "cache")
    assert Path(folder).name == info.oid
    assert read(folder) == files


def test_only_what_changed_is_uploaded_again(hub, api, tmp_path):
    folder = written(tmp_path, SMALL | WEIGHTS | {"large.bin": LARGE})
    api.create_repo("alice/model")
    first = api.upload_folder(repo_id="alice/model", folder_path=folder)
    hub.requests.clear()
    written(folder, {"config.json": b"{}", "model.safetensors": b"other weights"})
    second = api.upload_folder(repo_id="alice/model", folder_path=folder)
    assert [call.received for call in hub.calls("PUT")] == [len(b"other weights")]
    assert sum(call.received for call in hub.requests) < 10_000
    assert [made.commit_id for made in api.list_repo_commits("alice/model")][:2] == [second.oid, first.oid]
    assert hub.files("alice/model") == read(folder)


def test_an_unchanged_folder_makes_no_commit(hub, api, tmp_path):
    folder = written(tmp_path, SMALL | WEIGHTS)
    api.create_repo("alice/model")
    first = api.upload_folder(repo_id="alice/model", folder_path=folder)
    hub.requests.clear()
    assert api.upload_folder(repo_id="alice/model", folder_path=folder).oid == first.oid
    assert hub.calls("PUT") == hub.calls("POST", "/commit/") == []
    assert [made.title for made in api.list_repo_commits("alice/model")] == [
        "Upload folder using huggingface_hub",
        "initial commit",
    ]


def test_the_same_content_under_another_name_is_not_uploaded_again(hub, api):
    pushed(api, WEIGHTS)
    commit(api, "alice/model", {"copy.safetensors": WEIGHTS["model.safetensors"]})
    assert len(hub.calls("PUT")) == 1
    assert hub.files("alice/model")["copy.safetensors"] == WEIGHTS["model.safetensors"]


def test_a_commit_that_changes_nothing_is_made_when_it_is_sent(hub, api):
    oid = pushed(api, SMALL)
    line = b'{"key": "header", "value": {"summary": "Nothing"}}\n'
    headers = {"Authorization": "Bearer hf_alice"}
    response = get_session().post(f"{hub.url}/api/models/alice/model/commit/main", content=line, headers=headers)
    assert [made.commit_id for made in api.list_repo_commits("alice/model")][:2] == [response.json()["commitOid"], oid]


def test_tags_commits_and_branches_pin_what_is_read(hub, api, tmp_path):
    first = pushed(api, {"a.txt": b"1"} | WEIGHTS)
    api.create_tag("alice/model", tag="v1")
    api.create_branch("alice/model", branch="try/this", revision="v1")
    commit(api, "alice/model", {"a.txt": b"branch"}, revision="try/this")
    commit(api, "alice/model", {"a.txt": b"2"})
    api.delete_file("model.safetensors", "alice/model")

    def text(revision: str) -> bytes:
        return Path(api.hf_hub_download("alice/model", "a.txt", revision=revision, cache_dir=tmp_path)).read_bytes()

    assert [text(revision) for revision in ("v1", first, "try/this", "main")] == [b"1", b"1", b"branch", b"2"]
    assert read(api.snapshot_download("alice/model", revision="v1", cache_dir=tmp_path)) == {"a.txt": b"1"} | WEIGHTS
    refs = api.list_repo_refs("alice/model")
    assert [(tag.name, tag.ref, tag.target_commit) for tag in refs.tags] == [("v1", "refs/tags/v1", first)]
    assert sorted(branch.name for branch in refs.branches) == ["main", "try/this"]
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag("alice/model", tag="v1")
    api.create_tag("alice/model", tag="v1", exist_ok=True)
    api.delete_tag("alice/model", tag="v1")
    api.delete_branch("alice/model", branch="try/this")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("alice/model", revision="v1")


def test_a_pull_request_of_another_user_leaves_the_branch_as_it_is(hub, api, tmp_path):
    pushed(api, SMALL)
    bob = HfApi(endpoint=hub.url, token="hf_bob")
    operations = [CommitOperationAdd(path, content) for path, content in (WEIGHTS | {"a.txt": b"bob"}).items()]
    info = bob.create_commit("alice/model", operations, commit_message="Mine", create_pr=True)
    assert (info.pr_revision, info.pr_num) == ("refs/pr/1", 1)
    path = api.hf_hub_download("alice/model", "a.txt", revision="refs/pr/1", cache_dir=tmp_path)
    assert Path(path).read_bytes() == b"bob"
    assert hub.files("alice/model") == SMALL
    pulls = api.list_repo_refs("alice/model", include_pull_requests=True).pull_requests
    assert [(pull.ref, pull.target_commit) for pull in pulls] == [("refs/pr/1", info.oid)]


def test_who_may_do_what(hub, api, tmp_path):
    bob, nobody, wrong = (HfApi(endpoint=hub.url, token=token) for token in ("hf_bob", False, "hf_wrong"))
    pushed(api, SMALL, private=True)
    assert api.whoami()["name"] == "alice"
    assert api.model_info("alice/model").private
    for stranger in (bob, nobody):
        with pytest.raises(RepositoryNotFoundError):
            stranger.model_info("alice/model")
        with pytest.raises(RepositoryNotFoundError):
            stranger.snapshot_download("alice/model", cache_dir=tmp_path)
        with pytest.raises(RepositoryNotFoundError):
            stranger.model_info("alice/other")
    for ask in (wrong.whoami, lambda: wrong.model_info("alice/model"), lambda: wrong.create_repo("alice/model")):
        with pytest.raises(HfHubHTTPError) as caught:
            ask()
        assert caught.value.response.status_code == 401
        assert not isinstance(caught.value, RepositoryNotFoundError)
    api.update_repo_settings("alice/model", private=False)
    assert read(nobody.snapshot_download("alice/model", cache_dir=tmp_path)) == SMALL
    for ask in (lambda: commit(bob, "alice/model", {"a": b""}), lambda: bob.create_repo("alice/new")):
        with pytest.raises(HfHubHTTPError, match="403"):
            ask()
    with pytest.raises(RepositoryNotFoundError):
        commit(nobody, "alice/model", {"a": b""})
    api.update_repo_settings("alice/model", gated="manual")
    with pytest.raises(GatedRepoError):
        bob.hf_hub_download("alice/model", "config.json", cache_dir=tmp_path / "other")


def test_repositories_are_made_once_and_deleted(hub, api):
    for kind, options in {"model": {}, "dataset": {}, "space": {"space_sdk": "gradio"}}.items():
        url = api.create_repo("alice/same", repo_type=kind, **options)
        assert (url.repo_type, url.repo_id) == (kind, "alice/same")
        with pytest.raises(HfHubHTTPError, match="409"):
            api.create_repo("alice/same", repo_type=kind, **options)
        assert api.create_repo("alice/same", repo_type=kind, exist_ok=True, **options) == url
        assert (
            api.repo_info("alice/same", repo_type=kind).sha
            == api.list_repo_commits("alice/same", repo_type=kind)[0].commit_id
        )
    assert api.space_info("alice/same").sdk == "gradio"
    api.delete_repo("alice/same")
    assert not api.repo_exists("alice/same")
    assert api.repo_exists("alice/same", repo_type="dataset")
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo("alice/same")
    api.delete_repo("alice/same", missing_ok=True)


def test_listings_say_what_there_is_page_by_page(hub, api):
    hub.page_size = 2
    files = {"b/c/deep.txt": b"12345", "b/d.txt": b"", "a.txt": b"1"} | WEIGHTS
    oid = pushed(api, files)
    assert sorted(api.list_repo_files("alice/model")) == sorted([".gitattributes", *files])
    assert len(hub.calls("GET", "/tree/")) == 4  # seven entries, with the folders b and b/c
    top = {entry.path: entry for entry in api.list_repo_tree("alice/model", expand=True)}
    assert sorted(top) == [".gitattributes", "a.txt", "b", "model.safetensors"]
    assert top["b"].last_commit.oid == top["a.txt"].last_commit.oid == oid
    assert top[".gitattributes"].last_commit.title == "initial commit"
    assert top["model.safetensors"].lfs.size == top["model.safetensors"].size == len(WEIGHTS["model.safetensors"])
    assert [entry.path for entry in api.list_repo_tree("alice/model", "b/c")] == ["b/c/deep.txt"]
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree("alice/model", "c"))
    found = api.get_paths_info("alice/model", ["b/d.txt", "b", "missing"])
    assert [(entry.path, type(entry).__name__) for entry in found] == [("b/d.txt", "RepoFile"), ("b", "RepoFolder")]
    info = api.model_info("alice/model", files_metadata=True)
    assert info.sha == oid
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings if sibling.rfilename != ".gitattributes"}
    assert sizes == {path: len(content) for path, content in files.items()}


def test_deletions_and_copies_are_commits_too(hub, api, tmp_path):
    oid = pushed(api, {"a.txt": b"1", "logs/1.txt": b"", "logs/2.txt": b""} | WEIGHTS)
    operations = [
        CommitOperationDelete("logs/"),
        CommitOperationDelete("a.txt"),
        CommitOperationCopy("model.safetensors", "copy.safetensors"),
        CommitOperationCopy("a.txt", "copy.txt"),
    ]
    api.create_commit("alice/model", operations, commit_message="Tidy up")
    expected = {"copy.txt": b"1", "copy.safetensors": WEIGHTS["model.safetensors"]} | WEIGHTS
    assert hub.files("alice/model") == read(api.snapshot_download("alice/model", cache_dir=tmp_path)) == expected
    assert not api.file_exists("alice/model", "a.txt")
    assert api.file_exists("alice/model", "a.txt", revision=oid)
    with pytest.raises(EntryNotFoundError, match="doesn't exist"):
        api.delete_file("schon weg/ä→.txt", "alice/model")
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download("alice/model", "a.txt", cache_dir=tmp_path)


def test_a_stale_parent_is_refused_and_nothing_of_the_commit_is_visible(hub, api):
    first = pushed(api, SMALL)
    second = commit(api, "alice/model", {"a.txt": b"2"}, parent_commit=first)
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as caught:
        commit(api, "alice/model", {"a.txt": b"3", "b.txt": b"3"}, parent_commit=first)
    assert caught.value.response.status_code == 412
    assert hub.files("alice/model") == SMALL | {"a.txt": b"2"}
    assert api.model_info("alice/model").sha == second


def test_one_bad_operation_undoes_the_whole_commit(hub, api):
    oid = pushed(api, SMALL)
    operations = [CommitOperationAdd("a.txt", b"1"), CommitOperationDelete("missing.txt")]
    with pytest.raises(EntryNotFoundError):
        api.create_commit("alice/model", operations, commit_message="Half of it is wrong")
    assert (hub.files("alice/model"), api.model_info("alice/model").sha) == (SMALL, oid)


def test_ignored_files_are_not_committed(hub, api):
    pushed(api, {".gitignore": b"*.log\ncache/\n", "train.log": b"x", "a/cache/b.bin": b"x", "kept.txt": b"x"})
    assert sorted(hub.files("alice/model")) == [".gitignore", "kept.txt"]
    commit(api, "alice/model", {"other.log": b"x", "also.txt": b"x"})
    assert sorted(hub.files("alice/model")) == [".gitignore", "also.txt", "kept.txt"]


def test_large_files_are_read_from_another_host_without_the_token(hub, api, tmp_path):
    pushed(api, WEIGHTS, private=True)
    assert read(api.snapshot_download("alice/model", cache_dir=tmp_path)) == WEIGHTS
    stored = hub.calls(path="^/storage/")
    assert [call.method for call in stored] == ["PUT", "GET"]
    assert not any("authorization" in call.headers for call in stored)
    assert get_session().get(f"{hub.storage_url}{stored[-1].path.split('?')[0]}").status_code == 403


def test_the_storage_takes_only_what_was_announced(hub, api):
    pushed(api, WEIGHTS)
    address = hub.storage_url + hub.calls("PUT")[0].path
    assert get_session().put(address, content=b"something else").status_code == 400
    line = '{"key": "header", "value": {"summary": "x"}}\n{"key": "lfsFile", "value": {"path": "x", "oid": "%064d"}}'
    headers = {"Authorization": "Bearer hf_alice"}
    address = f"{hub.url}/api/models/alice/model/commit/main"
    assert get_session().post(address, content=(line % 1).encode(), headers=headers).status_code == 400
    assert hub.files("alice/model") == WEIGHTS


@pytest.mark.parametrize("name", ["data.txt", "data.bin"])
def test_a_part_of_a_file_is_read(hub, api, name):
    content = bytes(range(256)) * 100
    pushed(api, {name: content})
    path = f"alice/model/{name}"
    system = HfFileSystem(endpoint=hub.url, token="hf_alice", skip_instance_cache=True)
    assert system.cat_file(path, start=300, end=520, cache_type="none") == content[300:520]
    assert [(call.status, call.sent) for call in hub.calls("GET") if "range" in call.headers][-1] == (206, 220)
    address = f"{hub.url}/alice/model/resolve/main/{name}"
    response = get_session().get(address, headers={"Range": "bytes=-10"})
    assert (response.content, response.headers["Content-Range"]) == (content[-10:], "bytes 25590-25599/25600")
    assert get_session().get(address, headers={"Range": "bytes=25600-"}).status_code == 416


def test_a_download_goes_on_where_the_connection_was_lost(hub, api, tmp_path, naps):
    pushed(api, {"large.bin": LARGE})
    hub.drop(path="^/storage/", method="GET", after_bytes=10_900_000)
    path = api.hf_hub_download("alice/model", "large.bin", cache_dir=tmp_path)
    assert Path(path).read_bytes() == LARGE
    first, second = hub.calls("GET", "^/storage/")
    assert (first.sent, second.status) == (10_900_000, 206)
    # The client writes whole chunks of 10 MiB only.
    assert second.headers["range"] == "bytes=10485760-"
    assert second.sent == len(LARGE) - 10 * 1024 * 1024
    assert naps == [1]


def test_an_upload_is_sent_again_after_the_connection_was_lost(hub, api, naps):
    hub.chunk_size = 4_000_000
    hub.drop(method="PUT", path="part=2", after_bytes=1_000_000)
    pushed(api, {"large.bin": LARGE})
    assert [call.received for call in hub.calls("PUT")] == [4_000_000, 1_000_000, 4_000_000, 3_000_000]
    assert hub.files("alice/model") == {"large.bin": LARGE}
    assert naps == [1]


def test_a_commit_whose_answer_is_lost_has_happened(hub, api):
    pushed(api, SMALL)
    hub.drop(method="POST", path="/commit/")
    with pytest.raises(Exception, match="disconnected"):
        commit(api, "alice/model", {"a.txt": b"1"})
    assert hub.files("alice/model") == SMALL | {"a.txt": b"1"}
    commit(api, "alice/model", {"a.txt": b"1"})  # to try again does no harm: there is nothing left to commit
    assert len(hub.calls("POST", "/commit/")) == 2


def test_a_storm_of_errors_passes(hub, api, tmp_path, naps):
    api.create_repo("alice/model")
    hub.fail(path="/preupload/", times=2)
    hub.fail(path="/objects/batch", status=500)
    hub.fail(method="PUT", times=4)
    commit(api, "alice/model", WEIGHTS)
    assert [call.status for call in hub.calls("PUT")] == [503] * 4 + [200]
    assert naps == [1, 2, 1, 1, 2, 4, 8]
    hub.fail(method="HEAD", times=2)
    assert read(api.snapshot_download("alice/model", cache_dir=tmp_path)) == WEIGHTS


def test_the_client_waits_as_long_as_the_rate_limit_says(hub, api, naps):
    api.create_repo("alice/model")
    hub.fail(method="PUT", status=429, Retry_After="30")
    hub.fail(path="/tree/", status=429, RateLimit='"api";r=0;t=55')
    commit(api, "alice/model", WEIGHTS)
    list(api.list_repo_tree("alice/model"))
    assert naps == [31, 56]


@pytest.mark.parametrize(
    ("path", "error"), [("/preupload/", HfHubHTTPError), ("/storage/", RuntimeError), ("/commit/", HfHubHTTPError)]
)
def test_nothing_is_visible_of_a_commit_that_the_hub_never_takes(hub, api, naps, path, error):
    oid = pushed(api, SMALL)
    hub.fail(path=path, times=None)
    with pytest.raises(error) as caught:
        commit(api, "alice/model", WEIGHTS | {"config.json": b"{}"})
    failure = caught.value if error is HfHubHTTPError else caught.value.__cause__
    assert failure.response.status_code == 503
    assert (
        len(hub.calls("PUT" if path == "/storage/" else "POST", path))
        == {"/preupload/": 7, "/storage/": 6, "/commit/": 2}[path]
    )
    assert (hub.files("alice/model"), api.model_info("alice/model").sha) == (SMALL, oid)
    hub.heal()
    commit(api, "alice/model", WEIGHTS | {"config.json": b"{}"})
    assert hub.files("alice/model") == SMALL | WEIGHTS | {"config.json": b"{}"}


def test_cards_are_checked_before_anything_is_uploaded(hub, api, tmp_path):
    api.create_repo("alice/model")
    text = (
        "---\nlicense: mit\nlibrary_name: transformers\npipeline_tag: audio-classification\ntags: [music]\n---\n# Hi\n"
    )
    commit(api, "alice/model", {"README.md": text.encode()})
    info = api.model_info("alice/model")
    assert (info.tags, info.library_name, info.pipeline_tag) == (["music"], "transformers", "audio-classification")
    assert info.card_data.license == "mit"
    hub.requests.clear()
    for broken in ("---\nlicense: [mit\n---\n", "---\ntags: {a: b}\n---\n", "---\nlicense: mit\n"):
        with pytest.raises(ValueError, match="Invalid metadata"):
            api.upload_folder(
                repo_id="alice/model", folder_path=written(tmp_path, {"README.md": broken.encode()} | WEIGHTS)
            )
    assert [call.status for call in hub.calls("POST", "/api/validate-yaml")] == [400] * 3
    assert hub.calls(path="/alice/model") == []
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        commit(api, "alice/model", {"README.md": b"# No metadata\n"})


def test_a_commit_to_a_tag_is_refused(hub, api):
    pushed(api, SMALL)
    api.create_tag("alice/model", tag="v1")
    with pytest.raises(BadRequestError, match="not a branch"):
        commit(api, "alice/model", WEIGHTS, revision="v1")


def run(code: str, environment: dict[str, str]) -> str:
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_another_process_needs_only_its_environment_and_reads_its_cache_offline(hub, tmp_path):
    environment = hub.environment("hf_alice", tmp_path / "home")
    push = f"""
from huggingface_hub import ModelCard, create_repo, snapshot_download, upload_folder
create_repo("alice/model", private=True)
upload_folder(repo_id="alice/model", folder_path={str(written(tmp_path / "folder", SMALL | WEIGHTS))!r})
ModelCard("---\\nlicense: mit\\n---\\n").push_to_hub("alice/model")
print(snapshot_download("alice/model"))
"""
    downloaded = run(push, environment)
    assert read(downloaded) == hub.files("alice/model") == SMALL | WEIGHTS | {"README.md": b"---\nlicense: mit\n---\n"}
    assert Path(downloaded).is_relative_to(tmp_path / "home")
    hub.requests.clear()
    again = "from huggingface_hub import snapshot_download; print(snapshot_download('alice/model'))"
    assert run(again, environment | {"HF_HUB_OFFLINE": "1"}) == downloaded
    assert hub.requests == []


def test_the_cache_answers_when_the_server_is_gone(hub, api, tmp_path):
    with HubServer({"hf_alice": "alice"}) as other:
        there = HfApi(endpoint=other.url, token="hf_alice")
        pushed(there, SMALL)
        folder = there.snapshot_download("alice/model", cache_dir=tmp_path)
    assert there.snapshot_download("alice/model", cache_dir=tmp_path) == folder
    with pytest.raises(Exception, match="refused"):
        there.model_info("alice/model")
