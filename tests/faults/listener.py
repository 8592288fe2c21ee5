"""Many senders at once while the node is killed at random times: nothing lost, nothing twice.

    .venv/bin/python tests/faults/listener.py [--kills 20] [--instances 2000] [--senders 8] [--seed 0]

Prints one line of figures; ends with an error where an instance, an answer or an object is missing or twice.
"""

import argparse
import hashlib
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from kits import load

SLICES = 50


def keep_sending(pacs: ModuleType, port: int, folder: Path, aet: str, ended: threading.Event) -> None:
    """As a scanner does: what was not confirmed is sent again."""
    while not ended.is_set():
        command = [str(pacs.DCMTK / "storescu"), "+sd", "+r", "-aet", aet, "-aec", "FEDMED"]
        if (
            subprocess.run(
                [*command, "127.0.0.1", str(port), folder], capture_output=True, check=False
            ).returncode
            == 0
        ):
            return
        time.sleep(0.1)


def run(
    root: Path, orthanc: Any, *, kills: int, instances: int = 2000, senders: int = 8, seed: int = 0
) -> dict[str, float]:
    """One load with kills; returns figures.

    Raises:
        AssertionError: Something was lost, or is there twice.
    """
    pacs, chance = load("end_to_end/pacs.py"), random.Random(seed)
    already = orthanc.instances()
    expected: dict[str, list[Path]] = {}
    for sender in range(senders):
        for number in range(instances // senders // SLICES):
            folder = root / "images" / f"{sender}" / f"{number}"
            uid = pacs.write_series(folder, SLICES, value=40 + sender)
            expected[uid] = sorted(folder.iterdir())
    site = pacs.Site(
        root / "site",
        dimensions=3,
        kind="classification",
        send=True,
        destination=[orthanc.destination],
        settle_s=1.0,
    ).start()
    site.configure(port=site.port)
    started, ended = time.monotonic(), threading.Event()
    threads = [
        threading.Thread(
            target=keep_sending, args=(pacs, site.port, root / "images" / f"{one}", f"CT{one}", ended)
        )
        for one in range(senders)
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in range(kills):
            time.sleep(chance.uniform(0.05, 1.5))
            site.kill()
            site.start()
        for thread in threads:
            thread.join(300)
        received_s = time.monotonic() - started
        assert site.idle(300), site.stderr
        answered_s = time.monotonic() - started
        figures = check(site, orthanc.instances() - already, expected)
    finally:
        ended.set()
        site.kill()
        for thread in threads:
            thread.join()
    return {"kills": kills, "received_s": round(received_s, 1), "answered_s": round(answered_s, 1), **figures}


def check(site: Any, stored: set[str], expected: dict[str, list[Path]]) -> dict[str, float]:
    """Compare what was sent with the journal, the disk and the PACS."""
    import pydicom

    files = dict(site.rows("SELECT sop_uid, path FROM instances"))
    sources = {
        str(pydicom.dcmread(path).SOPInstanceUID): path for paths in expected.values() for path in paths
    }
    assert files.keys() == sources.keys(), f"lost {len(sources.keys() - files.keys())} instances"
    on_disk = {str(path) for path in (site.base / "incoming").glob("[!.]*/*/*.dcm")}
    assert on_disk == set(files.values()), "disk and journal differ"
    for uid, path in files.items():
        pixels = pydicom.dcmread(sources[uid]).PixelData
        assert pydicom.dcmread(path).PixelData == pixels, f"{path}: other pixels"
    jobs = site.rows("SELECT series_uid, instances, state, reason FROM jobs")
    # A part of a series, as it had settled while its sender was cut off, may be no stack.
    assert {state for *_, state, _ in jobs} <= {"sent", "failed", "skipped"}, jobs
    sets = [(series, digest) for series, digest, state, _ in jobs if state == "sent"]
    assert len(sets) == len(set(sets)), "a set of instances was answered twice"
    for series in expected:
        rows = site.rows("SELECT sha256 FROM instances WHERE series_uid = ? ORDER BY sop_uid", series)
        whole = hashlib.sha256("".join(sha256 for (sha256,) in rows).encode()).hexdigest()
        assert (series, whole) in sets, "a series was not answered as a whole"
    delivered = site.rows("SELECT path FROM deliveries WHERE state = 'sent'")
    wanted = {str(pydicom.dcmread(path).SOPInstanceUID) for (path,) in delivered}
    assert len(wanted) == len(delivered) == len(sets), "an object is missing or twice"
    assert stored == wanted, f"the PACS lacks {len(wanted - stored)} and has {len(stored - wanted)} others"
    return {
        "instances": len(files),
        "series": len(expected),
        "parts": len(jobs) - len(expected),
        "objects": len(stored),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--instances", type=int, default=2000)
    parser.add_argument("--senders", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        orthanc = load("end_to_end/pacs.py").Orthanc(Path(folder) / "orthanc")
        try:
            print(run(Path(folder), orthanc, **vars(given)))
        finally:
            orthanc.stop()


if __name__ == "__main__":
    main()
