"""One thread each: the models are tiny, processes run beside each other, and spinning threads would only wait."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for every process a test starts
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
