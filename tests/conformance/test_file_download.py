"""Targets: only the bytes that were signed reach the disk."""

import pytest

from repository import digest

BYTES = b"what was signed"


def test_client_downloads_expected_file(client, repo):
    repo.add_target("file.txt", BYTES)
    repo.publish("targets")
    assert client.refresh()
    assert client.downloaded == []
    assert client.download("file.txt")
    assert client.downloaded == [BYTES]


def test_client_downloads_expected_file_in_sub_dir(client, repo):
    repo.add_target("some/folder/file.txt", BYTES)
    repo.publish("targets")
    assert client.download("some/folder/file.txt")
    assert client.downloaded == [BYTES]
    assert repo.downloads == [f"some/folder/{digest(BYTES)}.file.txt"]


def test_repository_substitutes_target_file(client, repo):
    for name in ("kept", "new"):
        repo.add_target(name, BYTES + name.encode())
    repo.publish("targets")
    assert client.download("kept")
    for name in list(repo.targets):
        repo.targets[name] = b"x" * len(repo.targets[name])
    client.download("kept")
    assert not client.download("new")
    assert client.downloaded == [BYTES + b"kept"]


def test_multiple_changes_to_target(client, repo):
    for number in range(11):
        repo.add_target("file.txt", content := BYTES + bytes([number]))
        repo.publish("targets")
        if number % 5 == 0:
            assert client.download("file.txt")
            assert client.downloaded == [content]
    for name in list(repo.targets):
        repo.targets[name] = BYTES + b"!"
    client.download("file.txt")
    assert client.downloaded == [content]


@pytest.mark.parametrize(
    "algorithms", [("sha256",), ("sha512",), ("sha256", "sha512")], ids=["sha256", "sha512", "both"]
)
def test_download_with_hash_algorithms(client, repo, algorithms):
    repo.add_target("file.txt", BYTES, algorithms=algorithms)
    repo.publish("targets")
    assert client.download("file.txt")
    assert client.downloaded == [BYTES]
    [asked] = repo.downloads
    assert asked in [f"{digest(BYTES, algorithm)}.file.txt" for algorithm in algorithms]


def test_download_with_unknown_hash_algorithm(client, repo):
    repo.add_target("file.txt", BYTES)
    hashes = repo.roles["targets"]["targets"]["file.txt"]["hashes"]
    hashes["unheard-of"] = hashes.pop("sha256")
    repo.publish("targets")
    assert not client.download("file.txt")
    assert client.downloaded == []


def test_artifact_cache(client, repo):
    repo.add_target("file.txt", BYTES)
    repo.publish("targets")
    assert client.download("file.txt")
    assert len(repo.downloads) == 1
    assert client.download("file.txt")
    assert repo.downloads == []
