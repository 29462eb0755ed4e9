"""The Open Inference Protocol over gRPC: another way in to the same engine."""

import os

# Decode workers are started by exec, which needs none of gRPC's hooks around a fork; with them
# every start writes a line into the log. Read when gRPC is loaded, so it stands before all else.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
