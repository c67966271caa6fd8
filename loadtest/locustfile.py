"""Load on a running service: recalls and feedback of users, as a shop's front end sends them.

    locust -f loadtest/locustfile.py --host http://127.0.0.1:8000 --data demo/data \\
           --headless -u 20 -r 20 -t 60s

Without --headless, locust's page has the same options. Of 100 requests 80 are recalls, 8 are
recalls that bring their own history, 10 are clicks on a recalled item and 2 are batches. A
`degraded` answer is no failure, but is counted, because every user of the data set should have a
history in the store.
"""

import random
from pathlib import Path
from typing import Any

import polars as pl
from locust import FastHttpUser, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: LocustArgumentParser, **_: Any) -> None:
    """Adds the options of this file to locust's own."""
    group = parser.add_argument_group("recgpt")
    group.add_argument("--data", default="demo/data", help="folder of a prepared data set")
    group.add_argument("--recall-k", type=int, default=100, help="items that a recall asks for")
    group.add_argument("--history-length", type=int, default=20, help="items of a brought history")
    group.add_argument("--batch-size", type=int, default=16, help="recalls in a batch")
    group.add_argument(
        "--pause", type=float, default=0.1, help="mean seconds between a user's requests; 0: none"
    )


@events.init.add_listener  # type: ignore[untyped-decorator]
def read_ids(environment: Environment, **_: Any) -> None:
    """Reads the ids of the data set. Exits if there is none."""
    assert environment.parsed_options
    data = Path(environment.parsed_options.data)
    try:
        Visitor.user_ids = pl.read_parquet(data / "users.parquet")["user_id"].to_list()
        Visitor.item_ids = pl.read_parquet(data / "items.parquet")["item_id"].to_list()
    except OSError as error:
        raise SystemExit(
            f"--data {data} is no prepared data set ({error}): run recgpt data prepare"
        ) from error


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def reset_degraded(**_: Any) -> None:
    """Resets the counts, because the page may start several tests."""
    Visitor.answers = Visitor.degraded = 0


@events.test_stop.add_listener  # type: ignore[untyped-decorator]
def report_degraded(**_: Any) -> None:
    """Prints how many recalls were not answered in full."""
    print(f"degraded: {Visitor.degraded:,} of {Visitor.answers:,} recalls")


class Visitor(FastHttpUser):
    """A stream of requests, each for a user drawn at random from the data set."""

    user_ids: list[str]
    item_ids: list[str]
    answers = 0
    degraded = 0

    def on_start(self) -> None:
        """Starts without offered items, so there is nothing to click yet."""
        self.options: Any = self.environment.parsed_options
        self.offered: list[tuple[str, str]] = []

    def wait_time(self) -> float:
        """Returns an exponential pause, as independent visitors make."""
        pause: float = self.options.pause
        return random.expovariate(1 / pause) if pause else 0.0

    @task(80)
    def recall(self) -> None:
        """A recall with the stored history."""
        self._recall("/recall", {})

    @task(8)
    def recall_with_history(self) -> None:
        """A recall with the history in the request."""
        count = min(self.options.history_length, len(self.item_ids))
        self._recall("/recall (own history)", {"history": random.sample(self.item_ids, count)})

    @task(10)
    def click(self) -> None:
        """A click on an item that was offered."""
        if not self.offered:
            self.recall()
        if not self.offered:
            return  # that recall failed, and locust counted it
        user, item = self.offered.pop(random.randrange(len(self.offered)))
        body = {"events": [{"user_id": user, "item_id": item, "type": "click"}]}
        with self.rest("POST", "/events", json=body):
            pass

    @task(2)
    def batch(self) -> None:
        """Recalls of many users in one request."""
        requests = [self._question() for _ in range(self.options.batch_size)]
        body = {"requests": requests}
        with self.rest("POST", "/recall/batch", json=body) as response:
            for answer in (response.js or {}).get("results", []):
                self._count(answer)

    def _question(self) -> dict[str, Any]:
        return {"user_id": random.choice(self.user_ids), "k": self.options.recall_k}

    def _recall(self, name: str, more: dict[str, Any]) -> None:
        """Sends one recall; its items may be clicked later."""
        question = self._question() | more
        with self.rest("POST", "/recall", name=name, json=question) as response:
            if response.status_code != 200:
                return  # locust counts it as a failure
            self._count(response.js)
            items = [item["item_id"] for item in response.js["items"]]
            assert items, "a recall gave no items"
            self.offered = [*self.offered[-99:], (question["user_id"], random.choice(items))]

    @classmethod
    def _count(cls, answer: dict[str, Any]) -> None:
        cls.answers += 1
        cls.degraded += bool(answer.get("degraded"))
