"""The dashboard "graphsieve: service": does it keep up, is it fast? `service_health` has its lower half."""

from panels import ORANGE, RED, Query, Row, dashboard, heat, label_variable, lines, mark, source_variable, stat
from queries import ALL, CHOSEN, FIRING, quantile, rate
from service_health import STATE, WHO, WRONG

NOW = Row(
    "",
    4,
    [
        stat(
            "Consumers down",
            "Consumers that Prometheus cannot scrape. A partition of theirs goes to another one after kafka.session.",
            Query(f"count(up{ALL} == 0) or vector(0)"),
            steps={1: RED},
        ),
        stat(
            "Partitions not live",
            "Partitions that no consumer scores at this moment: they are restored, have failed, or wait for one.",
            Query(
                f"count(count by (partition) (graphsieve_shard_state{ALL}))"
                ' - sum(max by (partition) (graphsieve_shard_state{job="$job", state="live"}))'
            ),
            steps={1: RED},
        ),
        stat(
            "Alerts firing",
            "Alerts that fire, of this and all other jobs; which ones, and since when: below.",
            Query(f"count({FIRING}) or vector(0)"),
            steps={1: RED},
        ),
        stat("Scores", "Scores published a second.", Query(rate("graphsieve_scores_total")), unit="ops"),
        stat(
            "Latency, 99 %",
            "99 of 100 scores were committed within this time of their event being read. The objective is 0.1 s.",
            Query(quantile(0.99, "graphsieve_score_latency_seconds")),
            unit="s",
            steps={0.05: ORANGE, 0.1: RED},
            decimals=1,
        ),
        stat(
            "Late, last hour",
            "Share of the last hour's scores that took longer than 0.1 s. The objective allows 1 %.",
            Query(f"job:graphsieve_late_scores:ratio_rate1h{ALL}"),
            unit="percentunit",
            steps={0.01: ORANGE, 0.144: RED},
            decimals=2,
        ),
        stat(
            "Waiting",
            "For how long the newest event has to wait, at the pace at which the log was read in the last minute.",
            Query(
                f"sum(job_partition:graphsieve_log_lag_messages:newest{ALL})"
                f" / clamp_min(sum(rate(job_partition:graphsieve_log_position:max{ALL}[1m])), 1)"
            ),
            unit="s",
            steps={10: ORANGE, 30: RED},
            decimals=1,
        ),
        stat(
            "Memory",
            "Of the consumer that is nearest to its limit.",
            Query(f"max(job_instance:graphsieve_memory:ratio{CHOSEN})"),
            unit="percentunit",
            steps={0.8: ORANGE, 0.9: RED},
        ),
    ],
)

KEEPS_UP = [
    Row(
        "Does it keep up?",
        8,
        [
            lines(
                "Throughput",
                "Messages put on the log, events read from it, and scores published, a second. A message may hold many "
                "events (packed), and not every event is scored.",
                Query(
                    f"sum(rate(job_partition:graphsieve_log_end_position:max{ALL}[$__rate_interval]))", "messages come"
                ),
                Query(rate("graphsieve_events_total"), "events read"),
                Query(rate("graphsieve_scores_total"), "scores published"),
                unit="ops",
            ),
            lines(
                "Lag by partition",
                "Messages that wait to be scored. Growing for minutes: they come faster than they are scored.",
                Query(f"job_partition:graphsieve_log_lag_messages:newest{ALL}", "partition {{partition}}"),
            ),
        ],
    ),
    Row(
        "",
        8,
        [
            lines(
                "Age of the newest event, by partition",
                "Now less the event's own time: how old the world is that scores know. Large while old events are "
                "replayed, and where producers are late.",
                Query(f"min by (partition) (graphsieve_event_time_lag_seconds{ALL})", "partition {{partition}}"),
                unit="s",
            ),
            lines(
                "Events in a micro-batch",
                "Small: events are scored as they come. At score.max_batch for long: they wait for the scorer.",
                Query(quantile(0.99, "graphsieve_micro_batch_events"), "99 %"),
                Query(quantile(0.5, "graphsieve_micro_batch_events"), "median"),
                Query(
                    f"{rate('graphsieve_micro_batch_events_sum')} / {rate('graphsieve_micro_batch_events_count')}",
                    "mean",
                ),
            ),
        ],
    ),
]

FAST = [
    Row(
        "Is it fast?",
        9,
        [
            lines(
                "Latency of a score",
                "From an event being read to its score being committed. Waiting in the log is not in it: see the lag.",
                *(
                    Query(quantile(q, "graphsieve_score_latency_seconds"), name)
                    for q, name in ((0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"))
                ),
                unit="s",
                steps={0.1: RED},
                logarithmic=True,
            ),
            heat(
                "Latency of a score, distribution",
                "How many scores took how long. Two bands: two kinds of micro-batches, or two consumers that differ.",
                Query(
                    "sum by (le) (increase(graphsieve_score_latency_seconds_bucket" + CHOSEN + "[$__rate_interval]))"
                ),
                unit="s",
            ),
            lines(
                "How fast the budget burns",
                "Share of late scores in the time before, as a multiple of the 1 % that may be late. 1: a month's "
                "budget lasts a month. Alerts fire at 14.4 for an hour, 6 for six hours, 3 for a day, 1 for three.",
                *(
                    Query(f"job:graphsieve_late_scores:ratio_rate{window}{ALL} / 0.01", name)
                    for window, name in (("5m", "5 minutes"), ("1h", "hour"), ("6h", "6 hours"), ("3d", "3 days"))
                ),
                steps={1: ORANGE, 14.4: RED},
            ),
        ],
    ),
    Row(
        "",
        8,
        [
            lines(
                "Time of a micro-batch by stage, 99 %",
                "decode; A: graph and lists; B: layer 1; C: lists of hidden features; D: layer 2 and score; commit: "
                "publish scores and position.",
                Query(quantile(0.99, "graphsieve_stage_seconds", "le, stage"), "{{stage}}"),
                unit="s",
                logarithmic=True,
            ),
            lines(
                "Where the time goes",
                "Seconds that each stage took in a second, of all shards. A shard works on one core: as many as there "
                "are live shards is all there is. A commit may run beside the next micro-batch.",
                Query(rate("graphsieve_stage_seconds_sum", "stage"), "{{stage}}"),
                unit="s",
                stacked=True,
            ),
            lines(
                "Commit latency",
                "To publish the scores of a micro-batch and its position: the broker's part.",
                Query(quantile(0.99, "graphsieve_stage_seconds", labels='stage="commit"'), "99 %"),
                Query(quantile(0.5, "graphsieve_stage_seconds", labels='stage="commit"'), "median"),
                unit="s",
            ),
        ],
    ),
]

SERVICE = dashboard(
    "graphsieve-service",
    "graphsieve: service",
    "Does it keep up, is it fast, who serves what, what goes wrong? What the scores say: graphsieve: detection.",
    [
        source_variable(),
        label_variable("job", "Consumers", "label_values(graphsieve_scores_total, job)"),
        label_variable(
            "instance", "Consumer", 'label_values(graphsieve_scores_total{job="$job"}, instance)', several=True
        ),
    ],
    [
        mark("Alerts", RED, FIRING, "{{alertname}}", "{{job}} {{instance}} {{partition}}"),
        mark("Starts", "blue", f"changes(process_start_time_seconds{ALL}[1m]) > 0", "start", "{{instance}}"),
    ],
    [NOW, *KEEPS_UP, *FAST, *WHO, *WRONG, *STATE],
)
