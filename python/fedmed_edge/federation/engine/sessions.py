"""The server's way to its sites: jobs handed in over an admin session, watched, aborted where they hang."""

import contextlib
import logging
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

from nvflare.fuel.flare_api.flare_api import new_secure_session

from fedmed_edge.errors import Unreachable
from fedmed_edge.federation.engine import settings
from fedmed_edge.federation.engine.apps import write_job
from fedmed_edge.federation.engine.identities import identities_of
from fedmed_edge.federation.engine.presence import NEWS
from fedmed_edge.federation.engine.settings import GIVEN_UP

__all__ = ["EngineSites"]

LOGIN_S: Final = 15.0
POLL_S: Final = 0.5
START_S: Final = 120.0
"""How long a job may wait for its site before it counts as gone."""

UNTRIED_S: Final = 30.0
"""How long the engine may leave a connected site's job untried while no other runs; it looks every second."""

_OVER: Final = ("FINISHED", "ABORTED", "FAILED", "REJECTED")

log = logging.getLogger(__name__)


class EngineSites:
    """`wire.Sites` over the engine's server on this machine; several threads may use it at once.

    Jobs that an earlier coordinator left behind are aborted: what they had moved is on the disk, and the next
    sync goes on from there.

    Attributes:
        heard: When the engine answered last, by the monotonic clock.
    """

    def __init__(self, server: Path) -> None:
        self._server = server
        self._identities = identities_of(server)
        self._lock = threading.Lock()
        self._session: Any = None
        self._disabled: set[str] = set()
        self._running: set[str] = set()
        self._started: Any = None
        self.heard = self._ran = time.monotonic()

    def online(self) -> list[str]:
        """Names of the sites that are connected now.

        Raises:
            Unreachable: The engine does not answer.
        """
        info = self._ask("get_system_info")
        if info.server_info.start_time != self._started:
            self._started, self._ran = info.server_info.start_time, time.monotonic()
        found = [self._identities.find(client.name) for client in info.client_info]
        return sorted({one.site for one in found if one and not one.revoked})

    def news(self) -> list[str]:
        """Names of the sites that said with a heartbeat that something lies in their outbox; asked once."""
        found = []
        for path in (self._server / NEWS).glob("*"):
            path.unlink(missing_ok=True)
            identity = self._identities.find(path.name)
            found += [identity.site] if identity and not identity.revoked else []
        return sorted(found)

    def sync(self, site: str, deadline_s: float) -> None:
        """Have a site sync, and wait until it has.

        Raises:
            Unreachable: The site is not there, or was not done by the deadline.
        """
        identity = next(iter(self._identities.of(site)), None)
        if identity is None:
            raise Unreachable(f"site `{site}`: has no certificate to connect with")
        with tempfile.TemporaryDirectory() as folder:
            write_job(Path(folder) / "sync", identity.name, site, deadline_s)
            job = self._ask("submit_job", str(Path(folder) / "sync"))
        self._running.add(job)
        try:
            self._wait(job, site, deadline_s)
        finally:
            self._forget(job)
            self._running.discard(job)

    def _wait(self, job: str, site: str, deadline_s: float) -> None:
        began, engine = time.monotonic(), self._started
        while True:
            if self._started != engine:  # it lists the job as running for ever, and never takes it up again
                raise Unreachable(f"site `{site}`: the engine was started anew in the midst of a sync")
            meta = self._ask("get_job_meta", job)
            status = str(meta.get("status", ""))
            if status.startswith(_OVER):
                log.info("site %s: sync %s after %.1f s", site, status.lower(), time.monotonic() - began)
                return
            waited = time.monotonic() - began
            if status == "RUNNING":
                self._ran = time.monotonic()
            untried = status == "SUBMITTED" and not meta.get("schedule_count")
            if untried and min(waited, time.monotonic() - self._ran) > UNTRIED_S and site in self.online():
                if self._started == engine:
                    self._give_up()
                raise Unreachable(f"site `{site}`: the engine takes up no sync; it is started anew")
            if waited > deadline_s + START_S or (waited > START_S and status == "SUBMITTED"):
                raise Unreachable(f"site `{site}`: sync {status.lower()} after {waited:.0f} s, given up")
            time.sleep(POLL_S)

    def _give_up(self) -> None:
        """Have the supervisor start the engine anew: what takes up jobs ends for good on a full disk."""
        with contextlib.suppress(OSError):  # the next sync that waits in vain tries again
            (self._server / GIVEN_UP).touch()

    def _forget(self, job: str) -> None:
        """Abort where it still runs, and delete: the truth is in the ledger, not in the engine's list."""
        for command in ("abort_job", "delete_job"):
            with contextlib.suppress(Exception):
                self._ask(command, job)

    def abort_left_over(self) -> None:
        """Abort the jobs that nobody waits for.

        Raises:
            Unreachable: The engine does not answer.
        """
        for job in self._ask("list_jobs", limit=1000):
            if job["job_id"] not in self._running:
                log.info("job %s was left over: %s", job["job_id"], job.get("status"))
                self._forget(job["job_id"])

    def enforce_revocations(self) -> None:
        """Have the engine close the connections of certificates that were revoked since the last call.

        Raises:
            Unreachable: The engine does not answer.
        """
        revoked = {one.name for one in self._identities.all() if one.revoked}
        for name in sorted(revoked - self._disabled):
            self._ask("disable_client", name)
            self._disabled.add(name)
            log.info("certificate %s: not let in any more", name)

    def close(self) -> None:
        """End the session."""
        with self._lock:
            self._drop()

    def _ask(self, command: str, *arguments: Any, **options: Any) -> Any:
        """Run a command; where the session broke, once more over a new one."""
        with self._lock:
            for last in (False, True):
                try:
                    if self._session is None:
                        self._session = self._login()
                    answer = getattr(self._session, command)(*arguments, **options)
                    self.heard = time.monotonic()
                    return answer
                except Exception as error:  # the engine raises whatever it met
                    log.debug("admin session", exc_info=True)
                    self._drop()
                    if last:
                        raise Unreachable(f"engine: no answer: {type(error).__name__}") from None
        raise AssertionError

    def _login(self) -> Any:
        kit = str((self._server / "engine" / "admin").resolve())
        return new_secure_session(settings.ADMIN, kit, timeout=LOGIN_S, auto_login_max_tries=1)

    def _drop(self) -> None:
        if self._session is not None:
            with contextlib.suppress(Exception):
                self._session.close()
        self._session = None
