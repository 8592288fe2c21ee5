"""The only code that a job may name: one task, one site, one sync.

The server's half answers with `server_side.serve`, the site's half runs `site_side.sync`. Who asks is taken
from what the engine's server checked (the token that it gave to the certificate's holder), never from what
the request says of itself: the engine's peer context is written by its sender.
"""

import contextlib
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any, Final

from nvflare.apis.controller_spec import Task
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import CellMessageAuthHeaderKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey
from nvflare.fuel.f3.cellnet.defs import ReturnCode as CellReturnCode
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.fuel.f3.message import Message

from fedmed_edge.config import ServerConfig, SiteConfig, read_config
from fedmed_edge.errors import FedmedError, TrustError
from fedmed_edge.federation.engine.channel import ALIVE, CHANNEL, TOPIC, EngineChannel, take_content
from fedmed_edge.federation.engine.identities import identities_of
from fedmed_edge.federation.server_side import serve
from fedmed_edge.federation.site_side import sync
from fedmed_edge.federation.wire import decode_request, encode, refusal
from fedmed_edge.store.store import open_store

__all__ = ["TASK", "SyncController", "SyncExecutor", "write_job"]

TASK: Final = "sync"

START_S: Final = 90.0
"""Time that a site's job has to start, before it counts as silent."""

SILENT_S: Final = 30.0
LOOK_S: Final = 0.2

log = logging.getLogger(__name__)


def write_job(folder: Path, name: str, site: str, deadline_s: float) -> None:
    """Write the job that syncs one site.

    Args:
        folder: New folder of the job.
        name: The site's name in its certificate.
        deadline_s: Seconds until the server gives the site up.
    """
    here = __name__
    meta = {
        "name": f"sync-{name}",
        "resource_spec": {},
        "deploy_map": {"app_server": ["server"], "app_site": [name]},
        "min_clients": 1,
        "mandatory_clients": [name],
    }
    controller = {"name": name, "site": site, "deadline_s": int(deadline_s)}
    parts = {
        "meta.json": meta,
        "app_server/config/config_fed_server.json": {
            "format_version": 2,
            "workflows": [{"id": TASK, "path": f"{here}.SyncController", "args": controller}],
        },
        "app_site/config/config_fed_client.json": {
            "format_version": 2,
            "executors": [{"tasks": [TASK], "executor": {"path": f"{here}.SyncExecutor", "args": {}}}],
        },
    }
    for path, content in parts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(json.dumps(content))


class SyncController(Controller):  # type: ignore[misc]  # the engine has no types
    """The server's half: answers one site until its task is done."""

    def __init__(self, name: str, site: str, deadline_s: int) -> None:
        super().__init__(task_check_period=0.2)
        self._name, self._site, self._deadline_s = name, site, deadline_s

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Open the store and listen."""
        # at the job's end the engine would load torch, where it is installed, to tidy up what is not there
        sys.modules.setdefault("nvflare.app_opt.pt.tensor_downloader", None)  # type: ignore[arg-type]
        engine = fl_ctx.get_engine()
        self._server = _folder_of(engine)
        self._store = open_store(read_config(ServerConfig, self._server))
        self._origin = FQCN.join([self._name, fl_ctx.get_job_id()])
        self._heard = time.monotonic() + START_S
        engine.get_cell().register_request_cb(channel=CHANNEL, topic=TOPIC, cb=self._answer)
        engine.get_cell().register_request_cb(channel=CHANNEL, topic=ALIVE, cb=self._note_alive)

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Give the site its task and wait for the end of it, or for half a minute of silence."""
        task = Task(TASK, data=Shareable(), timeout=self._deadline_s)
        self.broadcast(task=task, fl_ctx=fl_ctx, targets=[self._name], min_responses=1)
        while task.completion_status is None and not abort_signal.triggered:
            if time.monotonic() - self._heard > SILENT_S:
                log.warning("%s: not heard of for %.0f s, given up", self._name, SILENT_S)
                self.cancel_task(task, fl_ctx=fl_ctx)
                return
            time.sleep(LOOK_S)

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Nothing is held open: what came in lies on the disk."""

    def _note_alive(self, request: Message) -> Message:
        with contextlib.suppress(FedmedError):
            self._check_sender(request)
            self._heard = max(self._heard, time.monotonic())
        return Message({MessageHeaderKey.RETURN_CODE: CellReturnCode.OK}, b"")

    def _answer(self, request: Message) -> Message:
        try:
            self._check_sender(request)
            self._heard = max(self._heard, time.monotonic())
            content = take_content(request)
            if content is None:
                raise TrustError("request: not a message of this protocol")
            reply = serve(self._store, self._server / "federation", self._site, decode_request(content))
        except FedmedError as error:
            log.warning("refused a request of %s: %s", self._name, error)
            reply = refusal(error)
        return Message({MessageHeaderKey.RETURN_CODE: CellReturnCode.OK}, encode(reply))

    def _check_sender(self, request: Message) -> None:
        """By the headers that the engine's server compared with the token of a certificate's holder."""
        name = request.get_header(CellMessageAuthHeaderKey.CLIENT_NAME)
        origin = request.get_header(MessageHeaderKey.ORIGIN)
        if name != self._name or origin != self._origin:
            raise TrustError("request: comes from another site than this job is for")
        identity = identities_of(self._server).find(self._name)
        if identity is None or identity.revoked or identity.site != self._site:
            raise TrustError("request: the certificate was revoked")
        if self._store.site(self._site).revoked:
            raise TrustError("request: the site was revoked")


class SyncExecutor(Executor):  # type: ignore[misc]
    """The site's half: one sync within the policy of its own folder."""

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """Run the sync; what came of it is told to the server in small numbers alone."""
        if task_name != TASK:
            return make_reply(ReturnCode.TASK_UNKNOWN)
        site = _folder_of(fl_ctx.get_engine())
        server = FQCN.join([FQCN.ROOT_SERVER, fl_ctx.get_job_id()])

        def stopped() -> bool:
            return bool(abort_signal.triggered)

        channel = EngineChannel(fl_ctx.get_engine().get_cell(), server, abort_signal)
        try:
            with channel.alive():
                result = sync(channel, site, read_config(SiteConfig, site), stop=stopped)
        except FedmedError as error:
            # stays here: the text may name a path
            log.warning("sync: %s%s", error, f"; {error.hint}" if error.hint else "")
            return make_reply(ReturnCode.EXECUTION_EXCEPTION)
        log.info(
            "sync: sent %d, received %d, waiting %d", len(result.sent), len(result.received), result.waiting
        )
        return make_reply(ReturnCode.OK)


def _folder_of(engine: Any) -> Path:
    """The site's or server's folder, which holds the engine's: SITE/engine, SERVER/engine/server."""
    kit = Path(engine.get_workspace().get_root_dir()).resolve()
    return kit.parent.parent if kit.name == "server" else kit.parent
