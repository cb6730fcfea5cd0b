"""The words that dashboards are written in, and what Grafana reads (schema 41: Grafana 12; newer ones migrate it).

Query      one PromQL expression and the name of its series
panels     `stats`, `lines`, `heat`, `states`, `bars`, `rows_of`: dicts as Grafana wants them, less their place
Row        a question, and the panels that answer it
dashboard  rows -> the document; panels are numbered and placed from left to right, 24 columns wide

Every panel must say what it shows (`about`, its tooltip). Colours stand for what to do: green nothing, orange look
soon, red look now.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Json = dict[str, Any]
Steps = Mapping[float, str]  # from which value on, which colour; below the first it is green

SOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
RED, ORANGE = "red", "orange"
NO_STEPS: Steps = {}


class Query(NamedTuple):
    expr: str
    legend: str = ""


class Row(NamedTuple):
    question: str  # empty: the row at the top
    height: int
    panels: Sequence[Json]


# ---- panels ----


def stat(
    title: str, about: str, *queries: Query, unit: str = "short", steps: Steps = NO_STEPS, decimals: int = 0
) -> Json:
    """The newest value, large, with its course behind it."""
    defaults = {"unit": unit, "decimals": decimals, "thresholds": _thresholds(steps), "color": {"mode": "thresholds"}}
    options = {
        "reduceOptions": _newest(),
        "colorMode": "value",
        "graphMode": "area",
        "textMode": "value" if len(queries) == 1 else "value_and_name",
    }
    return _panel("stat", title, about, queries, defaults, options)


def lines(
    title: str,
    about: str,
    *queries: Query,
    unit: str = "short",
    steps: Steps = NO_STEPS,
    stacked: bool = False,
    logarithmic: bool = False,
    maximum: float | None = None,
) -> Json:
    """Courses. `steps` are drawn as dashed lines across."""
    custom = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 40 if stacked else 8,
        "showPoints": "never",
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "scaleDistribution": {"type": "log", "log": 10} if logarithmic else {"type": "linear"},
        "thresholdsStyle": {"mode": "dashed" if steps else "off"},
    }
    defaults: Json = {"unit": unit, "custom": custom, "thresholds": _thresholds(steps)}
    if not logarithmic:
        defaults["min"] = 0
    if maximum is not None:
        defaults["max"] = maximum
    options = {
        "legend": {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": ["lastNotNull", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return _panel("timeseries", title, about, queries, defaults, options)


def heat(title: str, about: str, query: Query, unit: str = "short") -> Json:
    """The buckets of a histogram over time; the query gives a series for each `le`."""
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5, "fill": "dark-orange"},
        "filterValues": {"le": 1e-9},
        "rowsFrame": {"layout": "le"},
        "yAxis": {"axisPlacement": "left", "unit": unit},
        "tooltip": {"mode": "single", "yHistogram": True},
        "legend": {"show": True},
    }
    panel = _panel("heatmap", title, about, [query._replace(legend="{{le}}")], {"unit": unit}, options)
    panel["targets"][0]["format"] = "heatmap"
    return panel


def states(
    title: str, about: str, *queries: Query, names: Mapping[int, tuple[str, str]], steps: Steps = NO_STEPS
) -> Json:
    """What something was when. `names` gives a value's word and colour, `steps` the colours of all others."""
    mappings = [{"type": "value", "options": {str(v): {"text": t, "color": c} for v, (t, c) in names.items()}}]
    defaults = {
        "mappings": mappings,
        "custom": {"fillOpacity": 70, "lineWidth": 0},
        "color": {"mode": "thresholds"},
        "thresholds": _thresholds(steps),
    }
    options = {
        "mergeValues": True,
        "showValue": "auto",
        "rowHeight": 0.8,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
        "tooltip": {"mode": "single"},
    }
    return _panel("state-timeline", title, about, queries, defaults, options)


