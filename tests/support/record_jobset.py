"""Records JobSet's schema in tests/data: `python -m tests.support.record_jobset CLONE v0.6.0 v0.12.0`.

CLONE is a clone of https://github.com/kubernetes-sigs/jobset (Apache-2.0). The descriptions, the status and the schema of a Job
are left out; kubernetes-validate has the last one. As kubectl does, the recorded schema refuses fields that are not known.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

FILE = "config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml"
DATA = Path(__file__).resolve().parents[1] / "data"


def reduced(definition: dict[str, Any]) -> dict[str, Any]:
    """Returns the schema of a JobSet, from its CustomResourceDefinition."""
    (version,) = definition["spec"]["versions"]
    schema = _strict(version["schema"]["openAPIV3Schema"])
    del schema["properties"]["status"]
    template = schema["properties"]["spec"]["properties"]["replicatedJobs"]["items"]["properties"]["template"]
    template["properties"]["spec"] = {"type": "object"}
    return schema


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: _strict(value) for key, value in schema.items() if not (key == "description" and isinstance(value, str))}
    return kept | ({"additionalProperties": False} if isinstance(kept.get("properties"), dict) and "type" in kept else {})


def main(clone: str, *versions: str) -> None:
    """Records these versions."""
    for version in versions:
        shown = subprocess.run(["git", "-C", clone, "show", f"{version}:{FILE}"], check=True, capture_output=True)
        text = json.dumps(reduced(yaml.safe_load(shown.stdout)), indent=1)
        (DATA / f"jobset-{version.removeprefix('v')}.json").write_text(text + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
