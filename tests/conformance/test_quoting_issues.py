"""Names of roles are data, for the server and for the disk."""

import pytest

from repository import TOP_LEVEL


@pytest.mark.parametrize("role", ["?", "#", "/delegatedrole", "../delegatedrole"])
def test_unusual_role_name(client, repo, role):
    repo.delegate("targets", role)
    repo.publish(role, "targets")
    before = {path for path in client.metadata.parent.rglob("*") if client.metadata not in path.parents}
    assert not client.download("missing")
    assert repo.requests[-1] == (role, 1)
    assert client.trusted == {**dict.fromkeys(TOP_LEVEL, 2), "root": 1, role: 1}
    after = {path for path in client.metadata.parent.rglob("*") if client.metadata not in path.parents}
    assert before == after
    assert len(list(client.metadata.rglob("*"))) == 5
