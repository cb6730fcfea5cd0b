"""An explanation as a drawing: the node, its lists and their newest members, and a bar for each contribution.

    left    the node; a disc for what its event said and for each relation, as large and as coloured as what it added
            to the score, the largest on top; behind it its newest members, coloured by what was known of them then
    right   the same contributions as bars, with their points, row by row

The graph that is drawn: an arc from the node to each of its lists, and from the list to each member shown.
"""

from pathlib import Path
from typing import Any

import networkx as nx

from pipeline.explained import Explanation, Member, Related
from pipeline.explained_text import FAINT, age, key_words, signed, verdict
from pipeline.figure import COLOURS, new_figure, save
from pipeline.live.visible import visible

NODE = "node"  # the explained one; discs are ("part", name), members ("member", name, number)
TOWARDS, AWAY, NOTHING = COLOURS[6], COLOURS[0], "#cbd5e0"
KNOWN = {
    "judged spam": "#c53030", "judged not spam": "#2f855a", "not judged yet, scored spam": "#f6ad55",
    "not judged yet": "#a0aec0",
}  # fmt: skip
INK, ARC = "#2d3748", "#a0aec0"
SHOWN_MEMBERS = 10
LETTERS = 56  # of a line
DISCS, FIRST_MEMBER, APART = 1.0, 1.55, 0.17  # where they stand, in units of the distance from the node to the discs


def draw(explained: Explanation, path: Path) -> Path:
    """Draw the explanation as PNG."""
    rows = len(explained.why)
    figure, axes = new_figure(columns=2, width=6.6, height=1.7 + 0.95 * rows)
    figure.suptitle(verdict(explained), x=0.02, ha="left", fontsize=14, fontweight="bold")
    _draw_graph(axes[0, 0], explained)
    _draw_bars(axes[0, 1], explained)
    for axis in axes.flat:
        axis.set_ylim(rows + 0.6, 0.4)
    return save(figure, path)


# ---- the graph ----


def _draw_graph(axis: Any, explained: Explanation) -> None:
    graph, places = _graph(explained), _places(explained)
    nx.draw_networkx_edges(graph, places, ax=axis, edge_color=ARC, width=1.0, arrows=False)
    _draw_members(axis, graph, places)
    _draw_discs(axis, explained, graph, places)
    nx.draw_networkx_nodes(graph, places, [NODE], ax=axis, node_size=2600, node_color=INK, node_shape="s")
    label = {NODE: _short(visible(explained.id), 10)}
    nx.draw_networkx_labels(graph, places, label, ax=axis, font_size=9, font_color="white", font_weight="bold")
    axis.set_xlim(-0.3, FIRST_MEMBER + SHOWN_MEMBERS * APART + 0.1)
    axis.set_title("What it is connected to; to the right the newest there", fontsize=11, loc="left", pad=12)
    axis.set_axis_off()


def _draw_discs(axis: Any, explained: Explanation, graph: Any, places: dict[Any, tuple[float, float]]) -> None:
    most = max(FAINT, *(abs(added) for _, added in explained.why))
    related = {one.name: one for one in explained.relations}
    for name, added in explained.why:
        disc, colour = ("part", name), _colour(added)
        size = 640 + 1200 * abs(added) / most
        nx.draw_networkx_nodes(graph, places, [disc], ax=axis, node_size=size, node_color=colour, edgecolors="white")
        nx.draw_networkx_labels(
            graph, places, {disc: signed(added)}, ax=axis, font_size=9, font_weight="bold",
            font_color=INK if colour == NOTHING else "white",
        )  # fmt: skip
        title, facts = _self_label(explained) if name == "self" else _list_label(related[name])
        x, y = FIRST_MEMBER - 0.07, places[disc][1]
        axis.text(x, y - 0.14, title, fontsize=9.5, fontweight="bold", va="bottom", color=INK)
        axis.text(x, y + 0.16, facts, fontsize=9, va="top", color="#4a5568")


