"""The lower half of the dashboard "graphsieve: service": who serves what, what goes wrong, how large is it?"""

from panels import ORANGE, RED, Query, Row, lines, rows_of, states
from queries import ALL, CHOSEN, FIRING, chosen, happened, rate

LIVE = chosen('state="live"')
STATE_NAMES = {3: ("live", "green"), 2: ("restoring", ORANGE), 1: ("failed", RED), 0: ("nobody", "dark-red")}
WHO = [
    Row(
        "Who serves what?",
        8,
        [
            states(
                "Shards",
                "What each partition's shard is, by the consumer that is furthest: live (scores), restoring, failed, "
                "or nobody's.",
                Query(
                    'max by (partition) (3 * graphsieve_shard_state{job="$job", state="live"}'
                    ' or 2 * graphsieve_shard_state{job="$job", state="restoring"}'
                    ' or graphsieve_shard_state{job="$job", state="failed"})',
                    "partition {{partition}}",
                ),
                names=STATE_NAMES,
            ),
            states(
                "Consumers",
                "Which ones Prometheus reaches.",
                Query("up" + CHOSEN, "{{instance}}"),
                names={1: ("up", "green"), 0: ("down", RED)},
            ),
            lines(
                "Shards by consumer",
                "How many partitions each consumer scores. One with none stands by.",
                Query(f"sum by (instance) (graphsieve_shard_state{LIVE})", "{{instance}}"),
            ),
        ],
    ),
    Row(
        "",
        7,
        [
            lines(
                "Restore progress",
                "Share of the replay, from the snapshot to the committed position, that is done; 1 scores.",
                Query(f"job_partition:graphsieve_restore_progress_ratio:max{ALL}", "partition {{partition}}"),
                unit="percentunit",
                maximum=1,
            ),
            lines(
                "Rebalances",
                "Times that a consumer's partitions changed. Often: consumers come and go, or miss their session.",
                Query(happened("graphsieve_rebalances_total", "instance"), "{{instance}}"),
            ),
            rows_of(
                "Models",
                "Which model each consumer scores with, and its schema. Two models: a roll-out that is not finished.",
                Query("graphsieve_model_info" + CHOSEN),
                {"instance": "Consumer", "version": "Model", "schema": "Schema"},
            ),
        ],
    ),
]

WRONG = [
    Row(
        "What goes wrong?",
        8,
        [
            states(
                "Alerts",
                "Which alerts fired when. docs/runbook.md has a page for each.",
                Query(
                    f'count by (alertname) ({FIRING}) or label_replace(vector(0), "alertname", "any", "", "")',
                    "{{alertname}}",
                ),
                names={0: ("none", "green")},
                steps={1: RED},
            ),
            lines(
                "Dead letters by reason",
                "Bad events a second, set aside in the dead-letter topic. A jump: a producer has changed.",
                Query(
                    f"{rate('graphsieve_dead_letters_total', 'reason')} > 0"
                    ' or label_replace(vector(0), "reason", "any", "", "")',
                    "{{reason}}",
                ),
                unit="ops",
                stacked=True,
            ),
            lines(
                "Share of dead letters",
                "Of all events in ten minutes. An alert fires above 1 %.",
                Query(f"job:graphsieve_dead_letters:ratio_increase10m{ALL}", "dead letters"),
                unit="percentunit",
                steps={0.01: RED},
            ),
        ],
    ),
    Row(
        "",
        7,
        [
            lines(
                "Events by outcome",
                "applied; duplicate: known already; unknown: about a node or edge that is not there; expired: older "
                "than the ttl; bad: a dead letter.",
                Query(rate("graphsieve_events_total", "outcome"), "{{outcome}}"),
                unit="ops",
                stacked=True,
            ),
            lines(
                "In flight",
                "Messages sent to the log and not acknowledged. Not 0 for minutes: the broker is slow or away.",
                Query(f"sum by (instance) (graphsieve_in_flight_messages{CHOSEN})", "{{instance}}"),
            ),
            lines(
                "Producers replaced, snapshots failed",
                "Producers that were given up because the broker stalled or fenced them; snapshots that could not be "
                "written.",
                Query(happened("graphsieve_producers_replaced_total", "instance"), "producers, {{instance}}"),
                Query(happened("graphsieve_snapshot_failures_total", "instance"), "snapshots, {{instance}}"),
            ),
        ],
    ),
]

STATE = [
    Row(
        "How large is it?",
        8,
        [
            lines(
                "Memory of a consumer, and its limit",
                "Resident memory. At the limit the kernel kills the process.",
                Query("process_resident_memory_bytes" + CHOSEN, "{{instance}}"),
                Query("graphsieve_memory_limit_bytes" + CHOSEN, "limit, {{instance}}"),
                unit="bytes",
                logarithmic=True,
            ),
            lines(
                "Memory of the state",
                "rows; lists: sums and members; hidden: the hidden-feature cache; ids. It grows in steps.",
                Query(f"sum by (part) (graphsieve_memory_bytes{CHOSEN})", "{{part}}"),
                unit="bytes",
                stacked=True,
            ),
            lines(
                "Graph",
                "Nodes and lists, and those there is memory for. Nodes that only grow: no ttl, or a long one.",
                Query(f"sum(graphsieve_rows{CHOSEN})", "nodes"),
                Query(f"sum(graphsieve_row_capacity{CHOSEN})", "nodes, room"),
                Query(f"sum(graphsieve_lists{CHOSEN})", "lists"),
                Query(f"sum(graphsieve_list_capacity{CHOSEN})", "lists, room"),
            ),
            lines(
                "CPU",
                "Cores in use. A consumer that uses one whole core for each of its shards has no more to give.",
                Query(f"rate(process_cpu_seconds_total{CHOSEN}[$__rate_interval])", "{{instance}}"),
            ),
        ],
    ),
    Row(
        "What would a restart have to do?",
        7,
        [
            lines(
                "Age of the newest snapshot",
                "What was scored since is replayed by the next start. A partition without events needs no new one.",
                Query(f"min by (partition) (graphsieve_snapshot_age_seconds{ALL})", "partition {{partition}}"),
                unit="s",
                steps={900: RED},
            ),
            lines(
                "Time to write a snapshot",
                "A shard's scoring pauses for as long.",
                Query(f"max by (partition) (graphsieve_snapshot_duration_seconds{ALL})", "partition {{partition}}"),
                unit="s",
            ),
            lines(
                "Size of the newest snapshots",
                "Of all shards of a consumer together; on disk there are score.snapshots_kept of each.",
                Query("graphsieve_snapshot_bytes" + CHOSEN, "{{instance}}"),
                unit="bytes",
            ),
            lines(
                "Snapshots written",
                "By each consumer. None for long, while events come: see their age.",
                Query(happened("graphsieve_snapshots_total", "instance"), "{{instance}}"),
            ),
        ],
    ),
]
