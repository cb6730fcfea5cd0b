"""An endless stream of reviews with spam campaigns in it, the same for the same seed.

    users      an activity (Zipf), a style, a mood, mostly a device of their own; newcomers replace them
    products   a popularity (Zipf), a topic, a quality; now and then one is in fashion, and honest reviews burst
    crews      a style, a few devices, accounts newly made or bought; a crew that is found out starts afresh
    campaign   one crew praises or damns one product within hours, and writes some honest reviews as camouflage

The stream is made span by span, about BLOCK reviews each, as columns. What belongs to a later span waits in two arrays:

    reviews       campaigns under way, and edits (the same id, a newer ts)
    follow-ups    labels (every review gets one, late) and retractions

They hold what falls within the longest delay and no more, so memory stays flat however long the stream runs. The
problem is neither trivial nor hopeless: crews hide some of their devices, honest users share devices and burst too, and
some spammers act alone, all but invisibly. Stars alone give an AUROC of 0.60, boosted trees on the graph's channels and
the lists' means 0.96.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET, Struct, UnsetType

HOUR, DAY = 3600.0, 86400.0
START_TS = 1577836800.0  # 2020-01-01
BLOCK = 4096  # honest reviews made at a time, on average
DIMENSIONS = 8  # of an embedding
PUBLIC_DEVICES = 40  # cafés, offices, mobile carriers: many honest users each
CREWS, CREW_DEVICES, CREW_ACCOUNTS = 10, 4, 60
LONGEST_DELAY = 5.0  # delays are exponential, and cut at so many times their mean

# Where a mood (standard normal) becomes another star: the J shape of online reviews, 11 7 12 25 45 % from 1 to 5.
STAR_EDGES = np.array([-1.227, -0.915, -0.524, 0.126])

INTEGERS = ("number", "user", "product", "stars", "text_length", "device", "spam")
REVIEW = np.dtype([("ts", "f8"), *((name, "i8") for name in INTEGERS), ("embedding", "f8", (DIMENSIONS,))])
FOLLOW_UP = np.dtype([("ts", "f8"), ("number", "i8"), ("label", "i8")])
NO_DEVICE = -1  # the device of a review that names none
RETRACT = -1  # the label of a follow-up that retracts

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.void]


@dataclass(frozen=True)
class SyntheticStream:
    """The events of one seed as JSON, some 5,400 a day. Every iteration starts anew and gives the same bytes."""

    seed: int = 0
    start_ts: float = START_TS
    users: int = 5000  # at a time; who leaves is replaced
    products: int = 400
    reviews_per_day: float = 2500.0  # honest ones; every review brings a label event later
    campaigns_per_day: float = 8.0  # of 35 reviews on average
    label_delay_seconds: float = 3 * DAY  # on average
    update_share: float = 0.005  # reviews that are edited within hours
    retract_share: float = 0.002  # reviews that are withdrawn within days

    def __iter__(self) -> Iterator[bytes]:
        world = _World(self)
        while True:
            yield from _encoded(*world.next_block())


def synthetic_events(seed: int, limit: int | None = None, start_ts: float = START_TS) -> Iterator[bytes]:
    """Yield the first `limit` events (None: endless) of the default stream, in time order, `ts` from `start_ts` on."""
    return islice(SyntheticStream(seed=seed, start_ts=start_ts), limit)


class _World:
    """Makes block after block. One generator draws everything, in an order that only the settings decide."""

    def __init__(self, settings: SyntheticStream) -> None:
        self._settings = settings
        self._rng = rng = np.random.default_rng(settings.seed)
        self._clock = settings.start_ts
        self._review_count = 0
        self._products = _Products(rng, settings.products)
        self._users = _Users(rng, settings.users)
        self._crews = [_Crew(rng, self._users) for _ in range(CREWS)]
        self._pitch = rng.normal(size=DIMENSIONS)  # what all advertising has in common
        self._reviews, self._follow_ups = np.zeros(0, REVIEW), np.zeros(0, FOLLOW_UP)

    def next_block(self) -> tuple[Rows, Rows]:
        """Return the reviews and follow-ups of the next span, each in any order."""
        rng, settings, start = self._rng, self._settings, self._clock
        span = BLOCK / settings.reviews_per_day * DAY
        self._clock += span
        begins = start + span * rng.random(rng.poisson(settings.campaigns_per_day * span / DAY))
        reviews = np.concatenate([self._honest(start, span), *map(self._campaign, begins.tolist())])
        reviews = reviews[np.argsort(reviews["ts"], kind="stable")]
        reviews["number"] = self._review_count + np.arange(len(reviews))
        self._review_count += len(reviews)
        fate = rng.random(len(reviews))  # no review is both edited and withdrawn
        edits = self._edits(reviews[fate < settings.update_share])
        labels = self._follow(reviews, settings.label_delay_seconds)
        retractions = self._follow(reviews[fate > 1 - settings.retract_share], DAY)
        retractions["label"] = RETRACT
        due, self._reviews = _split(self._clock, self._reviews, reviews, edits)
        following, self._follow_ups = _split(self._clock, self._follow_ups, labels, retractions)
        return due, following

    def _honest(self, start: float, span: float) -> Rows:
        """Reviews of honest users; one in a hundred of them is bought all the same, outside any campaign."""
        rng, n = self._rng, self._rng.poisson(self._settings.reviews_per_day * span / DAY)
        rows = np.zeros(n, REVIEW)
        rows["ts"] = start + span * rng.random(n)
        rows["product"] = self._products.draw_with_fashions(rows["ts"], start, span)
        slot = self._users.draw(n)
        rows["user"] = self._users.number[slot]
        rows["device"] = np.where(rng.random(n) < 0.2, NO_DEVICE, self._users.device[slot])
        rows["stars"] = self._products.opinions(rows["product"], self._users.mood[slot])
        rows["text_length"] = rng.lognormal(5.2, 0.8, n)
        rows["embedding"] = self._text(rows, self._users.style[slot])
        rows["spam"] = bought = rng.random(n) < 0.01
        rows["stars"][bought] = np.where(rng.random(bought.sum()) < 0.8, 5, 1)
        rows["embedding"][bought] += 0.3 * self._pitch
        return rows

    def _campaign(self, start: float) -> Rows:
        """One crew on one product within hours, and its camouflage."""
        rng, crew = self._rng, self._crews[self._rng.integers(CREWS)]
        crew.prepare()
        n = int(rng.integers(10, CREW_ACCOUNTS + 1))
        rows = np.zeros(n, REVIEW)
        rows["ts"] = start + min(HOUR * rng.lognormal(1.4, 0.7), DAY) * rng.random(n)
        rows["user"] = rng.choice(crew.account, n, replace=False)
        rows["device"] = crew.devices(n)
        rows["product"] = rng.integers(self._settings.products)
        rows["stars"] = rng.choice([5, 4, 3] if rng.random() < 0.8 else [1, 2, 3], n, p=[0.7, 0.25, 0.05])
        rows["text_length"] = rng.lognormal(4.9, 0.7, n)
        camouflage = rng.random(n) < 0.2
        rows["spam"] = ~camouflage
        rows["product"][camouflage] = product = self._products.draw(camouflage.sum())
        rows["stars"][camouflage] = self._products.opinions(product, np.zeros(len(product)))
        rows["embedding"] = self._text(rows, crew.style) + 0.3 * self._pitch * rows["spam"][:, None]
        return rows

    def _text(self, rows: Rows, style: Floats) -> Floats:
        topic: Floats = self._products.topic[rows["product"]]
        return 0.5 * topic + 0.4 * style + self._rng.normal(0.0, 0.6, (len(rows), DIMENSIONS))

    def _edits(self, reviews: Rows) -> Rows:
        edits = reviews.copy()
        edits["ts"] += self._delays(len(edits), 2 * HOUR)
        edits["stars"] = np.clip(edits["stars"] + self._rng.integers(-1, 2, len(edits)), 1, 5)
        return edits

    def _follow(self, reviews: Rows, mean_seconds: float) -> Rows:
        rows = np.zeros(len(reviews), FOLLOW_UP)
        rows["ts"] = reviews["ts"] + self._delays(len(rows), mean_seconds)
        rows["number"], rows["label"] = reviews["number"], reviews["spam"]
        return rows

    def _delays(self, n: int, mean_seconds: float) -> Floats:
        return mean_seconds * np.minimum(self._rng.exponential(size=n), LONGEST_DELAY)


class _Products:
    def __init__(self, rng: np.random.Generator, n: int) -> None:
        self._rng = rng
        self.topic, self._quality = rng.normal(size=(n, DIMENSIONS)), rng.normal(size=n)
        self._popularity = _zipf(n)

    def draw(self, n: int) -> Ints:
        return np.searchsorted(self._popularity, self._rng.random(n))

    def draw_with_fashions(self, ts: Floats, start: float, span: float) -> Ints:
        """Draw a product for each time; for six hours, three times a day, one product gets every fourth review."""
        products = self.draw(len(ts))
        for begin in start + span * self._rng.random(self._rng.poisson(3 * span / DAY)):
            during = (ts >= begin) & (ts < begin + 6 * HOUR) & (self._rng.random(len(ts)) < 0.25)
            products[during] = self._rng.integers(len(self._popularity))
        return products

    def opinions(self, product: Ints, mood: Floats) -> Ints:
        """Draw stars from the product's quality, the user's mood, and chance."""
        chance = self._rng.normal(0.0, 0.75, len(product))
        return 1 + np.searchsorted(STAR_EDGES, 0.5 * self._quality[product] + mood + chance)


class _Users:
    """Honest users, by slot: a slot has an activity for good, and a user until a newcomer takes it over."""

    def __init__(self, rng: np.random.Generator, n: int) -> None:
        self._rng = rng
        self._numbers = count(PUBLIC_DEVICES)  # one sequence for users and devices
        self._activity = _zipf(n)
        self.number, self.device = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.style, self.mood = np.zeros((n, DIMENSIONS)), np.zeros(n)
        self._settle(np.arange(n))

    def draw(self, n: int) -> Ints:
        """Draw the slots of n reviews' authors; every fourth is a newcomer, who stays."""
        slot = np.searchsorted(self._activity, self._rng.random(n))
        new = self._rng.random(n) < 0.25
        slot[new] = self._rng.integers(len(self.number), size=new.sum())
        self._settle(np.unique(slot[new]))
        return slot

    def new_numbers(self, n: int) -> Ints:
        return np.fromiter(islice(self._numbers, n), np.int64, n)

    def _settle(self, slot: Ints) -> None:
        n = len(slot)
        own, public = self.new_numbers(n), self._rng.integers(PUBLIC_DEVICES, size=n)
        self.number[slot] = own
        self.device[slot] = np.where(self._rng.random(n) < 0.15, public, own)
        self.style[slot], self.mood[slot] = self._rng.normal(size=(n, DIMENSIONS)), self._rng.normal(0.0, 0.4, n)


