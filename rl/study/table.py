"""The study's figures: JSON of a seed, and one pivot over all seeds (study.json) as tables.

A "part" is a question set, a slice of one ("popqa: tail"), or "together": the training sets, each
with the same weight. Cells are mean [least, most] over seeds. Differences are joint minus a system
over the same questions of one seed, with a paired 95 % bootstrap interval.
Pure: from episodes to JSON and to cells of text. Left out: what the figures mean;
docs/experiments.md says which hypotheses hold.
"""

from collections.abc import Sequence
from typing import NamedTuple

from rl.episode import Episode
from rl.report.summary import by_slice, mean, stratified_interval, summarize
from rl.study.systems import COSTS, JOINT, System

TOGETHER = "together"
TESTED_COSTS = (0.0, 0.1, 0.2, 0.4, 0.5)  # of a retrieval, for the same episodes
REWARDS_AT = tuple(f"reward at {cost:g}" for cost in TESTED_COSTS)
# figure -> its heading, a factor, a format
FORMS = {
    "reward": ("reward", 1, ".3f"),
    "em": ("EM, %", 100, ".1f"),
    "f1": ("F1, %", 100, ".1f"),
    "retrieval": ("retrieval, %", 100, ".1f"),
    "queries": ("retriever calls per question", 1, ".2f"),
    "calls": ("policy calls per question", 1, ".2f"),
    "hit": ("hit@k given retrieval, %", 100, ".1f"),
    "malformed": ("malformed, %", 100, ".1f"),
    "seconds": ("ms per question", 1000, ".1f"),
    "steps": ("optimiser steps", 1, ",.0f"),
    "tokens": ("tokens, M", 1e-6, ".1f"),
    **{name: (name, 1, ".3f") for name in REWARDS_AT},
}
OF_A_PART = tuple(FORMS)[:9]
SWEPT = ("reward", "em", "retrieval", "queries", "calls")
GROUPS = (  # group, title and figures of its table
    ("main", "Main comparison", tuple(FORMS)[:11]),
    ("sweep", "Threshold on joint's P([RETRIEVE]), its own 0.5", SWEPT),
    ("ablations", "Ablations", tuple(FORMS)[:11]),
    (
        "costs",
        "Cost of a retrieval in training, joint's 0.2",
        ("retrieval", "queries", "calls", *REWARDS_AT),
    ),
    ("quota", "Retrievals at most, joint's 2", SWEPT),
)


class Played(NamedTuple):
    """A system's episodes of one seed."""

    episodes: dict[str, list[Episode]]  # by question set
    seconds: dict[str, float]  # per question, by question set
    compute: dict[str, int]  # steps and tokens of its own runs, without the shared warm-up


# ------------------------------------------------------------------------------------- one seed


def seed_json(played: dict[System, Played], trained: Sequence[str], draws: int = 2000) -> dict:
    """system -> its group, figures by part, joint minus it by part. draws: of the bootstrap."""
    joint = next(p for system, p in played.items() if system.name == JOINT)
    entries = {}
    for system, mine in played.items():
        figures, minus = measure(mine, trained), {}
        for part in figures if system.name != JOINT and system.group != "sweep" else ():
            pairs = pairs_of(joint, mine, part, trained)
            minus[part] = {"reward": stratified_interval(pairs("reward"), draws=draws)}
            if part == TOGETHER:
                minus[part]["em"] = stratified_interval(pairs("exact_match"), draws=draws)
        entries[system.name] = {"group": system.group, "figures": figures, "joint_minus": minus}
    return entries


def measure(played: Played, trained: Sequence[str]) -> dict[str, dict[str, float]]:
    """part -> figures of one system and seed."""
    figures = {}
    for name, episodes in played.episodes.items():
        parts = {name: summarize(episodes)}
        slices = by_slice(episodes)
        if len(slices) > 1:
            parts |= {f"{name}: {s}": summary for s, summary in slices.items()}
        for part, summary in parts.items():
            figures[part] = summary | rewards_at(summary) | {"seconds": played.seconds[name]}
    if set(trained) <= figures.keys():
        figures[TOGETHER] = together([figures[name] for name in trained]) | played.compute
    return figures


