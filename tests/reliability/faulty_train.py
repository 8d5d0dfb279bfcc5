"""`mosld.train` with faults: the environment's FAULTS is a JSON object from a rank to its faults (see faults.py)."""

import json
import os
import sys

from faults import plant

from mosld.train import main

if __name__ == "__main__":
    planted = json.loads(os.environ.get("FAULTS", "{}")).get(os.environ.get("RANK", "0"), [])
    if planted:
        plant(planted)
    sys.exit(main())
