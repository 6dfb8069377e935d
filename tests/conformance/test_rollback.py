"""Nothing that was seen goes back, unless root gives the role new keys."""

import pytest



ALL_AT_2 = {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 2}
hashes = pytest.mark.parametrize("hashes", [False, True], ids=["basic", "with hashes"])


def test_new_timestamp_version_rollback(client, repo):
    repo.publish_timestamp()
    assert client.refresh()
    repo.roles["timestamp"]["version"] = 1
    repo.write("timestamp")
    assert not client.refresh()
    assert client.trusted["timestamp"] == 2
    assert repo.requests[-1] == ("timestamp", None)


@hashes
def test_snapshot_rollback(client, repo, hashes):
    repo.hashes = hashes
    first = repo.metadata["1.snapshot.json"]
    repo.publish_snapshot()
    assert client.refresh()
    repo.roles["snapshot"]["version"] = 1
    repo.list_snapshot(first)
    assert not client.refresh()
    assert client.trusted["timestamp"] == 2
    assert client.trusted["snapshot"] == 2
    assert repo.requests[-1] == ("timestamp", None)


def test_targets_role_removal(client, repo):
    repo.delegate("targets", "gone")
    repo.publish("gone", "targets")
    assert client.refresh()
    del repo.roles["snapshot"]["meta"]["gone.json"]
    repo.publish_snapshot()
    assert not client.refresh()
    assert client.trusted["snapshot"] == 2


def test_targets_fast_forward_recovery(client, repo):
    repo.delegate("targets", "gone")
    repo.roles["targets"]["version"] = 99
    repo.publish("gone", "targets")
    assert client.refresh()
    assert client.trusted["targets"] == 100
    repo.rotate("snapshot")
    del repo.roles["snapshot"]["meta"]["gone.json"]
    repo.roles["targets"]["version"] = 0
    repo.publish("targets")
    assert client.refresh()
    assert client.trusted["targets"] == 1


def test_new_snapshot_fast_forward_recovery(client, repo):
    repo.roles["snapshot"]["version"] = 99
    repo.publish_snapshot()
    assert client.refresh()
    assert client.trusted["snapshot"] == 100
    repo.rotate("snapshot", "timestamp")
    repo.roles["snapshot"]["version"] = 0
    repo.publish_snapshot()
    assert client.refresh()
    assert client.trusted["snapshot"] == 1


def test_new_timestamp_fast_forward_recovery(client, repo):
    repo.roles["timestamp"]["version"] = 99
    repo.publish_timestamp()
    assert client.refresh()
    assert client.trusted["timestamp"] == 100
    repo.rotate("timestamp")
    repo.roles["timestamp"]["version"] = 0
    repo.publish_timestamp()
    assert client.refresh()
    assert client.trusted["timestamp"] == 1


@hashes
def test_targets_rollback(client, repo, hashes):
    repo.hashes = hashes
    first = repo.metadata["1.targets.json"]
    repo.publish("targets")
    assert client.refresh()
    assert client.trusted == ALL_AT_2
    repo.roles["targets"]["version"] = 1
    repo.list_role("targets", first)
    repo.publish_snapshot()
    assert not client.refresh()
    assert client.trusted == ALL_AT_2 | {"timestamp": 3}
