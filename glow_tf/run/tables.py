"""What a run prints: the model by part before it starts, the phases when it is over. Pure Python."""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence

from glow_tf.architectures.partition import PartLayout, relative_cost
from glow_tf.architectures.schedule import Phase
from glow_tf.config import all_settings
from glow_tf.run.settings import FOLLOWS, IMAGES, START, Decided


def model_table(
    layouts: Sequence[PartLayout],
    parameters: Sequence[int],
    phases: Sequence[Phase],
    costs: Sequence[float],
    reversible: bool = False,
) -> str:
    """Describes parts and schedule before training: flow steps, parameters and predicted costs."""
    whole = sum(p.forward_macs for p in layouts)
    with_heads = any(p.head for p in layouts)
    rows = [
        [
            f"{k}",
            _span(layout),
            f"{layout.flow_steps}",
            f"{count:,}",
            f"{layout.forward_macs / whole:.3f}",
            f"{relative_cost(layouts, [k - 1], reversible=reversible):.3f}" if len(layouts) > 1 else "1.000",
            "×".join(map(str, layout.output_shape)),
            *([f"{layout.head_macs / whole:.4f}"] if with_heads else []),
        ]
        for k, (layout, count) in enumerate(zip(layouts, parameters, strict=True), start=1)
    ]
    rows.append(["all", "", f"{sum(p.flow_steps for p in layouts)}", f"{sum(parameters):,}", "1.000", "", ""])
    header = ["part", "blocks", "flow steps", "parameters", "forward cost", "its epoch", "output"]
    if with_heads:
        rows[-1].append(f"{sum(p.head_macs for p in layouts) / whole:.4f}")
        header.append("head's forward cost")
    time = f"predicted time: {sum(costs) / len(costs):.3f} of training end to end for as many epochs"
    lines = [
        table(header, rows),
        f"forward {whole / 1e9:.3f} GMAC per image",
        "'its epoch' is the predicted time of an epoch that trains the part alone, end to end = 1",
        f"schedule: {', '.join(_runs(phases))}",
        time,
    ]
    return "\n".join(lines)


def _runs(phases: Sequence[Phase]) -> list[str]:
    """Returns the names of stretches of equal phases; a long alternation is cut short."""
    names = [f"{len(list(equal))} × {phase}" for phase, equal in itertools.groupby(phases)]
    return names if len(names) <= 8 else [*names[:4], f"… ({len(names) - 6} more)", *names[-2:]]


def _span(layout: PartLayout) -> str:
    """Returns the blocks and flow steps of a part, such as 1:17–3:32."""
    steps = [e for e in layout.elements if e.kind == "flow_step"]
    return f"{steps[0].block}:{steps[0].step}–{steps[-1].block}:{steps[-1].step}"


def closing_table(history: Sequence[Mapping[str, str]], num_parts: int, costs: Sequence[float]) -> str:
    """Summarises a finished run by phase: measured against predicted cost."""
    groups: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for row in history:
        groups.setdefault((row["phase"], row["active_parts"]), []).append(row)
    whole = groups.get(("end_to_end", " ".join(str(k + 1) for k in range(num_parts))))
    unit = statistics.median([float(row["seconds"]) for row in whole]) if whole else None
    rows = []
    for (kind, active), members in groups.items():
        seconds = [float(row["seconds"]) for row in members]
        predicted = [costs[int(row["epoch"]) - 1] for row in members]
        rows.append(
            [
                f"{kind} {active}" if kind == "part" else kind,
                f"{len(members)}",
                f"{sum(seconds):.1f}",
                f"{sum(seconds) / len(seconds) / unit:.3f}" if unit else "",
                f"{sum(predicted) / len(predicted):.3f}",
                f"{float(members[-1]['test_bpd']):.4f}",
            ]
        )
    header = ["phase", "epochs", "seconds", "time / end to end", "predicted", "last test bpd"]
    return table(header, rows)


def decided_table(decided: Decided) -> str:
    """Says what was decided for a run that nobody gave it, and from which source; empty if nothing was.

    Of settings that follow from others, or are those of a model, it has those that are not the default.
    """
    settings, default = decided.config.to_settings(), {s.name: s.default for s in all_settings()}
    rows = [
        [name, str(settings[name]), source]
        for name, source in decided.sources.items()
        if source == IMAGES or (source in (FOLLOWS, START) and settings[name] != default[name])
    ]
    return table(["setting", "value", "from"], rows) if rows else ""


def bpd_text(bpd: float, error: float) -> str:
    """Returns mean bits/dim with their standard error, which is unknown (NaN) for a single image."""
    return f"{bpd:.4f} ± {error:.4f}" if math.isfinite(error) else f"{bpd:.4f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a text table; the first column is aligned to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), "  ".join("─" * w for w in widths), *map(line, rows)])
