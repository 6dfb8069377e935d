"""Thresholds, kinds of keys, and signatures that are none."""

import json

import pytest

from repository import NEW_KEY, envelope, sealed


def test_snapshot_does_not_meet_threshold(client, repo):
    keys = [repo.new_key() for _ in range(3)]
    repo.set_keys("snapshot", keys, threshold=3)
    repo.publish_root()
    repo.signers["snapshot"] = keys[:2]
    repo.publish("targets")
    assert not client.refresh()
    assert client.trusted == {"root": 2, "timestamp": 2}


def test_snapshot_has_too_few_keys(client, repo):
    repo.set_keys("snapshot", [repo.new_key() for _ in range(5)], threshold=6)
    repo.publish_root()
    repo.publish("targets")
    assert not client.refresh()
    assert client.trusted == {"root": 2, "timestamp": 2}


def test_duplicate_keys(client, repo):
    [key] = repo.signers["snapshot"]
    repo.roles["root"]["roles"]["snapshot"] = {"keyids": [key.public_key.keyid] * 9, "threshold": 6}
    repo.publish_root()
    repo.signers["snapshot"] = [key] * 9
    repo.publish("targets")
    assert not client.refresh()
    assert "snapshot" not in client.trusted


def test_duplicate_sig_keyids(client, repo):
    assert client.refresh()
    repo.publish("targets")
    file = json.loads(repo.metadata["timestamp.json"])
    repo.put("timestamp", envelope(file["signed"], file["signatures"] * 2))
    assert not client.refresh()
    assert client.trusted["timestamp"] == 1


@pytest.mark.parametrize("kind", ["rsa-pss-sha256", "ecdsa-nistp256", "ed25519"])
def test_keytype_and_scheme(client, repo, kind):
    key = NEW_KEY[kind]()
    repo.set_keys("timestamp", [key])
    repo.publish_root()
    repo.publish("targets")
    assert client.refresh()
    assert client.trusted["timestamp"] == 2
    # A signature of the right form over something else.
    repo.roles["timestamp"]["version"] = 3
    repo.put("timestamp", envelope(repo.roles["timestamp"], [key.sign(b"something else").to_dict()]))
    assert not client.refresh()
    assert client.trusted["timestamp"] == 2


def test_invalid_sig_in_valid_metadata(client, repo):
    good, other = repo.new_key(), repo.new_key()
    repo.set_keys("timestamp", [good, other])
    repo.publish_root()
    for version, wrong in [(2, other.sign(b"something else").signature), (3, "")]:
        repo.roles["timestamp"]["version"] = version
        file = json.loads(sealed(repo.roles["timestamp"], [good]))
        wrong = {"keyid": other.public_key.keyid, "sig": wrong}
        repo.put("timestamp", envelope(file["signed"], [wrong, *file["signatures"]]))
        assert client.refresh()
        assert client.trusted["timestamp"] == version
