"""The figures of selectors_quality.py as tables in its Markdown file, whose prose is written by hand, and as a plot.

Tables stand between `<!-- begin NAME -->` and `<!-- end -->`; what is around them is kept.
"""

import re
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

NAME = "selectors_quality"
RANDOM, DEDUPLICATED = "sample", "semantic_dedup, then sample"
# key, heading, how it is written, whether lower is better
QUALITY = [
    ("mean", "mean distance", "{:.3f}", True),
    ("max", "max distance", "{:.3f}", True),
    ("effective_rank", "effective rank", "{:.0f}", False),
    ("vendi", "Vendi", "{:.1f}", False),
    ("log_det", "log det", "{:.0f}", False),
    ("labels", "labels, %", "{:.1f}", False),
    ("lowest", "lowest, %", "{:.1f}", False),
    ("rare", "rare, %", "{:.1f}", False),
]
PERCENT = {"labels", "lowest", "rare", "accuracy", "by_label", "different"}
USEFULNESS = [
    ("accuracy", "accuracy, %", "{:.1f}", False),
    ("by_label", "by label, %", "{:.1f}", False),
    ("different", "different pages, % of the kept rows", "{:.1f}", False),
]


def shown(value, key, form):
    """A figure as it is written."""
    text = form.format(100 * value if key in PERCENT else value)
    return text[1:] if text.startswith("0.") else text


def cell(found, selector, key, form, lower):
    """The figures of one selector and measure at all shares. Bold: the best of all at that share. Italic: worse than every random sample."""
    sign, cells = -1 if lower else 1, []
    for place, rows in enumerate(found[selector]):
        if not rows:
            cells.append("–")
            continue
        mine = sign * np.mean([row[key] for row in rows])
        best = max(sign * np.mean([row[key] for row in others[place]]) for others in found.values() if others[place])
        text = shown(sign * mine, key, form)
        if text == shown(sign * best, key, form):
            text = f"**{text}**"
        elif selector != RANDOM and mine < np.mean([min(sign * values) for values in random_samples(found, place, key)]):
            text = f"_{text}_"
        cells.append(text)
    return " / ".join(cells)


def random_samples(found, place, key):
    """A figure of the random samples at one share: an array for each planting, or one where there are none."""
    by_planting = {}
    for row in found[RANDOM][place]:
        by_planting.setdefault(row.get("planting"), []).append(row[key])
    return [np.array(values) for values in by_planting.values()]


def spread(found, key, form):
    """The standard deviation of the random samples at each share, that inside a planting."""
    digits = "{:.1f}" if form == "{:.0f}" else form
    deviations = [np.sqrt(np.mean([values.var(ddof=1) for values in random_samples(found, place, key)])) for place in range(len(found[RANDOM]))]
    return "± " + " / ".join(shown(value, key, digits) for value in deviations)


def table(found, measures):
    """A Markdown table: a line a selector."""
    lines = ["| | " + " | ".join(heading for _, heading, _, _ in measures) + " |", "|---" * (len(measures) + 1) + "|"]
    for selector in found:
        name = {RANDOM: "random (`sample`), mean", DEDUPLICATED: "`semantic_dedup`, then `sample`, mean"}.get(selector, f"`{selector}`")
        lines.append(f"| {name} | " + " | ".join(cell(found, selector, key, form, lower) for key, _, form, lower in measures) + " |")
        if selector == RANDOM:
            lines.append("| its deviation | " + " | ".join(spread(found, key, form) for key, _, form, _ in measures) + " |")
    return "\n".join(lines)


def without_budget(whole):
    """The lines of the usefulness table that keep what they keep."""
    lines = ["| | rows kept | different pages | accuracy, % | by label, % |", "|---|---|---|---|---|"]
    for name, rows in whole.items():
        of = lambda key: np.mean([row[key] for row in rows])
        title = name if " " in name else f"`{name}` alone"
        lines.append(f"| {title} | {of('kept'):,.0f} | {np.mean([row['kept'] * row['different'] for row in rows]):,.0f} | {100 * of('accuracy'):.1f} | {100 * of('by_label'):.1f} |")
    return "\n".join(lines)


