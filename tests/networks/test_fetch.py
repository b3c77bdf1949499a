"""Downloads from a server on this machine: resumed, checked, side by side, and errors of one line."""

import concurrent.futures
import dataclasses
import hashlib
import http.server
import importlib.util
import os
import re
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save

import jaxopt_input as joi
from jaxopt_input import cli, networks
from jaxopt_input.disk import CACHE_VARIABLE
from jaxopt_input.networks import convert, fetch

NAME = "squeezenet1_1"


@pytest.fixture(scope="module")
def content():
    rng = np.random.default_rng(0)
    return save({k: rng.standard_normal(s, np.float32) for k, s in convert.expected_shapes(NAME).items()})


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves one file at /model.safetensors; the server's settings make it misbehave."""

    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.requests.append((self.path, wanted))
        if self.path == "/moved.safetensors":
            self.send_response(302)
            self.send_header("Location", server.moved)
            self.end_headers()
            return
        if self.path != "/model.safetensors":
            self.send_error(404)
            return
        begin = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.ranges else 0
        if begin >= len(server.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.content)}")
            self.end_headers()
            return
        body = server.content[begin:]
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(server.content) - 1}/{len(server.content)}")
        if server.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.cuts:
            body = body[: server.cuts.pop(0)]
        with server.gate:
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(content):
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.content, made.cuts, made.ranges, made.length, made.requests = content, [], True, True, []
    made.gate = threading.Lock()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache" / "weights"


@pytest.fixture
def register(server, content, monkeypatch):
    """Makes the registry's address that of the server here."""

    published = hashlib.sha256(content).hexdigest()

    def change(path="/model.safetensors", sha256=published, address=None):
        address = address or f"http://127.0.0.1:{server.server_port}{path}"
        entry = dataclasses.replace(networks.entry(NAME), address=address, sha256=sha256)
        monkeypatch.setitem(networks.entries(), NAME, entry)

    change()
    return change


def partial(cache):
    return cache / f".{NAME}-part.safetensors"


def refused(match):
    return pytest.raises(joi.InputError, match=match)


def test_fetch_and_load(server, register, cache, content):
    done = CliRunner().invoke(cli.main, ["models", "fetch", NAME])
    assert done.exit_code == 0
    assert done.output.strip() == f"{NAME}: {cache / NAME}.safetensors"
    assert os.listdir(cache) == [f"{NAME}.safetensors"]
    assert joi.load(NAME).info.sha256 == hashlib.sha256(content).hexdigest()
    assert fetch.fetch_weights(NAME) == cache / f"{NAME}.safetensors"
    assert server.requests == [("/model.safetensors", None)]


def test_first_digits_of_the_checksum_are_enough(register, cache, content):
    register(sha256=hashlib.sha256(content).hexdigest()[:8])
    assert fetch.fetch_weights(NAME).is_file()


def test_cut_off_download_goes_on_at_once(server, register, cache):
    server.cuts = [1000, 70_000, 50]
    assert fetch.fetch_weights(NAME).is_file()
    assert [wanted for _, wanted in server.requests] == [None, "bytes=1000-", "bytes=71000-", "bytes=71050-"]


def test_cut_off_download_goes_on_later(server, register, cache, content):
    server.cuts = [5000] + [0] * fetch.TRIES
    with refused("broke off after 5000 bytes"):
        fetch.fetch_weights(NAME)
    assert os.listdir(cache) == [partial(cache).name]
    assert partial(cache).read_bytes() == content[:5000]
    assert fetch.fetch_weights(NAME).is_file()
    assert server.requests[-1] == ("/model.safetensors", "bytes=5000-")
    assert os.listdir(cache) == [f"{NAME}.safetensors"]


def test_server_that_cannot_resume(server, register, cache):
    server.cuts, server.ranges = [5000], False
    assert fetch.fetch_weights(NAME).is_file()


def test_server_that_tells_no_length(server, register, cache):
    server.length = False
    assert fetch.fetch_weights(NAME).is_file()


@pytest.mark.parametrize("extra", [0, 100])
def test_remains_that_are_whole_or_longer(server, register, cache, content, extra):
    cache.mkdir(parents=True)
    partial(cache).write_bytes(content + bytes(extra))
    assert fetch.fetch_weights(NAME).is_file()
    assert len(server.requests) == (2 if extra else 1)


def test_wrong_checksum_leaves_nothing(server, register, cache, content):
    server.content = content[:-1] + bytes([content[-1] ^ 1])
    with refused("SHA-256") as caught:
        fetch.fetch_weights(NAME)
    assert "\n" not in str(caught.value)
    assert os.listdir(cache) == []


def test_remains_of_another_file_leave_nothing(register, cache):
    cache.mkdir(parents=True)
    partial(cache).write_bytes(b"something else")
    with refused("SHA-256"):
        fetch.fetch_weights(NAME)
    assert os.listdir(cache) == []
    assert fetch.fetch_weights(NAME).is_file()


