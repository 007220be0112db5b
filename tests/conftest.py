"""One thread each: the models are tiny, processes run beside each other, and spinning threads would only wait.

No example has a deadline: a busy machine would fail it.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for every process a test starts
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
