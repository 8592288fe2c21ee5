"""Settings: where they come from, who wins, and whom a fault names."""

from pathlib import Path

import pytest

from fedmed_edge.config import Policy, ServerConfig, SiteConfig, read_config, write_config
from fedmed_edge.errors import InputError

FULL = """
site = "alpha"
data = "images"
device = "cpu"
threads = 2

[policy]
min_cohort = 20
parts = ["classes", "images"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "fedmed.toml").write_text(FULL)
    return tmp_path / "fedmed.toml"


def read(path: Path | None, environment: dict[str, str] | None = None, **flags: object) -> SiteConfig:
    return read_config(SiteConfig, path, flags=flags, environment=environment or {})


def test_defaults_stand_where_nothing_is_said() -> None:
    config = read(None, site="alpha")
    assert config == SiteConfig(site="alpha")
    assert (config.policy.min_cohort, config.policy.width_rule, config.device) == (10, "warn", "auto")
    assert read_config(ServerConfig, None, environment={}) == ServerConfig()


def test_flag_beats_environment_beats_file_beats_default(file: Path) -> None:
    environment = {"FEDMED_THREADS": "3", "FEDMED_DEVICE": "cuda"}
    assert read(None, site="a").threads is None
    assert read(file).threads == 2
    assert read(file, environment).threads == 3
    assert read(file, environment, threads=4).threads == 4
    assert read(file, environment, threads=None).threads == 3
    assert read(file, environment).device == "cuda"


def test_a_key_of_a_table_has_the_same_precedence(file: Path) -> None:
    environment = {"FEDMED_POLICY_MIN_COHORT": "30", "FEDMED_POLICY_PARTS": "classes, style"}
    config = read(file, environment)
    assert config.policy.min_cohort == 30
    assert config.policy.parts == ("classes", "style")
    flags = {"policy.min_cohort": 40}
    assert read_config(SiteConfig, file, flags=flags, environment=environment).policy.min_cohort == 40
    assert read(file).policy.parts == ("classes", "images")


def test_a_style_leaves_where_it_is_named_alone(file: Path) -> None:
    assert "style" not in Policy().parts
    environment = {"FEDMED_POLICY_SHARE_STYLE": "true"}
    with pytest.raises(InputError, match=r"`policy\.share_style` has true, expected `style` in `parts`"):
        read(file, environment)
    assert read(file, environment | {"FEDMED_POLICY_PARTS": "style"}).policy.share_style


def test_paths_of_a_file_and_its_defaults_are_beside_it(file: Path) -> None:
    config = read(file)
    assert config.data == file.parent / "images"
    assert config.recipe == file.parent / "recipe.toml"
    assert config.key == file.parent / "site.key"
    assert config.server_key is None
    assert read(file, {"FEDMED_DATA": "/srv/data"}).data == Path("/srv/data")
    assert read(file, data=Path("here")).data == Path("here")


def test_the_folder_stands_for_its_file(file: Path) -> None:
    assert read(file.parent) == read(file)


def test_other_names_of_the_environment_are_left_alone(file: Path) -> None:
    assert read(
        file, {"FEDMED_TEST_DATA": "x", "FEDMED_SITES": "y", "FEDMED_THREADS": "", "HOME": "/"}
    ) == read(file)


def test_a_name_that_is_nearly_a_settings_is_told(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    said = {"FEDMED_POLCY_EPSILON": "1", "FEDMED_STORE": "s", "FEDMED_DATASET": "d", "FEDMED_MODEL": "m"}
    assert read_config(SiteConfig, file, environment=said).policy.epsilon is None
    assert caplog.messages == [
        "FEDMED_POLCY_EPSILON: is no setting and does nothing; did you mean FEDMED_POLICY_EPSILON?"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("threads = true", "`threads` has true, expected a number"),
        ("[policy]\nmin_cohort = true", "`policy.min_cohort` has true, expected a number"),
        ("[policy]\nepsilon = false", "`policy.epsilon` has false, expected a number"),
    ],
)
def test_true_is_no_number(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "fedmed.toml").write_text(f'site = "alpha"\n{text}\n')
    with pytest.raises(InputError, match=message):
        read_config(SiteConfig, tmp_path, environment={})


def test_the_environment_of_the_process_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMED_SITE", "beta")
    assert read_config(SiteConfig, file).site == "beta"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("sight = 'a'", r"fedmed\.toml: unknown key `sight`", "did you mean `site`?"),
        ("[policy]\nmin_cohorts = 3", r"unknown key `policy\.min_cohorts`", "did you mean `min_cohort`?"),
        ("device = 'gpu'", r"fedmed\.toml: `device` has gpu, expected auto, cpu, cuda or tensorrt$", None),
        ("[policy]\nmin_cohort = 0", r"fedmed\.toml: `policy\.min_cohort` has 0, expected at least 1$", None),
        (
            "[policy]\ndelta = 1e-15",
            r"fedmed\.toml: `policy\.delta` has 1e-15, expected at least 1e-12$",
            None,
        ),
        ("site = '../a'", r"fedmed\.toml: `site` has \.\./a, expected 1 to 64 unaccented letters", None),
        (
            "[policy]\nparts = ['pixels']",
            r"fedmed\.toml: `policy\.parts\.0` has pixels, expected classes, unlabelled",
            None,
        ),
        ("site =", r"fedmed\.toml: not a readable TOML file", None),
        ("", r"fedmed\.toml: `site` is missing$", None),
    ],
)
def test_a_fault_in_the_file_names_it(file: Path, text: str, message: str, hint: str | None) -> None:
    file.write_text(text)
    with pytest.raises(InputError, match=message) as refusal:
        read(file)
    assert refusal.value.hint == hint


def test_a_fault_of_the_environment_or_a_flag_names_it(file: Path) -> None:
    with pytest.raises(InputError, match=r"^FEDMED_THREADS: `threads` has many, expected a whole number$"):
        read(file, {"FEDMED_THREADS": "many"})
    with pytest.raises(
        InputError, match=r"^FEDMED_POLICY_WIDTH_RULE: `policy\.width_rule` has maybe, expected warn"
    ):
        read(file, {"FEDMED_POLICY_WIDTH_RULE": "maybe"})
    with pytest.raises(InputError, match=r"^--device: `device` has gpu, expected auto"):
        read(file, device="gpu")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"fedmed\.toml: no such file"):
        read(tmp_path)


def test_written_settings_are_read(tmp_path: Path) -> None:
    site = SiteConfig(site="alpha", threads=2, server_key=Path('ser"ver.pub'))
    write_config(tmp_path / "fedmed.toml", site)
    back = read(tmp_path)
    assert back.server_key == tmp_path / 'ser"ver.pub'
    assert (back.site, back.threads, back.policy) == (site.site, site.threads, site.policy)
    with pytest.raises(InputError, match=r"fedmed\.toml: is there already"):
        write_config(tmp_path / "fedmed.toml", site)
    server = tmp_path / "server.toml"
    write_config(server, ServerConfig())
    assert read_config(ServerConfig, server, environment={}).store == tmp_path / "store"
