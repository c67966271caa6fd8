"""The served bundle as a front end loads it, from what the engine writes."""

from pathlib import Path

from model.artifact.id_table import write_ids
from service.recall.metadata_encoder import read_metadata
from service.recall.recaller import Recaller
from service.recall.served_bundle import ServedBundle


def served_bundle(recaller: Recaller, folder: Path) -> ServedBundle:
    """Writes metadata and ids into the folder, and loads them."""
    read_metadata(recaller.bundle).save(folder)
    write_ids(folder, "item", recaller.item_ids)
    return ServedBundle.load(
        folder,
        folder,
        recaller.version,
        recaller.max_interests,
        recaller.kinds,
        recaller.manifest.actions,
        recaller.outcomes,
        recaller.bundle,
        recaller.interests_of(None),
    )
