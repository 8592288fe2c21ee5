"""What answers images calls nobody: no socket of any network, seen from outside of the process."""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image as Raster

# As the program does, and then tells what was loaded. The plain install has no requests; where it is, pydicom
# loads it, and it binds a socket to ::1 and closes it again, to see whether there is IPv6.
LOADED = """
import sys
sys.modules["requests"] = None
from fedmed_edge.commands.edge import main
try:
    main()
finally:
    print("loaded", *sorted({name.split(".")[0] for name in sys.modules}), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def strace(lacks):
    """The tracer, where this machine has one that may trace."""
    path = shutil.which("strace")
    if path is None or subprocess.run([path, "true"], capture_output=True, check=False).returncode:
        lacks("strace, or the right to trace: sh tests/packages.sh installs it")
    return path


KINDS = {
    "picture": {"kind": "classification"},
    "dicom": {"kind": "classification"},
    "volume of dicom": {"kind": "segmentation", "size": (16, 16, 8)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_infer_opens_no_socket_and_leaves_nothing_at_home(
    kind, strace, write_model, recipe_of, server, tmp_path, write_dicom, write_series
):
    model, pixels = write_model(recipe_of(**KINDS[kind])), np.arange(1600).reshape(40, 40).astype(np.uint8)
    if kind == "picture":
        given = tmp_path / "one.png"
        Raster.fromarray(pixels).save(given)
    elif kind == "dicom":
        given = write_dicom("one.dcm", pixels)
    else:
        given = write_series(np.stack([pixels] * 12).astype(np.int16), FrameOfReferenceUID="1.2.3.5")
    home, log = tmp_path / "home", tmp_path / "calls"
    home.mkdir()
    # onnxruntime keeps quiet by itself where CI is set
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    kept = {name: value for name, value in kept.items() if not name.startswith(("XDG_", "FEDMED_"))}
    trace = [strace, "-f", "-qq", "-e", "trace=socket,connect,sendto,sendmsg,bind", "-o", str(log)]
    words = [sys.executable, "-c", LOADED, "infer", given, "-o", tmp_path / "out", "--model", model]
    done = subprocess.run(
        [*trace, *map(str, words), "--trust", str(server / "server.pub")],
        env=kept | {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    calls = log.read_text()
    assert not re.search(r"AF_(?!UNIX|LOCAL)|connect\(|send", calls), calls
    assert not list(home.rglob("*"))
    loaded = set(done.stderr.splitlines()[-1].split()[1:])
    assert "onnxruntime" in loaded and not loaded & {"torch", "monai", "onnx", "pynetdicom"}
    if kind != "picture":
        assert "highdicom" in loaded and list((tmp_path / "out").rglob("*.dcm"))
