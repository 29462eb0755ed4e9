"""The image that serves, and compose around it: built and run for real by `make test-containers`.

What the files say is in ``test_compose.py``; training in a container in
``test_containers_retrain.py``.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from models.bundle import read_bundle
from models.manifest import Golden, Manifest
from tests.helpers.containers import BUNDLE, Compose, Engine, free_port, guide_commands
from tests.helpers.service_fixtures import ROOT, RawConnection, picture, wait_until

pytest_plugins = ("tests.helpers.container_fixtures",)
pytestmark = pytest.mark.timeout(600)

HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
IMAGE = "liere-serve"
GOLDEN = f"{BUNDLE}/golden/0.png"
#: Runs in a second container: posts a picture to the service by its name, prints the answer.
CLIENT = f"""
import pathlib, urllib.request
url, media = "http://serve:8000/v1/classify/image", pathlib.Path("{GOLDEN}").read_bytes()
print(urllib.request.urlopen(url, media, timeout=30).read().decode())
"""
#: What process 1 and its children may do.
STATUS = """
import json, pathlib
keys = "Name Uid Gid CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp State".split()
for path in pathlib.Path("/proc").glob("[0-9]*/status"):
    lines = dict(line.split(":", 1) for line in path.read_text().splitlines())
    print(json.dumps({key: lines[key].split() for key in keys}))
"""
WRITE = """
import pathlib
for folder in ("/", "/app", "/app/bundles", "/app/service", "/venv", "/usr", "/etc", "/tmp"):
    try:
        (pathlib.Path(folder) / "probe").write_text("x")
        print(folder)
    except OSError:
        pass
