"""What pages hold, as far as no browser is needed to see it."""

import json
import re
from pathlib import Path


def embedded(page: Path) -> dict:
    """Returns what the script of a study's page gets."""
    return json.loads(re.search('<script type="application/json" id="study">(.*?)</script>', page.read_text(), re.S)[1])
