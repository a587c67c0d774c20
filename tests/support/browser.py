"""A headless Chromium that tests drive as a person would, by its own DevTools protocol: keys, a drop of files, what is on the page.

Without a Chromium the tests that want one are skipped; ``MONAI_TESTS_CHROMIUM`` names a program that is not found by itself.
Source: https://chromedevtools.github.io/devtools-protocol/.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from websockets.sync.client import ClientConnection, connect

PROGRAMS: Final = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
SEEN_SECONDS: Final = 120.0
"""On a machine that is busy; what is waited for mostly comes at once."""
KEYS: Final = {"Tab": (9, ""), "Enter": (13, "\r"), " ": (32, " ")}
_MIDDLE: Final = "((box) => [box.left + box.width / 2, box.top + box.height / 2])(each.getBoundingClientRect())"
_LISTENING: Final = re.compile(r"DevTools listening on ws://127\.0\.0\.1:(\d+)/")


class ProtocolError(AssertionError):
    """The browser did not do what it was asked for."""


class Page:
    """One page. ``view`` sets how it is looked at before it is opened."""

    def __init__(self, line: ClientConnection) -> None:
        self._line, self._asked = line, 0
        self._events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "DOM", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One call of the protocol."""
        self._asked += 1
        self._line.send(json.dumps({"id": self._asked, "method": method, "params": parameters}))
        while (said := json.loads(self._line.recv(SEEN_SECONDS))).get("id") != self._asked:
            self._events.append(said)
        if "error" in said:
            raise ProtocolError(f"{method}: {said['error'].get('message', '')}")
        return dict(said["result"])

    def event(self, name: str) -> dict[str, Any]:
        """The parameters of the first event of a name that has come or comes."""
        while True:
            for said in self._events:
                if said.get("method") == name:
                    self._events.remove(said)
                    return dict(said["params"])
            self._events.append(json.loads(self._line.recv(SEEN_SECONDS)))

    def complaints(self) -> list[str]:
        """What its console has as errors so far: scripts that broke, what they report, and what the browser refused or could not load."""
        self.js("0")  # what was said before has come by then
        found = []
        for event in self._events:
            said = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                found.append(json.dumps(said["exceptionDetails"])[:500])
            elif event["method"] == "Runtime.consoleAPICalled" and said["type"] in ("error", "assert"):
                found.append(json.dumps([each.get("value", each.get("description")) for each in said["args"]])[:500])
            elif event["method"] == "Log.entryAdded" and said["entry"]["level"] == "error":
                found.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")
        return found

    def js(self, expression: str) -> Any:
        """What an expression is on the page, once it has come."""
        said = self.ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def until(self, expression: str) -> Any:
        """Wait until an expression is true on the page; its value."""
        deadline = time.monotonic() + SEEN_SECONDS
        script = f"(() => {{ try {{ const found = {expression}; return found instanceof Element || found }} catch {{ return false }} }})()"
        while not (found := self._meanwhile(script)):
            assert time.monotonic() < deadline, f"never true: {expression}\n{self._meanwhile('document.body.innerText')}"
            time.sleep(0.05)
        return found

    def _meanwhile(self, script: str) -> Any:
        """Like ``js``, where the page may be about to be another."""
        try:
            return self.js(script)
        except ProtocolError:
            return None

    def shows(self, text: str) -> None:
        """Wait until a text is on the page."""
        self.until(f"document.body.innerText.includes({json.dumps(text)})")

    def view(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """As on a screen or a phone, by day or by night."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def open(self, address: str) -> None:
        """Go there."""
        self.ask("Page.navigate", url=address)
        self.until(f"location.href.startsWith({json.dumps(address)}) && document.readyState === 'complete'")

    def click(self, selector: str) -> None:
        """With the mouse, in the middle of an element, once it is there."""
        self.click_at(self.until(f"((each) => each && (each.scrollIntoView({{block: 'center'}}), {_MIDDLE}))({_first(selector)})"))

    def click_text(self, selector: str, text: str) -> None:
        """The same, on the element that says so."""
        found = f"[...document.querySelectorAll({json.dumps(selector)})].find((each) => each.innerText.trim() === {json.dumps(text)})"
        self.click_at(self.until(f"((each) => each && {_MIDDLE})({found})"))

    def click_at(self, place: Sequence[float]) -> None:
        """With the mouse, at a point of the window."""
        x, y = place
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """One key."""
        code, text = KEYS[key]
        for kind in ("keyDown", "keyUp"):
            self.ask(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text if kind == "keyDown" else ""
            )

    def tab_to(self, selector: str) -> None:
        """With the Tab key alone, to an element that is then seen to have the focus."""
        for _ in range(40):
            if self.js(f"document.activeElement.matches({json.dumps(selector)})"):
                assert self.js("getComputedStyle(document.activeElement).outlineStyle") != "none"
                return
            self.press("Tab")
        raise AssertionError(f"the Tab key does not come to {selector}")

    def choose(self, *files: Path) -> None:
        """In the dialogue that the browser has just opened."""
        node = self.event("Page.fileChooserOpened")["backendNodeId"]
        self.ask("DOM.setFileInputFiles", files=[str(file) for file in files], backendNodeId=node)

    def drop(self, selector: str, *paths: Path) -> None:
        """Files or folders from a file manager, onto an element."""
        box = self.js(f"JSON.parse(JSON.stringify(document.querySelector({json.dumps(selector)}).getBoundingClientRect()))")
        dragged = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.ask("Input.dispatchDragEvent", type=kind, x=box["x"] + box["width"] / 2, y=box["y"] + 20, data=dragged)

    def picture(self) -> bytes:
        """What is seen, as PNG."""
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])


def chromium() -> str:
    """The program; skips the test where there is none."""
    for name in (os.environ.get("MONAI_TESTS_CHROMIUM", ""), *PROGRAMS):
        if found := name and shutil.which(name):
            return found
    pytest.skip(f"no Chromium is installed here (none of {', '.join(PROGRAMS)}, and MONAI_TESTS_CHROMIUM names none)")


def _first(selector: str) -> str:
    return f"document.querySelector({json.dumps(selector)})"


@contextmanager
def opened(extra: Sequence[str] = ()) -> Iterator[Page]:
    """A browser with one page, ended afterwards."""
    program = chromium()
    with tempfile.TemporaryDirectory(prefix="monai-aws-chromium-", ignore_cleanup_errors=True) as folder:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--lang=en"]
        arguments = [program, *flags, f"--user-data-dir={folder}", "--remote-debugging-port=0", *extra, "about:blank"]
        said = Path(folder) / "said"
        with said.open("wb") as log:
            process = subprocess.Popen(arguments, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            with connect(_page_of(process, said), max_size=None) as line:
                yield Page(line)
        finally:
            process.terminate()
            process.wait()


def _page_of(process: subprocess.Popen[bytes], said: Path) -> str:
    deadline = time.monotonic() + SEEN_SECONDS
    while not (found := _LISTENING.search(said.read_text(errors="replace"))):
        assert process.poll() is None, f"Chromium has ended: {said.read_text(errors='replace')}"
        assert time.monotonic() < deadline, "Chromium does not come up"
        time.sleep(0.1)
    with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}/json/list", timeout=30) as answer:
        pages = [each for each in json.load(answer) if each["type"] == "page"]
    return str(pages[0]["webSocketDebuggerUrl"])
