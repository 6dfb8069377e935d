"""Delegations and files: what TUF's own suite leaves out, from known weaknesses of other clients."""

import pytest

from repository import TOP_LEVEL, Repository, digest, in_days

BYTES = b"what was signed"


def test_a_repository_without_consistent_snapshots(serve):
    repo = Repository()
    repo.consistent = False
    repo.roles["root"]["consistent_snapshot"] = False
    repo.metadata.clear()
    for role in TOP_LEVEL:
        repo.write(role)
    repo.add_target("file.txt", BYTES)
    repo.publish("targets")
    client = serve(repo)
    assert client.init()
    assert client.download("file.txt")
    assert client.downloaded == [BYTES]
    assert repo.requests == [("root", 2), ("timestamp", None), ("snapshot", None), ("targets", None)]
    assert repo.downloads == ["file.txt"]


def test_delegation_by_hash_prefixes(client, repo):
    path = "some/file"
    repo.delegate("targets", "other", prefixes=["%02x" % (int(digest(path.encode())[:2], 16) ^ 1)])
    repo.delegate("targets", "own", prefixes=["zz", digest(path.encode())[:2]])
    repo.add_target(path, BYTES, "own")
    repo.publish("other", "own", "targets")
    assert client.download(path)
    assert [role for role, _ in repo.requests if role not in TOP_LEVEL] == ["own"]


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_delegation_by_succinct_bins(client, repo, bits):
    path = "some/file"
    first = int(digest(path.encode())[:2], 16) >> (8 - bits)
    role = f"bin-{first:0{(bits + 3) // 4}x}"
    # The role comes to be as a plain delegation, which then makes way for the bins.
    repo.delegate("targets", role)
    keyid = repo.signers[role][0].public_key.keyid
    delegations = repo.roles["targets"]["delegations"]
    del delegations["roles"]
    delegations["succinct_roles"] = {"keyids": [keyid], "threshold": 1, "bit_length": bits, "name_prefix": "bin"}
    repo.add_target(path, BYTES, role)
    repo.publish(role, "targets")
    assert client.download(path)
    assert client.downloaded == [BYTES]
    assert client.trusted[role] == 1


def test_a_search_asks_no_more_than_32_roles(client, repo):
    for number in range(40):
        repo.delegate("targets", f"role-{number}")
    repo.add_target("late", BYTES, "role-32")
    repo.add_target("in-time", BYTES, "role-31")
    repo.publish(*[role for role in repo.roles if role not in TOP_LEVEL], "targets")
    assert not client.download("late")
    assert len([role for role, _ in repo.requests if role not in TOP_LEVEL]) == 32
    assert client.download("in-time")


def delegated(repo) -> None:
    repo.delegate("targets", "A", key=repo.new_key())
    repo.delegate("targets", "B", key=repo.new_key())
    repo.add_target("file", BYTES, "B")
    repo.publish("A", "B", "targets")


def unsigned(repo):
    repo.write("A", signers=[])


def by_another(repo):
    repo.write("A", signers=repo.signers["B"])


def by_targets(repo):
    repo.write("A", signers=repo.signers["targets"])


def expired(repo):
    repo.roles["A"]["expires"] = in_days(-1)
    repo.write("A")


def another_version(repo):
    file = repo.file_of("A")
    repo.roles["A"]["version"] = 7
    repo.metadata[file] = repo.write("A")


def another_type(repo):
    repo.roles["A"]["_type"] = "snapshot"
    repo.write("A")


def missing(repo):
    del repo.metadata["1.A.json"]


@pytest.mark.parametrize("harm", [unsigned, by_another, by_targets, expired, another_version, another_type, missing])
def test_a_delegated_role_that_is_refused_ends_the_search(client, repo, harm):
    delegated(repo)
    harm(repo)
    assert not client.download("file")
    assert "A" not in client.trusted
    assert "B" not in client.trusted
    assert client.downloaded == []


def test_a_delegated_role_with_another_hash_is_refused(client, repo):
    delegated(repo)
    repo.hashes = True
    repo.list_role("A", repo.metadata["1.A.json"][:-1] + b" ")
    repo.publish_snapshot()
    assert not client.download("file")
    assert "A" not in client.trusted


def test_a_delegated_role_does_not_go_back(client, repo):
    delegated(repo)
    repo.publish("A")
    assert client.download("file")
    assert client.trusted["A"] == 2
    before = client.trusted["snapshot"]
    repo.roles["A"]["version"] = 1
    repo.list_role("A", repo.write("A"))
    repo.publish_snapshot()
    assert not client.download("file")
    assert client.trusted["snapshot"] == before


def test_a_held_role_is_fetched_again_when_it_changed(client, repo):
    delegated(repo)
    assert client.download("file")
    assert client.download("file")
    assert [role for role, _ in repo.requests if role not in TOP_LEVEL] == []
    repo.publish("B")
    assert client.download("file")
    assert [role for role, _ in repo.requests if role not in TOP_LEVEL] == ["B"]
    assert client.trusted["B"] == 2


def test_a_role_below_another_is_kept_between_runs(client, repo):
    repo.delegate("targets", "Z")
    repo.delegate("Z", "A")
    repo.add_target("file", BYTES, "A")
    repo.publish("Z", "A", "targets")
    assert client.download("file")
    assert client.download("file")
    assert [role for role, _ in repo.requests if role not in TOP_LEVEL] == []


@pytest.mark.parametrize("role", TOP_LEVEL)
def test_no_delegation_takes_the_name_of_a_top_level_role(client, repo, role):
    repo.delegate("targets", "A")
    repo.roles["targets"]["delegations"]["roles"][0]["name"] = role
    repo.publish("targets")
    assert not client.refresh()
    assert "targets" not in client.trusted


@pytest.mark.parametrize("name", ["../../file", "/etc/file", "a\0b", "a\\b", "..", ".", "file?x#y"])
def test_a_name_leads_nowhere_else(client, repo, name):
    repo.add_target(name, BYTES)
    repo.publish("targets")
    client.download(name) if "\0" not in name else None
    inside = {path for path in client.metadata.parent.rglob("*") if path.is_file() and path.read_bytes() == BYTES}
    assert all(path.parent == client.files for path in inside)
    assert len(inside) == (0 if name in (".", "..") or "\0" in name else 1)


@pytest.mark.parametrize("data", [BYTES + b"!", BYTES[:-1], b"", b"x" * len(BYTES)])
def test_a_file_that_is_not_what_was_signed_is_not_kept(client, repo, data):
    repo.add_target("file", BYTES)
    repo.publish("targets")
    [name] = repo.targets
    repo.targets[name] = data
    assert not client.download("file")
    assert client.downloaded == []


@pytest.mark.parametrize("wrong", ["sha256", "sha512"])
def test_every_hash_must_match(client, repo, wrong):
    repo.add_target("file", BYTES, algorithms=("sha256", "sha512"))
    repo.roles["targets"]["targets"]["file"]["hashes"][wrong] = digest(b"something else", wrong)
    for algorithm in ("sha256", "sha512"):
        repo.targets[f"{digest(b'something else', algorithm)}.file"] = BYTES
    repo.publish("targets")
    assert not client.download("file")
    assert client.downloaded == []


def test_the_first_failure_ends_a_download_of_several(client, repo):
    for name in ("one", "three"):
        repo.add_target(name, name.encode())
    repo.publish("targets")
    assert not client.download("one", "two", "three")
    assert client.downloaded == [b"one"]
