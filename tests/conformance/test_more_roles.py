"""Roles: what TUF's own suite leaves out, from known weaknesses of other clients."""

import json

import pytest

from repository import TOP_LEVEL, envelope, in_days, sealed

ALL_AT_1 = dict.fromkeys(TOP_LEVEL, 1)


def test_a_long_way_of_roots_is_gone_in_steps(client, repo):
    for _ in range(259):
        repo.publish_root()
    assert client.refresh()
    assert client.trusted["root"] == 257
    assert client.refresh()
    assert client.trusted["root"] == 260


def test_a_bad_root_ends_the_way_although_a_later_one_is_good(client, repo):
    repo.publish_root(signers=[])
    repo.publish_root()
    for _ in range(2):
        assert not client.refresh()
        assert client.trusted == {"root": 1}
        assert repo.requests == [("root", 2)]


@pytest.mark.parametrize("version", [1, 3])
def test_a_root_is_followed_by_the_next_only(client, repo, version):
    repo.roles["root"]["version"] = version
    repo.metadata["2.root.json"] = sealed(repo.roles["root"], repo.signers["root"])
    assert not client.refresh()
    assert client.trusted == {"root": 1}


def test_a_server_that_fails_has_not_said_that_there_is_no_newer_root(client, repo):
    repo.metadata["2.root.json"] = 500
    assert not client.refresh()
    assert repo.requests == [("root", 2)]


@pytest.mark.moves_the_clock
def test_an_expired_timestamp_still_forbids_to_go_back(client, repo):
    first = repo.metadata["timestamp.json"]
    repo.roles["timestamp"]["expires"] = in_days(7)
    repo.publish_timestamp()
    assert client.refresh()
    repo.metadata["timestamp.json"] = first
    assert not client.refresh(after_days=18)
    assert client.trusted["timestamp"] == 2


@pytest.mark.moves_the_clock
def test_the_same_timestamp_again_lives_no_longer(client, repo):
    repo.roles["timestamp"]["expires"] = in_days(7)
    repo.publish_timestamp()
    assert client.refresh()
    repo.roles["timestamp"]["expires"] = in_days(30)
    repo.write("timestamp")
    assert not client.refresh(after_days=18)


@pytest.mark.parametrize("role, most", [("root", 512_000), ("timestamp", 16_384)])
def test_a_file_without_a_listed_length_has_a_limit(client, repo, role, most):
    repo.roles[role]["x-filling"] = "x" * most
    repo.publish_root() if role == "root" else repo.publish_timestamp()
    assert not client.refresh()
    assert role == "timestamp" or client.trusted["root"] == 1
    assert client.trusted.get("timestamp") is None


def test_a_snapshot_longer_than_listed_is_refused(client, repo):
    repo.hashes = True
    repo.publish("targets")
    repo.metadata["2.snapshot.json"] += b"\n"
    assert not client.refresh()
    assert client.trusted == {"root": 1, "timestamp": 2}


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_a_stored_role_that_was_changed_is_fetched_again(client, repo, role):
    assert client.refresh()
    path = client.metadata / f"{role}.json"
    path.write_bytes(path.read_bytes().replace(b'"version": 1', b'"version": 9', 1))
    assert client.refresh()
    assert client.trusted == ALL_AT_1
    assert (role, None if role == "timestamp" else 1) in repo.requests


@pytest.mark.parametrize("content", [b"", b"{}", b"not json"])
def test_a_stored_root_that_is_none_ends_everything(client, repo, content):
    assert client.refresh()
    (client.metadata / "root.json").write_bytes(content)
    assert not client.refresh()
    assert repo.requests == []


def test_a_threshold_of_nothing_is_refused(client, repo):
    repo.roles["root"]["roles"]["timestamp"]["threshold"] = 0
    repo.publish_root()
    assert not client.refresh()
    assert client.trusted == {"root": 1}


