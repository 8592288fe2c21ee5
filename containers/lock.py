"""Write the hash-locked requirements of the images: containers/requirements/NAME.txt.

    python containers/lock.py [NAME]...

What `constraints.txt` pins is resolved for this Python and processor, so run it where the images run: Linux
on x86-64 with Python 3.11. An image for another processor or with CUDA needs locks of its own (`--out`).
torch is locked as the build that pip finds: let it find the CPU build, or the lock names gigabytes of CUDA.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
EXTRAS = {
    "infer": "cpu,codecs,listen",
    "train": "cpu,codecs,train,federation,privacy",
    "server": "server,federation,postgres",
    "server-train": "cpu,train,server,federation,postgres",
}
HEAD = "# Made by containers/lock.py from constraints.txt: {extras}; not to be edited.\n"


def lock(extras: str) -> list[str]:
    """Lines `name==version --hash=…` of everything that the extras bring, sorted."""
    asked = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    asked += [
        "--disable-pip-version-check",
        "--report",
        "-",
        "--constraint",
        "constraints.txt",
        f".[{extras}]",
    ]
    done = subprocess.run(asked, cwd=FOLDER.parent, stdout=subprocess.PIPE, text=True, check=True)
    lines = []
    for item in json.loads(done.stdout)["install"]:
        archive = item["download_info"].get("archive_info")
        if archive is not None:  # the project itself is a folder
            name, version = item["metadata"]["name"].lower(), item["metadata"]["version"]
            lines.append(f"{name}=={version} --hash=sha256:{archive['hashes']['sha256']}\n")
    return sorted(lines)


def main() -> None:
    """Write the locks that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(EXTRAS), metavar="NAME", help="infer, train, …")
    parser.add_argument("--out", type=Path, default=FOLDER / "requirements", help="folder of the files")
    options = parser.parse_args()
    options.out.mkdir(exist_ok=True)
    for name in options.names:
        lines = lock(EXTRAS[name])
        (options.out / f"{name}.txt").write_text(HEAD.format(extras=EXTRAS[name]) + "".join(lines))
        print(f"{options.out / name}.txt: {len(lines)} packages")


if __name__ == "__main__":
    main()
