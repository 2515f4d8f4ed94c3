"""Downloads, against a server on localhost: whole and right files appear, nothing else does."""

from __future__ import annotations

import concurrent.futures
import hashlib
import http.server
import os
import re
import threading

import pytest

from rankdistill.data import DATASETS, RemoteFile, Source, fetch, load
from rankdistill.data import download as module

BODIES = {
    "/train.txt": b"".join(b"%d %d %d\n" % (u, u, u + 1) for u in range(50_000)),
    "/test.txt": b"0 7\n",
}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        body = BODIES.get(self.path.removeprefix("/cut").removeprefix("/stall"))
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.path.startswith("/cut"):
            body = body[: len(body) // 2]
        if self.path.startswith("/stall"):
            self.wfile.write(body[:10])
            self.wfile.flush()
            self.server.released.wait(20)
            return
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.released = [], threading.Event()
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


def source(server, folder: str = "", **changes) -> Source:
    files = {}
    for part in ("train", "test"):
        body = BODIES[f"/{part}.txt"]
        fields = {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        url = f"http://127.0.0.1:{server.server_port}{folder}/{part}.txt"
        files[part] = RemoteFile(f"{part}.txt", url, **(fields | changes))
    return Source("mine", files, "a test", "free")


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_files_arrive_whole_and_the_second_call_asks_nobody(server, tmp_path):
    steps = []
    folder = fetch(source(server), tmp_path, progress=lambda *step: steps.append(step))
    assert folder == tmp_path / "mine"
    assert names(tmp_path) == ["test.txt", "train.txt"]
    assert (folder / "train.txt").read_bytes() == BODIES["/train.txt"]
    size = len(BODIES["/train.txt"])
    assert [step[2] for step in steps] == [size] * (len(steps) - 1) + [4]
    assert [step[1] for step in steps[:-1]] == sorted(step[1] for step in steps[:-1])
    assert steps[-2][1] == size
    assert server.asked == ["/train.txt", "/test.txt"]
    fetch(source(server), tmp_path)
    assert server.asked == ["/train.txt", "/test.txt"]


def test_only_what_is_missing_or_changed_is_fetched_again(server, tmp_path, caplog):
    folder = fetch(source(server), tmp_path)
    (folder / "test.txt").write_bytes(b"0 8\n")
    server.asked.clear()
    fetch(source(server), tmp_path)
    assert server.asked == ["/test.txt"]
    assert (folder / "test.txt").read_bytes() == BODIES["/test.txt"]
    assert "its SHA-256 differs" in caplog.text


@pytest.mark.parametrize(
    ("folder", "changes", "error", "message"),
    [
        ("", {"sha256": "0" * 64}, ValueError, "expected SHA-256 0000.*; got [0-9a-f]{64}"),
        ("", {"size": 5}, ValueError, "expected 5 bytes from .*; got more"),
        ("", {"size": 10**9}, ValueError, r"expected 1000000000 bytes from .*; got \d+"),
        (
            "/cut",
            {},
            ConnectionError,
            "expected .*/cut/train.txt|expected .* bytes from .*; got .*: the connection broke",
        ),
        ("/none", {}, OSError, "expected http.*/none/train.txt; got HTTP 404 Not Found"),
        ("/stall", {}, ConnectionError, "expected http.*/stall/train.txt; got TimeoutError"),
    ],
)
def test_what_went_wrong_is_said_and_nothing_is_left(
    server, tmp_path, monkeypatch, folder, changes, error, message
):
    monkeypatch.setattr(module, "TIMEOUT", 0.3)
    with pytest.raises(error, match=f"^fetch: ({message})"):
        fetch(source(server, folder, **changes), tmp_path)
    assert names(tmp_path) == []


def test_a_file_that_was_good_survives_a_bad_download(server, tmp_path):
    folder = fetch(source(server), tmp_path)
    with pytest.raises(ValueError, match="expected SHA-256"):
        fetch(source(server, sha256="0" * 64), tmp_path)
    assert (folder / "train.txt").read_bytes() == BODIES["/train.txt"]
    assert names(tmp_path) == ["test.txt", "train.txt"]


def test_no_network(server, tmp_path):
    unreachable = source(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError, match=r"expected http://127.0.0.1:.*; got URLError: .*refused"):
        fetch(unreachable, tmp_path)
    assert names(tmp_path) == []


def test_an_interrupted_download_leaves_nothing(server, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(source(server), tmp_path, progress=interrupt)
    assert names(tmp_path) == []


def test_many_at_once(server, tmp_path):
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        folders = list(pool.map(lambda _: fetch(source(server), tmp_path), range(6)))
    assert {(folder / "train.txt").read_bytes() for folder in folders} == {BODIES["/train.txt"]}
    assert names(tmp_path) == ["test.txt", "train.txt"]


def test_load_by_name_from_the_cache_that_the_environment_names(server, tmp_path, monkeypatch):
    monkeypatch.setenv("RANKDISTILL_CACHE", str(tmp_path))
    monkeypatch.setitem(DATASETS, "mine", source(server))
    data = load("mine")
    assert (data.name, len(data.train), len(data.test)) == ("mine", 100_000, 1)
    assert os.listdir(tmp_path) == ["mine"]
    with pytest.raises(ValueError, match=r"expected one of ml-100k, .*; got 'mime'; did you mean 'mine'"):
        fetch("mime")


@pytest.mark.parametrize("name", DATASETS)
def test_the_table(name):
    entry = DATASETS[name]
    assert entry.name == name
    assert entry.terms
    assert entry.description
    assert set(entry.files) in ({"all"}, {"train", "test"}, {"train", "valid", "test"})
    for file in entry.files.values():
        assert re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert file.url.startswith("https://")
        assert file.url.endswith(f"/{file.name}")
        assert file.size > 0
