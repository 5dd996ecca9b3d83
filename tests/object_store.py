"""An S3 server on a free port of this machine: moto, which keeps objects in memory and answers as S3 does."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from moto.server import ThreadedMotoServer

BUCKET = "pictures"


@dataclass(frozen=True)
class ObjectStore:
    """A running server with one bucket."""

    endpoint: str
    """`http://127.0.0.1:PORT`."""

    def uri(self, key: str, bucket: str = BUCKET) -> str:
        """Address of an object, the endpoint included."""
        return f"s3://{bucket}/{key}?endpoint_override={self.endpoint}"

    def upload(self, folder: Path) -> None:
        """Put every file below a folder into the bucket, by its path there."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self._ask("PUT", f"{BUCKET}/{path.relative_to(folder)}", path.read_bytes())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Refuse all keys, for none was ever given out."""
        self._ask("POST", "moto-api/reset-auth", b"0")
        try:
            yield
        finally:
            self._ask("POST", "moto-api/reset-auth", b"1000000000")

    def _ask(self, method: str, path: str, body: bytes = b"") -> None:
        # As urllib calls it otherwise, the server takes the body for a form.
        headers = {"Content-Type": "application/octet-stream"}
        with urlopen(Request(f"{self.endpoint}/{path}", data=body, method=method, headers=headers), timeout=20):
            pass


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Run a server, with keys that it takes in the environment."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    store = ObjectStore(f"http://{host}:{port}")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", "tester")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        # Otherwise the library asks the machine's own cloud for keys, where it is on one.
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        store._ask("PUT", BUCKET)
        try:
            yield store
        finally:
            server.stop()
