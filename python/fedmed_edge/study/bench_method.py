"""`bench-method`: every method on every question of any task folders, one row each; what is done is kept."""

import json
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedmed_edge import __version__
from fedmed_edge.atomic import write_atomic
from fedmed_edge.errors import FedmedError, InputError, Unwritable
from fedmed_edge.images.dataset import Dataset, Task, read_task
from fedmed_edge.study.method_report import write_report
from fedmed_edge.study.methods.method import Case, Method
from fedmed_edge.study.methods.reference import Reference
from fedmed_edge.study.methods.registry import methods_named
from fedmed_edge.study.methods.tuning import Choice, choose, run
from fedmed_edge.study.methods.work import Learned, Meter
from fedmed_edge.study.near_duplicates import Pair, near_duplicates
from fedmed_edge.study.notebook import Notebook, digest_of, images_digest, kept_document
from fedmed_edge.study.plan import MethodBudget, StatedPolicy
from fedmed_edge.study.questions import QUESTIONS, UNIVERSAL, Question, settings_named
from fedmed_edge.study.scores import Answers, recalls, score
from fedmed_edge.study.usable import check_usable
from fedmed_edge.words import counted

log = logging.getLogger(__name__)

METRIC = {"classification": "balanced accuracy", "segmentation": "Dice"}
Watch = Callable[[str], None]
Row = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """What is to be compared.

    Attributes:
        settings: Names of `QUESTIONS`.
        sites: Hospitals that are in question; none: each in turn.
        seeds: Runs, with seeds 0, 1, …
    """

    methods: Sequence[Method]
    settings: Sequence[str]
    policy: StatedPolicy
    budget: MethodBudget
    seeds: int
    sites: Sequence[str] = ()
    device: str = "auto"

    @classmethod
    def named(
        cls,
        methods: Sequence[str],
        settings: Sequence[str],
        policy: StatedPolicy,
        budget: MethodBudget,
        seeds: int,
        sites: Sequence[str],
        device: str,
    ) -> "Comparison":
        """With methods and settings by name.

        Raises:
            InputError: There is no method or setting of a name.
        """
        return cls(
            methods_named(methods), settings_named(settings), policy, budget, seeds, tuple(sites), device
        )


@dataclass(frozen=True)
class Checked:
    """A task whose data sets were read and looked at.

    Attributes:
        duplicates: Training and test images that are nearly the same.
    """

    task: Task
    data: dict[str, Dataset]
    duplicates: list[Pair] = field(repr=False)

    @property
    def train(self) -> dict[str, Dataset]:
        """Site → training images, of the sites that have some."""
        return {site: one.train for site, one in self.data.items() if len(one.train)}

    @property
    def in_question(self) -> list[str]:
        """Sites that can be in question: they have something to learn from and to be asked about."""
        return [site for site in self.tests if site in self.train]

    def asked(self, sites: Sequence[str]) -> list[str]:
        """Those of these sites that can be in question; they may be called as their folders are."""
        return [site for site in map(self.task.site_named, sites) if site in self.in_question]

    def doubts(self) -> Iterator[str]:
        """Why a figure of this task may say less than it seems to."""
        name, recipe = self.task.name, self.task.recipe
        if self.duplicates:
            yield f"{name}: {counted(len(self.duplicates), 'pair')} of near-duplicates over the split"
        if recipe.kind != "classification":
            return
        for site, data in self.tests.items():
            found = {item.label for item in data if item.label is not None}
            if len(found) == 1 < len(recipe.classes):
                only = recipe.classes[found.pop()]
                yield f"{name}: all test images of {site} are `{only}`: whoever always says so scores 1 there"

    @property
    def pairs(self) -> list[dict[str, Any]]:
        """The duplicates as JSON values."""
        return [asdict(pair) for pair in self.duplicates]

    @property
    def tests(self) -> dict[str, Dataset]:
        """Site → labelled test images, of the sites that have some."""
        return {site: one.test.labelled for site, one in self.data.items() if len(one.test.labelled)}


@dataclass(frozen=True)
class Result:
    """What came of a comparison.

    Attributes:
        rows: Every row, failed ones too.
        lines: The tables, for people.
    """

    rows: list[Row] = field(repr=False)
    lines: list[str]

    @property
    def failed(self) -> int:
        """Rows of methods that failed."""
        return sum(row["error"] is not None for row in self.rows)

    @property
    def reason(self) -> str | None:
        """What the first of them failed with."""
        return next((f"{row['method']}: {row['error']}" for row in self.rows if row["error"]), None)


