"""What the server asks of its sites, and what came of it.

REQUESTS/SITE/ID.json
"""

import hashlib
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from fedmed_edge.errors import InputError
from fedmed_edge.federation.messages import Ask, Report
from fedmed_edge.federation.records import Records

__all__ = ["Requested", "Requests"]


class Requested(BaseModel):
    """One request to one site.

    Attributes:
        site: Who is asked.
        state: `open` until the site has answered, or `closed` where the server went on without it.
        told: The site has heard of it.
        report: What the site answered.
    """

    model_config = ConfigDict(frozen=True)

    ask: Ask
    site: str
    state: Literal["open", "answered", "closed"] = "open"
    told: bool = False
    made: float
    report: Report | None = None

    @property
    def done(self) -> bool:
        """Whether the site did what was asked."""
        return self.report is not None and self.report.state == "done"


class Requests:
    """Requests to all sites.

    Args:
        folder: `federation/requests/` of the server's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _of(self, site: str) -> Records[Requested]:
        return Records(self.folder / site, Requested)

    def make(self, site: str, purpose: str, **ask: Any) -> Requested:
        """Ask a site; it hears of it when it comes next. The same purpose again asks nothing new.

        Args:
            purpose: What it is asked for, such as a round by its number.
            ask: Fields of `Ask` but its id.
        """
        id = _id(purpose, site)
        held = self.read(site, id)
        if held is not None:
            return held
        request = Requested(ask=Ask(id=id, **ask), site=site, made=time.time())
        self._of(site).write(id, request)
        return request

    def expect(self, site: str, purpose: str) -> Requested | None:
        """What a site was asked for a purpose, or None."""
        return self.read(site, _id(purpose, site))

    def read(self, site: str, request: str) -> Requested | None:
        """A request to this site, or None."""
        return self._of(site).read(request)

    def open_for(self, site: str) -> list[Requested]:
        """What a site has not answered yet, oldest first."""
        requests = [one for one in self._of(site).all() if one.state == "open"]
        return sorted(requests, key=lambda one: (one.made, one.ask.id))

    def tell(self, request: Requested) -> None:
        """The site is hearing of it now."""
        if not request.told:
            self._of(request.site).write(request.ask.id, request.model_copy(update={"told": True}))

    def answer(self, site: str, report: Report) -> Requested:
        """Keep what a site reports; the first report counts.

        Raises:
            InputError: The site was not asked that.
        """
        request = self.read(site, report.request)
        if request is None:
            raise InputError("report: of a request that this site was not asked")
        if request.state == "open":
            request = request.model_copy(update={"state": "answered", "report": report})
            self._of(site).write(report.request, request)
        return request

    def close(self, request: Requested) -> None:
        """Go on without the site's answer, where it has not answered."""
        if request.state == "open":
            closed = request.model_copy(update={"state": "closed"})
            self._of(request.site).write(request.ask.id, closed)

    def forget(self, request: Requested) -> None:
        """What came of it is kept elsewhere, and nobody asks for it any more."""
        self._of(request.site).delete(request.ask.id)


def _id(purpose: str, site: str) -> str:
    return hashlib.sha256(f"{purpose}\0{site}".encode()).hexdigest()[:32]
