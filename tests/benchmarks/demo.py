"""The demo's times: `make bench-demo` runs the demo and writes what it took to out/bench/demo.json."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "out" / "bench"


def main() -> None:
    """Run the demo in a folder of its own and keep its seconds, steps and AUC."""
    folder = OUT / "demo"
    OUT.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "deploy.demo.demo", "--out", folder], cwd=ROOT, check=True)
    result = json.loads((folder / "result.json").read_bytes())
    kept = {
        "seconds": result["seconds"],
        "steps": result["training"]["steps"],
        "auc": result["training"]["auc"],
        "epsilon": result["training"]["epsilon"],
        "patients": result["patients"],
    }
    (OUT / "demo.json").write_text(json.dumps(kept, indent=1, sort_keys=True))
    print(json.dumps(kept, indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
