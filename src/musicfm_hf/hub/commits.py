"""One commit to a repository, or nothing."""

import re
import time
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HTTPError

from .files import is_published

WAITS = (2, 10, None)  # seconds after attempts; the client retries each file by itself, but not the commit


class HubTarget(NamedTuple):
    """
    Where something is pushed.

    Attributes:
        repo (`str`): Its id; of the user whose token it is, if it has no `/`.
        revision (`str`, *optional*): A branch, made if it is not there; main by default.
        private (`bool`): Who sees it, if it is made now.
        token (`str`, *optional*): The one that is logged in by default.
        kind (`str`): `"model"`, or `"space"` for one of Gradio.
    """

    repo: str
    revision: str | None = None
    private: bool = True
    token: str | None = None
    kind: str = "model"

    def create(self) -> "HubTarget":
        """Make the repository, if it is not there, and say its whole id; so that a wrong token shows before work."""
        api = HfApi(token=self.token)
        common = {"repo_type": self.kind, "exist_ok": True}
        sdk = "gradio" if self.kind == "space" else None
        repo = api.create_repo(self.repo, private=self.private, space_sdk=sdk, **common).repo_id
        if self.revision is not None:
            api.create_branch(repo, branch=self.revision, **common)
        return self._replace(repo=repo)


def commit_until_done(api: HfApi, target: HubTarget, contents: dict[str, Path | bytes], message: str) -> str:
    """
    Raises:
        OSError: the Hub cannot be reached, or does not let us.
    """
    for wait in WAITS:
        try:
            return _commit(api, target, contents, message)
        except (HTTPError, OSError, RuntimeError) as error:  # a runtime error: a file could not be sent
            status = getattr(getattr(error, "response", None), "status_code", 500)
            if wait is None or status < 500:
                raise OSError(f"{error} {error.__cause__ or ''}") from error
            time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def _commit(api: HfApi, target: HubTarget, contents: dict[str, Path | bytes], message: str) -> str:
    """What is to be there, and what is there and not to be any more, in one commit."""
    where = {"repo_id": target.repo, "revision": target.revision, "repo_type": target.kind}
    gone = [name for name in api.list_repo_files(**where) if name not in contents]
    ours = is_published if target.kind == "model" else re.compile(r"musicfm_hf/").match
    operations: list[Any] = [CommitOperationAdd(name, content) for name, content in contents.items()]
    operations += [CommitOperationDelete(name) for name in gone if ours(name)]
    return str(api.create_commit(operations=operations, commit_message=message, **where).commit_url)