def together(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean over sets of equal weight; a set without a figure (NaN) does not count for it."""
    known = {name: [f[name] for f in figures if f[name] == f[name]] for name in figures[0]}
    return {name: mean(values) for name, values in known.items()}


def rewards_at(figures: dict[str, float]) -> dict[str, float]:
    """The mean reward of the same episodes, had a retrieval another cost: it is linear in it."""
    answers = figures["em"] + figures["f1"] - figures["malformed"]
    costs = zip(REWARDS_AT, TESTED_COSTS, strict=True)
    return {name: answers - cost * figures["queries"] for name, cost in costs}


def pairs_of(ours: Played, theirs: Played, part: str, trained: Sequence[str]):
    """attribute of an episode -> its values in both, set by set (stratified_interval)."""
    name, _, slice_name = part.partition(": ")

    def values(played: Played, set_name: str, attribute: str) -> list[float]:
        chosen = played.episodes[set_name]
        if slice_name:
            chosen = [e for e in chosen if e.question.slice == slice_name]
        return [getattr(e, attribute) for e in chosen]

    sets = trained if part == TOGETHER else [name]
    return lambda attribute: [
        (values(ours, s, attribute), values(theirs, s, attribute)) for s in sets
    ]


# ------------------------------------------------------------------------------------- all seeds


class Table(NamedTuple):
    title: str
    head: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        cells = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return f"## {self.title}\n\n{cells}\n"


def entries(study: dict, system: str) -> dict[str, dict]:
    """seed -> what study.json says of a system."""
    return {seed: figures["systems"][system] for seed, figures in study["seeds"].items()}


def values(study: dict, system: str, part: str, figure: str) -> list[float]:
    """One value per seed that has it."""
    figures = [entry["figures"].get(part, {}) for entry in entries(study, system).values()]
    known = [f[figure] for f in figures if f.get(figure) is not None]
    return [value for value in known if value == value]


def over_seeds(values: Sequence[float], factor: float, form: str) -> str:
    """Mean [least, most]; "-" for a figure that does not exist."""
    if not values:
        return "-"
    middle, *ends = (format(factor * v, form) for v in (mean(values), min(values), max(values)))
    return f"{middle} [{', '.join(ends)}]" if len(values) > 1 else middle


def pivot(
    title: str, study: dict, systems: Sequence[str], parts: Sequence[str], figures: Sequence[str]
) -> Table:
    """Systems x parts x figures; the heading of a column is what the others do not share."""
    columns = [(part, figure) for part in parts for figure in figures]
    head = [part if len(parts) > 1 else FORMS[figure][0] for part, figure in columns]
    rows = [
        [name, *(over_seeds(values(study, name, p, f), *FORMS[f][1:]) for p, f in columns)]
        for name in systems
    ]
    return Table(title, ["system", *head], rows)


def differences(
    title: str, study: dict, systems: Sequence[str], parts: Sequence[str], figure: str = "reward"
) -> Table:
    """joint minus each system, one row per system and seed."""
    factor, form = (1, "+.3f") if figure == "reward" else (100, "+.1f")
    rows = []
    for name in systems:
        for seed, entry in entries(study, name).items():
            known = [entry["joint_minus"].get(part, {}).get(figure) for part in parts]
            texts = [[format(factor * v, form) for v in cell or ()] for cell in known]
            rows.append([name, seed, *("{} [{}, {}]".format(*t) if t else "-" for t in texts)])
    return Table(title, [f"{FORMS[figure][0]} of joint minus", "seed", *parts], rows)


def tables(study: dict) -> tuple[list[Table], list[Table]]:
    """What is printed, and what takes pages: every set and slice. Empty groups are left out."""
    first = next(iter(study["seeds"].values()))
    systems, parts = first["systems"], list(first["systems"][JOINT]["figures"])
    groups: dict[str, list[str]] = {}
    for name, entry in systems.items():
        groups.setdefault(entry["group"], []).append(name)
    groups["costs"] = [name for name in COSTS if name in systems]
    shown = []
    for group, title, figures in GROUPS:
        names = [name for name in groups.get(group, ()) if name != JOINT]
        where = [p for p in parts if p.startswith("hotpotqa")] if group == "quota" else [TOGETHER]
        if not names:
            continue
        with_joint = [*names, JOINT]
        shown += [pivot(f"{title}, {part}", study, with_joint, [part], figures) for part in where]
        if group != "sweep":
            shown.append(differences(f"Joint minus the same: {title}", study, names, where))
        if group == "main":
            shown.append(differences("The same: EM", study, names, where, "em"))
            shown.append(differences("The same: unseen sets", study, names, first["unseen"]))
    others = [n for n, entry in systems.items() if entry["group"] not in ("quota", "sweep")]
    pages = [
        pivot(f"Per set and slice: {FORMS[f][0]}", study, others, parts, [f]) for f in OF_A_PART
    ]
    pages.append(differences("Joint minus each, per set and slice", study, others, parts))
    return shown, [table for table in pages if table.rows]
