"""The run's page kept up to date by the driver: no worker waits for it, and no slip of a page ends a run."""

import logging
import threading
from pathlib import Path

from nigaoe.train.watching.history import METRICS_FILE
from nigaoe.train.watching.page import write_run_page

log = logging.getLogger(__name__)

EVERY_S = 15.0


class PageKeeper:
    """Writes `report.html` whenever there are new figures, until closed, and once more then."""

    def __init__(self, out: Path, every_s: float = EVERY_S) -> None:
        self._out, self._every_s, self._stop = out, every_s, threading.Event()
        self._seen = -1
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> "PageKeeper":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=60)
        self._write()

    def _keep(self) -> None:
        while not self._stop.wait(self._every_s):
            self._write()

    def _write(self) -> None:
        try:
            size = (self._out / METRICS_FILE).stat().st_size
            if size != self._seen:
                write_run_page(self._out)
                self._seen = size
        except FileNotFoundError:
            # Nothing has been measured yet.
            return
        except OSError as error:
            log.warning("the page of %s could not be written (%s)", self._out, error.strerror or error)
        except Exception:
            log.warning("the page of %s could not be written", self._out, exc_info=True)