def _draw_members(axis: Any, graph: Any, places: dict[Any, tuple[float, float]]) -> None:
    """The members by what was known of them; each kind has its line in the legend, drawn or not."""
    for name, colour in KNOWN.items():
        chosen = [node for node, known in graph.nodes(data="known") if known == name]
        axis.scatter([], [], s=60, color=colour, label=name)
        nx.draw_networkx_nodes(graph, places, chosen, ax=axis, node_size=75, node_color=colour, edgecolors="white")
    axis.legend(
        loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=4, fontsize=9, frameon=False, handletextpad=0.2,
        columnspacing=1.2,
    )  # fmt: skip


def _graph(explained: Explanation) -> Any:
    graph = nx.DiGraph()
    graph.add_edges_from((NODE, ("part", name)) for name, _ in explained.why)
    for one in explained.relations:
        for number, member in enumerate(one.members[:SHOWN_MEMBERS]):
            before = ("member", one.name, number - 1) if number else ("part", one.name)
            graph.add_edge(before, ("member", one.name, number))
            graph.nodes["member", one.name, number]["known"] = _known(member, explained.threshold)
    return graph


def _known(member: Member, threshold: float) -> str:
    if member.label is not None:
        return "judged spam" if member.label else "judged not spam"
    return "not judged yet, scored spam" if (member.score or 0.0) >= threshold else "not judged yet"


def _places(explained: Explanation) -> dict[Any, tuple[float, float]]:
    """A row for each contribution; its members in a line."""
    rows = [name for name, _ in explained.why]
    places: dict[Any, tuple[float, float]] = {NODE: (0.0, (len(rows) + 1) / 2)}
    places |= {("part", name): (DISCS, row) for row, name in enumerate(rows, 1)}
    for one in explained.relations:
        row = 1 + rows.index(one.name)
        for number in range(len(one.members[:SHOWN_MEMBERS])):
            places["member", one.name, number] = (FIRST_MEMBER + number * APART, row)
    return places


def _self_label(explained: Explanation) -> tuple[str, str]:
    said = [f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {visible(value)}"
            for name, value in (explained.own or {}).items() if not isinstance(value, list)]  # fmt: skip
    return "what the event itself said", _short(", ".join(said), LETTERS)


def _list_label(one: Related) -> tuple[str, str]:
    title = _short(f"{one.name}: {key_words(one)}" if one.fields else one.name, LETTERS - 6)
    if not one.count:
        return title, "not in any" if one.kind == "group" and one.fields is None else "none before it"
    facts = [f"{one.count:,} {'other' if one.count == 1 else 'others'}"]
    facts += [f"{one.spam:,} of {one.labelled:,} judged spam"] if one.labelled else []
    facts += [f"the last {age(one.members[0].age_seconds)} before"] if one.members else []
    return title, ", ".join(facts)


# ---- the bars ----


def _draw_bars(axis: Any, explained: Explanation) -> None:
    for row, (_, added) in enumerate(explained.why, 1):
        axis.barh(row, added, height=0.5, color=_colour(added))
        side = 4 if added >= 0 else -4
        axis.annotate(
            signed(added), (added, row), (side, 0), textcoords="offset points", va="center",
            ha="left" if added >= 0 else "right", fontsize=10,
        )  # fmt: skip
    reach = 1.25 * max([FAINT, *(abs(added) for _, added in explained.why)])
    axis.axvline(0.0, color=INK, linewidth=1.0)
    axis.set(xlim=(-reach, reach), yticks=[])
    axis.set_xlabel("◀ less like spam          points          more like spam ▶\n0.7 more double the odds of spam")
    axis.spines["left"].set_visible(False)
    axis.set_title(
        f"From score {explained.start:.2f}, where nothing is known, to score {explained.score:.2f}",
        fontsize=11, loc="left", pad=12,
    )  # fmt: skip


def _colour(added: float) -> str:
    return NOTHING if abs(added) < FAINT else TOWARDS if added > 0 else AWAY


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
