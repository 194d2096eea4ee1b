"""A real headless Chromium, as Debian packages it, for pages that are HTML and JavaScript."""

import shutil
import time
from contextlib import contextmanager

import pytest


@contextmanager
def chromium(width=1280, height=900, dark=False):
    """A browser window; the test is skipped with a reason where Chromium, its driver or Selenium is missing."""
    pytest.importorskip("selenium", reason="needs selenium (extra: dev)")
    from selenium import webdriver

    binary = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("needs Chromium and its driver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        yield window
    finally:
        window.quit()


def until(window, script, seconds=30):
    """What the script returns, once that is true."""
    end = time.monotonic() + seconds
    while not (value := window.execute_script(f"return {script}")):
        assert time.monotonic() < end, f"not true within {seconds} s: {script}\n{window.get_log('browser')}"
        time.sleep(0.02)
    return value


def load(window, path):
    """Open a page and return the seconds until it can be used."""
    start = time.perf_counter()
    window.get(path.as_uri())
    until(window, "document.documentElement.dataset.ready === 'yes'")
    return time.perf_counter() - start
