"""The engine's own settings: who may do what, which code it may load, where it keeps its jobs.

As the engine's tools write them, less what a hospital would not want: no log is streamed away, no code
comes with a job, no shell command is answered.
"""

from pathlib import Path
from typing import Any, Final

__all__ = ["ADMIN", "GIVEN_UP", "PROJECT", "SERVER_NAME", "admin_files", "server_files", "site_files"]

PROJECT: Final = "fedmed"
SERVER_NAME: Final = "fedmed-server"
ADMIN: Final = "coordinator@fedmed"
ADMIN_ROLE: Final = "coordinator"
LOCAL: Final = "127.0.0.1"
GIVEN_UP: Final = Path("engine/server/given-up")
"""File in the server's folder that is touched by who finds that the engine takes up no work any more."""

MAX_JOBS: Final = 8
MAX_SITES: Final = 10_000
MESSAGE_CAP: Final = 64 << 20
"""Bytes of one message, well above a part of a file: larger ones end with an error, not with the memory."""

_OUR_APPS: Final = ["fedmed_edge.federation.engine.apps."]

_TLS: Final = {"ssl_root_cert": "rootCA.pem", "connection_security": "mtls"}

_LAUNCHERS: Final = "nvflare.app_common.job_launcher."
_PRESENCE: Final = "fedmed_edge.federation.engine.presence."


def server_files(host: str, port: int, storage: Path) -> dict[str, Any]:
    """Settings of the server by file name, for the folder of its kit."""
    listen = LOCAL if host in ("localhost", LOCAL) else "0.0.0.0"
    server = {
        "name": PROJECT,
        "service": {"target": f"{listen}:{port}", "scheme": "grpc"},
        "admin_server": "localhost",
        "admin_port": port,
        "ssl_private_key": "server.key",
        "ssl_cert": "server.crt",
        **_TLS,
    }
    filesystem = "nvflare.app_common.storages.filesystem_storage.FilesystemStorage"
    persistor = {
        "path": "nvflare.app_common.state_persistors.storage_state_persistor.StorageStatePersistor",
        "args": {
            "uri_root": "/",
            "storage": {
                "path": filesystem,
                "args": {"root_dir": str(storage / "snapshots"), "uri_root": "/"},
            },
        },
    }
    scheduler = {"max_jobs": MAX_JOBS, "min_schedule_interval": 1.0, "max_schedule_interval": 10.0}
    resources = {
        "format_version": 2,
        **_only_our_apps(),
        "servers": [
            {
                "admin_storage": "transfer",
                "max_num_clients": MAX_SITES,
                "heart_beat_timeout": 60,
                "download_job_url": "http://localhost/",
                "admin_timeout": 10.0,
            }
        ],
        "snapshot_persistor": persistor,
        "components": [
            _component("job_scheduler", "nvflare.app_common.job_schedulers.job_scheduler.DefaultJobScheduler")
            | {"args": scheduler},
            _component("job_manager", "nvflare.apis.impl.job_def_manager.SimpleJobDefManager")
            | {"args": {"uri_root": str(storage / "jobs"), "job_store_id": "job_store"}},
            _component("job_store", filesystem),
            _component("process_launcher", _LAUNCHERS + "server_process_launcher.ServerProcessJobLauncher"),
            _component("presence", _PRESENCE + "ServerPresence"),
        ],
    }
    return {
        "startup/fed_server.json": {"format_version": 2, "servers": [server]},
        "local/resources.json": resources,
        **_both(shell="none"),
    }


