"""The toolkit: from interaction logs and item texts to a verified device bundle."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before optimum or anything else imports onnxruntime
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads stall a busy machine