def bench_methods(
    data: Path,
    comparison: Comparison,
    out: Path,
    *,
    watch: Watch,
    answer: Callable[[Row], None] = lambda row: None,
) -> Result:
    """Compare methods on all tasks of a folder.

    Args:
        out: Gets tables, plots, `rows/` and `kept/`; what is finished there is not computed again.
        answer: Called with every row as soon as it is there.

    Raises:
        InputError: No task, or one whose data cannot be used, or is split with a patient on both sides.
    """
    tasks, skipped = find_tasks(data)
    for site in comparison.sites:  # before all images are read
        if not any(task.site_named(site) in task.sites for task in tasks):
            known = dict.fromkeys(name for task in tasks for name in task.sites)
            raise InputError(f"{data}: there is no site `{site}`, expected of {', '.join(known)}")
    checked = [check(task, out, watch) for task in tasks]
    by_task = replace(comparison, settings=[one for one in comparison.settings if one != UNIVERSAL])
    if len(tasks) > 1 and by_task.settings:
        _refuse_unknown(comparison.sites, checked, data)
        skipped |= {one.task.name: why for one in checked if (why := _unasked(one, comparison.sites))}
    for one in checked:
        for line in one.doubts():
            log.warning("warning: %s", line)
    passed_over = [f"passed over: {name}: {reason}" for name, reason in skipped.items()]
    for line in passed_over:
        log.warning("warning: %s", line)
    rows: list[Row] = []
    recipes = {one.task.name: one.task.recipe for one in checked}

    def every() -> Iterator[Row]:
        for one in (one for one in checked if by_task.settings and one.task.name not in skipped):
            sites = comparison.sites if len(tasks) == 1 else one.asked(comparison.sites)
            yield from compare(one, replace(by_task, sites=tuple(sites)), out, watch)
        if UNIVERSAL in comparison.settings:
            yield from _universal(checked, comparison, out, watch)

    try:
        for row in every():
            rows.append(row)
            answer(row)
    except KeyboardInterrupt:
        if rows:
            write_report(rows, recipes, out, [*passed_over, "interrupted: of the rows that were there"])
        raise
    write_atomic(out / "near-duplicates.json", _json({one.task.name: one.pairs for one in checked}))
    lines = write_report(rows, recipes, out, passed_over)
    return Result(rows, [*lines, f"rows: {out / 'results.json'}"])


def _refuse_unknown(sites: Sequence[str], checked: Sequence[Checked], data: Path) -> None:
    for site in sites:
        if not any(one.asked([site]) for one in checked):
            raise InputError(f"{data}: `{site}` cannot be in question in any of {len(checked)} tasks")


def _unasked(checked: Checked, sites: Sequence[str]) -> str:
    """Why a task among several is passed over; empty where it is not."""
    if len(checked.in_question) < 2:
        return "has fewer than two sites with training and test images"
    if sites and not checked.asked(sites):
        return f"{' and '.join(sites)} cannot be in question"
    return ""


def _universal(checked: Sequence[Checked], comparison: Comparison, out: Path, watch: Watch) -> Iterator[Row]:
    """One encoder for all tasks together; `--methods` and `--site` do not bear on it."""
    from fedmed_edge.study.universal import universal_rows

    yield from universal_rows(
        {one.task.name: one.data for one in checked},
        budget=comparison.budget.name,
        seeds=comparison.seeds,
        policy=comparison.policy.name,
        device=comparison.device,
        out=out,
        watch=watch,
    )


