"""The workflow on an honest repository, and files that are not what their names say."""

import json

import pytest

from repository import TOP_LEVEL, envelope, in_days, sealed

ALL_AT_1 = dict.fromkeys(TOP_LEVEL, 1)
# What is trusted when exactly this role of a repository at version 2 is refused.
KEPT = {
    "root": {"root": 1},
    "timestamp": {"root": 2},
    "snapshot": {"root": 2, "timestamp": 2},
    "targets": {"root": 2, "timestamp": 2, "snapshot": 2},
}


def test_basic_refresh_requests(client, repo):
    assert client.refresh()
    assert repo.requests == [("root", 2), ("timestamp", None), ("snapshot", 1), ("targets", 1)]


def test_basic_refresh_trusted_data(client, repo):
    assert client.refresh()
    for role in TOP_LEVEL:
        assert json.loads(client.stored(role)) == json.loads(repo.metadata[repo.file_of(role)])


def test_implicit_refresh(client):
    assert not client.download("missing")
    assert client.trusted == ALL_AT_1


def test_invalid_initial_root(serve, repo):
    client = serve(repo)
    del repo.roles["root"]["version"]
    client.init(sealed(repo.roles["root"], repo.signers["root"]))
    assert not client.refresh()
    assert repo.requests == []


def test_unsigned_initial_root(serve, repo):
    client = serve(repo)
    signature = {"keyid": repo.signers["root"][0].public_key.keyid, "sig": "00" * 64}
    client.init(envelope(repo.roles["root"], [signature]))
    assert not client.refresh()
    assert repo.requests == []


@pytest.mark.parametrize("role", TOP_LEVEL)
def test_unsigned_metadata(client, repo, role):
    repo.publish_root()
    repo.publish("targets")
    repo.write(role, signers=[])
    assert not client.refresh()
    assert client.trusted == KEPT[role]


@pytest.mark.parametrize("role", ["root", "snapshot", "targets"])
def test_url_and_metadata_version_mismatch(client, repo, role):
    repo.publish_root()
    repo.publish("targets")
    file = repo.file_of(role)
    repo.roles[role]["version"] += 1
    repo.metadata[file] = sealed(repo.roles[role], repo.signers[role])
    assert not client.refresh()
    assert client.trusted == KEPT[role]


def test_timestamp_content_changes(client, repo):
    assert client.refresh()
    first = client.stored("timestamp")
    repo.roles["snapshot"]["version"] = 2
    repo.write("snapshot")
    repo.roles["timestamp"]["meta"]["snapshot.json"]["version"] = 2
    repo.write("timestamp")
    assert client.refresh()
    assert client.stored("timestamp") == first
    assert repo.requests == [("root", 2), ("timestamp", None)]


def test_basic_metadata_hash_support(client, repo):
    repo.hashes = True
    repo.publish("targets")
    assert client.refresh()
    assert client.trusted == {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 2}


def test_targets_hash_mismatch(client, repo):
    repo.hashes = True
    repo.publish("targets")
    assert client.refresh()
    repo.roles["targets"]["version"] = 3
    repo.list_role("targets", repo.write("targets"))
    repo.roles["snapshot"]["meta"]["targets.json"]["hashes"] = {"sha256": "ab" * 32}
    repo.publish_snapshot()
    assert not client.refresh()
    assert client.trusted == {"root": 1, "timestamp": 3, "snapshot": 3, "targets": 2}


def test_snapshot_hash_mismatch(client, repo):
    repo.hashes = True
    repo.publish("targets")
    assert client.refresh()
    repo.roles["snapshot"]["version"] = 3
    repo.list_snapshot(repo.write("snapshot")[:-1] + b" ")
    assert not client.refresh()
    assert client.trusted == {"root": 1, "timestamp": 3, "snapshot": 2, "targets": 2}


def test_metadata_bytes_match(client, repo):
    # Any layout is as good as another, and kept.
    served = json.dumps(json.loads(repo.metadata["timestamp.json"]), indent=3).encode() + b"\n"
    repo.metadata["timestamp.json"] = served
    assert client.refresh()
    assert client.stored("timestamp") == served


def test_custom_fields(client, repo):
    root = repo.roles["root"]
    key = root["roles"]["targets"]["keyids"][0]
    for place in (root, root["roles"]["root"], root["keys"][key]):
        place["x-custom"] = {"any": ["thing", 1, None, 'a "quoted\\ name"', "\n"]}
    repo.publish_root()
    assert client.refresh()
    assert client.trusted["root"] == 2
    # They are signed like everything else.
    root["version"] = 3
    file = json.loads(repo.write("root"))
    file["signed"]["x-custom"] = "changed"
    repo.put("root", json.dumps(file).encode())
    assert not client.refresh()
    assert client.trusted["root"] == 2


def test_deprecated_keyid_hash_algorithms(client, repo):
    for key in repo.roles["root"]["keys"].values():
        key["keyid_hash_algorithms"] = "nonsense"
    repo.publish_root()
    assert client.refresh()
    assert client.trusted["root"] == 2


def test_snapshot_404(client, repo):
    assert client.refresh()
    repo.publish("targets")
    del repo.metadata["2.snapshot.json"]
    assert not client.refresh()
    assert repo.requests[-1] == ("snapshot", 2)
    assert client.trusted == ALL_AT_1 | {"timestamp": 2}


def test_targets_404(client, repo):
    assert client.refresh()
    repo.publish("targets")
    del repo.metadata["2.targets.json"]
    assert not client.refresh()
    assert repo.requests[-1] == ("targets", 2)
    assert client.trusted == ALL_AT_1 | {"timestamp": 2, "snapshot": 2}


def test_timestamp_404(client, repo):
    del repo.metadata["timestamp.json"]
    assert not client.refresh()
    assert repo.requests[-1] == ("timestamp", None)


def test_incorrect_metadata_type(client, repo):
    # One key for both roles, so the signature is right and only the type is wrong.
    repo.set_keys("snapshot", repo.signers["timestamp"])
    repo.publish_root()
    repo.metadata["timestamp.json"] = sealed(repo.roles["snapshot"], repo.signers["snapshot"])
    assert not client.refresh()
    assert client.trusted == {"root": 2}


@pytest.mark.moves_the_clock
def test_faketime(client, repo):
    repo.roles["root"]["expires"] = in_days(7)
    repo.publish_root()
    assert client.refresh()
    assert not client.refresh(after_days=8)
