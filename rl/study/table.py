"""The study's figures as Markdown tables and as one JSON object. Pure: from rows of episodes to text.

"Together" is the mean over the three training sets, each with the same weight; a "part" is that, a set, or a slice of a
set. Cells of several seeds are mean [least, most]. Intervals are paired over questions, within a seed.
"""

from collections.abc import Sequence

import numpy as np

from rl.report.summary import by_slice, collapsed, stratified_interval, summarize
from rl.study.systems import JOINT, PRICES, SEPARATE, System

TOGETHER, DETAILS = "together", "Per set and slice"
FIGURES = ("reward", "em", "f1", "retrieval", "queries", "hit", "malformed", "seconds")
HEADS = {
    "reward": "reward",
    "em": "EM, %",
    "f1": "F1, %",
    "retrieval": "retrieval, %",
    "queries": "queries per question",
    "hit": "hit@k given retrieval, %",
    "malformed": "malformed, %",
    "seconds": "ms per question",
}
FORMS = {
    "reward": (1, ".3f"),
    "queries": (1, ".2f"),
    "seconds": (1000, ".1f"),
}  # factor and format; the others are percent
TESTED_PRICES = (0.0, 0.1, 0.2, 0.4, 0.5)
SWEPT = ("reward", "em", "retrieval", "queries")  # figures of the sweep
CLAIMS = {
    "H1": "more reward than every separate system",
    "H2": "without retrieving more or answering worse",
    "H3": "retrieves where it pays",
    "H4": "the gain carries over to unseen sets",
    "H5": "every part of the recipe is needed",
    "H6": "a second retrieval pays on bridge questions",
    "H7": "retrieval follows its price",
}