def find_tasks(folder: Path) -> tuple[list[Task], dict[str, str]]:
    """The tasks of a task folder, or of a folder of task folders; and what was passed over, with the reason.

    Raises:
        InputError: There is none, it cannot be used, or two have the same name.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder" if not folder.exists() else f"{folder}: not a folder")
    inner = [child for child in sorted(folder.iterdir()) if child.is_dir() and child.name[0] != "."]
    stated = [child for child in inner if (child / "task.toml").is_file() or any(child.glob("*/labels.csv"))]
    if (folder / "task.toml").is_file() or any(folder.glob("*/labels.csv")) or not stated:
        return [read_task(folder)], {}
    tasks, skipped = [], {child.name: "holds no dataset folder" for child in inner if child not in stated}
    for child in stated:
        try:
            tasks.append(read_task(child))
        except InputError as error:
            skipped[child.name] = str(error)
    named: dict[str, Path] = {}
    for task in tasks:
        if task.name in named:
            raise InputError(
                f"{task.folder}: task is called `{task.name}` as that of {named[task.name]}",
                hint="give each task folder a name of its own: their rows would be one task's",
            )
        named[task.name] = task.folder
    return tasks, skipped


def check(task: Task, out: Path, watch: Watch) -> Checked:
    """Read all sites of a task with their images, and look for images that are on both sides.

    Raises:
        InputError: A data set cannot be used: a patient of it is in training and test, or an image is broken.
    """
    data = task.datasets()
    key = {"recipe": task.recipe.digest, "images": images_digest(data)}
    notebook = Notebook.keyed(out / "kept", "check", key)

    def look() -> dict[str, Any]:
        check_usable(data, watch)
        return {"pairs": [asdict(pair) for pair in near_duplicates(data)]}

    found = notebook.document("near-duplicates", look)
    pairs = [Pair(tuple(one["train"]), tuple(one["test"]), one["correlation"]) for one in found["pairs"]]
    return Checked(task, data, pairs)


def compare(checked: Checked, comparison: Comparison, out: Path, watch: Watch) -> Iterator[Row]:
    """The rows of one task, each as soon as it is there; those that `out` holds are not made again.

    Args:
        out: Gets `rows/`, one file a row with the answers on every image, and `kept/`, what rows share.

    Raises:
        InputError: Fewer than two sites, or a site in question that has no images to learn from or be asked
            about.
    """
    train, possible = checked.train, checked.in_question
    asked = list(dict.fromkeys(map(checked.task.site_named, comparison.sites))) or possible
    for site in asked or ["no site"]:
        if site not in possible or len(train) < 2:
            raise InputError(
                f"{checked.task.folder}: `{site}` cannot be in question, expected one of two or more sites "
                f"with training and test images: here are {', '.join(possible) or 'none'}"
            )
    for site in asked:
        for seed in range(comparison.seeds):
            bench = _Bench(checked, comparison, out, seed, watch)
            for setting in comparison.settings:
                for question in QUESTIONS[setting](train, site, seed):
                    yield from bench.rows(question)


class _Bench:
    """The rows of one task and seed; the reference of the last question is at hand."""

    def __init__(self, checked: Checked, comparison: Comparison, out: Path, seed: int, watch: Watch) -> None:
        self.checked, self.comparison, self.out = checked, comparison, out
        self.seed, self.watch = seed, watch
        self.kind = checked.task.recipe.kind
        self.budget = comparison.budget.training[self.kind]
        self._reference: tuple[str, Reference] | None = None

    def rows(self, question: Question) -> Iterator[Row]:
        """One row a method that can answer the question."""
        in_question = question.sites.get(question.site)
        unlabelled = in_question is not None and not len(in_question.labelled)
        for method in self.comparison.methods:
            if method.fits(question.recipe) and (unlabelled or not method.adapts):
                self.watch(
                    f"{question.setting} {question.site} seed {self.seed} {method.name} {question.variant}"
                )
                yield self._row(question, method)

    def _row(self, question: Question, method: Method) -> Row:
        named = {
            "setting": question.setting,
            "task": self.checked.task.name,
            "site": question.site,
            "method": f"{method.name} {question.variant}".strip(),
            "seed": self.seed,
            "labels": question.labels,
            "policy": self.comparison.policy.name,
            "budget": self.comparison.budget.name,
            # a variant stands beside its method, with which the table compares it
            "role": "control" if question.variant else method.role,
            "metric": METRIC[self.kind],
        }
        unscored = _measured(self.kind, question.site, {}, Meter(), None, {})
        try:
            choice = self._choice(question.tuned_as or question, method)
            path = self.out / "rows" / f"{self._key(question, method, choice)}.json"
            stored = kept_document(
                path, lambda: named | self._measure(question, method, choice), [*unscored, "answers"]
            )
        except Unwritable:  # nothing that follows could be kept either
            raise
        except Exception as error:  # a method that fails is a row that says so; the others go on
            log.warning("%s on %s failed: %s", method.name, question.site, error)
            log.debug("%s", method.name, exc_info=True)
            said = str(error) if isinstance(error, FedmedError) else f"{type(error).__name__}: {error}"
            return named | unscored | {"error": said}
        del stored["answers"]
        told = _summary(question.site, stored["scores"], self.checked.tests)
        # The same answers may serve several settings: a method that sees no difference is asked once.
        return {**stored, **told, **named, "file": f"rows/{path.name}"}

    def _measure(self, question: Question, method: Method, choice: Choice) -> Row:
        began, used, case = time.perf_counter(), time.process_time(), self._case(question)
        learned = run(method, case, choice)
        tests = {site: replace(data, recipe=case.recipe) for site, data in self.checked.tests.items()}
        answers = _ask(learned, tests)
        row = _measured(self.kind, question.site, answers, case.meter, choice, dict(learned.notes))
        scores = {site: score(case.recipe, one) for site, one in answers.items()}
        row |= _summary(question.site, scores, tests)
        if self.kind == "classification":
            row["recall"] = {site: recalls(case.recipe, one) for site, one in answers.items()}
        else:
            row["surface"] = {site: float(np.mean(one.surface)) for site, one in answers.items()}
        spent = {
            "wall_seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - used,
        }
        return row | spent | {"answers": {site: one.document() for site, one in answers.items()}}

    def _case(self, question: Question) -> Case:
        digest = question.recipe.digest + images_digest(question.founders)
        if self._reference is None or self._reference[0] != digest:
            options = {"seed": self.seed, "device": self.comparison.device, "watch": self.watch}
            reference = Reference(
                question.recipe,
                question.founders,
                self.budget,
                self.comparison.policy,
                self.out / "kept",
                **options,  # type: ignore[arg-type]
            )
            self._reference = digest, reference
        return Case(
            recipe=question.recipe,
            site=question.site,
            sites=question.sites,
            reference=self._reference[1],
            budget=self.budget,
            policy=self.comparison.policy,
            proves=question.proves,
            seed=self.seed,
            device=self.comparison.device,
            watch=self.watch,
        )

    def _choice(self, question: Question, method: Method) -> Choice:
        """Found once, with seed 0; it holds for every seed."""
        if not self.budget.until_plateau:
            return Choice(method.options[0])
        key = self._setting(question, method) | {"options": [dict(one) for one in method.options]}
        notebook = Notebook.keyed(self.out / "kept", "choice", key)
        first = self if self.seed == 0 else _Bench(self.checked, self.comparison, self.out, 0, self.watch)
        found = notebook.document("choice", lambda: choose(method, first._case(question)).document())
        trials = tuple(float("nan") if value is None else value for value in found["trials"])
        return Choice(found["option"], found["cycles"], trials, found["plateau"])

    def _key(self, question: Question, method: Method, choice: Choice) -> str:
        chosen = {"option": dict(choice.option), "cycles": choice.cycles, "seed": self.seed}
        asked: dict[str, Any] = {"tests": images_digest(self.checked.tests)}
        if method.contributes:
            asked["proves"] = question.proves  # the row says how exact it was
        return digest_of(self._setting(question, method) | chosen | asked)

    def _setting(self, question: Question, method: Method) -> dict[str, Any]:
        """What a method's answers depend on, but for option and seed."""
        sites = dict(question.sites)
        if method.images == "labelled":
            sites = {site: data.labelled for site, data in sites.items() if len(data.labelled)}
        return {
            "version": __version__,
            "method": method.name,
            "recipe": question.recipe.digest,
            "site": question.site,
            "images": {site: images_digest({site: data}) for site, data in sorted(sites.items())},
            "founders": images_digest(question.founders),
            "budget": vars(self.budget),
            "policy": self.comparison.policy.document
            if method.contributes
            else self.comparison.policy.feature_dim,
        }


