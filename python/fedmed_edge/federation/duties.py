"""What the server asked, done at the site within its policy: statistics, training, validation.

Each request is answered once: done, refused by the policy, or failed for the third time. Work that was cut
off is done anew; but noise is drawn once a request, of a contribution or of a training, since each time
spends its ε. What comes of it goes into the outbox, and the next sync hands it over.
"""

import logging
import shutil
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path

from fedmed_edge.atomic import locked
from fedmed_edge.backoff import wait_s
from fedmed_edge.config import SiteConfig
from fedmed_edge.errors import FedmedError, InputError, StoreError, Withheld
from fedmed_edge.federation.asked import Asked
from fedmed_edge.federation.inbox import Inbox
from fedmed_edge.federation.messages import Ask, Report
from fedmed_edge.federation.outbox import Outbox
from fedmed_edge.federation.policy import objection, within_hours
from fedmed_edge.federation.releases import Releases
from fedmed_edge.federation.sequence import prepare_allowed, private_training, signed_as_next
from fedmed_edge.federation.styles import styles_here
from fedmed_edge.generation import Generation, parse_generation
from fedmed_edge.hospital import Prepared, prepare_weights
from fedmed_edge.images.dataset import Dataset, read_dataset
from fedmed_edge.local_training import NORMS, train_backbone
from fedmed_edge.recipe import Recipe, read_recipe
from fedmed_edge.signing import read_private_key, verify_trusted
from fedmed_edge.words import counted

__all__ = ["TRIES", "work"]

TRIES = 3
"""How often something is tried before the server is told that it failed."""

_TOLD_DIGITS = 2
"""Of a score: more would tell, over many candidates, how single test images are answered."""

_FIRST_WAIT_S, _LONGEST_WAIT_S = 300.0, 3600.0

log = logging.getLogger(__name__)


def work(folder: Path, config: SiteConfig) -> list[Report]:
    """Do what the server asked and the policy allows, the most urgent first.

    Args:
        folder: The site's folder.

    Returns:
        What came of each; a request whose objects are still to come stays open.

    Raises:
        InputError: The recipe cannot be read, the site's disk is full, or another process is at work in this
            folder.
        StoreError: A record is damaged.
    """
    answered = []
    with locked(folder / "work.lock", busy="work: another process is at it"):
        asked, site = Asked(folder / "requests"), _Site(folder, config)
        shutil.rmtree(site.scratch, ignore_errors=True)  # what a killed process left
        for duty in asked.open():
            if not within_hours(config.federation, datetime.now()):
                break
            report = site.answer(duty.ask)
            if report is None:
                continue
            shutil.rmtree(site.scratch, ignore_errors=True)
            if report.state == "failed" and site.spent_for(duty.ask):
                log.warning(
                    "request %s: spent ε and came to nothing; it is not begun again. "
                    "The server's admin may ask anew, which spends as much once more",
                    duty.ask.id[:12],
                )
            elif report.state == "failed" and duty.tries + 1 < TRIES:
                asked.put_off(duty, wait_s(duty.tries, _FIRST_WAIT_S, _LONGEST_WAIT_S))
                continue
            asked.answer(duty, report)
            answered.append(report)
    return answered