def kept_rows(found, selector):
    """How many rows a selector without a budget of rows keeps at each share."""
    return " / ".join("–" if not rows else f"{np.mean([row['kept'] for row in rows]):,.0f}" for rows in found[selector])


def quota_table(figures):
    """What the two stages that have quotas kept."""
    own = ["type_balanced_select"]
    lines = ["| | budget | " + " | ".join(f"`{name}`" for name in own) + " |", "|---" * (len(own) + 2) + "|"]
    parts = [(f"{name}, {model}", found) for name, models in figures["quality"].items() for model, found in models.items()]
    parts.append(("planted", figures["usefulness"]["budgets"]))
    for title, found in parts:
        lines.append(f"| {title} | {kept_rows(found, RANDOM)} | " + " | ".join(kept_rows(found, name) for name in own) + " |")
    return "\n".join(lines)


def blocks(figures):
    """The tables by name."""
    made = {"quotas": quota_table(figures)}
    for name, models in figures["quality"].items():
        measures = [measure for measure in QUALITY if name == "pages" or measure[0] != "rare"]
        made |= {f"{name} {model}": table(found, measures) for model, found in models.items()}
    made["usefulness"] = table(figures["usefulness"]["budgets"], USEFULNESS)
    made["without budget"] = without_budget(figures["usefulness"]["all"])
    return made


def write(folder, figures):
    """The Markdown file beside this script with these tables, and the plot."""
    text = Path(__file__).with_name(f"{NAME}.md").read_text()
    for name, block in blocks(figures).items():
        pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"{NAME}.md has no place for `{name}`")
        text = pattern.sub(lambda found: f"{found[1]}\n{block}\n\n{found[2]}", text)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.md").write_text(text)
    plot(folder / f"{NAME}.svg", figures)


def plot(path, figures):
    """Four panels with a line a selector and a dot a share; the random samples' range as a band."""
    matplotlib.rcParams.update({"svg.hashsalt": NAME, "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9})
    pages, useful = figures["quality"]["pages"]["minilm"], figures["usefulness"]["budgets"]
    panels = [
        (pages, "mean", "pages: mean distance to the\nnearest kept row (lower is better)", 1),
        (pages, "max", "pages: largest distance\n(lower is better)", 1),
        (pages, "labels", "pages: labels with a kept row, %\n(higher is better)", 100),
        (useful, "accuracy", "planted copies: accuracy of the\nclassifier, % (higher is better)", 100),
    ]
    names, colours = list(useful)[::-1], ["#8fbbe0", "#3f7fbf", "#123f73"]
    drawn, axes = plt.subplots(1, len(panels), figsize=(13, 4.4), sharey=True)
    for axis, (found, key, title, scale) in zip(axes, panels):
        for place, (share, colour) in enumerate(zip(figures["shares"], colours)):
            samples = scale * np.array(random_samples(found, place, key))
            band = samples.mean(axis=0)  # of each seed, over the plantings
            axis.axvspan(min(band), max(band), color=colour, alpha=0.25, linewidth=0)
            axis.axvline(np.mean(band), color=colour, linewidth=0.8, linestyle=(0, (4, 3)))
            rows = [(y, found[name][place]) for y, name in enumerate(names) if name in found and found[name][place]]
            dots = [(scale * np.mean([row[key] for row in measured]), y) for y, measured in rows]
            axis.plot(*zip(*dots), "o", color=colour, markersize=6, label=f"{share:.0%} kept", zorder=3)
        axis.set_title(title, fontsize=9)
        axis.grid(axis="y", color="#e4e4e4", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(length=0)
        for side in ["top", "right", "left"]:
            axis.spines[side].set_visible(False)
    axes[0].set_yticks(range(len(names)), ["random (sample)" if name == RANDOM else name for name in names])
    drawn.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=3, frameon=False)
    drawn.tight_layout(rect=(0, 0.06, 1, 1))
    drawn.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(drawn)
