"""The charting library of the page: Vega-Lite with Vega and Vega-Embed, taken from the package vl-convert-python."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from importlib.metadata import version

from ...common.files import cache_folder, replacing
from ...common.locks import one_writer

INSTALL = "the page's charts need vl-convert-python: pip install vl-convert-python"


@cache
def vega() -> str:
    """The JavaScript of Vega, Vega-Lite and Vega-Embed, which defines `vegaEmbed`; about 0.9 MB.

    Bundling takes seconds, so the result is kept in the cache folder under the version of its package.

    Raises:
        ImportError: vl-convert-python is not installed.
    """
    try:
        import vl_convert
    except ImportError as error:
        raise ImportError(INSTALL) from error
    kept = cache_folder() / f"vega.{version('vl-convert-python')}.js"
    if kept.is_file():
        return kept.read_text(encoding="utf-8")
    # In a function of its own, so that the hundreds of short names in it are not global.
    script = f"(() => {{\n{vl_convert.javascript_bundle('window.vegaEmbed = vegaEmbed')}\n}})();"
    if "</script" in script.lower() or "<!--" in script:
        raise RuntimeError("the charting library contains text that would end its script element")
    with suppress(OSError), one_writer(kept), replacing(kept) as part:  # without a cache it is bundled again next time
        part.write_text(script, encoding="utf-8")
    return script
