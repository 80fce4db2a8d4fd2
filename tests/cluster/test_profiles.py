"""Every profile plans the tiny study whole: no cluster is needed to know that it is understood."""

from __future__ import annotations

import importlib.util
import re
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.workspace import EVERYTHING, Workspace, save_tiny, tiny_llama, tiny_params

PLUGINS = {
    "slurm": ["snakemake_executor_plugin_slurm"],
    "cluster-generic": ["snakemake_executor_plugin_cluster_generic"],
    "kubernetes": ["snakemake_executor_plugin_kubernetes", "snakemake_storage_plugin_s3"],
}


class EmptyBucket(BaseHTTPRequestHandler):
    """A storage server that has nothing."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def empty_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), EmptyBucket)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("SNAKEMAKE_STORAGE_S3_ENDPOINT_URL", url)
    for name in ("ACCESS_KEY", "SECRET_KEY"):
        monkeypatch.setenv(f"SNAKEMAKE_STORAGE_S3_{name}", "nobody")
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("profile", PLUGINS)
def test_the_study_is_planned(profile: str, workspace: Workspace, empty_bucket: None) -> None:
    for plugin in PLUGINS[profile]:
        if importlib.util.find_spec(plugin) is None:
            pytest.skip(f"{plugin} is not installed")
    assert workspace.planned("--workflow-profile", f"profiles/{profile}") == EVERYTHING


def test_many_layers_are_few_submissions(workspace: Workspace) -> None:
    params = tiny_params()
    params["layer_sets"]["one"] = "all"
    workspace.write_params(params)
    shutil.rmtree(workspace.folder / "inputs/tiny")
    save_tiny(tiny_llama(32), workspace.folder / "inputs/tiny")
    done = workspace.snakemake("-n", "--workflow-profile", "profiles/slurm")
    shown = (done.stdout + done.stderr).split("Job stats:")[1]
    jobs = Counter(re.findall(r"^ *(?:local)?rule (\w+):$", shown, re.MULTILINE))
    alone = jobs["fetch_model"] + jobs["calibrate"]
    assert jobs.total() - jobs["all"] == 2 * 32 + 3 + 3 + alone + 4
    assert alone + shown.count(" Group job ") == 10
