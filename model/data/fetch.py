"""`recgpt data fetch ml-100k`: MovieLens 100K from the public recbole wheel, never installed."""

import logging
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from model.files import check_output, new_file

log = logging.getLogger(__name__)

WHEEL = "recbole==1.2.1"
FOLDER = "recbole/dataset_example/ml-100k"
FILES = ("ml-100k.inter", "ml-100k.item")

TERMS = """\
MovieLens 100K is data of the GroupLens research group, University of Minnesota. Its terms:
  - it is for research; commercial use needs GroupLens' permission
  - don't pass it on to others without permission
  - don't suggest that GroupLens or the university endorses what you do with it
  - it comes as it is, without any warranty
  - work that uses it cites: F. M. Harper and J. A. Konstan. 2015. The MovieLens Datasets:
    History and Context. ACM Transactions on Interactive Intelligent Systems 5, 4, Article 19.
The terms in full: https://files.grouplens.org/datasets/movielens/ml-100k-README.txt"""


def fetch_ml_100k(out: Path) -> Path:
    """Puts ml-100k.inter and ml-100k.item into the folder `out`, prints the terms, returns `out`.

    Files that are there are kept. Raises ValueError if the wheel can't be downloaded.
    """
    print(TERMS)
    if all((out / name).is_file() for name in FILES):
        log.info("%s holds MovieLens 100K already", out)
        return out
    check_output(out / FILES[0])
    with tempfile.TemporaryDirectory() as folder:
        extract(_download(Path(folder)), out)
    log.info("MovieLens 100K: %s", out)
    return out


def extract(wheel: Path, out: Path) -> None:
    """Unpacks the two files of the data set, and nothing else, from the wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in FILES:
                content = archive.read(f"{FOLDER}/{name}")
                with new_file(out / name) as beside:
                    beside.write_bytes(content)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{wheel.name} is not the wheel that was expected: {error}") from error


def _download(folder: Path) -> Path:
    """Downloads the wheel with the user's own pip settings."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), WHEEL]
    log.info("downloading %s (2 MB)", WHEEL)
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        raise ValueError(
            f"pip could not download {WHEEL}. Check the network and pip's index settings "
            f"(`pip config list`), or put {' and '.join(FILES)} into the folder yourself. "
            f"pip said:\n{result.stderr.strip()[-1000:]}"
        )
    return wheels[0]
