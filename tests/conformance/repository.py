"""A TUF repository in memory that can be made to lie.

Roles are plain dictionaries, so that a case can put anything into them; tuf builds the honest ones and securesystemslib signs. What
is served are the bytes in `metadata` and `targets`, by file name: a role changes for clients when it is written, not before.
"""

import hashlib
from datetime import datetime, timedelta, timezone
from urllib.parse import quote

from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

TOP_LEVEL = ("root", "timestamp", "snapshot", "targets")

NEW_KEY = {
    "ed25519": CryptoSigner.generate_ed25519,
    "ecdsa-nistp256": CryptoSigner.generate_ecdsa,
    "rsa-pss-sha256": CryptoSigner.generate_rsa,
}


def in_days(days: float) -> str:
    """A time as metadata spells it."""
    return (datetime.now(timezone.utc) + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")


def digest(data: bytes, algorithm: str = "sha256") -> str:
    return hashlib.new(algorithm, data).hexdigest()


def sealed(signed: dict, signers: list) -> bytes:
    """The file of a role with these signatures."""
    message = encode_canonical(signed).encode()
    return envelope(signed, [signer.sign(message).to_dict() for signer in signers])


def envelope(signed: dict, signatures: list[dict]) -> bytes:
    """The file of a role with any signatures, in the layout that tuf writes."""
    return JSONSerializer.serialize(JSONSerializer(), _Dict({"signatures": signatures, "signed": signed}))


class _Dict(Metadata):
    """Lets tuf's serialiser write what its classes would refuse to hold."""

    def __init__(self, fields: dict) -> None:
        self.fields = fields

    def to_dict(self) -> dict:
        return self.fields


class Repository:
    """One repository: version 1 of every top-level role is there and signed, each by a key of its own."""

    def __init__(self, kind: str = "ed25519") -> None:
        self.kind = kind
        self.consistent = True
        # Lists lengths and hashes in timestamp and snapshot.
        self.hashes = False
        self.metadata: dict[str, bytes] = {}
        self.targets: dict[str, bytes] = {}
        self.requests: list[tuple[str, int | None]] = []
        self.downloads: list[str] = []
        self.signers = {role: [self.new_key()] for role in TOP_LEVEL}
        expires = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=30)
        self.roles = {
            "root": Root(expires=expires).to_dict(),
            "timestamp": Timestamp(expires=expires).to_dict(),
            "snapshot": Snapshot(expires=expires).to_dict(),
            "targets": Targets(expires=expires).to_dict(),
        }
        for role in TOP_LEVEL:
            self.set_keys(role, self.signers[role])
        for role in TOP_LEVEL:
            self.write(role)

    def new_key(self, kind: str | None = None) -> CryptoSigner:
        return NEW_KEY[kind or self.kind]()

    # Keys

    def keyring(self, role: str, delegator: str | None = None) -> tuple[dict, dict]:
        """The keys, and the entry of the role, in the document that says who signs it."""
        if role in TOP_LEVEL:
            return self.roles["root"]["keys"], self.roles["root"]["roles"][role]
        for name, body in self.roles.items():
            delegations = body.get("delegations", {})
            if delegator not in (None, name):
                continue
            for entry in delegations.get("roles", []):
                if entry["name"] == role:
                    return delegations["keys"], entry
        raise KeyError(role)

    def set_keys(self, role: str, signers: list, threshold: int = 1, delegator: str | None = None) -> None:
        """From now on these sign for the role, once the document that says so is written."""
        keys, entry = self.keyring(role, delegator)
        self.signers[role] = list(signers)
        for signer in signers:
            keys[signer.public_key.keyid] = signer.public_key.to_dict()
        entry["keyids"] = [signer.public_key.keyid for signer in signers]
        entry["threshold"] = threshold

    def rotate(self, *roles: str) -> None:
        """New keys for roles, and the root that says so."""
        for role in roles:
            self.set_keys(role, [self.new_key()])
        self.publish_root()

    # Writing

    def file_of(self, role: str, version: int | None = None) -> str:
        if role == "timestamp":
            return "timestamp.json"
        version = version or self.roles[role]["version"]
        plain = f"{quote(role, safe='')}.json"
        return f"{version}.{plain}" if self.consistent or role == "root" else plain

    def write(self, role: str, signers: list | None = None) -> bytes:
        """Signs a role as it stands and serves it."""
        return self.put(role, sealed(self.roles[role], self.signers[role] if signers is None else signers))

    def put(self, role: str, data: bytes) -> bytes:
        self.metadata[self.file_of(role)] = data
        return data

    def publish_root(self, signers: list | None = None) -> None:
        self.roles["root"]["version"] += 1
        self.write("root", signers)

    def publish(self, *roles: str, signers: list | None = None) -> None:
        """The next version of these targets roles, and the snapshot and timestamp that list them."""
        for role in roles:
            self.roles[role]["version"] += 1
            self.list_role(role, self.write(role, signers))
        self.publish_snapshot()

    def list_role(self, role: str, data: bytes) -> None:
        self.roles["snapshot"]["meta"][f"{role}.json"] = self.pin(self.roles[role]["version"], data)

    def publish_snapshot(self) -> None:
        self.roles["snapshot"]["version"] += 1
        self.list_snapshot(self.write("snapshot"))

    def list_snapshot(self, data: bytes) -> None:
        """The next timestamp, over the snapshot with these bytes."""
        self.roles["timestamp"]["meta"]["snapshot.json"] = self.pin(self.roles["snapshot"]["version"], data)
        self.publish_timestamp()

    def publish_timestamp(self) -> None:
        self.roles["timestamp"]["version"] += 1
        self.write("timestamp")

    def pin(self, version: int, data: bytes) -> dict:
        if not self.hashes:
            return {"version": version}
        return {"version": version, "length": len(data), "hashes": {"sha256": digest(data)}}

    # Content

    def add_target(self, path: str, data: bytes, role: str = "targets", algorithms: tuple = ("sha256",)) -> None:
        """Describes a file in a role; the role must be published after."""
        hashes = {algorithm: digest(data, algorithm) for algorithm in algorithms}
        self.roles[role]["targets"][path] = {"length": len(data), "hashes": hashes}
        folder, slash, name = path.rpartition("/")
        for value in hashes.values():
            self.targets[f"{folder}{slash}{value}.{name}" if self.consistent else path] = data

    def delegate(self, delegator: str, role: str, paths=("*",), prefixes=None, terminating=False, key=None) -> None:
        """Lets a role speak of paths. The role exists from then on; both must be published."""
        delegations = self.roles[delegator].setdefault("delegations", {"keys": {}, "roles": []})
        covers = {"paths": list(paths)} if prefixes is None else {"path_hash_prefixes": list(prefixes)}
        delegations["roles"].append({"name": role, "keyids": [], "threshold": 1, "terminating": terminating, **covers})
        known = self.signers.get(role)
        self.set_keys(role, [key] if key else known or [self.new_key()], delegator=delegator)
        if known:
            self.signers[role] = known
        if role not in self.roles:
            expires = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=30)
            self.roles[role] = {**Targets(expires=expires).to_dict(), "version": 0}
