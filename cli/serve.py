"""Commands of the service: `recgpt serve`, `recgpt history load`."""

import asyncio
from pathlib import Path

from pydantic import Field

from cli.config import Command
from service.settings import ServeSettings


class Serve(Command, ServeSettings):
    """Answer POST /recall over HTTP; the API is described at /docs.

    examples:
      recgpt serve --artifacts artifacts --store redis://localhost:6379/0
      recgpt serve --artifacts artifacts --store embedded:store/histories --port 9000
    """

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT."""
        from service.server import serve

        serve(self)


class LoadHistory(Command):
    """Fill a store with the histories of a prepared data set.

    example:
      recgpt history load --data data --store redis://localhost:6379/0
    """

    data: Path = Field(description="folder that `recgpt data prepare` wrote")
    store: str = Field(description="redis://host:port/db or embedded:PATH")
    overwrite: bool = Field(False, description="also replace histories that the store has")
    history_days: float | None = Field(
        None, gt=0, le=36_500, description="delete a history that gets no event for this time"
    )

    def run(self) -> None:
        """Stores the histories. Raises ValueError if the store can't be used."""
        from model.data.dataset import Dataset
        from service.history.store import StoreUnavailable
        from service.offline import load_histories

        dataset = Dataset.load(self.data)
        try:
            stored = asyncio.run(
                load_histories(dataset, self.store, self.overwrite, self.history_days)
            )
        except StoreUnavailable as error:
            raise ValueError(str(error)) from error
        print(f"histories: {stored:,} stored, {dataset.users - stored:,} kept as they were")
