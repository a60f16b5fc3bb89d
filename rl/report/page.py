"""The report of evaluate.py --report: one HTML file without network or library.

    CHECKPOINT/metrics.jsonl           -> training curves
    CHECKPOINT/eval/*.json and .jsonl  -> the tables, calibration, the episode browser
    CHECKPOINT/eval/*.sweep.json       -> the sweep curve, where there is one

page.template.html holds the style and the script of the episode browser. Every string from data is
escaped or set as text there, and the page's policy allows that one script alone.
Left out on purpose: anything that changes a result, sampled decodings and thresholds.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from model.files import atomic_write
from rl.report.charts import calibration_charts, figures, sweep_charts, training
from rl.report.evaluation import Results, own_decisions
from rl.report.text import Table

TEMPLATE = Path(__file__).with_name("page.template.html")
BROWSER_BYTES = 3_000_000  # of episodes; above it questions are left out evenly


def report(
    path: Path, about: str, results: Results, tables: Sequence[Table], sweeps: dict[str, dict]
) -> None:
    """Write the page of an evaluation. sweeps: checkpoint -> what its .sweep.json holds. Raises
    UsageError on a damaged training log, OSError."""
    runs = dict.fromkeys(result.about["checkpoint"] for result in results.values())
    swept = [svg for name, sweep in sweeps.items() for svg in sweep_charts(name, sweep)]
    sections = {
        "Figures": "".join(table.html() for table in tables),
        "Threshold sweep": figures(swept),
        "Calibration": figures(calibration_charts(results)),
        "Training": "".join(training(Path(run)) for run in runs),
    }
    write(path, "what the policies do", about, sections, browsed(results))


def write(
    path: Path, title: str, about: str, sections: dict[str, str], data: dict | None = None
) -> None:
    """Write a page, all of it or nothing, and say so. sections: title -> HTML, "" for none; data:
    of the episode browser. Raises OSError."""
    template = TEMPLATE.read_text(encoding="utf-8")
    script = re.search("<script>(.*?)</script>", template, re.DOTALL)[1]
    shown = [
        f"<section><h2>{escape(name)}</h2>{html}</section>"
        for name, html in sections.items()
        if html
    ]
    values = {
        "script_sha256": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "title": escape(title),
        "about": escape(about),
        "sections": "".join(shown),
        "data": embedded(data),
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda m: values[m[1]], template)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    print(f"report: {path} ({len(page.encode()) / 1e6:.1f} MB; one file, opens in any browser)")


# ------------------------------------------------------------------------------ the episode browser


def browsed(results: Results) -> dict:
    """Every question, or as many as fit, with one record per checkpoint."""
    own = own_decisions(results)
    size = sum(len(json.dumps(r)) for result in own.values() for r in result.records)
    step = max(1, math.ceil(size / BROWSER_BYTES))
    same = zip(*(result.records[::step] for result in own.values()), strict=True)
    rows = max(len(result.records) for result in own.values())
    return {
        "checkpoints": list(own),
        "rows": rows,
        "step": step,
        "questions": list(map(list, same)),
    }


def embedded(value) -> str:
    """JSON for a <script> element: no character that HTML could read as markup."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029]", lambda m: f"\\u{ord(m[0]):04x}", text)
