"""A program for tests: says that it began, and saves when it is told to stop."""

import signal
import sys
import time
from pathlib import Path


def main(folder: Path) -> None:
    """Writes `began`, waits for SIGTERM, prints much, and writes `saved`."""
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    (folder / "began").touch()
    end = time.monotonic() + 60
    while not told and time.monotonic() < end:
        time.sleep(0.05)
    for _ in range(100):
        print("saving " * 1000, flush=True)
    (folder / "saved").write_text("in time" if told else "too late")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
