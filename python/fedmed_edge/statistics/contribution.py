"""The contribution: what one site hands over for one generation, as one signed safetensors file.

The file's only metadata entry, `fedmed_contribution`, is canonical JSON of header, signer and signature.
Two digests stand over the tensors: the *id* says what was handed over (tensors with their class names,
recipe, generation, site; no sequence, evidence, signature or time), the *signature* covers the whole header.
"""

import base64
import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from fedmed_edge.atomic import write_atomic
from fedmed_edge.config import PARTS, Part
from fedmed_edge.errors import InputError, TrustError
from fedmed_edge.recipe import Recipe, parse_settings
from fedmed_edge.signing import PrivateKey, PublicKey, fingerprint, sign_digest, verify_digest
from fedmed_edge.statistics.checks import check_tensors
from fedmed_edge.statistics.feature_statistics import FeatureStatistics
from fedmed_edge.statistics.header import ContributionHeader, Evidence, Privacy, canonical_json
from fedmed_edge.statistics.reading import (
    FILE_CAP,
    METADATA_KEY,
    parse_envelope,
    read_content,
    read_tensors,
)
from fedmed_edge.statistics.tensors import (
    Tensor,
    Tensors,
    parts_of,
    restrict,
    to_statistics,
    to_tensors,
)
from fedmed_edge.tensorfile import Content, Looked, give_back, pieces, tensor_file

__all__ = [
    "Contribution",
    "ContributionHeader",
    "Evidence",
    "Privacy",
    "new_contribution",
    "parse_contribution",
    "read_contribution",
    "write_contribution",
]

SIGNATURE_DOMAIN: Final = "fedmed contribution v1"
ID_DOMAIN: Final = b"fedmed contribution id v1\0"


@dataclass(frozen=True, eq=False)
class Contribution:
    """Header, sums and weights of one site, and who signed them.

    Attributes:
        statistics: The sums, or None where weights alone are handed over.
        weights: Name → float32 tensor θ_s − θ⁰, or None.
        signature: 64 bytes, or None before `sign`.
        signer: Fingerprint of the key that signed, or None.

    Example:
        >>> from fedmed_edge.signing import generate_key
        >>> recipe, weights = Recipe(name="r", kind="classification", classes=("a", "b")), {"w": np.ones(2)}
        >>> plain = new_contribution(
        ...     None, generation="0" * 64, recipe=recipe, site="alpha", sequence=1, weights=weights
        ... )
        >>> key = generate_key()
        >>> signed = plain.sign(key)
        >>> signed.verify(key.public_key())
        >>> signed.id == plain.id, signed.header.site, signed.header.parts
        (True, 'alpha', ('weights',))
    """

    header: ContributionHeader
    statistics: FeatureStatistics | None
    weights: dict[str, Tensor] | None = field(default=None, repr=False)
    signature: bytes | None = field(default=None, repr=False)
    signer: str | None = None

    def tensors(self) -> Tensors:
        """The file's tensors by name; dense Grams are made anew on every call."""
        private = self.header.privacy is not None
        tensors = to_tensors(self.statistics, self.header.parts, private=private)
        if self.weights is not None:
            tensors |= {f"weights/{name}": value for name, value in self.weights.items()}
        return tensors

    @cached_property
    def _tensors_digest(self) -> bytes:
        return tensors_digest(self.tensors())

    @cached_property
    def id(self) -> str:
        """SHA-256 in hexadecimal of tensors, class names, recipe, generation and site."""
        named = {key: getattr(self.header, key) for key in ("classes", "generation", "recipe", "site")}
        content = canonical_json(named).encode() + b"\0" + self._tensors_digest
        return hashlib.sha256(ID_DOMAIN + content).hexdigest()

    @cached_property
    def signed_digest(self) -> bytes:
        """SHA-256 (32 bytes) over the whole header and all tensors: what the signature is over."""
        return hashlib.sha256(self.header.canonical.encode() + b"\0" + self._tensors_digest).digest()

    def sign(self, key: PrivateKey) -> "Contribution":
        """The same contribution, signed; this one stays as it is."""
        signature = sign_digest(SIGNATURE_DOMAIN, self.signed_digest, key)
        return replace(self, signature=signature, signer=fingerprint(key.public_key()))

    def verify(self, key: PublicKey, where: str = "contribution") -> None:
        """Check that this key signed exactly this header and these tensors.

        Raises:
            TrustError: Not signed, signed by another key, or changed since.
        """
        if self.signature is None or self.signer is None:
            raise TrustError(f"{where}: has no signature", hint="`fedmed-edge contribute` signs")
        if self.signer != fingerprint(key):
            raise TrustError(f"{where}: signed by {self.signer}, expected {fingerprint(key)}")
        verify_digest(SIGNATURE_DOMAIN, self.signed_digest, self.signature, key, where)


