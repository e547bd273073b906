"""The tables a run prints: the model by part before it starts, the phases when it is over."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from glow_tf.partition import PartPlan, relative_cost, traffic
from glow_tf.schedule import Phase


def model_table(
    plans: Sequence[PartPlan], parameters: Sequence[int], phases: Sequence[Phase], costs: Sequence[float]
) -> str:
    """Describes parts and schedule: flow steps, parameters, costs and traffic, predicted before training.

    Args:
      plans: the parts.
      parameters: trainable parameters of each.
      phases: the phase of every epoch.
      costs: predicted cost of every epoch.
    """
    whole = sum(p.forward_macs for p in plans)
    rows = [
        [
            f"{k}",
            _span(plan),
            f"{plan.flow_steps}",
            f"{count:,}",
            f"{plan.forward_macs / whole:.3f}",
            f"{relative_cost(plans, [k - 1]):.3f}" if len(plans) > 1 else "1.000",
            "×".join(map(str, plan.output_shape)),
        ]
        for k, (plan, count) in enumerate(zip(plans, parameters, strict=True), start=1)
    ]
    rows.append(["all", "", f"{sum(p.flow_steps for p in plans)}", f"{sum(parameters):,}", "1.000", "", ""])
    header = ["part", "blocks", "flow steps", "parameters", "forward cost", "its epoch", "output"]
    return "\n".join([table(header, rows), *_schedule_lines(plans, phases, costs)])


def _schedule_lines(plans: Sequence[PartPlan], phases: Sequence[Phase], costs: Sequence[float]) -> list[str]:
    crossing = [traffic(plans, phase.last, phase.end_to_end) for phase in phases]
    forward, backward = (sum(c[i] for c in crossing) / len(crossing) / 1024 for i in (0, 1))
    macs = sum(p.forward_macs for p in plans)
    return [
        f"forward {macs / 1e9:.3f} GMAC an image; 'its epoch' is the predicted time of an epoch that trains "
        "the part alone, end to end = 1",
        f"schedule: {', '.join(_runs(phases))}",
        f"predicted time: {sum(costs) / len(costs):.3f} of training end to end for as many epochs; "
        f"crossing the cuts, mean KiB an image and step: {forward:.1f} forward, {backward:.1f} backward",
    ]


def _runs(phases: Sequence[Phase]) -> list[str]:
    """Names stretches of equal phases; a long alternation is cut short."""
    runs: list[list] = []
    for phase in phases:
        if runs and runs[-1][0] == phase:
            runs[-1][1] += 1
        else:
            runs.append([phase, 1])
    names = [f"{count} × {phase}" for phase, count in runs]
    return names if len(names) <= 8 else [*names[:4], f"… ({len(names) - 6} more)", *names[-2:]]


def _span(plan: PartPlan) -> str:
    """Blocks and flow steps of a part, such as 1:17–3:32."""
    steps = [e for e in plan.elements if e.kind == "flow_step"]
    return f"{steps[0].block}:{steps[0].step}–{steps[-1].block}:{steps[-1].step}"


def closing_table(history: Sequence[Mapping[str, str]], num_parts: int, costs: Sequence[float]) -> str:
    """Sums a finished run's history up by phase: measured against predicted cost, and the traffic.

    Args:
      history: rows of history.csv.
      num_parts: n.
      costs: predicted cost of every epoch.
    """
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
                *(
                    f"{float(members[-1][f'{name}_bytes']) / 1024:.1f}"
                    for name in ("forward", "backward", "all_reduce")
                ),
            ]
        )
    header = ["phase", "epochs", "seconds", "time / end to end", "predicted", "last test bpd"]
    header += ["KiB forward", "backward", "all-reduce"]
    note = (
        "KiB: what an image sends across the cuts, forward and backward, and the gradients that data "
        "parallelism would all-reduce once a step."
    )
    return f"{table(header, rows)}\n{note}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligns columns: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), "  ".join("─" * w for w in widths), *map(line, rows)])