@pytest.mark.slow
def test_weights_of_another_network_leave_nothing(register, cache, content):
    register(sha256="")
    other = dataclasses.replace(networks.entry(NAME), architecture="squeezenet1_0")
    networks.entries()[NAME] = other  # the fixture takes it back
    with refused("looks like squeezenet1_1"):
        fetch.fetch_weights(NAME)
    assert os.listdir(cache) == []


def test_missing_on_the_server(register, cache):
    register("/nothing.safetensors")
    done = CliRunner().invoke(cli.main, ["models", "fetch", NAME])
    assert done.exit_code == 1
    assert re.fullmatch(r"jaxopt-input: cannot fetch http://\S+: the server answered 404 Not Found\n", done.stderr)
    assert os.listdir(cache) == []


def test_no_network(register, cache):
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        register(address=f"http://127.0.0.1:{reserved.getsockname()[1]}/model.safetensors")
        with refused("cannot reach 127.0.0.1: Connection refused; is there a network") as caught:
            fetch.fetch_weights(NAME)
    assert "\n" not in str(caught.value)
    assert os.listdir(cache) == []


def test_silent_server(register, cache, monkeypatch):
    monkeypatch.setattr(fetch, "TIMEOUT", 0.1)
    monkeypatch.setattr(fetch, "TRIES", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        register(address=f"http://127.0.0.1:{silent.getsockname()[1]}/model.safetensors")
        with refused(r"127.0.0.1.*"):
            fetch.fetch_weights(NAME)
    assert os.listdir(cache) == []


@pytest.mark.parametrize(
    "address", ["http://example.org/a.safetensors", "ftp://example.org/a.npz", "file:///etc/passwd"]
)
def test_only_https(server, register, cache, address):
    register(address=address)
    with refused("https"):
        fetch.fetch_weights(NAME)
    server.moved = address
    register(path="/moved.safetensors")
    with refused(r"over https|redirection.*not allowed|Redirection.*not allowed"):
        fetch.fetch_weights(NAME)
    assert os.listdir(cache) == []


def test_redirection(server, register, cache):
    server.moved = f"http://127.0.0.1:{server.server_port}/model.safetensors"
    register(path="/moved.safetensors")
    assert fetch.fetch_weights(NAME).is_file()


def test_mistakes(cache):
    for name, message in [("tin100", "bundled"), ("resnet5", "nearest: resnet50")]:
        with refused(message):
            fetch.fetch_weights(name)


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is installed")
def test_without_torch_nothing_is_downloaded(cache):
    with refused("install torch"):
        fetch.fetch_weights("vgg19")
    assert not cache.exists()


def test_addresses_of_the_registry():
    for name, entry in networks.entries().items():
        if entry.architecture in convert.ARCHITECTURES:
            assert name.startswith(entry.architecture)
        if entry.derived:  # computed here from another's weights
            assert networks.entry(entry.derived).address
            continue
        if not entry.bundled:
            assert entry.address.startswith("https://")
            assert re.fullmatch("[0-9a-f]{8}|[0-9a-f]{64}", entry.sha256)
        if entry.architecture in convert.ARCHITECTURES:
            assert entry.address.endswith(f"-{entry.sha256}.pth")


def test_cache_that_cannot_be_written(register, cache):
    cache.parent.write_text("a file where the folder should be")
    with refused("cannot write to the cache"):
        fetch.fetch_weights(NAME)


def test_two_at_once_in_one_process(server, register, cache):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        server.gate.acquire()
        both = [pool.submit(fetch.fetch_weights, NAME) for _ in range(2)]
        server.gate.release()
        assert [future.result(60).is_file() for future in both] == [True, True]
    assert len(server.requests) == 1
    assert os.listdir(cache) == [f"{NAME}.safetensors"]


@pytest.mark.slow
def test_two_processes_at_once(server, register, cache):
    entry = networks.entry(NAME)
    script = (
        "import dataclasses, sys; from jaxopt_input import networks; from jaxopt_input.networks import fetch\n"
        "name, address, sha256 = sys.argv[1:]\n"
        "entry = dataclasses.replace(networks.entry(name), address=address, sha256=sha256)\n"
        "networks.entries()[name] = entry\n"
        "print(fetch.fetch_weights(name))\n"
    )
    command = [sys.executable, "-c", script, NAME, entry.address, entry.sha256]
    server.gate.acquire()
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        server.gate.release()
        for process in both:
            out, error = process.communicate(timeout=120)
            assert process.returncode == 0, error
            assert out.strip() == str(cache / f"{NAME}.safetensors")
    finally:
        for process in both:
            process.kill()
    assert os.listdir(cache) == [f"{NAME}.safetensors"]
    assert joi.load(NAME).info.sha256 == entry.sha256
