"""Signed all right, and still not what metadata looks like: refused, never a crash, nothing of it stored."""

import json

import pytest

from repository import TOP_LEVEL, envelope, sealed

REMOVED = object()
OPTIONAL = ("consistent_snapshot",)


def offer(client, repo, role, signed) -> bool:
    """Serves `signed` as the next version of the role. True when the client took it."""
    if role == "root":
        repo.metadata["2.root.json"] = sealed(signed, repo.signers["root"])
    else:
        repo.publish("targets")
        file = repo.file_of(role)
        repo.metadata[file] = sealed(signed, repo.signers[role])
    went_well = client.refresh()
    assert went_well == (client.trusted.get(role) == 2)
    return went_well


def next_of(repo, role) -> dict:
    return json.loads(json.dumps(repo.roles[role])) | {"version": 2}


@pytest.mark.parametrize("role", TOP_LEVEL)
def test_the_next_version_as_it_should_be_is_taken(client, repo, role):
    signed = next_of(repo, role)
    if role == "timestamp":
        signed["meta"]["snapshot.json"]["version"] = 2
    if role == "snapshot":
        signed["meta"]["targets.json"]["version"] = 2
    assert offer(client, repo, role, signed)


FIELDS = {
    "root": ["_type", "spec_version", "version", "expires", "keys", "roles"],
    "timestamp": ["_type", "spec_version", "version", "expires", "meta"],
    "snapshot": ["_type", "spec_version", "version", "expires", "meta"],
    "targets": ["_type", "spec_version", "version", "expires", "targets"],
}
VALUES = [REMOVED, None, [], "", -1, {"a": []}]


@pytest.mark.parametrize("role, field", [(role, field) for role, fields in FIELDS.items() for field in fields])
def test_no_field_of_another_type(client, repo, role, field):
    for value in VALUES:
        signed = next_of(repo, role)
        if value is REMOVED:
            del signed[field]
        else:
            signed[field] = value
        if role == "root":
            repo.metadata["2.root.json"] = sealed(signed, repo.signers["root"])
        else:
            name = repo.file_of(role) if role == "timestamp" else repo.file_of(role, 1)
            signed = signed if field == "version" else signed | {"version": 1}
            repo.metadata[name] = sealed(signed, repo.signers[role])
        assert not client.refresh(), value
        assert role == "root" or role not in client.trusted


def broken(text: str) -> pytest.param:
    return pytest.param(text.encode(), id=text[:20] or "nothing")


@pytest.mark.parametrize(
    "data",
    [broken(t) for t in ["", "null", "{}", "[]", '{"signed": {}', '{"signatures": [], "signed": 1}', "[" * 10_000, "\ufeff{}"]],
)
@pytest.mark.parametrize("role", TOP_LEVEL)
def test_a_file_that_is_no_metadata(client, repo, role, data):
    repo.metadata["2.root.json" if role == "root" else repo.file_of(role)] = data
    assert not client.refresh()
    assert role == "root" or role not in client.trusted


def change(*path, to):
    return path, to


ROOTS = {
    "version 0": change("version", to=0),
    "a version beyond 64 bits": change("version", to=2**64),
    "another major version": change("spec_version", to="2.0.0"),
    "a version that only starts alike": change("spec_version", to="10.0.0"),
    "no time": change("expires", to="tomorrow"),
    "half a time": change("expires", to="2126-01-01"),
    "seconds": change("expires", to=4_000_000_000),
    "a negative threshold": change("roles", "root", "threshold", to=-1),
    "a threshold in words": change("roles", "root", "threshold", to="1"),
    "a role too many": change("roles", "mirror", to={"keyids": [], "threshold": 1}),
    "a role without keys": change("roles", "root", "keyids", to=[]),
    "another type": change("_type", to="timestamp"),
}


@pytest.mark.parametrize("case", ROOTS)
def test_a_root_that_says_the_impossible(client, repo, case):
    path, value = ROOTS[case]
    signed = next_of(repo, "root")
    place = signed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    repo.metadata["2.root.json"] = sealed(signed, repo.signers["root"])
    assert not client.refresh()
    assert client.trusted == {"root": 1}


@pytest.mark.parametrize("role", TOP_LEVEL)
def test_a_root_without_one_of_the_roles(client, repo, role):
    signed = next_of(repo, "root")
    del signed["roles"][role]
    repo.metadata["2.root.json"] = sealed(signed, repo.signers["root"])
    assert not client.refresh()
    assert client.trusted == {"root": 1}


PINS = [{"version": -1}, {"version": 1, "length": -1}, {"version": 1, "hashes": {}}, {"version": 1, "hashes": {"md5": "00"}}, {}]


@pytest.mark.parametrize("pin", PINS, ids=str)
def test_a_timestamp_that_lists_the_impossible(client, repo, pin):
    repo.roles["timestamp"]["meta"]["snapshot.json"] = pin
    repo.publish_timestamp()
    assert not client.refresh()
    assert "snapshot" not in client.trusted


DELEGATIONS = {
    "neither paths nor prefixes": {"roles": [{}]},
    "paths and prefixes": {"roles": [{"paths": ["*"], "path_hash_prefixes": ["00"]}]},
    "neither roles nor bins": {},
    "roles and bins": {"roles": [{"paths": ["*"]}], "succinct_roles": {"bit_length": 1, "name_prefix": "bin"}},
    "bins of no bits": {"succinct_roles": {"bit_length": 0, "name_prefix": "bin"}},
    "bins of 33 bits": {"succinct_roles": {"bit_length": 33, "name_prefix": "bin"}},
    "bins of -1 bits": {"succinct_roles": {"bit_length": -1, "name_prefix": "bin"}},
}


@pytest.mark.parametrize("case", DELEGATIONS)
def test_delegations_that_say_the_impossible(client, repo, case):
    delegations = json.loads(json.dumps(DELEGATIONS[case]))
    signed_by = {"keyids": [], "threshold": 1}
    for role in delegations.get("roles", []):
        role.update(name="A", terminating=False, **signed_by)
    if "succinct_roles" in delegations:
        delegations["succinct_roles"].update(signed_by)
    repo.roles["targets"]["delegations"] = {"keys": {}, **delegations}
    repo.publish("targets")
    assert not client.refresh()
    assert "targets" not in client.trusted


def test_a_field_that_stands_twice(client, repo):
    # Signed over what most readers would take: the last of the two.
    file = repo.write("timestamp").decode()
    repo.metadata["timestamp.json"] = file.replace('"version": 1', '"version": 7, "version": 1').encode()
    assert repo.metadata["timestamp.json"].decode() != file
    assert not client.refresh()


def test_times_with_a_fraction_are_signed_as_they_stand(client, repo):
    repo.roles["timestamp"]["expires"] = "2126-01-01T00:00:00.120000Z"
    repo.publish_timestamp()
    assert client.refresh()
    assert client.trusted["timestamp"] == 2


def test_signatures_that_are_no_list(client, repo):
    for signatures in ({}, None, "", [None], [{"keyid": "a"}], [{"sig": "00"}], [{"keyid": 1, "sig": "00"}]):
        repo.put("timestamp", envelope(repo.roles["timestamp"], signatures))
        assert not client.refresh()
        assert "timestamp" not in client.trusted
