"""DVID against a small server on this machine that answers as the real one does."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from dacapo.arrays import dvid
from dacapo.arrays.dvid import open_dvid
from dacapo.errors import ArrayError, ArrayNotFoundError, StoreError
from dacapo.experiments.datasplits.datasets.arrays import DVIDArrayConfig
from dacapo.geometry import Grid, Roi

START = (2, 3, 4)  # z, y, x of the first voxel
RAW = np.random.default_rng(0).integers(0, 255, (6, 7, 8), dtype=np.uint8)
LABELS = RAW.astype(np.uint64) + 2**60
KINDS = {"grayscale": ("uint8blk", RAW), "segmentation": ("labelmap", LABELS), "short": ("uint8blk", RAW)}


class Handler(BaseHTTPRequestHandler):
    requests: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.requests.append(self.path)
        _, _, _, uuid, name, verb, *rest = self.path.split("/")
        if uuid != "3f8c" or name not in (*KINDS, "empty", "synapses", "nonsense"):
            return self.answer(400, b"bad data instance\nmore")
        if verb == "info":
            return self.answer(200, b"<html>" if name == "nonsense" else json.dumps(info(name)).encode())
        size, place = ([int(v) for v in part.split("_")] for part in rest[1:3])
        part = tuple(slice(p - s, p - s + n) for p, s, n in zip(place[::-1], START, size[::-1], strict=True))
        content = KINDS[name][1][part].astype(KINDS[name][1].dtype.newbyteorder("<")).tobytes()
        return self.answer(200, content[:-1] if name == "short" else content)

    def answer(self, code: int, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


def info(name: str) -> dict[str, object]:
    kind, data = KINDS.get(name, ("annotation" if name == "synapses" else "uint8blk", RAW))
    end = [s + n - 1 for s, n in zip(START, data.shape, strict=True)]
    return {
        "Base": {"TypeName": kind, "Name": name},
        "Extended": {
            "VoxelSize": [2, 4, 8],
            "VoxelUnits": ["nanometers"] * 3,
            "MinPoint": None if name == "empty" else list(START)[::-1],
            "MaxPoint": None if name == "empty" else end[::-1],
            "Values": [{"DataType": str(data.dtype), "Label": name}],
        },
    }


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    thread.join(10)
    httpd.server_close()


@pytest.mark.parametrize("name", ["grayscale", "segmentation"])
def test_voxels(server: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """z, y, x of voxels that the server has as x, y, z; only metadata at first; large regions in several requests."""
    data = KINDS[name][1]
    Handler.requests.clear()
    array = DVIDArrayConfig("raw", (server, "3f8c", name)).array()
    assert Handler.requests == [f"/api/node/3f8c/{name}/info"]
    assert array.grid == Grid((8, 4, 2), (16, 12, 8))
    assert (array.axis_names, array.dtype, array.is_writeable) == (("z", "y", "x"), data.dtype, False)
    np.testing.assert_array_equal(array.read(Roi((1, 2, 3), (4, 3, 5))), data[1:5, 2:5, 3:8])
    assert Handler.requests[-1] == f"/api/node/3f8c/{name}/raw/0_1_2/5_3_4/7_5_3"
    monkeypatch.setattr(dvid, "_REQUEST_BYTES", 2 * data[0].nbytes)
    Handler.requests.clear()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(array)).read(), data)
    assert len(Handler.requests) == 3


def test_errors(server: str) -> None:
    """A server that is not there, a wrong version, other data, nothing written, half an answer: each is said."""
    with pytest.raises(ArrayNotFoundError, match=r"0000/grayscale.*no such version or data \(400 bad data instance\)"):
        open_dvid(server, "0000", "grayscale")
    with pytest.raises(ArrayNotFoundError, match="3f8c/other"):
        open_dvid(f"http://{server}/", "3f8c", "other")
    with pytest.raises(ArrayError, match="of type annotation, expected voxels"):
        open_dvid(server, "3f8c", "synapses")
    with pytest.raises(ArrayError, match="nothing was written"):
        open_dvid(server, "3f8c", "empty")
    with pytest.raises(ArrayError, match="no description of DVID data"):
        open_dvid(server, "3f8c", "nonsense")
    with pytest.raises(StoreError, match="the server sent 335 bytes, expected 336"):
        open_dvid(server, "3f8c", "short").read()
    with pytest.raises(StoreError, match=r"Cannot reach http://127\.0\.0\.1:1/.*Check the address"):
        open_dvid("127.0.0.1:1", "3f8c", "grayscale")
    with pytest.raises(ArrayError, match="expected an http or https address"):
        open_dvid("file:///etc", "3f8c", "grayscale")
