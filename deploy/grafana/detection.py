"""The dashboard "graphsieve: detection": what do the scores say, how good are they, has the stream changed?"""

from panels import ORANGE, RED, Query, Row, bars, dashboard, heat, label_variable, lines, mark, source_variable, stat

SCORERS = '{job="$job"}'
QUALITY = '{job="$quality"}'
SHORT = '{job="$quality", window="short"}'
LONG = '{job="$quality", window="long"}'
DRIFT = {0.1: ORANGE, 0.25: RED}
PSI = "Population stability index against the training reference: to 0.1 none to speak of, above 0.25 a large shift."


def over_windows(figure: str) -> tuple[Query, Query]:
    return Query(f"graphsieve_quality_{figure}{LONG}", "long window"), Query(
        f"graphsieve_quality_{figure}{SHORT}", "short window"
    )


def rate(metric: str, by: str = "", where: str = SCORERS) -> str:
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({metric}{where}[$__rate_interval]))"


NOW = Row(
    "",
    4,
    [
        stat(
            "Spam, last hour",
            "Share of the last hour's scores at or above their threshold.",
            Query(f"job:graphsieve_spam_share:ratio1h{SCORERS}"),
            unit="percentunit",
            decimals=1,
        ),
        stat(
            "Spam, a day",
            "The same share over 24 hours; an alert fires where the hour has less than half or more than twice of it.",
            Query(f"job:graphsieve_spam_share:ratio1d{SCORERS}"),
            unit="percentunit",
            decimals=1,
        ),
        stat(
            "AUROC now",
            "Chance that a spam scores higher than what is none, by the newest labels; beside it what the checkpoint "
            "promised.",
            Query(f"graphsieve_quality_auroc{LONG}", "now"),
            Query(f"graphsieve_quality_expected_auroc{QUALITY}", "promised"),
            decimals=3,
        ),
        stat(
            "Average precision now",
            "Area under the precision-recall curve, by the newest labels; beside it what the checkpoint promised.",
            Query(f"graphsieve_quality_average_precision{LONG}", "now"),
            Query(f"graphsieve_quality_expected_average_precision{QUALITY}", "promised"),
            decimals=3,
        ),
        stat(
            "Labelled scores",
            "What the long window's figures rest on. Below a thousand, or a hundred spam, no alert trusts them.",
            Query(f"graphsieve_quality_window_scores{LONG}"),
        ),
        stat(
            "Score drift",
            f"Of the published scores. {PSI}",
            Query(f"graphsieve_score_drift_psi{QUALITY}"),
            steps=DRIFT,
            decimals=2,
        ),
        stat(
            "Features drifted",
            "Features of the events whose index is above 0.25; weekdays do not count.",
            Query(f"sum(job_instance:graphsieve_drifted_features:count{QUALITY})"),
            steps={1: RED},
        ),
    ],
)

GOOD = [
    Row(
        "How good are the scores?",
        9,
        [
            lines(
                "AUROC",
                "0.5 is guessing. Long and short window of labelled scores, what the checkpoint reached on its test "
                "part, and the floor of the alert. The short window shows a change sooner, and more noise.",
                *over_windows("auroc"),
                Query(f"graphsieve_quality_expected_auroc{QUALITY}", "promised"),
                Query(f"job_instance:graphsieve_quality_auroc:floor{QUALITY}", "alert below"),
                maximum=1,
            ),
            lines(
                "Average precision",
                "Guessing gives the share of spam among the labels, which is drawn too.",
                *over_windows("average_precision"),
                Query(f"graphsieve_quality_expected_average_precision{QUALITY}", "promised"),
                Query(f"graphsieve_quality_spam_share{LONG}", "guessing"),
                maximum=1,
            ),
            lines(
                "Precision",
                "Share of what was published as spam that is. Low: work for moderators, and users wronged.",
                *over_windows("precision"),
                unit="percentunit",
                maximum=1,
            ),
            lines(
                "Recall",
                "Share of the spam that was published as spam. Low: spam gets through.",
                *over_windows("recall"),
                unit="percentunit",
                maximum=1,
            ),
        ],
    ),
    Row(
        "What do the figures rest on?",
        7,
        [
            lines(
                "Labels a second",
                "Scores that their label has judged. None for long: labels stay away, and the figures are old.",
                Query(rate("graphsieve_quality_labelled_scores_total", where=QUALITY), "labelled"),
                unit="ops",
            ),
            lines(
                "Scores in the windows",
                "They fill as labels come.",
                Query(f"graphsieve_quality_window_scores{LONG}", "long window"),
                Query(f"graphsieve_quality_window_scores{SHORT}", "short window"),
            ),
            lines(
                "Waiting for a label",
                "Scores without a label yet. At quality.max_pending the oldest are dropped.",
                Query(f"graphsieve_quality_pending_scores{QUALITY}", "waiting"),
            ),
            lines(
                "Dropped and unreadable",
                "Scores that stopped waiting because too many did; messages of the scores topic that are no score.",
                Query(rate("graphsieve_quality_dropped_scores_total", where=QUALITY), "dropped"),
                Query(rate("graphsieve_quality_unreadable_scores_total", where=QUALITY), "unreadable"),
                unit="ops",
            ),
        ],
    ),
]

