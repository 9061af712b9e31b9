"""Push files in a single commit, so that either all of them or none are visible."""

import time
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HTTPError

from .files import is_published

# Seconds to wait after each attempt. The client itself retries uploads of files, but not the commit.
RETRY_WAITS = (2, 10, None)

EVAL_RESULTS = ".eval_results/musicfm_hf.yaml"  # scores for data sets on the Hub


class HubTarget(NamedTuple):
    """
    Repository and branch to push to.

    Attributes:
        repo (`str`): ID of the repository. Without a `/`, it belongs to the owner of the token.
        revision (`str`, *optional*): Branch, created if it does not exist; main by default.
        private (`bool`): Visibility of the repository, if it is created now.
        token (`str`, *optional*): Access token; that of `hf auth login` by default.
        kind (`str`): `"model"`, or `"space"` for a Gradio Space.
    """

    repo: str
    revision: str | None = None
    private: bool = True
    token: str | None = None
    kind: str = "model"

    def create(self) -> "HubTarget":
        """
        Create the repository and the branch if they do not exist. This is called before any other work, so that an
        invalid token fails early.

        Returns:
            The target with the full ID of the repository.

        Raises:
            OSError: the Hub cannot be reached, or rejects the request.
        """
        api = HfApi(token=self.token)
        common: dict[str, Any] = {"repo_type": self.kind, "exist_ok": True}
        sdk = "gradio" if self.kind == "space" else None
        repo = api.create_repo(self.repo, private=self.private, space_sdk=sdk, **common).repo_id
        if self.revision is not None:
            api.create_branch(repo, branch=self.revision, **common)
        return self._replace(repo=repo)


def commit_with_retries(api: HfApi, target: HubTarget, contents: dict[str, Path | bytes], message: str) -> str:
    """
    Make the files of a repository equal to `contents` in a single commit, and retry if the Hub fails. Files in the
    repository that the package did not publish are kept, and all files that `contents` does not replace if the card of
    the repository is none of this package.

    Args:
        api: Client with the token to use.
        target: Existing repository and branch.
        contents: Files, or their bytes, keyed by their path in the repository.
        message: Commit message.

    Returns:
        The URL of the commit.

    Raises:
        OSError: the Hub cannot be reached, or refuses the request.
    """
    for wait in RETRY_WAITS:
        try:
            return _commit(api, target, contents, message)
        except (HTTPError, OSError, RuntimeError) as error:  # RuntimeError: a file could not be sent
            status = getattr(getattr(error, "response", None), "status_code", 500)
            if wait is None or status < 500:
                raise OSError(f"{error} {error.__cause__ or ''}") from error
            time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def _commit(api: HfApi, target: HubTarget, contents: dict[str, Path | bytes], message: str) -> str:
    """Add `contents`, and delete other files that earlier pushes published."""
    where: dict[str, Any] = {"repo_id": target.repo, "revision": target.revision, "repo_type": target.kind}
    files = list(api.list_repo_files(**where))
    others = [name for name in files if name not in contents]
    additions = [CommitOperationAdd(name, content) for name, content in contents.items()]
    distinct = {addition.upload_info.sha256: addition for addition in additions}
    if len(distinct) < len(additions):  # once sent, large files are not sent again under another name
        api.preupload_lfs_files(additions=distinct.values(), free_memory=False, **where)
    operations: list[Any] = [*additions]
    if target.kind == "space" or _was_pushed(api, files, **where):
        operations += [CommitOperationDelete(name) for name in others if _is_ours(name, target.kind)]
    return str(api.create_commit(operations=operations, commit_message=message, **where).commit_url)


def _was_pushed(api: HfApi, files: list[str], **where: Any) -> bool:
    """Return whether the card in a repository is one of this package, so that its files come from an earlier push."""
    if "README.md" not in files:
        return False
    card = Path(api.hf_hub_download(filename="README.md", **where))
    return "musicfm_hf" in card.read_text(encoding="utf-8", errors="replace")


def _is_ours(name: str, kind: str) -> bool:
    """Return whether a push may have published a file of a repository."""
    return name.startswith("musicfm_hf/") if kind == "space" else name == EVAL_RESULTS or is_published(name)
