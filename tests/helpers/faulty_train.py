"""`mosld.train` with faults: the environment's FAULTS is a JSON object from a rank to its faults (see faults.py)."""

import json
import os
import sys

from mosld.train import main
from tests.helpers.faults import plant

if __name__ == "__main__":
    planted = json.loads(os.environ.get("FAULTS", "{}")).get(os.environ.get("RANK", "0"), [])
    if planted:
        plant(planted)
    sys.exit(main())
