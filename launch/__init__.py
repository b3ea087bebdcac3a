"""The commands: `python -m launch` lists them."""

import sys
from pathlib import Path

# Whatever is called configs in the folder where a command is given, the experiments are those of the configs.py beside launch/.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