def bars(
    title: str, about: str, query: Query, unit: str = "short", steps: Steps = NO_STEPS, maximum: float = 1
) -> Json:
    """The newest values beside one another."""
    defaults = {"unit": unit, "min": 0, "max": maximum, "decimals": 2, "thresholds": _thresholds(steps)}
    options = {
        "displayMode": "basic",
        "orientation": "horizontal",
        "reduceOptions": _newest(),
        "showUnfilled": True,
        "valueMode": "color",
    }
    panel = _panel("bargauge", title, about, [query], defaults, options)
    _ask_once(panel)
    return panel


def rows_of(title: str, about: str, query: Query, columns: Mapping[str, str]) -> Json:
    """A table of a metric's labels. `columns` gives each label to show its heading, in order."""
    panel = _panel("table", title, about, [query], {}, {"showHeader": True, "cellHeight": "sm"})
    _ask_once(panel)
    panel["targets"][0]["format"] = "table"
    panel["transformations"] = [
        {"id": "filterFieldsByName", "options": {"include": {"names": list(columns)}}},
        {
            "id": "organize",
            "options": {"renameByName": dict(columns), "indexByName": {name: i for i, name in enumerate(columns)}},
        },
    ]
    return panel


def _panel(kind: str, title: str, about: str, queries: Sequence[Query], defaults: Json, options: Json) -> Json:
    targets = [
        {"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": q.expr, "legendFormat": q.legend or "__auto"}
        for i, q in enumerate(queries)
    ]
    return {
        "type": kind,
        "title": title,
        "description": about,
        "datasource": SOURCE,
        "targets": [target | {"editorMode": "code", "range": True, "instant": False} for target in targets],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
    }


def _ask_once(panel: Json) -> None:
    """Ask for the newest value alone, not for its course."""
    for target in panel["targets"]:
        target |= {"range": False, "instant": True}


def _thresholds(steps: Steps) -> Json:
    named = [{"color": colour, "value": value} for value, colour in steps.items()]
    return {"mode": "absolute", "steps": [{"color": "green", "value": None}, *named]}


def _newest() -> Json:
    return {"calcs": ["lastNotNull"], "fields": "", "values": False}


# ---- variables ----


def source_variable() -> Json:
    return {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", "refresh": 1}


def label_variable(name: str, label: str, of: str, several: bool = False) -> Json:
    """The values of a label: `of` is Grafana's label_values(...). `several` may be chosen at once, at first all."""
    variable: Json = {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": SOURCE,
        "definition": of,
        "query": {"qryType": 1, "query": of, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": several,
        "includeAll": several,
    }
    if several:
        variable |= {"allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]}}
    return variable


# ---- the document ----


def dashboard(
    uid: str, title: str, about: str, variables: Sequence[Json], marks: Sequence[Json], rows: Iterable[Row]
) -> Json:
    return {
        "uid": uid,
        "title": title,
        "description": about,
        "tags": ["graphsieve"],
        "schemaVersion": 41,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # one crosshair through all panels
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "links": [
            {
                "type": "dashboards",
                "title": "graphsieve",
                "tags": ["graphsieve"],
                "asDropdown": False,
                "includeVars": True,
                "keepTime": True,
                "targetBlank": False,
                "icon": "external link",
                "tooltip": "",
                "url": "",
            }
        ],
        "annotations": {"list": list(marks)},
        "templating": {"list": list(variables)},
        "panels": list(_placed(rows)),
    }


def mark(name: str, colour: str, expr: str, title: str, text: str) -> Json:
    """What is marked on every panel when it happened."""
    return {
        "name": name,
        "datasource": SOURCE,
        "enable": True,
        "hide": False,
        "iconColor": colour,
        "expr": expr,
        "step": "15s",
        "titleFormat": title,
        "textFormat": text,
    }


def _placed(rows: Iterable[Row]) -> Iterable[Json]:
    number, top = 0, 0
    for row in rows:
        if row.question:
            number += 1
            place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
            yield {
                "type": "row",
                "id": number,
                "title": row.question,
                "collapsed": False,
                "gridPos": place,
                "panels": [],
            }
            top += 1
        left = 0
        for i, panel in enumerate(row.panels):
            number += 1
            right = COLUMNS * (i + 1) // len(row.panels)
            place = {"x": left, "y": top, "w": right - left, "h": row.height}
            yield {"id": number, "gridPos": place, **panel}
            left = right
        top += row.height
