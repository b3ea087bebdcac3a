"""The commands; `python -m launch` lists them."""

import sys
from pathlib import Path

# The commands import the configs.py beside launch/, also where the working folder holds another one.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
