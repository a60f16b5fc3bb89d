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
from rl.report.summary import by_slice, collapsed, mean, stratified_interval, summarize
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
    "hit": ("hit@k given retrieval, %", 100, ".1f"),
    "malformed": ("malformed, %", 100, ".1f"),
    "seconds": ("ms per question", 1000, ".1f"),
    "steps": ("optimiser steps", 1, ",.0f"),
    "tokens": ("tokens, M", 1e-6, ".1f"),
    **{name: (name, 1, ".3f") for name in REWARDS_AT},
}


class Played(NamedTuple):
    """A system's episodes of one seed."""

    episodes: dict[str, list[Episode]]  # by question set
    seconds: dict[str, float]  # per question, by question set
    compute: dict[str, int]  # steps and tokens of its own runs, without the shared warm-up


# ------------------------------------------------------------------------------------- one seed


def seed_json(played: dict[System, Played], trained: Sequence[str], draws: int = 2000) -> dict:
    """system -> its figures by part, and joint minus it. draws: of the bootstrap."""
    joint = next(p for system, p in played.items() if system.name == JOINT)
    entries = {}
    for system, mine in played.items():
        figures = measure(mine, trained)
        entry = {"group": system.group, "figures": figures, "joint_minus": {}}
        forced = system.decoding is not None and system.decoding.force
        entry["collapsed"] = not forced and TOGETHER in figures and has_collapsed(figures, trained)
        if system.name != JOINT and system.group != "sweep":
            for part in figures:
                pairs = pairs_of(joint, mine, part, trained)
                differences = {"reward": stratified_interval(pairs("reward"), draws=draws)}
                if part == TOGETHER:
                    differences["em"] = stratified_interval(pairs("exact_match"), draws=draws)
                entry["joint_minus"][part] = differences
        entries[system.name] = entry
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


def has_collapsed(figures: dict[str, dict[str, float]], trained: Sequence[str]) -> bool:
    """Whether nothing is left of the decision on any slice of the training sets."""
    parts = [part for part in figures if part.partition(": ")[0] in trained]
    leaves = [p for p in parts if not any(other.startswith(f"{p}: ") for other in parts)]
    return collapsed([figures[part]["retrieval"] for part in leaves])


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
    rows = []
    for name in systems:
        label = name
        if any(entry["collapsed"] for entry in entries(study, name).values()):
            label += " (collapsed)"
        cells = [over_seeds(values(study, name, p, f), *FORMS[f][1:]) for p, f in columns]
        rows.append([label, *cells])
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
    groups: dict[str, list[str]] = {JOINT: [JOINT]}
    for name, entry in first["systems"].items():
        groups.setdefault(entry["group"], []).append(name)
    others = [name for name in groups["main"] if name != JOINT]
    ablations, quota = groups.get("ablations", []), groups.get("quota", [])
    costs = [name for name in COSTS if name in first["systems"]]
    costs = costs if len(costs) > 1 else []
    parts = list(first["systems"][JOINT]["figures"])
    hops = [part for part in parts if part.partition(": ")[0] == "hotpotqa"]
    everything = [f for f in FORMS if f not in REWARDS_AT]
    paid = ["retrieval", "queries", *REWARDS_AT]
    swept = ["reward", "em", "retrieval", "queries"]

    def of(title: str, systems: Sequence[str], figures: Sequence[str], where=(TOGETHER,)) -> Table:
        return pivot(title, study, [*systems, JOINT] if systems else [], where, figures)

    def minus(title: str, systems: Sequence[str], where=(TOGETHER,), figure="reward") -> Table:
        return differences(f"Joint minus {title}", study, systems, where, figure)

    shown = [
        of("Main comparison, together", others, everything),
        minus("each system, together", others),
        minus("each system, together: EM", others, figure="em"),
        minus("each system, unseen sets", others, first["unseen"]),
        of("Threshold on joint's P([RETRIEVE]), its own 0.5", groups.get("sweep", []), swept),
        of("Ablations, together", ablations, everything),
        minus("each ablation, together", ablations),
        pivot("Retrieval cost in training", study, costs, [TOGETHER], paid),
        *(of(f"Quota (joint: N = 2): {FORMS[f][0]}", quota, [f], hops) for f in swept),
        minus("itself with another quota", quota, hops),
    ]
    known = [*others, *ablations, *(c for c in costs if c not in (*ablations, JOINT))]
    pages = [of(f"Per set and slice: {FORMS[f][0]}", known, [f], parts) for f in everything[:8]]
    pages.append(minus("each system, per set and slice", known, parts))
    return [t for t in shown if t.rows], [t for t in pages if t.rows]
