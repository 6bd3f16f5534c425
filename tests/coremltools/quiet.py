"""Import this before coremltools: it turns off its warnings, log lines and progress bars."""

from __future__ import annotations

import logging
import os
import warnings
from functools import partialmethod

os.environ.setdefault("TQDM_DISABLE", "1")
warnings.filterwarnings("ignore")
logging.disable(logging.ERROR)

from tqdm import tqdm  # noqa: E402

tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)
