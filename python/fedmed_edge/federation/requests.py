"""What the server asks of its sites, and what came of it.

REQUESTS/SITE/KEY.json    the key is that of what the site is asked for
"""

import hashlib
import secrets
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
        purpose: What the site is asked for.
        site: Who is asked.
        state: `open` until the site has answered, or `closed` where the server went on without it.
        told: The site has heard of it.
        report: What the site answered.
    """

    model_config = ConfigDict(frozen=True)

    ask: Ask
    purpose: str
    site: str
    state: Literal["open", "answered", "closed"] = "open"
    told: bool = False
    made: float
    report: Report | None = None

    @property
    def done(self) -> bool:
        """Whether the site did what was asked."""
        return self.report is not None and self.report.state == "done"

    @property
    def key(self) -> str:
        """Of its record."""
        return _key(self.purpose, self.site)


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

        What was forgotten is asked under another id, so the site takes it for another request.

        Args:
            purpose: What it is asked for, such as a round by its number.
            ask: Fields of `Ask` but its id.
        """
        held = self.expect(site, purpose)
        if held is not None:
            return held
        asked = Ask(id=secrets.token_hex(16), **ask)
        request = Requested(ask=asked, purpose=purpose, site=site, made=time.time())
        self._keep(request)
        return request

    def expect(self, site: str, purpose: str) -> Requested | None:
        """What a site was asked for a purpose, or None."""
        return self._of(site).read(_key(purpose, site))

    def read(self, site: str, request: str) -> Requested | None:
        """The request of an id to this site, or None."""
        return next((one for one in self._of(site).all() if one.ask.id == request), None)

    def open_for(self, site: str) -> list[Requested]:
        """What a site has not answered yet, oldest first."""
        requests = [one for one in self._of(site).all() if one.state == "open"]
        return sorted(requests, key=lambda one: (one.made, one.ask.id))

    def tell(self, request: Requested) -> None:
        """The site is hearing of it now."""
        if not request.told:
            self._keep(request.model_copy(update={"told": True}))

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
            self._keep(request)
        return request

    def close(self, request: Requested) -> None:
        """Go on without the site's answer, where it has not answered."""
        if request.state == "open":
            self._keep(request.model_copy(update={"state": "closed"}))

    def forget(self, request: Requested) -> None:
        """What came of it is kept elsewhere, or it may be asked once more."""
        self._of(request.site).delete(request.key)

    def forget_undone(self, purpose: str) -> None:
        """Whichever site did not do what it was asked for this purpose may be asked once more."""
        sites = sorted(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else []
        for request in filter(None, (self.expect(site, purpose) for site in sites)):
            if request.state != "open" and not request.done:
                self.forget(request)

    def _keep(self, request: Requested) -> None:
        self._of(request.site).write(request.key, request)


def _key(purpose: str, site: str) -> str:
    return hashlib.sha256(f"{purpose}\0{site}".encode()).hexdigest()[:32]
