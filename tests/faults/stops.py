"""Code that a process loads as its `sitecustomize`: it stops in a function, or misbehaves in it."""

import os
from pathlib import Path

_AFTER = """
import importlib.abc, importlib.util, os, sys, time
from pathlib import Path

class After(importlib.abc.MetaPathFinder):
    def __init__(self, module, change):
        self.module, self.change = module, change
    def find_spec(self, name, path=None, target=None):
        if name != self.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def exec_module(made):
            load(made)
            self.change(made)
        spec.loader.exec_module = exec_module
        return spec
"""

_STOPPING = """
where, path = os.environ["STOP_AT"].split(":")
mark, left = Path(os.environ["STOP_MARK"]), int(os.environ["STOP_COUNT"])

def stopping(made):
    *outer, last = path.split(".")
    for part in outer:
        made = getattr(made, part)
    original = getattr(made, last)
    def call(*args, **kwargs):
        global left
        result = original(*args, **kwargs)
        left -= 1
        if left == 0 and not mark.exists():
            mark.touch()
            time.sleep(600)
        return result
    setattr(made, last, call)

sys.meta_path.insert(0, After(where, stopping))
"""

_TWICE_AND_LATE = """
def repeating(made):
    ask, kept = made.EngineChannel.ask, []
    def call(self, op, fields, data=b""):
        reply = ask(self, op, fields, data)
        if op == "put":
            kept.append((op, fields, data))
            ask(self, op, fields, data)
            if len(kept) > 3:
                ask(self, *kept[-3])  # behind two later ones
        return reply
    made.EngineChannel.ask = call

sys.meta_path.insert(0, After("fedmed_edge.federation.engine.channel", repeating))
"""


def stop_at(folder: Path, where: str, *, count: int = 1) -> dict[str, str]:
    """Environment of a process that stops for good when a function has returned for the `count`-th time.

    Args:
        folder: New folder; the file `stopped` in it tells that it came to that.
        where: `module:function`.
    """
    mark = {"STOP_AT": where, "STOP_MARK": str(folder / "stopped"), "STOP_COUNT": str(count)}
    return customised(folder, _STOPPING) | mark


def twice_and_late(folder: Path) -> dict[str, str]:
    """Environment of an agent that sends every part twice, and once more behind later ones."""
    return customised(folder, _TWICE_AND_LATE)


def customised(folder: Path, code: str) -> dict[str, str]:
    """Environment of a process that loads this code first.

    Args:
        folder: New folder.
        code: Puts an `After(module, change)` on `sys.meta_path`: `change` gets the module once it is loaded.
    """
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_AFTER + code)
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}
