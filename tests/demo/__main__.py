"""`make demo`: puts the folder of the tests' packages on the path and runs the demonstration."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo.run import main

if __name__ == "__main__":
    sys.exit(main())