class _Crew:
    def __init__(self, rng: np.random.Generator, users: _Users) -> None:
        self._rng, self._users = rng, users
        self._start_afresh()

    def prepare(self) -> None:
        """Get ready for a campaign: a third of the accounts is replaced; a crew that is found out starts afresh."""
        if self._rng.random() < 0.1:
            self._start_afresh()
        lost = self._rng.random(CREW_ACCOUNTS) < 1 / 3
        self.account[lost] = self._accounts(lost.sum())

    def devices(self, n: int) -> Ints:
        """Draw n devices: half the crew's, a quarter used this once, a quarter not known."""
        device, chance = self._rng.choice(self._device, n), self._rng.random(n)
        once = chance < 0.25
        device[once] = self._users.new_numbers(once.sum())
        device[chance > 0.75] = NO_DEVICE
        return device

    def _start_afresh(self) -> None:
        self._device = self._users.new_numbers(CREW_DEVICES)
        self.account = self._accounts(CREW_ACCOUNTS)
        self.style = self._rng.normal(size=DIMENSIONS)

    def _accounts(self, n: int) -> Ints:
        """Return n accounts: three in four newly made, the others bought from users, with a past."""
        made, bought = self._users.new_numbers(n), self._rng.choice(self._users.number, n)
        return np.where(self._rng.random(n) < 0.25, bought, made)


