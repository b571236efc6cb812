# SPDX-License-Identifier: MIT
"""How the plots in docs/images look: legible on light and dark pages."""
import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

# Placeholders, which `save` makes follow the reader's theme.
INK, LINE = "#010203", "#040506"
matplotlib.rcParams.update({
    "svg.hashsalt": "rwkv", "svg.fonttype": "none", "font.size": 12, "figure.figsize": (8.4, 4.2),
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": LINE, "axes.edgecolor": LINE, "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK,
    "ytick.color": INK, "legend.frameon": False, "figure.facecolor": "none", "axes.facecolor": "none",
})
THEME = """<style>
svg { --ink: #1f2328; --line: #c8ccd1; font-family: system-ui, sans-serif }
@media (prefers-color-scheme: dark) { svg { --ink: #e6edf3; --line: #444c56 } }
</style>
"""


def subplots(*shape, **options):
    """A figure and its axes."""
    return plt.subplots(*shape, **options)


def save(figure, path):
    """Writes the figure as an SVG."""
    # No date, so that the same figures give the same file.
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight", transparent=True)
    with open(path) as file:
        drawing = file.read()
    drawing = drawing.replace(INK, "var(--ink)").replace(LINE, "var(--line)").replace("<defs>", THEME + "<defs>", 1)
    with open(path, "w") as file:
        file.write(drawing)
