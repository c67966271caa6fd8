"""The service that one writes first: the peer that `make bench` measures ours against.

One request at a time: the history from Redis, a whole forward pass per interest, a Faiss search
each, a merge in Python, a response model. It has the same artifact, the same Redis and the same
answers as ours, but no batching and no KV cache. It is written as well as such a service usually
is, not worse.

    python -m loadtest.serving.naive --artifacts demo/artifacts \
        --store redis://127.0.0.1:6379/0 --port 8001 --workers 2
"""

import argparse
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import faiss
import numpy as np
import redis.asyncio as aioredis
import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from model.artifact.bundle import load_artifact, read_item_vectors, read_user_ids
from model.artifact.versions import find_bundle
from model.network.rollout import quotas
from model.network.tokens import HISTORY, OFFER, Tokens

ARTIFACTS, STORE = "NAIVE_ARTIFACTS", "NAIVE_STORE"  # the environment that workers read


class RecallRequest(BaseModel):
    """A user, and the number of candidates wanted."""

    user_id: str
    k: int = 100


class Candidate(BaseModel):
    """One recalled item."""

    item_id: str
    score: float
    interest: int


class RecallResponse(BaseModel):
    """Candidates, best first within each interest."""

    version: str
    items: list[Candidate]


def create_app(artifacts: Path, store: str) -> FastAPI:
    """Returns the naive service over a bundle and a Redis."""
    bundle = find_bundle(artifacts)
    artifact = load_artifact(bundle)
    model, recall = artifact.model, artifact.manifest.recall
    index = faiss.IndexFlatIP(model.config.dim)
    index.add(np.ascontiguousarray(read_item_vectors(bundle)))
    item_ids = artifact.items["item_id"].to_list()
    item_rows = {item: row for row, item in enumerate(item_ids)}
    user_rows = {user: row for row, user in enumerate(read_user_ids(bundle))}
    client = aioredis.Redis.from_url(store, decode_responses=True, max_connections=4096)
    limit = model.config.max_history

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with client:
            yield

    app = FastAPI(lifespan=lifespan)

    @torch.inference_mode()
    def interest(history: list[int], offers: list[int], user: int) -> np.ndarray:
        items = torch.tensor([history + offers])
        segments = torch.tensor([[HISTORY] * len(history) + [OFFER] * len(offers)])
        positions = torch.arange(limit - len(history), limit + len(offers))[None]
        tokens = Tokens(items, segments, positions, torch.tensor([items.shape[1]]))
        vector_D = model(tokens, torch.tensor([user]))[0, -1]
        vectors: np.ndarray = vector_D.numpy()[None]
        return vectors

    @app.post("/recall", response_model=RecallResponse)
    async def post_recall(request: RecallRequest) -> RecallResponse:
        found = await client.lrange(f"h:{request.user_id}", 0, 999)
        rows = (item_rows.get(str(entry).partition("\t")[0]) for entry in reversed(found))
        history = [row for row in rows if row is not None]
        seen, offers, items = set(history), list[int](), list[Candidate]()
        user = user_rows.get(request.user_id, -1)
        for number, quota in enumerate(quotas(request.k, recall.interests, recall.first_share)):
            query = interest(history[-limit:], offers, user)
            scores, hits = index.search(query, min(request.k + len(seen), index.ntotal))
            unseen = [
                (row, score)
                for row, score in zip(hits[0].tolist(), scores[0].tolist(), strict=True)
                if row not in seen
            ]
            offers.append(next(row for row, _ in unseen if row not in offers))
            given = {item.item_id for item in items}
            fresh = [(row, score) for row, score in unseen if item_ids[row] not in given]
            items += [
                Candidate(item_id=item_ids[row], score=score, interest=number)
                for row, score in fresh[:quota]
            ]
        return RecallResponse(version=artifact.manifest.version, items=items)

    return app


def worker() -> FastAPI:
    """Returns the app of one worker process, which has one thread.

    More threads are several times slower beside a load generator on the same cores.
    """
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    return create_app(Path(os.environ[ARTIFACTS]), os.environ[STORE])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifacts", type=Path, required=True)
    parser.add_argument("--store", required=True)
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    os.environ |= {ARTIFACTS: str(options.artifacts), STORE: options.store}
    uvicorn.run(
        "loadtest.serving.naive:worker",
        factory=True,
        workers=options.workers,
        port=options.port,
        access_log=False,
        log_level="warning",
    )
