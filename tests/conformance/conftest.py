"""What every case gets: a server, a repository on it, and a client with a directory of its own."""

import json
import os
import shutil
import subprocess
import threading
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from repository import Repository

# A client that takes longer hangs.
LONGEST_RUN_S = 60


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        number, _, path = self.path.lstrip("/").partition("/")
        folder, _, name = path.partition("/")
        repo = self.server.repositories[int(number)]
        if folder == "metadata":
            repo.requests.append(role_and_version(name))
            data = repo.metadata.get(name)
        else:
            repo.downloads.append(unquote(name))
            data = repo.targets.get(unquote(name))
        if isinstance(data, int):
            self.send_error(data)
        elif data is None:
            self.send_error(404)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            try:
                self.wfile.write(data)
            except ConnectionError:
                pass  # The client has had enough, as it should.

    def log_message(self, *_: object) -> None:
        pass


def role_and_version(name: str) -> tuple[str, int | None]:
    plain = name.removesuffix(".json")
    version, dot, role = plain.partition(".")
    if dot and version.isdigit():
        return unquote(role), int(version)
    return unquote(plain), None


class Client:
    """The program under test with what it trusts and what it has downloaded."""

    def __init__(self, program: str, repo: Repository, url: str, folder: Path) -> None:
        self.program, self.repo, self.url = program, repo, url
        self.metadata, self.files = folder / "metadata", folder / "files"
        self.metadata.mkdir()
        self.files.mkdir()

    def init(self, root: bytes | None = None) -> bool:
        trusted = self.metadata.parent / "root.json"
        trusted.write_bytes(self.repo.metadata["1.root.json"] if root is None else root)
        return self.run("init", str(trusted))

    def refresh(self, after_days: float | None = None) -> bool:
        """True when the client says that all went well. `after_days`: how far its clock is moved."""
        self.repo.requests.clear()
        return self.run("--metadata-url", f"{self.url}/metadata", "refresh", after_days=after_days)

    def download(self, *targets: str, after_days: float | None = None) -> bool:
        self.repo.requests.clear()
        self.repo.downloads.clear()
        names = [word for target in targets for word in ("--target-name", target)]
        options = ["--target-dir", str(self.files), "--target-base-url", f"{self.url}/targets"]
        return self.run("--metadata-url", f"{self.url}/metadata", *names, *options, "download", after_days=after_days)

    def run(self, *words: str, after_days: float | None = None) -> bool:
        command = [self.program, "--metadata-dir", str(self.metadata), *words]
        if after_days is not None:
            time = datetime.now(timezone.utc) + timedelta(days=after_days)
            command = ["faketime", time.strftime("%Y-%m-%d %H:%M:%S"), *command]
        done = subprocess.run(command, env={**os.environ, "TZ": "UTC"}, timeout=LONGEST_RUN_S, check=False)
        assert done.returncode in (0, 1), f"the client ended with {done.returncode}"
        return done.returncode == 0

    @property
    def trusted(self) -> dict[str, int]:
        """The versions of what is trusted, by role."""
        versions = {}
        for path in self.metadata.glob("*.json"):
            versions[unquote(path.stem)] = json.loads(path.read_bytes())["signed"]["version"]
        return versions

    def stored(self, role: str) -> bytes | None:
        path = self.metadata / f"{quote(role, safe='')}.json"
        return path.read_bytes() if path.exists() else None

    @property
    def downloaded(self) -> list[bytes]:
        return [path.read_bytes() for path in self.files.rglob("*") if path.is_file()]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--client", required=True, help="the program under test")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if shutil.which("faketime") is None:
        for item in items:
            if item.get_closest_marker("moves_the_clock"):
                item.add_marker(pytest.mark.skip(reason="faketime is not installed"))


@pytest.fixture(scope="session")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.repositories = []
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def serve(server, request, tmp_path):
    """Serves a repository and gives a client of it that was not initialised yet."""

    def serve(repo: Repository) -> Client:
        server.repositories.append(repo)
        number = len(server.repositories) - 1
        url = f"http://127.0.0.1:{server.server_address[1]}/{number}"
        folder = tmp_path / str(number)
        folder.mkdir()
        return Client(request.config.getoption("--client"), repo, url, folder)

    return serve


@pytest.fixture
def repo() -> Repository:
    return Repository()


@pytest.fixture
def client(serve, repo) -> Client:
    """A client that trusts version 1 of the repository's root."""
    client = serve(repo)
    assert client.init()
    return client
