"""The tables of a store's index."""

from datetime import UTC, datetime
from typing import Final

from sqlalchemy import (
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

SCHEMA_VERSION: Final = 2
"""2 added `loose`."""

metadata = MetaData()

settings = Table("settings", metadata, Column("key", String, primary_key=True), Column("value", String))

sites = Table(
    "sites",
    metadata,
    Column("name", String, primary_key=True),
    Column("public_key", LargeBinary, nullable=False),
    Column("fingerprint", String, nullable=False, unique=True),
    Column("enrolled", String, nullable=False),
    Column("revoked", Boolean, nullable=False, default=False),
)

recipes = Table(
    "recipes",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("digest", String, nullable=False, unique=True),
    Column("task", String, nullable=False, index=True),
    Column("content", String, nullable=False),
)

generations = Table(
    "generations",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("digest", String, nullable=False, unique=True),
    Column("kind", String, nullable=False),
    Column("row_dim", Integer, nullable=False),
    Column("feature_dim", Integer, nullable=False),
    Column("channels", Integer, nullable=False),
    Column("draft", Boolean, nullable=False),
)

contributions = Table(
    "contributions",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("object", String, nullable=False),
    Column("site", ForeignKey("sites.name"), nullable=False, index=True),
    Column("public_key", LargeBinary, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("task", String, nullable=False),
    Column("recipe", ForeignKey("recipes.digest"), nullable=False),
    Column("generation", ForeignKey("generations.digest"), nullable=False),
    Column("holds", String, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("received", String, nullable=False),
    UniqueConstraint("site", "sequence"),
)

tombstones = Table(
    "tombstones",
    metadata,
    Column("id", String, primary_key=True),
    Column("site", String, nullable=False, index=True),
    Column("sequence", Integer, nullable=False),
    Column("withdrawn", String, nullable=False),
)

models = Table(
    "models",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("digest", String, nullable=False, unique=True),
    Column("object", String, nullable=False),
    Column("task", String, nullable=False, index=True),
    Column("generation", ForeignKey("generations.digest"), nullable=False),
    Column("refined_for", String),
    Column("withdrawn", Boolean, nullable=False, default=False),
    Column("made", String, nullable=False),
)

model_parts = Table(
    "model_parts",
    metadata,
    Column("model", ForeignKey("models.digest", ondelete="CASCADE"), primary_key=True),
    Column("site", String, primary_key=True),
    Column("contribution", String, nullable=False),
)

# Files that may be deleted where no row names them: see `journal`.
loose = Table("loose", metadata, Column("digest", String, primary_key=True))


def now() -> str:
    """This moment, UTC, as ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