"""
#: What a server has no use for, and whoever breaks into it would.
ABSENT = ("torch", "onnx", "onnxscript", "pip", "setuptools", "ensurepip", "training", "export")
TOOLS = ("gcc", "cc", "g++", "c++", "clang", "ld", "make", "pip", "pip3", "curl", "wget")


@pytest.fixture(scope="module")
def server(compose: Compose) -> Compose:
    """The service and Prometheus, as `docker-compose up -d` starts them."""
    compose.up()
    return compose


@pytest.fixture
def alone(engine: Engine) -> Iterator[tuple[str, int]]:
    """The image without compose, as locked up as `run` can: the container and its port.

    It takes requests for a second after SIGTERM, not five: an upload may stand still no longer.
    """
    port = free_port()
    publish = ("--publish", f"127.0.0.1:{port}:8000", "--env", "LIERE_OPEN=true")
    brief = ("--env", "LIERE_DRAIN_DELAY=1")
    container = engine.start(*HARDENED, "--tmpfs", "/tmp", *publish, *brief, IMAGE)
    yield container, port
    engine("rm", "--force", container)


def golden_label() -> str:
    """What torch said of the golden picture."""
    manifest = read_bundle(ROOT / BUNDLE).manifest
    return label_of(manifest, next(one for one in manifest.goldens if GOLDEN.endswith(one.file)))


def label_of(manifest: Manifest, golden: Golden) -> str:
    """What torch said of a golden input at the first grid."""
    first = golden.logits[manifest.grids[0].grid]
    return manifest.labels[first.index(max(first))]


def top_label(answer: str) -> str:
    label: str = json.loads(answer)["results"][0]["predictions"][0]["label"]
    return label


def post(url: str, headers: dict[str, str] | None = None) -> httpx.Response:
    media = (ROOT / GOLDEN).read_bytes()
    return httpx.post(f"{url}/v1/classify/image", content=media, headers=headers, timeout=30)


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def listens(port: int) -> bool:
    """Whether anything is said at all: a server that ends says 503 before it stops listening."""
    try:
        httpx.get(f"http://127.0.0.1:{port}/health/live", timeout=5)
    except httpx.TransportError:
        return False
    return True


# --- the image alone -------------------------------------------------------------------------


def test_locked_up_container_answers_pictures_clips_and_scans(alone: tuple[str, int]) -> None:
    """Read-only root, no capability, no new privilege: every bundle answers what torch said."""
    _, port = alone
    wait_until(lambda: answers(port), "the server to be ready", 60)
    modalities = set()
    for folder in sorted((ROOT / "bundles").iterdir()):
        bundle = read_bundle(folder)
        golden, modality = bundle.manifest.goldens[0], bundle.manifest.modality
        where = f"http://127.0.0.1:{port}/v1/classify/{modality}?bundle={folder.name}"
        answer = httpx.post(where, content=bundle.path(golden.file).read_bytes(), timeout=30)
        assert answer.status_code == 200
        assert top_label(answer.text) == label_of(bundle.manifest, golden)
        modalities.add(modality)
    assert modalities == {"image", "video", "volume"}


def test_container_has_the_pages_and_all_their_files(alone: tuple[str, int]) -> None:
    """What / and /docs ask for is in the image."""
    _, port = alone
    wait_until(lambda: answers(port), "the server to be ready", 60)
    for path in ("/", "/docs"):
        page = httpx.get(f"http://127.0.0.1:{port}{path}", timeout=30)
        files = re.findall(r'(?:src|href)="(page/[^"]+)"', page.text)
        assert page.status_code == 200
        assert len(files) > 2
        for file in files:
            found = httpx.get(f"http://127.0.0.1:{port}/{file}", timeout=30)
            assert found.status_code == 200, file


def test_container_without_keys_stays_closed(engine: Engine) -> None:
    """Who says nothing about keys gets no server, and the way to one."""
    done = engine("run", "--rm", *HARDENED, IMAGE, check=False)
    assert done.returncode == 2
    assert "--keys-file" in done.stderr


def test_stop_lets_requests_finish(engine: Engine, alone: tuple[str, int]) -> None:
    """Under load: what is half sent is answered, nothing breaks off before, exit status 0."""
    container, port = alone
    wait_until(lambda: answers(port), "the server to be ready", 60)
    statuses: list[int] = []
    stopping = threading.Event()

    def load() -> None:
        while True:
            try:
                statuses.append(post(f"http://127.0.0.1:{port}").status_code)
            except httpx.TransportError:
                if not stopping.is_set():
                    raise
                return  # nobody listens, or a connection was closed before its request came

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    media = picture()
    with RawConnection(port) as connection:
        connection.send_head(f"Content-Length: {len(media)}")
        connection.send(media[:20])
        wait_until(lambda: len(statuses) > 20, "some load")
        stopping.set()
        stop = threading.Thread(target=engine, args=("stop", "--time", "30", container))
        stop.start()
        wait_until(lambda: not listens(port), "the server to stop listening")
        connection.send(media[20:])
        status, headers, _ = connection.answer()
    for thread in (stop, *threads):
        thread.join()
    assert (status, headers["connection"]) == (200, "close")
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) > 20
    assert engine.inspect(container, "{{.State.ExitCode}}") == "0"


def test_stop_before_the_server_listens_ends_it(engine: Engine, alone: tuple[str, int]) -> None:
    """A signal that comes while Python still imports is not lost, as it would be on process 1."""
    container, _ = alone
    engine("stop", "--time", "30", container)
    assert engine.inspect(container, "{{.State.ExitCode}}") in {"0", "143"}


def test_images_are_tagged_with_the_version(engine: Engine, repo_root: Path) -> None:
    """The version of the project names the image that was built last, and its label says it."""
    project = tomllib.loads((repo_root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    label = '{{index .Config.Labels "org.opencontainers.image.version"}}'
    for name in ("liere-serve", "liere-train", "liere-proxy"):
        tagged = f"{name}:{project['version']}"
        assert (
            engine("image", "inspect", "--format", label, tagged).stdout.strip()
            == (project["version"])
        )
        identity = ("image", "inspect", "--format", "{{.Id}}")
        assert engine(*identity, tagged).stdout == engine(*identity, f"{name}:latest").stdout


#: Its own command line says the name too, in two words.
COUNT = """
import pathlib
lines = [path.read_bytes() for path in pathlib.Path("/proc").glob("[0-9]*/cmdline")]
print(sum(b"decode" b".worker" in line for line in lines))
"""


def test_limit_of_cpus_is_that_of_the_decode_workers(engine: Engine) -> None:
    """A quota of one CPU starts two workers, one more than CPUs, however many the host has."""
    port = free_port()
    options = (*HARDENED, "--tmpfs", "/tmp", "--cpus", "1", "--env", "LIERE_OPEN=true")
    container = engine.start(*options, "--publish", f"127.0.0.1:{port}:8000", IMAGE)
    try:
        wait_until(lambda: answers(port), "the server to be ready", 120)
        assert engine.python(container, COUNT) == "2"
    finally:
        engine("rm", "--force", container)


def test_bundles_that_are_mounted_late_are_waited_for(engine: Engine, tmp_path: Path) -> None:
    """An empty folder ends no container: it says so, tries again, and serves when they came."""
    (tmp_path / "bundles").mkdir()
    port = free_port()
    options = (*HARDENED, "--tmpfs", "/tmp", "--env", "LIERE_OPEN=true")
    mount = ("--volume", f"{tmp_path}/bundles:/app/bundles:ro")
    container = engine.start(*options, *mount, "--publish", f"127.0.0.1:{port}:8000", IMAGE)
    try:
        wait_until(lambda: "trying again in 2 s" in engine.logs(container), "a second attempt", 60)
        shutil.copytree(ROOT / BUNDLE, tmp_path / BUNDLE)
        wait_until(lambda: answers(port), "the server to be ready", 60)
        assert engine.inspect(container, "{{.RestartCount}}") == "0"
    finally:
        engine("rm", "--force", container)


# --- compose ---------------------------------------------------------------------------------


def test_published_port_answers(server: Compose) -> None:
    """The host gets the answer that torch gave."""
    answer = post(server.url)
    assert answer.status_code == 200
    assert top_label(answer.text) == golden_label()


def test_second_container_reaches_it_by_name(server: Compose, engine: Engine) -> None:
    """On the network of compose the service is called serve."""
    network = ("--network", f"{server.project}_default", "--entrypoint", "python")
    done = engine("run", "--rm", *HARDENED, *network, IMAGE, "-c", CLIENT)
    assert top_label(done.stdout) == golden_label()


def test_no_process_has_a_privilege(server: Compose, engine: Engine) -> None:
    """Process 1 and all others: not root, no capability, none to gain, behind seccomp."""
    lines = engine.python(server.container("serve"), STATUS).splitlines()
    processes = [json.loads(line) for line in lines]
    assert {"tini", "python"} <= {process["Name"][0] for process in processes}
    for process in processes:
        assert process["Uid"] == process["Gid"] == ["10001"] * 4
        for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(process[capabilities][0], 16) == 0
        assert process["NoNewPrivs"] == ["1"]
        assert process["Seccomp"] == ["2"]


def test_only_tmp_is_writable(server: Compose, engine: Engine) -> None:
    """No file of the image or of the bundles can be changed from inside."""
    assert engine.python(server.container("serve"), WRITE) == "/tmp"


def test_code_belongs_to_root(engine: Engine) -> None:
    """Even with a writable root the server could not change its own code."""
    done = engine("run", "--rm", "--entrypoint", "python", IMAGE, "-c", WRITE)
    assert done.stdout.split() == ["/tmp"]


def test_image_holds_nothing_to_build_with(server: Compose, engine: Engine) -> None:
    """No torch, no onnx, no compiler, no pip, and none of the rooms that train and export."""
    code = f"""
