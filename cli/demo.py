"""The settings of `recgpt demo`: MovieLens 100K, small enough for a few minutes on two cores."""

import json
from pathlib import Path

from model.data.config import PrepareConfig
from model.network.config import GPTConfig
from model.training.config import PretrainConfig, TrainConfig, TuneConfig


def demo_data(raw: Path, data: Path) -> PrepareConfig:
    """Returns how MovieLens 100K is prepared."""
    return PrepareConfig(
        input=raw / "ml-100k.inter",
        items=raw / "ml-100k.item",
        genres_column="class",
        out=data,
        name="ml-100k",
    )


def demo_training(data: Path, run: Path) -> TrainConfig:
    """A few minutes on two cores: half the width, windows instead of prefixes, small batches."""
    return TrainConfig(
        data=data,
        out=run,
        resume=True,
        model=GPTConfig(dim=64, feed_forward=256, user_rank=8),
        pretrain=PretrainConfig(sampling="windows", batch_size=16, epochs=30),
        tune=TuneConfig(
            form="interleaved", sampling="windows", batch_size=16, epochs=4, learning_rate=2e-4
        ),
    )


def example(port: int) -> str:
    """Returns a command to try the service with."""
    body = json.dumps({"user_id": "196", "k": 10, "with_metadata": True})
    return f"  curl -s localhost:{port}/recall -H 'content-type: application/json' -d '{body}'"
