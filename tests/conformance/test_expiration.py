"""What is late is refused, at the latest moment that keeps the way to newer metadata open."""

import pytest

from repository import TOP_LEVEL, in_days

ALL_AT_1 = dict.fromkeys(TOP_LEVEL, 1)


def test_root_expired(client, repo):
    assert client.refresh()
    repo.publish_root()
    repo.roles["root"]["expires"] = in_days(-1)
    repo.publish_root()
    repo.publish("targets")
    assert not client.refresh()
    assert client.trusted == ALL_AT_1 | {"root": 3}


def test_timestamp_expired(client, repo):
    assert client.refresh()
    repo.roles["timestamp"]["expires"] = in_days(-1)
    repo.publish("targets")
    assert not client.refresh()
    assert client.trusted == ALL_AT_1


def test_snapshot_expired(client, repo):
    assert client.refresh()
    repo.roles["snapshot"]["expires"] = in_days(-1)
    repo.publish("targets")
    assert not client.refresh()
    assert client.trusted == ALL_AT_1 | {"timestamp": 2}


def test_targets_expired(client, repo):
    assert client.refresh()
    repo.roles["targets"]["expires"] = in_days(-1)
    repo.publish("targets")
    assert not client.refresh()
    assert client.trusted == ALL_AT_1 | {"timestamp": 2, "snapshot": 2}


@pytest.mark.moves_the_clock
def test_expired_local_root(client, repo):
    repo.roles["root"]["expires"] = in_days(10)
    repo.publish_root()
    assert client.refresh()
    assert client.trusted["root"] == 2
    repo.roles["root"]["expires"] = in_days(30)
    repo.publish_root()
    assert client.refresh(after_days=18)
    assert client.trusted["root"] == 3


@pytest.mark.moves_the_clock
def test_expired_local_timestamp(client, repo):
    repo.roles["timestamp"]["expires"] = in_days(7)
    repo.publish_timestamp()
    assert client.refresh()
    repo.roles["timestamp"]["expires"] = in_days(30)
    repo.publish("targets")
    assert client.refresh(after_days=18)
    assert client.trusted == {"root": 1, "timestamp": 3, "snapshot": 2, "targets": 2}
