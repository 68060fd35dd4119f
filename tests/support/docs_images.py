"""Makes the images of docs/web.md anew, from a real fleet, a stand-in Hub and a real Chromium. From the repository's root::

    cd tests && ../.venv/bin/python -m support.docs_images /tmp/demo ../docs/images

The first folder is made, shown in the images, and left; look at what comes out before it is committed.
"""

from __future__ import annotations

import argparse
import io
import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from PIL import Image

from shoal.common.views import JobStatus

from .browser import Browser, chromium
from .contents import ContentLike, SyntheticFile
from .dataset_files import write_csv
from .fleet import Fleet, free_port
from .hub import StandInHub, hub_in_thread
from .hub_repo import HubRepo
from .image_site import ImageSite, Reply, images

MIB = 1 << 20
AGENTS = ("rack1-node01", "rack1-node02", "rack2-node07")
QWEN = "acme/Qwen3-8B-Instruct-GGUF"
SLOWLY = 18 * MIB  # bytes/s, while something is to be seen under way
WIDE_PX, GUTTER_PX, PHONE_PX, PHONE_HEIGHT_PX, GAP_PX = 1280, 15, 390, 1000, 10
COLLECT = {"ALLOW_PRIVATE_ADDRESSES": "true", "BACKOFF_INITIAL": "1s", "HOST_PATIENCE": "5s", "IMAGE_WORKERS": "1"}


def qwen_files() -> dict[str, ContentLike]:
    """A repo with what such a repo has: quantizations, one of them in shards, a projector, and small files."""
    seed = itertools.count(1)
    sizes = {"F16": 320, "IQ2_XS": 52, "Q6_K": 130, "Q8_0": 180}
    name = "Qwen3-8B-Instruct"
    files: dict[str, ContentLike] = {
        f"{name}-{label}.gguf": SyntheticFile(size * MIB, seed=next(seed)) for label, size in sizes.items()
    }
    for number, size in enumerate((40, 41, 22), 1):
        files[f"{name}-Q4_K_M-{number:05}-of-00003.gguf"] = SyntheticFile(size * MIB, seed=next(seed))
    files[f"mmproj-{name}-F16.gguf"] = SyntheticFile(12 * MIB, seed=next(seed))
    return files | {"README.md": b"# Qwen3\n" * 200, "LICENSE": b"Apache-2.0\n" * 900, "config.json": b"{}"}


def repos() -> list[HubRepo]:
    """The stand-in Hub's."""

    def gguf(repo_id: str, *sizes: tuple[str, int]) -> HubRepo:
        name = repo_id.partition("/")[2].removesuffix("-GGUF")
        files = {f"{name}-{label}.gguf": SyntheticFile(size * MIB, seed=size) for label, size in sizes}
        return HubRepo(repo_id, files)

    weights = {"model.safetensors": SyntheticFile(50 * MIB, seed=90), "tokenizer.json": SyntheticFile(MIB, seed=91)}
    return [
        HubRepo(QWEN, qwen_files()),
        gguf("acme/tiny-GGUF", ("Q4_K_M", 4), ("Q8_0", 5)),
        gguf("bartowski/gemma-3-4b-it-GGUF", ("Q4_K_M", 20)),
        gguf("bartowski/Mistral-Nemo-12B-GGUF", ("Q5_K_M", 31)),
        HubRepo("bigcode/starcoder2-3b", weights),
    ]


class Camera:
    """Takes the pictures of one site."""

    def __init__(self, browser: Browser, base: str, to: Path) -> None:
        self.browser = browser
        self.base = base
        self._to = to
        browser.driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})

    def shot(self, width: int, height: int) -> Image.Image:
        """What is shown now. Pixels."""
        self.browser.size(width, height)
        self.browser.run("window.scrollTo(0, 0); document.activeElement?.blur()")
        return Image.open(io.BytesIO(self.browser.driver.get_screenshot_as_png())).convert("RGB")

    def wide(self, name: str, height: int) -> None:
        """Into a file of its own, without the room that a page leaves for a scroll bar."""
        self.save(name, self.shot(WIDE_PX, height).crop((0, 0, WIDE_PX - GUTTER_PX, height)))

    def phone(self) -> Image.Image:
        """One of the panes of the phone's picture."""
        return self.shot(PHONE_PX, PHONE_HEIGHT_PX)

    def save(self, name: str, picture: Image.Image) -> None:
        """Small: a page has few colours."""
        picture.quantize(256, dither=Image.Dither.NONE).save(self._to / f"{name}.png", optimize=True)

    def dark(self) -> None:
        """From now on."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark"}]
        self.browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})

    def look_inside(self) -> None:
        """The repo on the page that downloads begin on."""
        self.browser.open(f"{self.base}/")
        self.browser.paste("#uri", QWEN)
        self.browser.says("#found-name", QWEN)


def side_by_side(panes: Sequence[Image.Image]) -> Image.Image:
    """Panes of one size, with white between them."""
    width, height = panes[0].size
    picture = Image.new("RGB", ((width + GAP_PX) * len(panes) - GAP_PX, height), "white")
    for number, pane in enumerate(panes):
        picture.paste(pane, (number * (width + GAP_PX), 0))
    return picture


def copied_to_each(fleet: Fleet, work: Path) -> None:
    """A copy for every agent, each below a root of its own; then they share this machine's folders."""
    for name in AGENTS:
        (work / "roots" / name).mkdir(parents=True)
        fleet.add_agent(name, "--root", str(work / "roots" / name))
    fleet.until_alive(*AGENTS)
    job = fleet.submit(QWEN, "--include", "*Q8_0*", "--deliver", "replicate", "--to", "/copies")
    fleet.ended(job, timeout_s=120)
    for name in AGENTS:
        fleet.agent(name).terminate()
        del fleet._agents[name]
    fleet.start(*AGENTS)


