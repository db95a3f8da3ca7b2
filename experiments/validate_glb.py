"""Judge GLB files with the Khronos glTF validator (needs Node.js).

    npm install --prefix /some/folder gltf-validator
    python experiments/validate_glb.py --modules /some/folder/node_modules person.glb

Prints one line for each file, and every message of severity error or warning. Exit code: 0 all
clean, 1 errors or warnings, 2 no validator. The folder may also be given as GLTF_VALIDATOR.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

SCRIPT = """
const validator = require("gltf-validator"), fs = require("fs");
const check = async (path) =>
  [path, (await validator.validateBytes(new Uint8Array(fs.readFileSync(path)))).issues];
Promise.all(process.argv.slice(1).map(check)).then((all) => console.log(JSON.stringify(all)));
"""


def validate(paths: list[Path], modules: Path) -> list[tuple[str, dict]]:
    """The issues that the validator finds in each file."""
    done = subprocess.run(
        ["node", "-e", SCRIPT, *map(str, paths)],
        env=os.environ | {"NODE_PATH": str(modules)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--modules", type=Path, default=os.environ.get("GLTF_VALIDATOR"))
    options = parser.parse_args()
    found = options.modules and (Path(options.modules) / "gltf-validator").is_dir()
    if not found or shutil.which("node") is None:
        print("no validator: install Node.js and gltf-validator, see --help", file=sys.stderr)
        return 2
    bad = 0
    for path, issues in validate(options.files, Path(options.modules).resolve()):
        errors, warnings = issues["numErrors"], issues["numWarnings"]
        print(f"{path}: {errors} errors, {warnings} warnings, {issues['numInfos']} infos")
        for message in issues["messages"]:
            if message["severity"] < 2:
                print(f"  {message['pointer']}: {message['code']}: {message['message']}")
        bad += errors + warnings
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
