"""The tables of a store's index."""

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

SCHEMA_VERSION: Final = 4
"""2 added `loose`, 3 `ledger` and the index of `contributions.object`, 4 `held_back`."""

metadata = MetaData()

# Sites are summed in order of name: the order of bytes, whatever a database's locale says.
Text: Final = String().with_variant(String(collation="C"), "postgresql")


def _number() -> Column[int]:
    """Rises with every row."""
    return Column("number", Integer, primary_key=True)


def _text(name: str, **options: Any) -> Column[str]:
    return Column(name, Text, nullable=False, **options)


def _flag(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False, default=False)


def _named(name: str, target: str, **options: Any) -> Column[str]:
    """Names a row of another table."""
    return Column(name, Text, ForeignKey(target), nullable=False, **options)


settings = Table("settings", metadata, Column("key", Text, primary_key=True), Column("value", Text))

sites = Table(
    "sites",
    metadata,
    Column("name", Text, primary_key=True),
    Column("public_key", LargeBinary, nullable=False),
    _text("fingerprint", unique=True),
    _text("enrolled"),
    _flag("revoked"),
)

recipes = Table(
    "recipes", metadata, _number(), _text("digest", unique=True), _text("task", index=True), _text("content")
)

generations = Table(
    "generations",
    metadata,
    _number(),
    _text("digest", unique=True),
    _text("kind"),
    Column("row_dim", Integer, nullable=False),
    Column("feature_dim", Integer, nullable=False),
    Column("channels", Integer, nullable=False),
    _flag("draft"),
)

contributions = Table(
    "contributions",
    metadata,
    _number(),
    _text("id", unique=True),
    _text("object", index=True),
    _named("site", "sites.name", index=True),
    Column("public_key", LargeBinary, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    _text("task"),
    _named("recipe", "recipes.digest"),
    _named("generation", "generations.digest"),
    _text("holds"),
    Column("bytes", BigInteger, nullable=False),
    _text("received"),
    UniqueConstraint("site", "sequence"),
)

tombstones = Table(
    "tombstones",
    metadata,
    Column("id", Text, primary_key=True),
    _text("site", index=True),
    Column("sequence", BigInteger, nullable=False),
    _text("withdrawn"),
)

models = Table(
    "models",
    metadata,
    _number(),
    _text("digest", unique=True),
    _text("object"),
    _text("task", index=True),
    _named("generation", "generations.digest"),
    Column("refined_for", Text),
    _flag("withdrawn"),
    _text("made"),
)

model_parts = Table(
    "model_parts",
    metadata,
    Column("model", Text, ForeignKey("models.digest", ondelete="CASCADE"), primary_key=True),
    Column("site", Text, primary_key=True),
    _text("contribution"),
)

held_back = Table(
    "held_back",
    metadata,
    Column("task", Text, primary_key=True),
    Column("site", Text, ForeignKey("sites.name"), primary_key=True),
    _text("why"),
    _text("since"),
)

# Files that may be deleted where no row names them: see `journal`.
loose = Table("loose", metadata, Column("digest", Text, primary_key=True))

# Rows are only ever added: see `ledger`.
ledger = Table(
    "ledger",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    _text("time"),
    _text("kind"),
    Column("site", Text),
    Column("subject", Text),
    _text("details"),
    _text("previous"),
    _text("hash"),
)


def now() -> str:
    """This moment, UTC, as ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