def together(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean over sets with equal weights; a set without the figure (hit without any retrieval) does not count for it."""
    known = {name: [f[name] for f in figures if f[name] == f[name]] for name in figures[0]}
    return {
        name: float(np.mean(values)) if values else float("nan") for name, values in known.items()
    }


def reward_at(price: float, em: float, f1: float, queries: float, malformed: float) -> float:
    """What the environment would have paid, had a retrieval cost `price`; of an episode or, as it is linear, of means."""
    return em + f1 - price * queries - malformed


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return (
        "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))
        + "\n"
    )


def spread(values: Sequence[float], factor: float = 100, form: str = ".1f") -> str:
    """Mean [least, most] over seeds; "-" where a figure does not exist."""
    known = [factor * v for v in values if v == v]
    if not known:
        return "-"
    return format(np.mean(known), form) + (
        f" [{min(known):{form}}, {max(known):{form}}]" if len(values) > 1 else ""
    )


def interval(cell: tuple[float, float, float], factor: float = 1, form: str = "+.3f") -> str:
    mean, low, high = (format(factor * v, form) for v in cell)
    return f"{mean} [{low}, {high}]"


class Study:
    """Results by seed and system, `add`ed one after the other, and every table that is made of them."""

    def __init__(
        self,
        world: str,
        trained: Sequence[str],
        unseen: Sequence[str],
        systems: Sequence[System],
        draws: int = 2000,
    ):
        """draws: of the bootstrap."""
        self.world, self.trained, self.unseen, self.draws = (
            world,
            list(trained),
            list(unseen),
            draws,
        )
        self.systems = {s.name: s for s in systems}
        self.rows: dict[tuple[int, str, str], list] = {}  # (seed, system, set) -> episodes
        self.figures: dict[tuple[int, str, str], dict] = {}  # (seed, system, part)
        self.compute: dict[tuple[int, str], dict[str, int]] = {}  # (seed, system)
        self.thresholds: dict[int, float] = {}  # of the confidence baseline

    def add(self, seed: int, system: System, results: dict, compute: dict[str, int]) -> None:
        """results: set -> Result of study.py, in the order of the sets."""
        for name, result in results.items():
            self.rows[seed, system.name, name] = result.rows
            slices = by_slice(result.rows)
            for part, figures in {
                name: summarize(result.rows),
                **({f"{name}: {s}": f for s, f in slices.items()} if len(slices) > 1 else {}),
            }.items():
                self.figures[seed, system.name, part] = {
                    k: figures[k] for k in ("rows", *FIGURES) if k in figures
                } | {"seconds": result.seconds}
        if set(self.trained) <= results.keys():
            self.figures[seed, system.name, TOGETHER] = together(
                [self.figures[seed, system.name, name] for name in self.trained]
            )
        self.compute[seed, system.name] = compute

    @property
    def seeds(self) -> list[int]:
        return list(dict.fromkeys(seed for seed, _, _ in self.figures))

    @property
    def parts(self) -> list[str]:
        found = dict.fromkeys(part for _, name, part in self.figures if name == JOINT)
        sets = lambda part: part.partition(":")[0]
        return [
            TOGETHER,
            *sorted(
                (p for p in found if p != TOGETHER),
                key=lambda p: [*self.trained, *self.unseen].index(sets(p)),
            ),
        ]

    @property
    def leaves(self) -> list[str]:
        """The slices of the training sets, and those sets that have none."""
        return [
            p
            for p in self.parts
            if p != TOGETHER
            and not any(q.startswith(f"{p}: ") for q in self.parts)
            and p.partition(":")[0] in self.trained
        ]

    def group(self, *groups: str) -> list[str]:
        return [name for name, s in self.systems.items() if s.group in groups]

    def values(self, system: str, part: str, figure: str) -> list[float]:
        """One value per seed; [] where the system did not play that part."""
        return [
            self.figures[seed, system, part][figure]
            for seed in self.seeds
            if (seed, system, part) in self.figures
        ]

    def mean(self, system: str, part: str, figure: str) -> float:
        return float(np.mean(self.values(system, part, figure)))

    def difference(
        self, seed: int, ours: str, theirs: str, part: str, figure: str = "reward"
    ) -> tuple[float, float, float]:
        """Mean of ours - theirs over the part's questions, with its paired 95 % interval."""
        set_names, _, slice_name = part.partition(": ")
        pick = lambda name, system: [
            r.reward if figure == "reward" else r.exact_match
            for r in self.rows[seed, system, name]
            if not slice_name or r.question.slice == slice_name
        ]
        return stratified_interval(
            [
                (pick(name, ours), pick(name, theirs))
                for name in (self.trained if part == TOGETHER else [set_names])
            ],
            draws=self.draws,
        )

    def is_collapsed(self, system: str) -> bool:
        """Whether a system that decides for itself retrieves on nearly all or nearly none of every slice, in any seed."""
        if (decoding := self.systems[system].decoding) and decoding.force:
            return False
        return any(
            collapsed([self.figures[seed, system, p]["retrieval"] for p in self.leaves])
            for seed in self.seeds
        )

    # ------------------------------------------------------------------------------------------ tables

    def table(self, systems: Sequence[str], part: str) -> str:
        """All figures of one part, with the compute of each system's own runs."""
        rows = []
        for name in systems:
            cells = [spread(self.values(name, part, f), *FORMS.get(f, ())) for f in FIGURES]
            costs = [self.compute[seed, name] for seed in self.seeds]
            steps, tokens = (np.mean([c[k] for c in costs]) for k in ("steps", "tokens"))
            rows.append(
                [
                    f"**{name}**" if name == JOINT else name,
                    *cells,
                    f"{steps:,.0f}",
                    f"{tokens / 1e6:.1f}",
                    "collapsed" if self.is_collapsed(name) else "",
                ]
            )
        return markdown(
            ["system", *(HEADS[f] for f in FIGURES), "optimiser steps", "tokens, M", "alarm"], rows
        )

    def by_part(self, figure: str) -> str:
        names = self.group("main", "ablations", "costs")
        shown = lambda values: spread(values, *FORMS.get(figure, ())) if values else "-"
        return markdown(
            [HEADS[figure], *self.parts],
            [
                [name, *(shown(self.values(name, part, figure)) for part in self.parts)]
                for name in names
            ],
        )

    def differences(
        self, systems: Sequence[str], parts: Sequence[str], figure: str = "reward"
    ) -> str:
        """joint - each system, one row per system and seed."""
        form = (1, "+.3f") if figure == "reward" else (100, "+.1f")
        rows = [
            [
                name,
                str(seed),
                *(
                    interval(self.difference(seed, JOINT, name, part, figure), *form)
                    for part in parts
                ),
            ]
            for name in systems
            for seed in self.seeds
        ]
        return markdown([f"{HEADS[figure]} of joint minus", "seed", *parts], rows)

    def unseen_signs(self, systems: Sequence[str]) -> dict[str, dict[str, float]]:
        """system -> unseen set -> mean over seeds of joint's reward minus its own."""
        return {
            name: {
                part: self.mean(JOINT, part, "reward") - self.mean(name, part, "reward")
                for part in self.unseen
            }
            for name in systems
        }

    def prices(self) -> dict[float, dict[float, list[float]]]:
        """price in training -> price in the test -> reward together, per seed: the same episodes, paid anew."""
        at = lambda price, f: reward_at(price, f["em"], f["f1"], f["queries"], f["malformed"])
        return {
            trained: {
                price: [at(price, self.figures[seed, name, TOGETHER]) for seed in self.seeds]
                for price in TESTED_PRICES
            }
            for trained, name in PRICES.items()
            if name in self.systems
        }

    def price_table(self) -> str:
        table, rows = self.prices(), []
        best = {
            price: max(table, key=lambda t: np.mean(table[t][price])) for price in TESTED_PRICES
        }
        for trained, at in table.items():
            cells = [
                f"**{spread(v, 1, '.3f')}**" if best[price] == trained else spread(v, 1, ".3f")
                for price, v in at.items()
            ]
            rows.append(
                [
                    f"{trained:g}",
                    *(
                        spread(self.values(PRICES[trained], TOGETHER, f), *FORMS.get(f, ()))
                        for f in ("retrieval", "queries")
                    ),
                    *cells,
                ]
            )
        return markdown(
            [
                "price in training",
                HEADS["retrieval"],
                HEADS["queries"],
                *(f"reward at {p:g}" for p in TESTED_PRICES),
            ],
            rows,
        )

    def sweep(self) -> dict[float, dict[str, list[float]]]:
        """threshold on joint's P([RETRIEVE]) -> its figures together, per seed; {} where nothing was swept."""
        swept = (
            {self.systems[name].decoding.threshold: name for name in (*self.group("sweep"), JOINT)}
            if self.group("sweep")
            else {}
        )
        return {t: {f: self.values(swept[t], TOGETHER, f) for f in SWEPT} for t in sorted(swept)}

    def sweep_table(self) -> str:
        return markdown(
            ["retrieves when P([RETRIEVE]) exceeds", *(HEADS[f] for f in SWEPT)],
            [
                [
                    "**0.5**, joint" if t == 0.5 else f"{t:g}",
                    *(spread(values, *FORMS.get(f, ())) for f, values in at.items()),
                ]
                for t, at in self.sweep().items()
            ],
        )

    def quota_table(self) -> str:
        names = {n: f"joint, N = {n}" if n != 2 else JOINT for n in (1, 2, 3)}
        parts = [p for p in self.parts if p.partition(":")[0] == "hotpotqa"]
        rows = [
            [
                f"N = {n}",
                part,
                *(spread(self.values(name, part, f), *FORMS.get(f, ())) for f in FIGURES),
            ]
            for part in parts
            for n, name in names.items()
        ]
        pairs = [
            [
                f"N = 2 minus N = {n}",
                part,
                *(interval(self.difference(seed, JOINT, names[n], part)) for seed in self.seeds),
            ]
            for part in parts
            for n in (1, 3)
        ]
        return (
            markdown(["quota", "part", *(HEADS[f] for f in FIGURES)], rows)
            + "\n"
            + markdown(["reward", "part", *(f"seed {seed}" for seed in self.seeds)], pairs)
        )

    # ------------------------------------------------------------------------------------------ hypotheses

    def best_separate(self) -> str | None:
        """By mean reward, together; chosen once, not per set."""
        return max(
            (s for s in SEPARATE if s in self.systems),
            key=lambda s: self.mean(s, TOGETHER, "reward"),
            default=None,
        )

    def hypotheses(self) -> dict[str, tuple[bool, str]]:
        """H1 to H7 of docs/EXPERIMENTS.md: whether each holds, and the figures that say so. Those that nothing was run for are left out."""
        verdicts = {}
        compare = lambda theirs, part: [
            self.difference(seed, JOINT, theirs, part) for seed in self.seeds
        ]
        if best := self.best_separate():
            lowest = {
                s: min(low for _, low, _ in compare(s, TOGETHER))
                for s in SEPARATE
                if s in self.systems
            }
            worst = min(lowest, key=lowest.get)
            verdicts["H1"] = (
                lowest[worst] > 0,
                f"lowest end of an interval {lowest[worst]:+.3f}, against {worst}",
            )
            em, retrieval = (
                [self.mean(s, TOGETHER, f) for s in (JOINT, best)] for f in ("em", "retrieval")
            )
            verdicts["H2"] = (
                em[0] >= em[1] and retrieval[0] <= retrieval[1],
                f"against {best}: EM {em[0]:.1%} and {em[1]:.1%}, retrieval {retrieval[0]:.1%} and {retrieval[1]:.1%}",
            )
        slices = {
            name: self.mean(JOINT, f"popqa: {name}", "retrieval")
            for name in ("popular", "tail", "absent")
            if f"popqa: {name}" in self.parts
        }
        if len(slices) == 3:
            verdicts["H3"] = (
                slices["popular"] < 0.2 and slices["tail"] > 0.85 and slices["absent"] < 0.5,
                ", ".join(f"{s} {r:.1%}" for s, r in slices.items()),
            )
        if best and len(self.unseen) == 4:
            signs = self.unseen_signs([best])[best]
            verdicts["H4"] = (
                sum(d > 0 for d in signs.values()) >= 3,
                f"against {best}: " + ", ".join(f"{part} {d:+.3f}" for part, d in signs.items()),
            )
        if ablations := self.group("ablations"):
            lost = {
                name: self.mean(JOINT, TOGETHER, "reward") - self.mean(name, TOGETHER, "reward")
                for name in ablations
            }
            verdicts["H5"] = (
                min(lost.values()) > 0,
                ", ".join(f"{name} {-d:+.3f}" for name, d in lost.items()),
            )
        if "hotpotqa: bridge" in self.parts:
            gains = compare("joint, N = 1", "hotpotqa: bridge")
            verdicts["H6"] = min(low for _, low, _ in gains) > 0, "; ".join(map(interval, gains))
        if len(prices := self.prices()) == len(PRICES):
            retrieval = [self.mean(name, TOGETHER, "retrieval") for name in PRICES.values()]
            best_at = {
                price: max(prices, key=lambda t: np.mean(prices[t][price])) for price in PRICES
            }
            verdicts["H7"] = (
                retrieval == sorted(retrieval, reverse=True)
                and all(best_at[p] == p for p in PRICES),
                f"retrieval {', '.join(f'{r:.1%}' for r in retrieval)}; best at {', '.join(f'{p:g}: trained at {t:g}' for p, t in best_at.items())}",
            )
        return verdicts

    def report(self) -> str:
        """Every table, as Markdown; what takes pages comes below DETAILS. Groups that were not run are left out."""
        others = [name for name in self.group("main") if name != JOINT]
        sizes = [
            f"{p} {self.figures[self.seeds[0], JOINT, p]['rows']:,}"
            for p in (*self.trained, *self.unseen)
        ]
        text = [
            f"# The study\n\nWorld {self.world}; test questions: {', '.join(sizes)}; seeds {', '.join(map(str, self.seeds))}; greedy. Together: "
            f"{', '.join(self.trained)}, each with the same weight. What is tested, and how: docs/EXPERIMENTS.md.\n"
        ]
        section = lambda title, *tables: text.append(f"## {title}\n\n" + "\n".join(tables))
        if others:
            section(
                "Main comparison, together",
                self.table([*others, JOINT], TOGETHER),
                "Optimiser steps and tokens: of the system's own runs, without the warm-up that all share.\n",
            )
            section(
                "Joint minus each system, together, paired 95 % intervals",
                self.differences(others, [TOGETHER]),
                self.differences(others, [TOGETHER], "em"),
            )
            section(
                "Unseen sets: reward of joint minus each system, mean over seeds",
                markdown(
                    ["system", *self.unseen, "above 0"],
                    [
                        [
                            name,
                            *(f"{d:+.3f}" for d in at.values()),
                            f"{sum(d > 0 for d in at.values())} of {len(at)}",
                        ]
                        for name, at in self.unseen_signs(others).items()
                    ],
                ),
            )
        if self.sweep():
            section(
                "The threshold of joint's decision, together",
                self.sweep_table(),
                "The other systems' points are those of the main comparison.\n",
            )
        if ablations := self.group("ablations"):
            section(
                "Ablations, together",
                self.table([JOINT, *ablations], TOGETHER),
                self.differences(ablations, [TOGETHER]),
            )
        if len(self.prices()) > 1:
            section(
                "The price of a retrieval, together",
                self.price_table(),
                "Rewards of the same episodes at each price; the best policy at each price is bold.\n",
            )
        if "hotpotqa" in self.trained:
            section("Quota: joint on hotpotqa", self.quota_table())
        section(
            "Hypotheses",
            markdown(
                ["", "claim", "outcome", "figures"],
                [
                    [name, CLAIMS[name], "holds" if holds else "fails", why]
                    for name, (holds, why) in self.hypotheses().items()
                ],
            ),
        )
        if self.thresholds:
            text.append(
                "Confidence thresholds, chosen on dev: "
                + ", ".join(f"seed {s} {t:.3f}" for s, t in self.thresholds.items())
                + ".\n"
            )
        section(
            DETAILS,
            *(self.by_part(f) for f in FIGURES),
            *([self.differences(others, self.parts[1:])] if others else []),
        )
        return "\n".join(text)

    def as_json(self) -> dict:
        systems = {}
        for (seed, name, part), figures in self.figures.items():
            systems.setdefault(name, {}).setdefault(
                str(seed), {"compute": self.compute[seed, name], "figures": {}}
            )["figures"][part] = figures
        return {
            "world": self.world,
            "trained": self.trained,
            "unseen": self.unseen,
            "seeds": self.seeds,
            "systems": systems,
            "hypotheses": {
                name: {"holds": holds, "figures": why}
                for name, (holds, why) in self.hypotheses().items()
            },
            "prices": {
                str(t): {str(p): v for p, v in at.items()} for t, at in self.prices().items()
            },
            "sweep": {str(t): at for t, at in self.sweep().items()},
            "thresholds": self.thresholds,
        }
