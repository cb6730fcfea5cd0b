"""The paper's experiment on whole graphs: a job trains one network for one seed, and prunes it in every way.

Keys of the records: data, seed, method, scheme, budget, stage. A method is `unpruned`, one of the rankings, `paper`
(its own descent) or `small` (as many multiply-adds, trained from scratch). A stage is `trained`, `selected` (cut, not
fitted), `refitted`, or `tuned` (fine-tuned towards the unpruned network). The figures are those of the test part;
what a run chooses (its epochs) it chooses on the validation part. The method itself was developed on amazon_cs, seed 0,
with its test part in sight: what is said of it there flatters.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import msgspec
import numpy as np

from pipeline.channels_kept import Floats
from pipeline.experiments.graphs.files import Graph, Split, read_graph, split_of
from pipeline.experiments.graphs.inference import Batched, Full, seconds_in_turn
from pipeline.experiments.graphs.network import Network, judge, logits_of, sparse_inputs
from pipeline.experiments.graphs.paper_lasso import Descent, plan_by_descent
from pipeline.experiments.graphs.prune import Unpruned, plan_by, refitted, selected
from pipeline.experiments.graphs.report import plots, tables
from pipeline.experiments.graphs.sage import Data, FitOptions, fine_tune, fresh, train, use_one_thread
from pipeline.experiments.graphs.settings import PAPER, SMALL, Settings, path_of
from pipeline.experiments.run import Job, Key, Record

__all__ = ["Settings", "jobs", "plots", "tables"]

Figures = dict[str, float | None]
# From tries on amazon_cs, seed 0, by validation loss; fine-tuning at 4x and the highest rate are interpolated.
WIDE_DROPOUT, SMALL_DROPOUT = 0.4, 0.1  # a narrow network that drops much of itself hardly learns
NARROW_RATE, HIGHEST_RATE = 0.0005, 0.004  # of fine-tuning, times the budget: a wide one is easily thrown off
TIMED = "lasso"  # the method whose networks are timed: the others' have the same sizes


def jobs(settings: Settings) -> list[Job]:
    """Return a job for each graph and seed; ConfigError where a file is missing."""
    what = {n: v for n, v in msgspec.to_builtins(settings).items() if n not in ("graphs", "seeds")}
    found = []
    for seed in range(settings.seeds):
        for name in settings.graphs:
            path = path_of(name)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
            about = {"data": path.stem, "seed": seed, "file": digest, "settings": what}
            found.append(Job(about, partial(run, path, seed, settings)))
    return found


def run(path: Path, seed: int, settings: Settings) -> list[Record]:
    """Train, prune and measure; one thread, so that times can be compared."""
    use_one_thread()
    graph = read_graph(path)
    return list(_Trial(graph, split_of(graph, seed), seed, settings).records())


@dataclass
class _Trial:
    graph: Graph
    split: Split
    seed: int
    settings: Settings

    def records(self) -> Iterator[Record]:
        yield self._record(self.network, "unpruned", "trained")
        for budget in self.settings.budgets:
            if SMALL in self.settings.methods:
                yield self._record(self._small(budget), SMALL, "trained", budget=budget)
            for scheme in self.settings.schemes:
                for method in self.settings.methods:
                    if method != SMALL:
                        yield from self._pruned(method, scheme, budget)

    @cached_property
    def data(self) -> Data:
        return Data(self.graph, self.split)

    @cached_property
    def network(self) -> Network:
        start = fresh(self.graph.x.shape[1], self.settings.width, self._shares, self.seed)
        return train(start, self.data, self._training(WIDE_DROPOUT), "train")

    def _training(self, dropout: float) -> FitOptions:
        return FitOptions(self.settings.epochs, 0.01, 12, dropout=dropout, weight_decay=2e-4, seed=self.seed)

    @cached_property
    def unpruned(self) -> Unpruned:
        return Unpruned(self.network, self.graph.x, self.graph.mean, self.split.train)

    @cached_property
    def logits(self) -> Floats:
        return logits_of(self.network, self.graph.x, self.graph.mean)

    @cached_property
    def gram_seconds(self) -> float:
        """What the closed forms compute once for all budgets; each of them is charged for it."""
        _ = self.unpruned.inputs, self.unpruned.hidden, self.unpruned.h2  # the paper's procedure needs them as well
        began = time.perf_counter()
        _ = self.unpruned.products
        return time.perf_counter() - began

    def _small(self, budget: float) -> Network:
        """Train the widest network from scratch that the budget allows."""
        channels, non_zeros = self.graph.x.shape[1], sparse_inputs(self.graph.x)
        wanted = self.network.multiply_adds(non_zeros) / budget
        width = self.settings.width
        while width > 1 and fresh(channels, width, self._shares, 0).multiply_adds(non_zeros) > wanted:
            width -= 1
        start = fresh(channels, width, self._shares, self.seed)
        return train(start, self.data, self._training(SMALL_DROPOUT), f"small {budget:g}x")

    @property
    def _shares(self) -> Floats:
        """Each class's share of the training part, none of them 0."""
        counts = np.bincount(self.graph.y[self.split.train], minlength=self.graph.classes) + 0.5
        shares: Floats = (counts / counts.sum()).astype(np.float32)
        return shares

    def _pruned(self, method: str, scheme: str, budget: float) -> Iterator[Record]:
        record = partial(self._record, method=method, scheme=scheme, budget=budget)
        seconds = self.gram_seconds
        began = time.perf_counter()
        if method == PAPER:
            plan = plan_by_descent(self.unpruned, scheme, budget, self.seed)
            small = refitted(self.unpruned, plan, Descent())
            seconds = 0.0
        else:
            plan = plan_by(self.unpruned, method, scheme, budget, self.seed)
            small = refitted(self.unpruned, plan)
        seconds += time.perf_counter() - began
        yield record(selected(self.unpruned, plan), stage="selected")
        yield record(small, stage="refitted", more={"pruning_seconds": seconds})
        epochs = self.settings.tune_epochs
        rate = min(NARROW_RATE * budget, HIGHEST_RATE)
        options = FitOptions(
            epochs, rate, epochs, dropout=0.0, weight_decay=0.0, warm_up=True, seed=self.seed
        )  # fmt: skip
        began = time.perf_counter()
        tuned = fine_tune(small, self.data, self.logits, options, f"{method} {scheme} {budget:g}x")
        more: Figures = {"tuning_seconds": time.perf_counter() - began}
        if method == TIMED and self.seed < self.settings.timed_seeds:
            more |= self._full_times(tuned) if scheme == "full" else self._batched_times(tuned)
        yield record(tuned, stage="tuned", more=more)

    def _record(
        self,
        network: Network,
        method: str,
        stage: str,
        scheme: str = "any",
        budget: float = 1.0,
        more: Figures | None = None,
    ) -> Record:
        key: Key = {"data": self.graph.name, "seed": self.seed, "method": method, "scheme": scheme}
        key |= {"budget": budget, "stage": stage}
        test = self.split.test
        figures = judge(logits_of(network, self.graph.x, self.graph.mean)[test], self.graph.y[test])
        figures["multiply_adds"] = network.multiply_adds(sparse_inputs(self.graph.x))
        figures["parameters"] = network.parameters
        return Record(key, figures | (more or {}))

    def _full_times(self, pruned: Network) -> Figures:
        x, mean, edges = self.graph.x, self.graph.mean, self.data.edges
        before, after = Full(self.network, x, mean), Full(pruned, x, mean)
        runs: list[Callable[[], object]]
        runs = [before.by_torch, after.by_torch, partial(before.by_dgl, edges), partial(after.by_dgl, edges)]
        t_before, t_after, d_before, d_after = seconds_in_turn(runs, self.settings.repeats)
        return {
            "full_torch_seconds": t_after,
            "full_torch_seconds_unpruned": t_before,
            "full_dgl_seconds": d_after,
            "full_dgl_seconds_unpruned": d_before,
            "full_speedup": t_before / t_after,
            "full_dgl_speedup": d_before / d_after,
        }

    def _batched_times(self, pruned: Network) -> Figures:
        """Median over the same targets; `both` is pruned with stored hidden features over unpruned without."""
        x, mean = self.graph.x, self.graph.mean
        before, after = Batched(self.network, x, mean), Batched(pruned, x, mean)
        nodes = len(self.graph.y)
        targets = np.random.default_rng(self.seed).choice(nodes, min(self.settings.targets, nodes), replace=False)
        ways = (before.from_scratch, after.from_scratch, before.with_stored, after.with_stored)
        b_scratch, a_scratch, b_stored, a_stored = seconds_in_turn(
            [partial(way, targets) for way in ways], self.settings.repeats
        )
        return {
            "batched_seconds": a_scratch,
            "batched_seconds_unpruned": b_scratch,
            "batched_stored_seconds": a_stored,
            "batched_stored_seconds_unpruned": b_stored,
            "batched_speedup": b_scratch / a_scratch,
            "batched_stored_speedup": b_stored / a_stored,
            "batched_speedup_by_both": b_scratch / a_stored,
        }
