"""Repositories that were made once, by tuf, and are met as they are (see repositories/make.py)."""

from pathlib import Path

import pytest

from repository import Repository

FOLDER = Path(__file__).parent / "repositories"
TRUSTED = {
    "delegating": {"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1, "team": 2},
    "rotated": {"root": 3, "timestamp": 9, "snapshot": 7, "targets": 5, "bin-2": 1},
}


@pytest.mark.parametrize("name", TRUSTED)
def test_static_repository(serve, name):
    def files(part: str) -> dict[str, bytes]:
        folder = FOLDER / name / part
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    repo = Repository()
    repo.metadata, repo.targets = files("metadata"), files("targets")
    client = serve(repo)
    assert client.init()
    assert client.refresh()
    assert client.download("some/folder/file.txt")
    assert client.downloaded == [b"a file of a repository that somebody else made\n"]
    assert client.trusted == TRUSTED[name]
