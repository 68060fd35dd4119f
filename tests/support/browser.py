"""A real Chromium, driven by Selenium, as long as a block runs. ::

    with chromium() as browser:
        browser.open(site.url + "/")
        browser.click("#look-button")
        browser.until("the job", lambda: browser.text("h1") == "acme/tiny")
        browser.check_console()

Every wait has a deadline and none of them sleeps for a fixed time.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException, TimeoutException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from .fleet import free_port

T = TypeVar("T")

WAIT_S = 60.0
WIDE, NARROW = (1280, 900), (360, 780)

_NAMELESS = """
const named = (element) => {
  const ids = (element.getAttribute('aria-labelledby') || '').split(' ');
  const labelled = ids.map((id) => document.getElementById(id)?.textContent || '').join('');
  const labels = [...(element.labels || [])].map((label) => label.textContent).join('');
  const text = element.matches('button, a, summary, [role=img], [role=progressbar]') ? element.textContent : '';
  return [element.getAttribute('aria-label'), labelled, labels, text, element.alt].some((each) => (each || '').trim());
};
const shown = (element) => element.checkVisibility();
const wanted = 'a, button, input, select, textarea, summary, img, dialog, canvas, [role=img], [role=progressbar]';
return [...document.querySelectorAll(wanted)]
  .filter((element) => shown(element) && !named(element)).map((element) => element.outerHTML.slice(0, 200));
"""
_UNTOLD_TABLES = """
return [...document.querySelectorAll('table')].filter((table) => table.checkVisibility())
  .filter((table) => !table.caption || [...table.querySelectorAll('th')].some((cell) => !cell.scope))
  .map((table) => table.outerHTML.slice(0, 200));
"""
_TOO_WIDE = """
const screen = document.documentElement.clientWidth;
if (document.documentElement.scrollWidth <= screen) return [];
return [...document.querySelectorAll('main *')].filter((each) => each.getBoundingClientRect().right > screen + 1)
  .map((each) => each.outerHTML.slice(0, 150));
"""
_TWICE = """
const ids = [...document.querySelectorAll('[id]')].map((each) => each.id);
return ids.filter((id, index) => ids.indexOf(id) !== index);
"""


class Browser:
    """One window."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Go to a page, and wait until it has begun."""
        self.driver.get(url)
        self.ready()

    def ready(self) -> None:
        """Wait until the page has begun."""
        self.until("the page to begin", lambda: self.run("return document.documentElement.dataset.ready === 'true'"))

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, what: str, condition: Callable[[], T], timeout_s: float = WAIT_S) -> T:
        """Wait until something is true. Elements that go away meanwhile are looked for again."""
        ignored = (NoSuchElementException, StaleElementReferenceException)
        try:
            return WebDriverWait(self.driver, timeout_s, 0.05, ignored).until(lambda _driver: condition())
        except TimeoutException:
            shown = self.run("return document.body.innerText")
            raise AssertionError(
                f"waited in vain for {what}; the page {self.driver.current_url} shows:\n{shown}"
            ) from None

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        """An element that can be seen, as soon as there is one."""
        return self.until(selector, lambda: next((each for each in self.all(selector) if each.is_displayed()), None))

    def text(self, selector: str) -> str:
        """The text of an element that is there now; empty where there is none."""
        return self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector)

    def says(self, selector: str, text: str) -> None:
        """Wait until an element holds a text."""
        self.until(f"{selector} to say {text!r}", lambda: text in self.text(selector))

    def click(self, selector: str) -> None:
        """Click what can be clicked, as soon as it can."""

        def clicked() -> bool:
            element = self.one(selector)
            if not element.is_enabled():
                return False
            self.run("arguments[0].scrollIntoView({block: 'center'})", element)
            element.click()
            return True

        self.until(f"{selector} to be clicked", clicked)

    def button(self, text: str, *, within: str = "body") -> None:
        """Click a button by its words."""
        self.until(f"a button {text!r}", lambda: self._press(text, within))

    def _press(self, text: str, within: str) -> bool:
        for each in self.all(f"{within} button"):
            if each.is_displayed() and each.is_enabled() and each.text.strip() == text:
                each.click()
                return True
        return False

    def paste(self, selector: str, text: str) -> None:
        """Put a text into the clipboard and paste it, as people do."""
        field = self.one(selector)
        field.clear()
        field.send_keys(text)
        for letter in "axv":  # select all, cut, paste
            field.send_keys(Keys.CONTROL + letter)

    def keys(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        ActionChains(self.driver, duration=0).send_keys(*keys).perform()

    def tab_to(self, selector: str, *, most: int = 60) -> None:
        """Go on by the Tab key until the focus is on an element, which must show that it has it."""
        for _ in range(most):
            self.keys(Keys.TAB)
            if self.run("return document.activeElement.matches(arguments[0])", selector):
                style = self.run(
                    "const s = getComputedStyle(document.activeElement); return [s.outlineStyle, s.outlineWidth]"
                )
                assert style[0] == "solid" and style[1] != "0px", f"the focus on {selector} cannot be seen"
                return
        raise AssertionError(f"{selector} cannot be reached by the Tab key")

    def size(self, width: int, height: int) -> None:
        """Look at it on a screen of another size. Pixels."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )

    def check_console(self) -> None:
        """Nothing broke in the page, and nothing was blocked by the content security policy."""
        bad = [each for each in self.driver.get_log("browser") if each["source"] != "network"]
        assert not bad, bad

    def check_page(self) -> None:
        """What every page must be, wide and narrow: every control named, tables told, nothing wider than the screen."""
        assert len([each for each in self.all("h1") if each.is_displayed()]) == 1
        assert self.run(_NAMELESS) == []
        assert self.run(_UNTOLD_TABLES) == []
        assert self.run(_TWICE) == []
        for width, height in (NARROW, WIDE):
            self.size(width, height)
            self._check_width(width)
        self.check_console()

    def _check_width(self, width: int) -> None:
        wide: list[str] = []

        def fits() -> bool:
            wide[:] = self.run(_TOO_WIDE)
            return not wide

        try:  # what is drawn to measure is drawn again when the page learns of its new size
            self.until("everything to fit", fits)
        except AssertionError:
            raise AssertionError(f"{self.driver.current_url} is too wide at {width} pixels: {wide}") from None


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser with a profile of its own. Without Chromium the test is skipped, or fails where CI=true."""
    program, driver_program = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver_program is None:
        missing = "chromium" if program is None else "chromium-driver"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"{missing} is not installed")
        pytest.skip(f"{missing} is not installed (apt install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    # Its sandbox needs rights that containers and root do not have; it sees nothing but our own pages.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # Selenium would take a port that is free now and may be another's when the driver has started.
    driver = webdriver.Chrome(options=options, service=Service(driver_program, port=free_port()))
    try:
        browser = Browser(driver)
        browser.size(*WIDE)
        yield browser
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # Selenium leaves the driver's pipes to the collector
            driver.quit()
