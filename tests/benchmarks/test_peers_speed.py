"""The side-by-side benchmark: turns, ratios pair by pair, and a peer that is not there."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

PEERS = Path(__file__).parents[2] / "benchmarks" / "peers"


@pytest.fixture(scope="module")
def speed():
    """The script as a module, with the folder that it takes its neighbors from."""
    before = list(sys.path)
    sys.path[:0] = [str(PEERS), str(PEERS.parent)]
    spec = importlib.util.spec_from_file_location("speed", PEERS / "speed.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["speed"] = module
    spec.loader.exec_module(module)
    module.PAUSE = 0.0
    yield module
    sys.path[:] = before


WORKER = """
import json, sys
sys.path.insert(0, {folder!r})
from turns import Missing, serve

def prepare(request):
    if request.get("peer") == "absent":
        import no_such_peer_at_all
    if request.get("peer") == "no-compiler":
        raise Missing("no C++ compiler")
    if request.get("peer") == "broken":
        raise ValueError("it broke")
    print("what a library prints")
    seconds = iter(request["seconds"])
    if request.get("peer") == "dies":
        return lambda: sys.exit("killed"), {{"version": "1"}}
    return lambda: next(seconds), {{"version": "1.2.3", "device": "cpu", "check": request["check"]}}

serve(prepare)
"""


@pytest.fixture
def worker(tmp_path):
    path = tmp_path / "peer_worker.py"
    path.write_text(WORKER.format(folder=str(PEERS)))
    return path


def against(speed, monkeypatch, worker, peer, seconds=(2.0, 4.0, 8.0), check=(1.0, 2.0)):
    """Our seconds are 1, 2 and 3, for 4 images and 5 steps."""
    monkeypatch.setattr(speed, "HERE", worker.parent)
    row = speed.Row("gradient", (peer,), 4, 5)
    ours = {"seconds": [1.0, 2.0, 3.0], "check": [1.0, 2.0]}
    request = {"seconds": list(seconds), "check": list(check)}
    with speed.Worker([sys.executable, str(worker)], ours) as side:
        return speed.against(row, side, peer, [sys.executable], request)


def test_ratios_are_taken_pair_by_pair(speed, monkeypatch, worker):
    found = against(speed, monkeypatch, worker, "present")
    assert found["version"] == "1.2.3"
    assert found["ratio"] == {"median": 0.5, "all": [0.5, 0.5, 0.375]}  # not 2 / 4 of the medians by chance: in order
    assert found["ours_ms"]["median"] == 100.0  # of 2 s by 20 images and steps
    assert found["peer_ms"]["all"] == [100.0, 200.0, 400.0]
    line = speed.line("gradient", "present", found)
    assert "ours / peer 0.500" in line


@pytest.mark.parametrize(
    ("peer", "entry"),
    [
        ("absent", {"missing": "ModuleNotFoundError: No module named 'no_such_peer_at_all'"}),
        ("no-compiler", {"missing": "Missing: no C++ compiler"}),
        ("broken", {"failed": "ValueError: it broke"}),
    ],
)
def test_a_peer_that_cannot_run_is_told_by_name_and_reason(speed, monkeypatch, worker, peer, entry):
    found = against(speed, monkeypatch, worker, peer)
    assert found == entry
    ((kind, reason),) = entry.items()
    assert speed.line("gradient", peer, found) == f"{'gradient':<14} {peer:<20} {kind}: {reason}"


def test_a_peer_that_dies_in_its_turn_ends_its_own_entry_alone(speed, monkeypatch, worker):
    assert against(speed, monkeypatch, worker, "dies") == {"failed": "killed"}


def test_numbers_that_are_none_do_not_agree(speed):
    assert not speed.agree([1.0, float("nan")], [1.0, 2.0]) < speed.AGREE


def test_an_environment_that_is_not_there(speed):
    row = dataclasses.replace(speed.ROWS["gradient"], batch=1)
    found = speed.against(row, None, "torchattacks", ["no/such/python"], {})
    assert found == {"missing": "no file no/such/python"}


def test_sides_that_disagree_are_not_timed(speed, monkeypatch, worker):
    found = against(speed, monkeypatch, worker, "present", check=(1.0, 2.1))
    assert list(found) == ["failed"]
    assert "differ by 0.048" in found["failed"]  # 0.1 of 2.1


def test_images_and_requests(speed, tmp_path):
    images = speed.blobs(2, 40)
    assert images.shape == (2, 40, 40, 3)
    assert images.dtype == np.float32
    assert 0 <= images.min() < images.max() <= 1
    for name, row in speed.ROWS.items():
        request = speed.request_of(dataclasses.replace(row, size=8), tmp_path)
        assert request["work"] == row.work, name
        with np.load(request["images"]) as file:
            assert len(file["images"]) == (2 if row.work == "style" else row.batch)


def test_every_row_s_work_and_peers_have_a_worker(speed):
    source = {name: (PEERS / f"{name}_worker.py").read_text() for name in ("ours", "peer")}
    for row in speed.ROWS.values():
        assert f'"{row.work}":' in source["ours"]
        for peer in row.peers:
            assert f'"{peer}":' in source["ours" if peer == "bare" else "peer"]


def test_random_weights_do_not_depend_on_the_order_of_names(speed):
    from peer_state import random_state

    one = random_state({"b.weight": (4, 3, 2, 2), "a.bias": (4,)})
    two = random_state({"a.bias": (4,), "b.weight": (4, 3, 2, 2)})
    assert all(np.array_equal(one[name], two[name]) for name in one)
    # He's: the mean square of 48 numbers is 2 / 12 to within three of its standard deviations, 2 / 12 (2 / 48)^0.5.
    assert abs(np.square(one["b.weight"]).mean() - 2 / 12) < 3 * 2 / 12 * (2 / 48) ** 0.5