import importlib.util, shutil
print(*[name for name in {ABSENT} if importlib.util.find_spec(name)])
path = "/usr/local/bin:/usr/bin:/usr/sbin:/venv/bin"
print(*[name for name in {TOOLS} if shutil.which(name, path=path)])
"""
    assert engine.python(server.container("serve"), code) == ""


def test_health_check_turns_healthy(server: Compose, engine: Engine) -> None:
    """The engine sees that the server is ready."""
    container = server.container("serve")
    wait_until(lambda: engine.healthy(container), "the health check", 60)


def test_killed_decode_worker_leaves_no_zombie(server: Compose, engine: Engine) -> None:
    """A decode worker that dies is replaced and reaped, and the server goes on answering."""
    container = server.container("serve")
    victim = """
import os, pathlib
for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    if b"decode" b".worker" in path.read_bytes():
        os.kill(int(path.parent.name), 9)
        break
else:
    raise SystemExit("no decode worker")
"""
    engine.python(container, victim)
    restarts = "liere_decode_worker_restarts_total 1.0"
    wait_until(lambda: restarts in httpx.get(f"{server.url}/metrics").text, "a new worker")
    states = [json.loads(line)["State"] for line in engine.python(container, STATUS).splitlines()]
    assert "Z" not in {state[0] for state in states}
    assert post(server.url).status_code == 200


def test_prometheus_scrapes_the_service(server: Compose) -> None:
    """A request that was answered can be counted in Prometheus."""
    assert post(server.url).status_code == 200
    url = f"http://127.0.0.1:{server.prometheus_port}/api/v1/query"

    def counted() -> bool:
        try:
            found = httpx.get(url, params={"query": 'liere_requests_total{code="200"}'}).json()
        except httpx.TransportError:
            return False
        return any(float(row["value"][1]) > 0 for row in found["data"]["result"])

    wait_until(counted, "Prometheus to count requests", 60)


def test_prometheus_is_healthy(server: Compose, engine: Engine) -> None:
    """Its health check in docker-compose.yml is a command that Prometheus has."""
    container = server.container("prometheus")
    wait_until(lambda: engine.healthy(container), "the health check", 60)


def test_promtool_accepts_the_configuration(
    engine: Engine, prometheus: str, repo_root: Path
) -> None:
    """deploy/prometheus has no key and no rule that Prometheus does not know."""
    mount = f"{repo_root}/deploy/prometheus:/etc/prometheus:ro"
    words = ("--volume", mount, "--entrypoint", "promtool", prometheus)
    engine("run", "--rm", *words, "check", "config", "/etc/prometheus/prometheus.yml")


def test_missing_keys_serve_nobody(server: Compose) -> None:
    """Without the file the service waits and says which one; no folder takes the file's place."""
    keys = server.folder / "deploy/keys/keys.txt"
    with server.files("docker-compose.yml", "deploy/keys.yml", "debian.yml"):
        server("up", "--detach", "serve")
        told = "keys_file /run/keys/keys.txt: it cannot be read: No such file or directory"
        wait_until(lambda: told in server("logs", "serve").stdout, "the complaint", 60)
    assert not server.ready()
    assert not keys.exists()


def test_keys_close_it_to_strangers(server: Compose, engine: Engine, repo_root: Path) -> None:
    """The guide's commands for keys: 401 without one, 200 with it; health and metrics stay open."""
    commands = guide_commands(repo_root, "Containers")
    make_key, make_readable, start = commands[commands.index("docker-compose up -d") + 2 :]
    made = server.shell(make_key.replace("docker ", f"{engine.name} ", 1)).stderr
    (key,) = re.findall(r"^key: +(\S+)$", made, flags=re.M)
    server.shell(make_readable)
    server.shell(start.replace("up -d", "-f debian.yml up -d"))
    wait_until(server.ready, "the server to be ready", 120)
    assert post(server.url).status_code == 401
    assert post(server.url, {"Authorization": f"Bearer {key[:-1]}"}).status_code == 401
    assert post(server.url, {"Authorization": f"Bearer {key}"}).status_code == 200
    assert httpx.get(f"{server.url}/metrics").status_code == 200
    assert httpx.get(f"{server.url}/v1/bundles").status_code == 401