def _zipf(n: int) -> Floats:
    """Cumulative shares of n ranks; the first ones are the largest, none is overwhelming."""
    cumulative: Floats = np.cumsum((10.0 + np.arange(n)) ** -0.8)
    cumulative /= cumulative[-1]
    return cumulative


def _split(end: float, *parts: Rows) -> tuple[Rows, Rows]:
    """Return what is due before `end`, and what waits on."""
    waiting = np.concatenate(parts)
    late = waiting["ts"] >= end
    return waiting[~late], waiting[late]


class Node(Struct, tag="node", gc=False):
    id: str
    ts: float
    user: str
    product: str
    stars: int
    text_length: int
    embedding: list[float]
    device: str | UnsetType


def _encoded(reviews: Rows, follow_ups: Rows) -> Iterator[bytes]:
    """Return the events in time order; at equal times reviews go first."""
    ts = _by_day(np.concatenate([reviews["ts"], follow_ups["ts"]]))
    times, n, encode = ts.tolist(), len(reviews), msgspec.json.Encoder().encode
    events = [encode(event) for event in chain(_nodes(reviews, times[:n]), _later(follow_ups, times[n:]))]
    return map(events.__getitem__, np.argsort(ts, kind="stable").tolist())


def _nodes(rows: Rows, ts: list[float]) -> Iterator[Node]:
    number, user, product, stars, text_length, device = (rows[name].tolist() for name in INTEGERS[:-1])
    names = [f"n{n}" for n in number], ts, [f"u{n}" for n in user], [f"p{n}" for n in product]
    devices = [UNSET if n == NO_DEVICE else f"d{n}" for n in device]
    return map(Node, *names, stars, text_length, np.round(rows["embedding"], 3).tolist(), devices)


def _later(rows: Rows, ts: list[float]) -> Iterator[dict[str, Any]]:
    for number, label, at in zip(rows["number"].tolist(), rows["label"].tolist(), ts, strict=True):
        event = {"type": "retract", "id": f"n{number}"}
        yield event if label == RETRACT else event | {"type": "label", "label": label, "ts": at}


def _by_day(ts: Floats) -> Floats:
    """Bend the clock so that noon is four times as busy as midnight, keep the order, and round to milliseconds."""
    day, time = np.divmod(ts / DAY, 1.0)
    bent: Floats = DAY * (day + time + 0.6 / (2 * np.pi) * np.sin(2 * np.pi * time))
    return bent.round(3)
