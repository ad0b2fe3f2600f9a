"""Which Chromium drives the tests in a browser: `CHROMIUM` in the environment, or one on the path.

Run as a script it says which, or what to do, and ends with 1 where there is none.
"""

from __future__ import annotations

import os
import shutil
import sys

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str | None:
    """The browser to drive, or None."""
    named = os.environ.get("CHROMIUM")
    if named:
        return shutil.which(named)
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def why_none() -> str:
    """Why there is no browser, and what to do."""
    named = os.environ.get("CHROMIUM")
    if named:
        return f"CHROMIUM={named} is no program: name a Chromium, or leave it out to take the one on the path"
    return (
        "no Chromium on the path: on Debian and Ubuntu `apt-get install chromium`, elsewhere name one with "
        "CHROMIUM=/path/to/it"
    )


if __name__ == "__main__":
    found = find_chromium()
    print(f"Tests in a browser run in {found}." if found else f"Tests in a browser cannot run: {why_none()}.")
    sys.exit(found is None)