def filled(fleet: Fleet, site: ImageSite, work: Path) -> str:
    """What there is to be seen: models, one of them outdated, and a run that collected images. Returns the run's job."""
    models = work / "models"
    copied_to_each(fleet, work)
    for repo_id, *more in (
        ("acme/tiny-GGUF",),
        ("bartowski/gemma-3-4b-it-GGUF",),
        ("bartowski/Mistral-Nemo-12B-GGUF",),
        ("bigcode/starcoder2-3b",),
        (QWEN, "--include", "*Q6_K*", "--include", "*Q4_K_M*"),
    ):
        name = repo_id.partition("/")[2].removesuffix("-GGUF").lower()
        fleet.ended(fleet.submit(repo_id, *more, "--to", models / name), timeout_s=120)
    urls: list[str] = []
    for count in (9, 10, 9, 8):
        host = site.host(images)
        urls += [host.url(f"/{number}.jpg") for number in range(count)]
    gone, other = site.host(lambda path, _: Reply(status=404)), site.host(lambda path, _: Reply(body=b"<html>"))
    urls += [gone.url(f"/{number}.jpg") for number in range(7)] + [other.url(f"/{number}.jpg") for number in range(4)]
    write_csv(work / "t.csv", urls)
    fleet.run("collect", work / "t.csv", "--to", work / "collected", timeout_s=120)
    return next(each["job_id"] for each in fleet.ask("jobs")["jobs"] if each["delivery"] == "dataset")


def take(camera: Camera, fleet: Fleet, hub: StandInHub, run: str, models: Path, tiny: HubRepo) -> None:
    """All pictures."""
    browser = camera.browser
    hub.faults.total_rate = SLOWLY
    job = fleet.submit(QWEN, "--include", "*F16*", "--include", "*Q4_K_M*", "--to", models / "qwen3-large")
    camera.browser.open(f"{camera.base}/activity?job={job}")
    fleet.until_arrived(job, 250 * MIB, timeout_s=120)
    browser.until("speeds of all agents", lambda: browser.text("#job section[aria-label=Agents]").count("MiB/s") >= 3)
    camera.wide("job", 1100)
    browser.open(f"{camera.base}/fleet")
    browser.until("speeds of all agents", lambda: browser.text("#agents").count("MiB/s") == len(AGENTS))
    camera.wide("fleet", 1000)
    camera.look_inside()
    camera.wide("download", 1180)
    hub.faults.total_rate = None
    fleet.ended(job, JobStatus.DONE, timeout_s=120)
    tiny.commit({"tiny-Q4_K_M.gguf": SyntheticFile(4 * MIB, seed=77)})
    browser.open(f"{camera.base}/library")
    browser.click("#check")
    browser.until("all answers", lambda: "Not asked" not in browser.text("main") and "Update" in browser.text("main"))
    browser.open(f"{camera.base}/library")  # without the words that it can be updated
    browser.says("main", "Update")
    camera.wide("library", 760)
    camera.dark()
    panes: list[Image.Image] = []
    for page, words in (
        (f"/activity?job={job}", "All of it is there"),
        ("/library", QWEN),
        (f"/collections?run={run}", "Outcome"),
    ):
        browser.size(PHONE_PX, PHONE_HEIGHT_PX)
        browser.open(f"{camera.base}{page}")
        browser.says("main", words)
        panes.append(camera.phone())
    camera.look_inside()
    camera.save("phone", side_by_side([camera.phone(), *panes]))


def main() -> None:
    """Make them."""
    parser = argparse.ArgumentParser(description="Make the images of docs/web.md.")
    parser.add_argument("work", type=Path, help="a new folder, whose name is seen in the images")
    parser.add_argument("to", type=Path, help="where the images go")
    options = parser.parse_args()
    options.work.mkdir()
    port, there = free_port(), repos()
    web = {
        "SHOAL_WEB_LISTEN": f"127.0.0.1:{port}",
        "SHOAL_LIBRARY_ROOTS": str(options.work / "models"),
        "SHOAL_LIBRARY_REFRESH": "0s",
    }
    environ = {f"SHOAL_COLLECT_{name}": value for name, value in COLLECT.items()}
    with ExitStack() as stack:
        hub = stack.enter_context(hub_in_thread(there))
        site = stack.enter_context(ImageSite())
        fleet = stack.enter_context(
            Fleet(options.work / "fleet", endpoint=hub.url, environ=environ, coordinator_environ=web)
        )
        fleet.start()
        run = filled(fleet, site, options.work)
        camera = Camera(stack.enter_context(chromium()), f"http://127.0.0.1:{port}", options.to)
        take(camera, fleet, hub, run, options.work / "models", there[1])


if __name__ == "__main__":
    main()