def _ask(learned: Learned, tests: Mapping[str, Dataset]) -> dict[str, Answers]:
    """Answers on every site's test images, where there is a predictor for it."""
    predictors = {site: learned.of(site) for site in tests}
    return {site: predictor(tests[site]) for site, predictor in predictors.items() if predictor}


def _measured(
    kind: str, site: str, answers: Mapping[str, Answers], meter: Meter, choice: Choice | None, notes: Any
) -> Row:
    """A row's costs, and no score yet."""
    return {
        **_summary(site, {}, ()),
        "recall" if kind == "classification" else "surface": {},
        "images": {name: len(one.patients) for name, one in answers.items()},
        "bytes": sum(meter.sent.values()) + sum(meter.received.values()),
        "seconds": sum(meter.seconds.values()) + meter.server_seconds,
        "rounds": meter.rounds,
        "sent": meter.sent,
        "received": meter.received,
        "site_seconds": meter.seconds,
        "server_seconds": meter.server_seconds,
        "before": meter.before,
        "choice": choice.document() if choice else None,
        "notes": notes,
        "wall_seconds": None,
        "cpu_seconds": None,
        "file": None,
        "error": None,
    }


def _summary(site: str, scores: Mapping[str, float], tests: Collection[str]) -> Row:
    """Score at the site in question, at the others and at all of `tests`; None where not all of them are."""

    def mean(names: Collection[str]) -> float | None:
        # without the hard ones a mean would stand above those that have all
        return float(np.mean([scores[name] for name in names])) if set(names) <= scores.keys() else None

    others = [name for name in tests if name != site]
    return {
        "score": scores.get(site),
        "others": mean(others) if others else None,
        "all": mean(tests) if tests else None,
        "scores": dict(scores),
    }


def _json(document: Any) -> bytes:
    return json.dumps(document, indent=1).encode()
