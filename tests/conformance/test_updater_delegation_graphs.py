"""Which delegated roles are asked, in which order, and which of them are believed."""

import pytest

from repository import TOP_LEVEL

BYTES = b"what was signed"


def build(repo, edges) -> None:
    """Delegations `(from, to, pattern, terminating)`, all published at version 1."""
    for delegator, role, pattern, terminating in edges:
        repo.delegate(delegator, role, [pattern], terminating=terminating)
    repo.publish(*[role for role in repo.roles if role not in TOP_LEVEL], "targets")


def asked(repo) -> list[str]:
    return [role for role, _ in repo.requests if role not in TOP_LEVEL]


def edge(delegator: str, role: str, pattern: str = "*", terminating: bool = False) -> tuple:
    return delegator, role, pattern, terminating


GRAPHS = {
    "basic delegation": ([edge("targets", "A")], ["A"]),
    "single level": ([edge("targets", "A"), edge("targets", "B")], ["A", "B"]),
    "two levels": ([edge("targets", "A"), edge("targets", "B"), edge("B", "C")], ["A", "B", "C"]),
    "two levels, depth first": (
        [edge("targets", "A"), edge("targets", "B"), edge("A", "C"), edge("A", "D")],
        ["A", "C", "D", "B"],
    ),
    "three levels, depth first": (
        [edge("targets", "A"), edge("targets", "B"), edge("A", "C"), edge("C", "D")],
        ["A", "C", "D", "B"],
    ),
    "two levels, terminating": (
        [edge("targets", "A"), edge("targets", "B"), edge("A", "C", terminating=True), edge("A", "D")],
        ["A", "C"],
    ),
    "three levels, terminating": (
        [edge("targets", "A"), edge("targets", "B"), edge("A", "C", terminating=True), edge("C", "D")],
        ["A", "C", "D"],
    ),
    "a path that does not match": ([edge("targets", "A", "other"), edge("targets", "B")], ["B"]),
    "a path below that does not match": (
        [edge("targets", "A"), edge("A", "C", "other", terminating=True), edge("A", "B")],
        ["A", "B"],
    ),
    "a cycle": (
        [edge("targets", "A"), edge("targets", "B"), edge("B", "C"), edge("C", "D"), edge("D", "B")],
        ["A", "B", "C", "D"],
    ),
    "two delegators of one role": (
        [edge("targets", "A"), edge("targets", "B"), edge("A", "C"), edge("B", "C")],
        ["A", "C", "B"],
    ),
    "two delegators, the first for another path": (
        [edge("targets", "A"), edge("targets", "B"), edge("A", "C", "other"), edge("B", "C")],
        ["A", "B", "C"],
    ),
}


@pytest.mark.parametrize("graph", GRAPHS)
def test_graph_traversal(client, repo, graph):
    edges, order = GRAPHS[graph]
    build(repo, edges)
    assert not client.download("missing")
    assert asked(repo) == order


# Pattern of a delegation to A, path that is looked for, whether it is found, roles asked.
SEARCHES = {
    "no delegations": ([], "file", "targets", True, []),
    "wildcard": ([edge("targets", "A", "*.md")], "readme.md", "A", True, ["A"]),
    "separators, first role": ([edge("targets", "A", "x/*"), edge("targets", "B", "y/*")], "x/file", "A", True, ["A"]),
    "separators, second role": ([edge("targets", "A", "x/*"), edge("targets", "B", "y/*")], "y/file", "B", True, ["B"]),
    "not delegated by every role": ([edge("targets", "A", "x/*"), edge("A", "B", "*/*")], "y/file", "B", False, []),
    "* does not cross a separator": ([edge("targets", "A", "*")], "x/file", "A", False, []),
    "? is one character": ([edge("targets", "A", "v?.txt")], "v1.txt", "A", True, ["A"]),
    "? is not five characters": ([edge("targets", "A", "v?.txt")], "v12345.txt", "A", False, []),
    "case matters": ([edge("targets", "A", "*.md")], "README.MD", "A", False, []),
}


@pytest.mark.parametrize("search", SEARCHES)
def test_targetfile_search(client, repo, search):
    edges, path, role, found, roles = SEARCHES[search]
    for item in edges:
        repo.delegate(item[0], item[1], [item[2]])
    repo.add_target(path, BYTES, role)
    repo.publish(*[name for name in repo.roles if name not in TOP_LEVEL], "targets")
    assert client.download(path) == found
    assert client.downloaded == ([BYTES] if found else [])
    assert asked(repo) == roles


def test_cached_role_is_verified_against_current_delegator(client, repo):
    # A and B both delegate to "shared", but only A names the key that signs it.
    a_key, b_key = repo.new_key(), repo.new_key()
    repo.delegate("targets", "A", ["a/*"])
    repo.delegate("targets", "B", ["b/*"])
    repo.delegate("A", "shared", ["a/*"], key=a_key)
    repo.delegate("B", "shared", ["b/*"], key=b_key)
    repo.signers["shared"] = [a_key]
    repo.add_target("a/file", BYTES, "shared")
    repo.add_target("b/file", b"not B's to say", "shared")
    repo.publish("A", "B", "shared", "targets")
    assert not client.download("a/file", "b/file")
    assert client.downloaded == [BYTES]
    assert client.trusted.get("shared", 1) == 1


def test_delegation_not_in_snapshot(client, repo):
    repo.delegate("targets", "A")
    repo.publish("targets")
    repo.roles["A"]["version"] = 1
    repo.write("A")
    assert client.refresh()
    assert not client.download("file")
    assert asked(repo) == []
