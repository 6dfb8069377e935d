"""Who may say that keys change: thresholds of the old root and of the new one."""

import pytest

from repository import Repository

# Made once: keys are numbered, and only ever sign in these cases.
KEYS = [Repository.new_key(None, "ed25519") for _ in range(10)]
FIVE = [0, 1, 2, 3, 4]
NEXT_FIVE = [0, 1, 3, 4, 5]
OTHER_FIVE = [5, 6, 7, 8, 9]

# Versions of root as (keys, threshold, signers), and the version that is trusted in the end.
ROOTS = {
    "1-of-1 rotation": ([([1], 1, [1]), ([2], 1, [2, 1]), ([2], 1, [2])], 3),
    "1-of-1 rotation, unused signatures": ([([1], 1, [3, 1, 4]), ([2], 1, [3, 2, 1, 4]), ([2], 1, [3, 2, 4])], 3),
    "1-of-1 rotation, not by the old key": ([([1], 1, [1]), ([2], 1, [2, 3, 4])], 1),
    "1-of-1 rotation, not by the new key": ([([1], 1, [1]), ([2], 1, [1, 3, 4])], 1),
    "3-of-5, other signers each time": (
        [(FIVE, 3, signers) for signers in ([0, 2, 4], [0, 1, 3], [1, 2, 3], [2, 3, 4], [0, 1, 4])],
        5,
    ),
    "3-of-5, one key rotated": ([(FIVE, 3, [0, 2, 4]), (NEXT_FIVE, 3, [0, 4, 1])], 2),
    "3-of-5, one key rotated, intermediate step": (
        [(FIVE, 3, [0, 2, 4]), (NEXT_FIVE, 3, [0, 2, 4, 5]), (NEXT_FIVE, 3, [0, 1, 5])],
        3,
    ),
    "3-of-5, all keys rotated, intermediate step": (
        [(FIVE, 3, [0, 2, 4]), (OTHER_FIVE, 3, [0, 2, 4, 5, 6, 7]), (OTHER_FIVE, 3, [5, 6, 7])],
        3,
    ),
    "1-of-3 to 2-of-3": ([([1, 2, 3], 1, [1]), ([1, 2, 3], 2, [1, 2])], 2),
    "2-of-3 to 1-of-3": ([([1, 2, 3], 2, [1, 2]), ([1, 2, 3], 1, [1, 2]), ([1, 2, 3], 1, [1])], 3),
    "1-of-2 to 2-of-2": ([([1, 2], 1, [1]), ([1, 2], 2, [1, 2]), ([1, 2], 2, [1, 2])], 3),
    "3-of-5, not by three new keys": ([(FIVE, 3, [0, 2, 4]), (NEXT_FIVE, 3, [0, 2, 4])], 1),
    "3-of-5, not by three old keys": ([(FIVE, 3, [0, 2, 4]), (NEXT_FIVE, 3, [0, 4, 5])], 1),
    "1-of-3 to 2-of-3, the new threshold is not met": ([([1, 2, 3], 1, [1]), ([1, 2, 3], 2, [1])], 1),
    "2-of-3 to 1-of-3, the old threshold is not met": ([([1, 2, 3], 2, [1, 2]), ([1, 2, 3], 1, [1])], 1),
}

# Keys, threshold and signers before a rotation, the same after it, and whether the role is still believed.
ROLES = {
    "1-of-1 rotation": (([1], 1, [1]), ([2], 1, [2]), True),
    "1-of-1 rotation, unused signatures": (([1], 1, [3, 1, 4]), ([2], 1, [3, 2, 4]), True),
    "3-of-5, other signers": ((FIVE, 3, [0, 2, 4]), (FIVE, 3, [0, 1, 3]), True),
    "3-of-5, one key rotated": ((FIVE, 3, [0, 2, 4]), (NEXT_FIVE, 3, [0, 1, 5]), True),
    "3-of-5, one key rotated, old signers that stay": ((FIVE, 3, [0, 2, 4]), (NEXT_FIVE, 3, [0, 1, 4]), True),
    "3-of-5, all keys rotated": ((FIVE, 3, [0, 2, 4]), (OTHER_FIVE, 3, [5, 6, 7]), True),
    "3-of-5, all keys rotated, old signatures too": ((FIVE, 3, [0, 2, 4]), (OTHER_FIVE, 3, [0, 2, 4, 5, 6, 7]), True),
    "1-of-1 rotation, by the old key only": (([1], 1, [1]), ([2], 1, [1, 3, 4]), False),
    "3-of-5, one signature by a removed key": ((FIVE, 3, [0, 2, 4]), (NEXT_FIVE, 3, [0, 2, 4]), False),
    "3-of-5, two signatures": ((FIVE, 3, [0, 2, 4]), (NEXT_FIVE, 3, [0, 5]), False),
}


def keys(numbers: list[int]) -> list:
    return [KEYS[number] for number in numbers]


@pytest.mark.parametrize("case", ROOTS)
def test_root_rotation(serve, repo, case):
    versions, trusted = ROOTS[case]
    for number, (holders, threshold, signers) in enumerate(versions, start=1):
        repo.set_keys("root", keys(holders), threshold)
        repo.roles["root"]["version"] = number
        repo.write("root", keys(signers))
    client = serve(repo)
    assert client.init()
    assert client.refresh() == (trusted == len(versions))
    assert client.trusted["root"] == trusted


@pytest.mark.parametrize("case", ROLES)
def test_non_root_rotations(serve, case):
    before, after, accepted = ROLES[case]
    for role in ("timestamp", "snapshot", "targets"):
        repo = Repository()
        for version, (holders, threshold, signers) in enumerate((before, after), start=1):
            repo.set_keys(role, keys(holders), threshold)
            repo.roles["root"]["version"] = version
            repo.write("root")
            if version == 1:
                client = serve(repo)
                assert client.init()
            repo.signers[role] = keys(signers)
            repo.publish("targets")
            assert client.refresh() == (version == 1 or accepted), role
        # A role that is not believed stays what it was, or goes with its keys.
        expected = 3 if accepted else 2
        assert client.trusted.get(role, 2) == expected
