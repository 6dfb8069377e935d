"""Makes the repositories of this directory anew: signed by tuf, checked by tuf's own client, written once and committed.

They stand for repositories that others made and that a client meets as they are. Run it with the packages of requirements.txt.
"""

import shutil
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import unquote, urlparse

from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    MetaFile,
    Metadata,
    Root,
    Snapshot,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.ngclient import FetcherInterface, Updater

HERE = Path(__file__).parent
# Far enough that they need no other clock.
EXPIRES = datetime(2199, 12, 31, tzinfo=timezone.utc)
CONTENT = b"a file of a repository that somebody else made\n"
PATH = "some/folder/file.txt"


class Site:
    """One repository on its way to the disk."""

    def __init__(self, name: str) -> None:
        self.folder = HERE / name
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "metadata").mkdir(parents=True)
        self.snapshot, self.timestamp = Snapshot(expires=EXPIRES), Timestamp(expires=EXPIRES)

    def write(self, signed, name: str, signers: list) -> None:
        document = Metadata(signed)
        for signer in signers:
            document.sign(signer, append=True)
        data = document.to_bytes()
        versioned = name if name == "timestamp" else f"{signed.version}.{name}"
        (self.folder / "metadata" / f"{versioned}.json").write_bytes(data)
        pin = MetaFile.from_data(signed.version, data, ["sha256", "sha512"])
        if name == "snapshot":
            self.timestamp.snapshot_meta = pin
        elif name not in ("root", "timestamp"):
            self.snapshot.meta[f"{name}.json"] = pin

    def add(self, role: Targets) -> None:
        target = TargetFile.from_data(PATH, CONTENT, ["sha256"])
        role.targets[PATH] = target
        [name] = target.get_prefixed_paths()
        path = self.folder / "targets" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(CONTENT)

    def check(self) -> None:
        first = (self.folder / "metadata" / "1.root.json").read_bytes()
        with tempfile.TemporaryDirectory() as trusted, tempfile.TemporaryDirectory() as files:
            updater = Updater(
                trusted, "file:///metadata/", files, "file:///targets/", fetcher=Files(self.folder), bootstrap=first
            )
            info = updater.get_targetinfo(PATH)
            assert Path(updater.download_target(info)).read_bytes() == CONTENT


class Files(FetcherInterface):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _fetch(self, url: str):
        path = self.folder / unquote(urlparse(url).path).lstrip("/")
        if not path.exists():
            raise DownloadHTTPError("not there", 404)
        yield path.read_bytes()


def delegating() -> None:
    """ECDSA keys, one of them for both online roles, and a delegated role that nobody else's keys sign."""
    site = Site("delegating")
    offline, online, team = (CryptoSigner.generate_ecdsa() for _ in range(3))
    root = Root(expires=EXPIRES)
    for role, signer in (("root", offline), ("targets", offline), ("snapshot", online), ("timestamp", online)):
        root.add_key(signer.public_key, role)
    site.write(root, "root", [offline])
    below = Targets(version=2, expires=EXPIRES)
    site.add(below)
    site.write(below, "team", [team])
    keys = {team.public_key.keyid: team.public_key}
    role = DelegatedRole("team", list(keys), 1, True, paths=["some/*/*.txt"])
    targets = Targets(expires=EXPIRES, delegations=Delegations(keys, {"team": role}))
    site.write(targets, "targets", [offline])
    site.write(site.snapshot, "snapshot", [online])
    site.write(site.timestamp, "timestamp", [online])
    site.check()


def rotated() -> None:
    """Three roots, keys of every kind, thresholds of two, and succinct bins."""
    site = Site("rotated")
    old = [CryptoSigner.generate_ecdsa(), CryptoSigner.generate_ed25519(), CryptoSigner.generate_rsa()]
    new = [old[0], CryptoSigner.generate_ed25519(), CryptoSigner.generate_ecdsa()]
    online = [CryptoSigner.generate_ed25519(), CryptoSigner.generate_rsa()]
    bins = CryptoSigner.generate_ed25519()
    for version, holders, signers in ((1, old, old), (2, new, [*old, new[1]]), (3, new, new[1:])):
        root = Root(version=version, expires=EXPIRES)
        for signer in holders:
            root.add_key(signer.public_key, "root")
            root.add_key(signer.public_key, "targets")
        root.roles["root"].threshold = root.roles["targets"].threshold = 2
        for role, signer in zip(("snapshot", "timestamp"), online):
            root.add_key(signer.public_key, role)
        site.write(root, "root", signers)
    keys = {bins.public_key.keyid: bins.public_key}
    delegations = Delegations(keys, succinct_roles=SuccinctRoles(list(keys), 1, 2, "bin"))
    for name in delegations.succinct_roles.get_roles():
        role = Targets(expires=EXPIRES)
        if name == delegations.succinct_roles.get_role_for_target(PATH):
            site.add(role)
        site.write(role, name, [bins])
    site.write(Targets(version=5, expires=EXPIRES, delegations=delegations), "targets", new[:2])
    site.snapshot.version = 7
    site.write(site.snapshot, "snapshot", online[:1])
    site.timestamp.version = 9
    site.write(site.timestamp, "timestamp", online[1:])
    site.check()


if __name__ == "__main__":
    delegating()
    rotated()