def test_one_key_under_two_ids_signs_once(client, repo):
    [key] = repo.signers["timestamp"]
    root = repo.roles["root"]
    root["keys"]["another-id"] = root["keys"][key.public_key.keyid]
    root["roles"]["timestamp"] = {"keyids": [key.public_key.keyid, "another-id"], "threshold": 2}
    repo.publish_root()
    file = json.loads(repo.metadata["timestamp.json"])
    [signature] = file["signatures"]
    repo.put("timestamp", envelope(file["signed"], [signature, {**signature, "keyid": "another-id"}]))
    assert not client.refresh()
    assert client.trusted == {"root": 2}


def test_an_id_of_a_key_is_only_a_name(client, repo):
    [key] = repo.signers["timestamp"]
    root = repo.roles["root"]
    root["keys"]["any name"] = root["keys"].pop(key.public_key.keyid)
    root["roles"]["timestamp"]["keyids"] = ["any name"]
    repo.publish_root()
    file = json.loads(repo.metadata["timestamp.json"])
    repo.put("timestamp", envelope(file["signed"], [{**file["signatures"][0], "keyid": "any name"}]))
    assert client.refresh()


@pytest.mark.parametrize("public", ["", "00" * 32, "01" + "00" * 31, "ff" * 32, "abcd", "no hexadecimal"])
def test_a_key_that_is_none_signs_nothing(client, repo, public):
    keyid = repo.signers["timestamp"][0].public_key.keyid
    repo.roles["root"]["keys"][keyid]["keyval"]["public"] = public
    repo.publish_root()
    # Over a key of small order this would be a signature of anything.
    repo.put("timestamp", envelope(repo.roles["timestamp"], [{"keyid": keyid, "sig": "01" + "00" * 63}]))
    assert not client.refresh()
    assert client.trusted == {"root": 2}


def test_more_signatures_than_anybody_needs_are_refused(client, repo):
    file = json.loads(repo.metadata["timestamp.json"])
    more = [{"keyid": f"{number:064x}", "sig": "00"} for number in range(64)]
    repo.put("timestamp", envelope(file["signed"], file["signatures"] + more))
    assert not client.refresh()


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_a_thiefs_fast_forward_is_undone_although_another_key_signed_it_too(client, repo, role):
    stolen, safe = repo.new_key(), repo.new_key()
    repo.set_keys(role, [stolen, safe])
    repo.publish_root()
    repo.roles[role]["version"] = 99
    repo.publish_timestamp() if role == "timestamp" else repo.publish_snapshot()
    assert client.refresh()
    assert client.trusted[role] == 100
    repo.set_keys(role, [safe])
    repo.publish_root()
    repo.roles[role]["version"] = 1
    repo.publish_timestamp() if role == "timestamp" else repo.publish_snapshot()
    assert client.refresh()
    assert client.trusted[role] == 2


def test_a_new_root_alone_lets_nothing_go_back(client, repo):
    first = repo.metadata["timestamp.json"]
    repo.publish_timestamp()
    assert client.refresh()
    repo.set_keys("timestamp", [*repo.signers["timestamp"], repo.new_key()])
    repo.publish_root()
    repo.metadata["timestamp.json"] = first
    assert not client.refresh()
    assert client.trusted["timestamp"] == 2


def test_targets_that_name_another_key_leave_no_delegated_role_behind(client, repo):
    repo.delegate("targets", "A")
    repo.publish("A", "targets")
    client.download("missing")
    assert client.trusted["A"] == 1
    repo.set_keys("A", [repo.new_key()])
    repo.write("A")
    repo.publish("targets")
    assert client.refresh()
    assert "A" not in client.trusted
    client.download("missing")
    assert client.trusted["A"] == 1


def test_new_targets_keys_leave_no_delegated_role_behind(client, repo):
    repo.delegate("targets", "A")
    repo.publish("A", "targets")
    client.download("missing")
    assert client.trusted["A"] == 1
    repo.rotate("targets")
    repo.roles["targets"].pop("delegations")
    repo.publish("targets")
    assert client.refresh()
    assert "A" not in client.trusted
