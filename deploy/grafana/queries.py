"""The questions that several panels of the service dashboard ask, about the consumers that are chosen at its top."""

ALL = '{job="$job"}'
CHOSEN = '{job="$job", instance=~"$instance"}'
FIRING = 'ALERTS{alertname=~"Graphsieve.+", alertstate="firing"}'


def chosen(labels: str) -> str:
    return '{job="$job", instance=~"$instance", ' + labels + "}"


def rate(metric: str, by: str = "", labels: str = "") -> str:
    """A counter a second, summed over the consumers that are chosen."""
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({metric}{chosen(labels) if labels else CHOSEN}[$__rate_interval]))"


def quantile(q: float, metric: str, by: str = "le", labels: str = "") -> str:
    return f"histogram_quantile({q}, {rate(f'{metric}_bucket', by, labels)})"


def happened(metric: str, by: str) -> str:
    return f"sum by ({by}) (increase({metric}{CHOSEN}[$__rate_interval]))"
