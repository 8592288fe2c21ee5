"""A store with a small generation and recipe, and contributions of made-up sites.

Its index is in a file or a real PostgreSQL; `test_places` keeps files in a bucket of an S3-compatible server.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import numpy as np
import onnx.helper
import pytest
import sqlalchemy

from fedmed_edge.generation import Generation, GenerationHeader
from fedmed_edge.recipe import Backbone, Recipe
from fedmed_edge.signing import PrivateKey, generate_key
from fedmed_edge.statistics.accumulate import Accumulator, plan_folds
from fedmed_edge.statistics.contribution import Contribution, new_contribution, write_contribution
from fedmed_edge.store.store import Store

CLASSES = ("benign", "malignant")
WIDTHS = (1, 2)


@pytest.fixture(scope="session")
def encoder() -> bytes:
    """A graph with the inputs and outputs of an encoder: the image, and the image twice."""
    value, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Identity", ["image"], ["scale0"]),
            onnx.helper.make_node("Concat", ["image", "image"], ["scale1"], axis=1),
        ],
        "encoder",
        [value("image", kind, (1, 1, 32, 32))],
        [value(f"scale{index}", kind, (1, width, 32, 32)) for index, width in enumerate(WIDTHS)],
    )
    content: bytes = onnx.helper.make_model(graph).SerializeToString()
    return content


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return Recipe(name="lesion", kind="classification", classes=CLASSES, size=(32, 32))


@pytest.fixture(scope="session")
def make_generation(encoder: bytes) -> Callable[..., Generation]:
    """F = 3, L = 2, D = 6."""

    def make(seed: int = 0) -> Generation:
        random = np.random.default_rng(seed)
        header = GenerationHeader(
            kind="classification",
            channels=1,
            size=(32, 32),
            backbone=Backbone(),
            widths=WIDTHS,
            lift_dim=2,
            seed=seed,
        )
        return Generation(
            header=header,
            weights={"stem": np.ones((1, 1), np.float32)},
            encoder=encoder,
            mean=np.zeros(3, np.float32),
            deviation=np.ones(3, np.float32),
            projection=None,
            lift_weight=random.normal(size=(3, 2)).astype(np.float32),
            lift_bias=np.zeros(2, np.float32),
            reference_mean=np.zeros(3),
            reference_covariance=np.eye(3),
        )

    return make


@pytest.fixture(scope="session")
def generation(make_generation: Callable[..., Generation]) -> Generation:
    return make_generation()


@pytest.fixture(scope="session")
def keys() -> dict[str, PrivateKey]:
    return {name: generate_key() for name in ("alpha", "beta", "gamma")}


class Cluster:
    """A private PostgreSQL in a temporary folder, on a socket there, under a user that is not root."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs, self.folder = programs, folder
        self._process: subprocess.Popen[bytes] | None = None
        self._user: dict[str, object] = {}
        if os.geteuid() == 0:
            self._user = {"user": "postgres", "group": "postgres", "extra_groups": []}
            shutil.chown(self.folder, "postgres", "postgres")
        # a store must keep its own order of names
        order = ["--locale-provider=icu", "--icu-locale=en-US"]
        access = ["--username=fedmed", "--auth=trust", "--no-sync", "--pgdata", str(self.folder / "data")]
        access += ["--locale=C.UTF-8", "--encoding=UTF8"]
        try:
            self._run("initdb", *access, *order)
        except subprocess.CalledProcessError:  # older than 15
            order = []
            self._run("initdb", *access)
        self.sorts_as_people = bool(order)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, **self._user)  # type: ignore[call-overload]

    def start(self) -> None:
        arguments = ["-D", str(self.folder / "data"), "-k", str(self.folder), "-h", "", "-F"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self.programs / "postgres"), *arguments],
                stderr=log,
                stdout=log,
                cwd=self.folder,
                **self._user,  # type: ignore[call-overload]
            )
        for _ in range(400):
            with contextlib.suppress(sqlalchemy.exc.OperationalError):
                self.execute("SELECT 1")
                return
            time.sleep(0.05)
        raise AssertionError((self.folder / "log").read_text())

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://fedmed@/{database}?host={quote(str(self.folder), safe='')}"

    def execute(self, *statements: str, database: str = "postgres") -> None:
        engine = sqlalchemy.create_engine(
            self.url(database), poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def stop(self) -> None:
        """At once, as if its machine had lost power, but for what the system still writes."""
        if self._process is not None:
            self._process.send_signal(3)
            self._process.wait(30)
            self._process = None


@pytest.fixture(scope="session")
def cluster(lacks: Callable[[str], NoReturn]) -> Iterator[Cluster]:
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    programs = [place for place in places if (place / "initdb").exists()]
    if not programs:
        lacks("PostgreSQL: sh tests/packages.sh installs it")
    # not below pytest's folder, which PostgreSQL's own user may not enter
    with tempfile.TemporaryDirectory(prefix="fedmed-pg-") as folder:
        cluster = Cluster(programs[-1], Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


BUCKETS = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="session")
def buckets() -> Iterator[str]:
    """Address of an S3-compatible server."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", BUCKETS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    process.communicate(timeout=30)


_count = 0


def fresh_name() -> str:
    global _count
    _count += 1
    return f"store{os.getpid()}x{_count}"


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    """URL of an empty database."""
    name = fresh_name()
    cluster.execute(f"CREATE DATABASE {name}")
    yield cluster.url(name)
    cluster.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def bucket(buckets: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """fsspec URL of a place in an empty bucket."""
    import s3fs

    for key, value in {
        "AWS_ENDPOINT_URL": buckets,
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(key, value)
    name = fresh_name()
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}/store"


Place = dict[str, str]


@pytest.fixture(params=["folder", "postgresql"])
def place(request: pytest.FixtureRequest) -> Place:
    """Where a store keeps its index; nothing said is in its folder."""
    return {"index": request.getfixturevalue("database")} if request.param == "postgresql" else {}


@pytest.fixture
def make_store(
    tmp_path: Path, recipe: Recipe, generation: Generation, keys: dict[str, PrivateKey]
) -> Callable[..., Store]:
    """A store with one recipe, one generation and the named sites, or all: alpha, beta and gamma."""

    def make(name: str = "store", *sites: str, **place: Any) -> Store:
        store = Store.create(tmp_path / name, **place)
        store.add_recipe(recipe)
        store.publish_generation(generation.content)
        for site in sites or keys:
            store.add_site(site, keys[site].public_key())
        return store

    return make


@pytest.fixture
def store(make_store: Callable[..., Store], place: Place) -> Store:
    """Sites alpha, beta and gamma enrolled, one recipe, one generation, no contribution."""
    return make_store(**place)


@pytest.fixture(scope="session")
def make_contribution(recipe: Recipe, generation: Generation) -> Callable[..., Contribution]:
    def make(site: str = "alpha", sequence: int = 1, seed: int = 0, **more: object) -> Contribution:
        random = np.random.default_rng([seed, sum(site.encode())])
        members = {index: [f"{site}{index}{i}" for i in range(4)] for index in range(len(CLASSES))}
        sums = Accumulator(CLASSES, row_dim=6, feature_dim=3, plan=plan_folds(members, 2))
        for index, patients in members.items():
            for patient in patients:
                rows = random.normal(size=(1, 6)).astype(np.float32)
                rows[:, -1] = 1
                sums.add_rows(rows, np.array([index], np.int32), patient)
                sums.add_image(rows[0, :3], 1.0)
                sums.add_channels([(4, random.normal(size=3), np.full(3, 9.0))])
                sums.add_style(random.normal(size=(1, 3, 3)))
        values: dict[str, object] = {"generation": generation.digest, "recipe": recipe, "min_cohort": 2}
        return new_contribution(sums.result(), site=site, sequence=sequence, **(values | more))  # type: ignore[arg-type]

    return make


@pytest.fixture
def sent(
    tmp_path: Path, make_contribution: Callable[..., Contribution], keys: dict[str, PrivateKey]
) -> Callable[..., Path]:
    """File of a contribution, signed by its site or by another key."""
    count = 0

    def send(
        site: str = "alpha", sequence: int = 1, *, key: PrivateKey | None = None, **more: object
    ) -> Path:
        nonlocal count
        count += 1
        path = tmp_path / f"sent-{count}"
        contribution = make_contribution(site, sequence, **more)
        write_contribution(path, contribution.sign(key or keys[site]))
        return path

    return send


@pytest.fixture
def send_all(store: Store, sent: Callable[..., Path]) -> None:
    for site in ("gamma", "alpha", "beta"):
        store.import_contribution(sent(site))
