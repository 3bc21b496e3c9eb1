"""Cut recordings (bags, videos, image folders) into shards to train on.

    python -m training.make_shards RECORDING [RECORDING ...] --out runs/recordings --height 96 --width 128

Depth and poses are taken along where a recording has them. What cannot be read is skipped, named and counted.
"""

from __future__ import annotations

import argparse
import itertools
import logging
from pathlib import Path

from omnistream_core.errors import OmniStreamError
from omnistream_core.pretraining.data import BadDataError, Ledger, write_shard
from omnistream_core.sources import open_source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--height", type=int, default=96, help="pixels")
    parser.add_argument("--width", type=int, default=128, help="pixels")
    parser.add_argument("--frames", type=int, default=5000, help="at most so many of a recording")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    ledger = Ledger()
    for number, recording in enumerate(arguments.recordings):
        path = arguments.out / f"{number:05d}-{recording.stem}.safetensors"
        try:
            with open_source(recording) as source:
                frames = itertools.islice(source, arguments.frames)
                count = write_shard(path, frames, (arguments.height, arguments.width), ledger)
                for reason in source.skipped.elements():
                    ledger.bad(recording.name, reason)
        except BadDataError:
            raise
        except OmniStreamError as error:
            logging.warning("skipped: %s", error)
            continue
        logging.info("%s: %d frames", path.name, count)
    for name, reason in ledger.skipped:
        logging.warning("skipped: %s: %s", name, reason)


if __name__ == "__main__":
    main()
