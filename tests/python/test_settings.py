"""Every setting by file, environment and flag, and the table of docs/containers.md that names them all."""

import json
import re
from pathlib import Path
from typing import Any, get_origin

import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from fedmed_edge.commands.edge import edge
from fedmed_edge.commands.server import server
from fedmed_edge.config import ServerConfig, SiteConfig, read_config, variables
from fedmed_edge.errors import InputError

REPOSITORY = Path(__file__).parents[2]
MODELS = {"a hospital's key": SiteConfig, "the server's key": ServerConfig}


def shown(value: object) -> str:
    """A default as the table shows it."""
    if value is None or value == () or value == {} or value == "":
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if value == "localhost":
        return "this machine"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def field(model: type[BaseModel], key: tuple[str, ...]) -> Any:
    for name in key[:-1]:
        model = model.model_fields[name].annotation  # type: ignore[assignment]
    return model.model_fields[key[-1]]


@pytest.mark.parametrize("title", MODELS)
def test_the_table_names_every_setting_with_its_variable_and_its_default(title: str) -> None:
    text = (REPOSITORY / "docs" / "containers.md").read_text(encoding="utf-8")
    table = re.search(rf"^\| {title} \| .*\n\|---.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table, title
    rows = [[cell.strip(" `") for cell in line.strip("|").split(" | ")] for line in table[1].splitlines()]
    model = MODELS[title]
    wanted = []
    for name, key in variables(model).items():
        one = field(model, key)
        default = "needed" if one.is_required() else shown(one.get_default(call_default_factory=True))
        wanted.append([".".join(key), name, default])
    assert rows == wanted


@pytest.mark.parametrize("model", MODELS.values())
def test_every_setting_can_be_given_by_the_environment(model: type[BaseModel]) -> None:
    for name, key in variables(model).items():
        one = field(model, key)
        default = None if one.is_required() else one.get_default(call_default_factory=True)
        text = {"listen.dicomweb.query": "Modality=CT,StationName=A"}.get(".".join(key))
        text = text or ("hospital" if default in (None, "", "localhost") else shown(default))
        if get_origin(one.annotation) is tuple and text == "none":
            text = "0123456789ab"  # digests; any other list takes such a word too
        environment = {"FEDMED_SITE": "hospital", name: text}
        try:
            read_config(model, None, environment=environment)  # type: ignore[type-var]
        except Exception as error:
            # of another form than a word: what matters is that the variable was looked at, and is named
            assert name in str(error), name


def test_a_table_is_given_with_commas() -> None:
    environment = {"FEDMED_LISTEN_DICOMWEB_QUERY": "Modality=CT, StationName=A"}
    config = read_config(SiteConfig, None, flags={"site": "a"}, environment=environment)
    assert config.listen.dicomweb.query == {"Modality": "CT", "StationName": "A"}


def with_file(folder: Path) -> Path:
    (folder / "fedmed.toml").write_text('site = "a"\n[federation]\nserver = "b:1"\n')
    return folder


def test_set_comes_before_the_environment_and_that_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}
    monkeypatch.setattr(
        "fedmed_edge.commands.checks.read_site",
        lambda folder: seen.setdefault("config", read_config(SiteConfig, folder)),
    )
    folder, words = with_file(tmp_path), ["doctor", "-C", str(tmp_path), "--json"]
    for name, value in {"FEDMED_POLICY_MIN_COHORT": "20", "FEDMED_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    said = CliRunner().invoke(edge, [*words, "--set", "policy.min_cohort=30", "--set", "listen.port=104"])
    assert json.loads(said.stdout)["folder"] == str(folder)
    config = seen["config"]
    assert (config.policy.min_cohort, config.listen.port, config.threads) == (30, 104, 1)
    assert config.federation.server == "b:1"
    monkeypatch.setenv("FEDMED_LISTEN_PORT", "")  # what --set left behind


@pytest.mark.parametrize("given", ["policy.cohort=3", "policy.min_cohort", "min_cohort=3", "index=x"])
def test_set_names_a_key_that_is_none(tmp_path: Path, given: str) -> None:
    said = CliRunner().invoke(edge, ["health", "-C", str(tmp_path), "--set", given])
    assert said.exit_code == 2
    assert f"has {given}, expected KEY=VALUE and a key of fedmed.toml, such as `site=…`" in said.output


def test_the_server_has_keys_of_its_own(tmp_path: Path) -> None:
    said = CliRunner().invoke(server, ["health", "-C", str(tmp_path), "--set", "policy.min_cohort=3"])
    assert said.exit_code == 2 and "such as `store=…`" in said.output


def test_settings_that_need_each_other_come_from_wherever(tmp_path: Path) -> None:
    (tmp_path / "fedmed.toml").write_text('site = "a"\n[listen]\nsend = true\n')
    environment = {"FEDMED_LISTEN_DESTINATION": "PACS@10.1.2.4:104"}
    assert read_config(SiteConfig, tmp_path, environment=environment).listen.send
    environment |= {"FEDMED_LISTEN_SEND": "true", "FEDMED_SITE": "b"}
    assert read_config(SiteConfig, None, environment=environment).listen.send
    with pytest.raises(InputError, match=r"^FEDMED_LISTEN_PORT: "):
        read_config(SiteConfig, tmp_path, environment=environment | {"FEDMED_LISTEN_PORT": "x"})
    with pytest.raises(InputError, match=r"fedmed\.toml: .*destination"):
        read_config(SiteConfig, tmp_path, environment={})