def tensors_digest(tensors: Tensors, looked: Looked = lambda: None) -> bytes:
    """SHA-256 (32 bytes) over names, dtypes, shapes and little-endian bytes, in order of name.

    Args:
        looked: Called after every piece (`give_back`).
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name], tensors[name].dtype.newbyteorder("<"))
        label = canonical_json([name, array.dtype.str, array.shape]).encode()
        digest.update(len(label).to_bytes(8, "little") + label)
        for piece in pieces(array.reshape(-1).view(np.uint8).data, looked):
            digest.update(piece)
    return digest.digest()


def new_contribution(
    statistics: FeatureStatistics | None,
    *,
    generation: str,
    recipe: Recipe,
    site: str,
    sequence: int,
    min_cohort: int = 10,
    parts: tuple[Part, ...] = PARTS,
    weights: dict[str, Tensor] | None = None,
    evidence: Evidence | None = None,
    privacy: Privacy | None = None,
    share_style: bool = False,
) -> Contribution:
    """A contribution, not yet signed, with those of the allowed `parts` that hold something.

    Args:
        statistics: The site's sums under `generation`; its classes are classes of the recipe.
        generation: Digest of the generation.
        min_cohort: The guard that the sums were made with.
        parts: What the site's policy lets out.
        weights: Name → θ_s − θ⁰; sent as float32.
        evidence: What the site tells about its own work; patients by class go only with the class sums.
        privacy: The noise that is in the sums.
        share_style: The style, where it is handed over, may be passed on to other sites.

    Raises:
        InputError: Nothing is left to hand over, or a name, digest or number is not one.

    Example:
        >>> from fedmed_edge.statistics.accumulate import Accumulator, plan_folds
        >>> recipe = Recipe(name="lesion", kind="classification", classes=("a", "b"))
        >>> sums = Accumulator(recipe.classes, row_dim=2, feature_dim=1, plan=plan_folds({0: {"p"}}, 1))
        >>> sums.add_rows(np.array([[2, 1]], np.float32), np.array([0], np.int32), "p")
        >>> contribution = new_contribution(
        ...     sums.result(), generation="0" * 64, recipe=recipe, site="alpha", sequence=1, min_cohort=1
        ... )
        >>> contribution.header.parts, contribution.header.absent, len(contribution.id)
        (('classes',), ('b',), 64)
    """
    held = parts_of(statistics, weights) & set(parts)
    if not held:
        raise InputError(
            f"contribution: none of the parts {', '.join(parts) or '(none)'} holds anything",
            hint="`parts` in the policy of fedmed.toml says what may leave",
        )
    sums = None if statistics is None or held == {"weights"} else _allowed(statistics, recipe, held)
    told = evidence or Evidence()
    values = {
        "generation": generation,
        "recipe": recipe.digest,
        "task": recipe.name,
        "kind": recipe.kind,
        "site": site,
        "sequence": sequence,
        "parts": tuple(part for part in PARTS if part in held),
        "min_cohort": min_cohort,
        "privacy": privacy,
        "share_style": share_style and "style" in held,
        "evidence": told if "classes" in held else told.model_copy(update={"patients": {}}),
        "classes": recipe.classes,
    }
    if sums is not None:
        values |= {name: getattr(sums, name) for name in _OF_SUMS}
    header = parse_settings(ContributionHeader, values, "contribution")
    sent = weights if weights is not None and "weights" in held else {}
    return Contribution(header, sums, {name: np.asarray(sent[name], np.float32) for name in sent} or None)


_OF_SUMS: Final = ("classes", "absent", "row_dim", "feature_dim", "folds")


def _allowed(statistics: FeatureStatistics, recipe: Recipe, parts: Collection[Part]) -> FeatureStatistics:
    if not set(statistics.classes) <= set(recipe.classes):
        raise InputError(f"contribution: `classes` has {statistics.classes}, expected {recipe.classes}")
    return restrict(statistics, parts)


def write_contribution(path: Path, contribution: Contribution) -> None:
    """Write a contribution file, whole or not at all.

    Raises:
        InputError: It would pass 1 GiB, or cannot be written (no such folder, disk full).
    """
    write_atomic(path, contribution_file(contribution, str(path)))


def contribution_file(contribution: Contribution, where: str = "contribution") -> bytes:
    """Content of a contribution's file; `where` names it in messages.

    Raises:
        InputError: It would pass 1 GiB.
    """
    tensors = contribution.tensors()
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > FILE_CAP - (2 << 20):
        raise InputError(
            f"{where}: contribution has {size} bytes, expected at most 1 GiB", hint="a narrower lift"
        )
    envelope: dict[str, Any] = {"header": contribution.header.values}
    if contribution.signature is not None and contribution.signer is not None:
        envelope["signature"] = base64.b64encode(contribution.signature).decode()
        envelope["signer"] = contribution.signer
    return tensor_file(tensors, METADATA_KEY, canonical_json(envelope))


def read_contribution(path: Path | str, *, verify_key: PublicKey | None = None) -> Contribution:
    """Read a contribution from anybody; nothing in it is believed before it is checked.

    Args:
        verify_key: Key that must have signed it; None leaves the signature unchecked (`inspect`).

    Raises:
        InputError: The file is missing, cut off, too large, or anything in it is not as it must be.
        TrustError: `verify_key` did not sign it.

    Example:
        >>> import tempfile
        >>> recipe, weights = Recipe(name="r", kind="classification", classes=("a", "b")), {"w": np.ones(2)}
        >>> made = new_contribution(
        ...     None, generation="0" * 64, recipe=recipe, site="alpha", sequence=1, weights=weights
        ... )
        >>> path = Path(tempfile.mkdtemp()) / "alpha.contribution"
        >>> write_contribution(path, made)
        >>> read_contribution(path).id == made.id
        True
    """
    return parse_contribution(read_content(Path(path)), str(path), verify_key=verify_key)


def parse_contribution(
    content: Content, where: str, *, verify_key: PublicKey | None = None, thorough: bool = True
) -> Contribution:
    """Parse the bytes of a contribution file; `where` names them in messages.

    Args:
        verify_key: Key that must have signed it; None leaves the signature unchecked.
        thorough: False leaves out the checks of the numbers, for bytes that passed them before.

    Raises:
        InputError: As `read_contribution`.
        TrustError: As `read_contribution`.
    """
    envelope = parse_envelope(content, where)
    tensors = read_tensors(content, envelope, where)
    contribution = Contribution(envelope.header, None, signature=envelope.signature, signer=envelope.signer)
    looked = give_back(content)
    digest = tensors_digest(tensors, looked)
    contribution.__dict__["_tensors_digest"] = digest
    if verify_key is not None:
        contribution.verify(verify_key, where)
    if thorough:
        check_tensors(envelope.header, tensors, where, looked)
    weights = {name: tensors[name] for name in tensors if name.startswith("weights/")}
    opened = replace(
        contribution,
        statistics=to_statistics(envelope.header, tensors),
        weights={name.removeprefix("weights/"): value for name, value in weights.items()} or None,
    )
    opened.__dict__["_tensors_digest"] = digest
    return opened