SAID = [
    Row(
        "What do the scores say?",
        8,
        [
            heat(
                "Distribution of the scores",
                "How many scores lie between which edges. A model that tells apart has two bands.",
                Query(f"sum by (le) (increase(graphsieve_score_value_bucket{SCORERS}[$__rate_interval]))"),
            ),
            lines(
                "Share of spam",
                "Of the published scores; beside it among the labels, which tell of earlier scores. Labels that are "
                "given only to what was flagged have more.",
                Query(f"{rate('graphsieve_spam_scores_total')} / ({rate('graphsieve_scores_total')} > 0)", "now"),
                Query(f"job:graphsieve_spam_share:ratio1h{SCORERS}", "an hour"),
                Query(f"job:graphsieve_spam_share:ratio1d{SCORERS}", "a day"),
                Query(f"graphsieve_quality_spam_share{LONG}", "labels, long window"),
                unit="percentunit",
            ),
            lines(
                "Scores and the threshold",
                "Half, nine in ten, and 99 in 100 of the scores lie below these; spam is what reaches the threshold.",
                *(
                    Query(
                        f"histogram_quantile({q}, {rate('graphsieve_score_value_bucket', 'le')})",
                        name,
                    )
                    for q, name in ((0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"))
                ),
                Query(f"graphsieve_quality_threshold{QUALITY}", "threshold"),
                maximum=1,
            ),
        ],
    ),
]

CHANGED = [
    Row(
        "Has the stream changed?",
        9,
        [
            lines(
                "Drift of the scores",
                PSI,
                Query(f"graphsieve_score_drift_psi{QUALITY}", "scores"),
                steps=DRIFT,
            ),
            lines(
                "Drift by feature",
                f"The ten that have drifted furthest, less the weekdays, which come and go. {PSI}",
                Query(f"topk(10, channel:graphsieve_drift_psi:lasting{QUALITY})", "{{channel}}"),
                steps=DRIFT,
            ),
            bars(
                "Drift now",
                f"Every feature but the weekdays, the furthest first. {PSI}",
                Query(f"sort_desc(channel:graphsieve_drift_psi:lasting{QUALITY})", "{{channel}}"),
                steps=DRIFT,
                maximum=0.5,
            ),
            lines(
                "Events by type",
                "What comes. Labels that stop, or nodes that are no longer new, change what the graph knows.",
                Query(rate("graphsieve_events_total", "type"), "{{type}}"),
                unit="ops",
                stacked=True,
            ),
        ],
    ),
]

DETECTION = dashboard(
    "graphsieve-detection",
    "graphsieve: detection",
    "What do the scores say, how good are they, has the stream changed? Whether they come at all: graphsieve: service.",
    [
        source_variable(),
        label_variable("job", "Consumers", "label_values(graphsieve_scores_total, job)"),
        label_variable("quality", "Quality", "label_values(graphsieve_quality_labelled_scores_total, job)"),
    ],
    [
        mark(
            "Alerts",
            RED,
            'ALERTS{alertname=~"Graphsieve.+", alertstate="firing"}',
            "{{alertname}}",
            "{{job}} {{instance}}",
        ),
        mark(
            "New model",
            "blue",
            f"count by (version) (graphsieve_model_info{SCORERS})"
            f" unless count by (version) (graphsieve_model_info{SCORERS} offset 1m)",
            "new model",
            "{{version}}",
        ),
    ],
    [NOW, *GOOD, *SAID, *CHANGED],
)