def site_files(name: str, host: str, port: int, server_name: str) -> dict[str, Any]:
    """Settings of a site by file name, for the folder of its kit."""
    server = {
        "name": PROJECT,
        "service": {"target": f"{host}:{port}", "scheme": "grpc"},
        "identity": server_name,
    }
    client = {
        "ssl_private_key": "client.key",
        "ssl_cert": "client.crt",
        "fqsn": name,
        "is_leaf": True,
        **_TLS,
    }
    managers = "nvflare.app_common."
    resources = {
        "format_version": 2,
        **_only_our_apps(),
        "allow_log_streaming": False,
        "client": {"retry_timeout": 30, "communication_timeout": 30},
        "components": [
            _component(
                "resource_manager", managers + "resource_managers.gpu_resource_manager.GPUResourceManager"
            )
            | {"args": {"num_of_gpus": 0, "mem_per_gpu_in_GiB": 0, "expiration_period": 300}},
            _component(
                "resource_consumer", managers + "resource_consumers.gpu_resource_consumer.GPUResourceConsumer"
            ),
            _component("process_launcher", _LAUNCHERS + "client_process_launcher.ClientProcessJobLauncher"),
            _component("presence", _PRESENCE + "SitePresence"),
        ],
    }
    return {
        "startup/fed_client.json": {"format_version": 2, "servers": [server], "client": client},
        "local/resources.json": resources,
        **_both(shell="none"),
    }


def admin_files(port: int) -> dict[str, Any]:
    """Settings of the admin session by file name, for the folder of its kit."""
    admin = {
        "project_name": PROJECT,
        "username": ADMIN,
        "server_identity": SERVER_NAME,
        "scheme": "grpc",
        "host": "localhost",
        "port": port,
        "connection_security": "mtls",
        "uid_source": "cert",
        "with_file_transfer": True,
        "upload_dir": "transfer",
        "download_dir": "transfer",
        "client_key": "client.key",
        "client_cert": "client.crt",
        "ca_cert": "rootCA.pem",
    }
    session = {"idle_timeout": 86400.0, "login_timeout": 10.0, "with_debug": False, "prompt": "> "}
    return {
        "startup/fed_admin.json": {"format_version": 1, "admin": admin},
        "local/resources.json": {
            "format_version": 1,
            "admin": {**session, "authenticate_msg_timeout": 10.0},
        },
    }


def _component(name: str, path: str) -> dict[str, Any]:
    return {"id": name, "path": path, "args": {}}


def _only_our_apps() -> dict[str, Any]:
    return {"class_list_enforcement_mode": "enforce", "class_allow_list": _OUR_APPS}


def _both(shell: str) -> dict[str, Any]:
    """What server and sites share: rights, limits of messages, logs."""
    rights = {
        "submit_job": "any",
        "manage_job": "any",
        "view": "any",
        "operate": "any",
        "clone_job": "none",
        "download_job": "none",
        "shell_commands": shell,
        "byoc": "none",
    }
    return {
        "local/authorization.json": {"format_version": "1.0", "permissions": {ADMIN_ROLE: rights}},
        "local/comm_config.json": {
            "max_message_size": MESSAGE_CAP,
            "streaming_max_blob_size": MESSAGE_CAP,
            "allow_adhoc_conns": False,
            **_STREAMS,
        },
        "local/log_config.json": _LOGS,
    }


# Small windows, so that on a slow link a request is seen to move; what a cut connection lost is sent again by
# the engine, within a minute.
_STREAMS: Final = {
    "streaming_chunk_size": 128 << 10,
    "streaming_window_size": 512 << 10,
    "streaming_ack_interval": 128 << 10,
    "streaming_reliable": True,
    "streaming_retry_wait": 3.0,
}

_LOGS: Final = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {
            "()": "nvflare.fuel.utils.log_utils.BaseFormatter",
            "fmt": "%(asctime)s %(levelname)s %(name)s %(message)s",
        }
    },
    "handlers": {
        "file": {
            "class": "logging.handlers.RotatingFileHandler",
            "level": "INFO",
            "formatter": "line",
            "filename": "log.txt",
            "mode": "a",
            "maxBytes": 5 << 20,
            "backupCount": 4,
        }
    },
    "loggers": {"root": {"level": "INFO", "handlers": ["file"]}},
}
