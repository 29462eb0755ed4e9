"""How soon is the page seen, and how much is sent for it?

    python -m benchmarks.serving.page [--rounds 30]

Debian's Chromium opens the page of a server with the shipped bundles, each time as somebody who
was never there: no cache, no cookies. The figures are the first contentful paint as the browser
says it, from the start of the navigation, median and worst over the rounds; and the bytes of all
answers, heads included, until nothing is loaded any more, the list of the bundles among them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from benchmarks.serving.running import ROOT, add_options, serving

PAINT = """() => new Promise(tell => new PerformanceObserver(list => {
  const found = list.getEntries().find(one => one.name === "first-contentful-paint");
  if (found) tell(found.startTime);
}).observe({type: "paint", buffered: true}))"""


def main() -> None:
    """Print the rounds, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--rounds", type=int, default=30)
    add_options(parser)
    options = parser.parse_args()
    bundles = sorted((ROOT / "bundles").iterdir())
    with serving(bundles, options) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        address = f"http://127.0.0.1:{server.port}/"
        visit(browser, address)  # the first tab of a browser is slower than all others
        rounds = [
            visit(browser, address) for _ in range(max(2, round(options.rounds * options.scale)))
        ]
        version = browser.version
        browser.close()
    paints, sizes = ([one[name] for one in rounds] for name in ("paint_ms", "bytes"))
    print(f"first paint: {sorted(paints)} ms; bytes: {max(sizes)}")
    line = {"benchmark": "serving.page", "chromium": version, "rounds": len(rounds)}
    figures = {
        "paint_ms": round(statistics.median(paints), 1),
        "worst_paint_ms": max(paints),
        "bytes": max(sizes),
        "requests": rounds[0]["requests"],
    }
    print(json.dumps(line | {"scale": options.scale} | figures))


def visit(browser: Browser, address: str) -> dict[str, Any]:
    """One visit by somebody new."""
    context = browser.new_context()
    page = context.new_page()
    sizes: list[int] = []
    network = context.new_cdp_session(page)
    network.send("Network.enable")
    network.on("Network.loadingFinished", lambda told: sizes.append(told["encodedDataLength"]))
    page.goto(address, wait_until="networkidle")
    paint = page.evaluate(PAINT)
    context.close()
    return {"paint_ms": round(paint, 1), "bytes": sum(sizes), "requests": len(sizes)}


if __name__ == "__main__":
    main()