@dataclass
class _Site:
    folder: Path
    config: SiteConfig

    @cached_property
    def recipe(self) -> Recipe:
        return read_recipe(self.config.recipe)

    @cached_property
    def dataset(self) -> Dataset:
        return read_dataset(self.config.data, self.recipe)

    @property
    def scratch(self) -> Path:
        return self.folder / "work"

    @property
    def inbox(self) -> Inbox:
        return Inbox(self.folder / "inbox")

    def answer(self, ask: Ask) -> Report | None:
        """Do one request; None where it has to wait for what it needs."""
        why = objection(ask, self.config, self.recipe.digest)
        if why is not None:
            log.info("request %s to %s: refused: %s", ask.id[:12], ask.kind, why)
            return Report(request=ask.id, state="refused", why=why)
        here = {one.digest for one in self.inbox.all()}
        wanted = {ask.object, None if ask.kind == "validate" else ask.generation} - {None}
        if not wanted <= here:
            return None
        try:
            report = self._do(ask)
        except Withheld as error:  # its text may tell how many patients there are: it stays here
            log.info("request %s to %s: refused: %s", ask.id[:12], ask.kind, error)
            return Report(request=ask.id, state="refused", why="policy")
        except FedmedError as error:  # its text may name a path: it stays here
            log.warning("request %s to %s: failed: %s", ask.id[:12], ask.kind, error)
            return Report(request=ask.id, state="failed", why=f"could not be done: {type(error).__name__}")
        except Exception:
            log.exception("request %s to %s", ask.id[:12], ask.kind)
            return Report(request=ask.id, state="failed", why="could not be done: unexpected")
        log.info("request %s to %s: done", ask.id[:12], ask.kind)
        return report

    def _do(self, ask: Ask) -> Report:
        if ask.kind == "validate":
            return self._validate(ask)
        outbox = Outbox(self.folder / "outbox")
        made = next((one.id for one in outbox.all() if one.request == ask.id), None)
        if made is None:  # else a killed process put it there, and what it spent is not spent again
            if self.spent_for(ask):
                raise InputError("noise: was drawn for this before, and what came of it is gone")
            key = read_private_key(self.config.key)  # first: without it nothing is to be spent
            prepared = self._sums(ask) if ask.kind == "contribute" else self._trained(ask)
            with signed_as_next(
                self.folder, prepared, key, policy=self.config.policy, request=ask.id
            ) as signed:
                outbox.add(signed, request=ask.id)
            made = signed.id
        return Report(request=ask.id, state="done", contribution=made)

    def spent_for(self, ask: Ask) -> bool:
        """Whether its ε is spent, whatever came of it: it is not begun again."""
        if self.config.policy.epsilon is None:
            return False
        try:
            return Releases(self.folder).spent_for(ask.id)
        except StoreError:  # then nothing may begin
            return False

    def _generation(self, digest: str) -> Generation:
        path = self.inbox.path(digest)
        return parse_generation(verify_trusted(path, self.config.server_key), f"generation {digest[:12]}")

    def _sums(self, ask: Ask) -> Prepared:
        generation = self._generation(ask.generation)
        return prepare_allowed(self.folder, self.dataset, generation, self.config)

    def _trained(self, ask: Ask) -> Prepared:
        from fedmed_edge.features.weights import parse_backbone

        generation = self._generation(ask.generation)
        start, norms = generation, self.folder / NORMS
        if ask.object is None:
            norms.unlink(missing_ok=True)  # of an earlier training, or of this round where it was cut off
        else:
            content = verify_trusted(self.inbox.path(ask.object), self.config.server_key)
            start = replace(generation, weights=parse_backbone(content, "weights").weights)
        private = None
        if self.config.policy.epsilon is not None:
            private = private_training(
                self.folder, self.dataset, generation, self.config.policy, ask.epochs, request=ask.id
            )
        trained = train_backbone(
            self.dataset.train,
            start,
            epochs=ask.epochs,
            site=self.config.site,
            styles=styles_here(self.inbox, self.recipe, self.config.server_key),
            # with noise no figure leaves
            held_out=self.dataset.test if ask.object is None and private is None else None,
            norms=norms,
            rounds_of=ask.training or ask.generation,
            private=private,
            device=self.config.device,
        )
        self.scratch.mkdir(exist_ok=True)
        weights = self.scratch / "weights.backbone"
        trained.write(weights)
        return prepare_weights(self.dataset, generation, self.config, weights)

    def _validate(self, ask: Ask) -> Report:
        """How the candidate does here, and the model that it would follow."""
        from fedmed_edge.inference.predict import load_model
        from fedmed_edge.inference.scoring import score_model

        test = self.dataset.test.labelled
        patients = len(test.patients)
        if patients < self.config.policy.min_cohort:
            raise Withheld(
                f"validation: {counted(patients, 'labelled test patient')}, "
                f"expected at least min_cohort {self.config.policy.min_cohort}"
            )
        assert ask.object is not None  # what was asked was checked
        asked = {"score": ask.object}
        now = self.inbox.newest("model", task=self.recipe.name)
        if now is not None:
            asked["current"] = now.digest
        figures = {"images": float(len(test))}
        for name, digest in asked.items():
            path = self.inbox.path(digest)
            model = load_model(
                path, trust=self.config.server_key, device=self.config.device, task=self.recipe.name
            )
            figures[name] = round(score_model(model, test), _TOLD_DIGITS)
        return Report(request=ask.id, state="done", figures=figures)
