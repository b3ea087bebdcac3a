"""What a profile holds."""

import gzip
import json
from pathlib import Path

from launch.common.profiler import operations


def events(folder: Path, session: str, process: int = 0) -> list[dict]:
    """Returns the events of a process's profile, as Perfetto reads them; xprof's part of it must have programs."""
    place = folder / "plugins" / "profile" / session
    assert operations((place / f"process_{process}.xplane.pb").read_bytes())
    recorded = json.loads(gzip.decompress((place / f"process_{process}.perfetto.json.gz").read_bytes()))["traceEvents"]
    return [event for event in recorded if "name" in event]


def steps_of(recorded: list[dict]) -> list[int]:
    """Returns the numbers of the steps that were recorded from their beginning."""
    return [int(event["args"]["step_num"]) for event in recorded if event["name"] == "step"]
