"""Whether the GPU environment has all that CUDA needs; ``make test-gpu-libs`` needs no GPU for it.

ONNX Runtime loads its CUDA provider when a session is opened, and where that fails it falls back to
the CPU with a line on stderr. Here the provider's library is loaded by itself, in two processes:
before and after the service has loaded what pip installed. Only the driver's may be missing.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import onnxruntime as ort

from service.engine.device.session import CUDA, DRIVER, has_driver, load_cuda

FOLDER = Path(ort.__file__).parent / "capi"
#: The second one finds the first one's symbols in the process.
SHARED, PROVIDER = (FOLDER / f"libonnxruntime_providers_{name}.so" for name in ("shared", "cuda"))
#: By the provider's first session; ldd does not know of them.
OPENED_LATER = ("libcudnn.so.9",)


def missing_libraries() -> list[str]:
    """What the provider needs and this process does not find."""
    listed = subprocess.run(["ldd", PROVIDER], capture_output=True, text=True, check=True).stdout
    unknown = [line.split()[0] for line in listed.splitlines() if "not found" in line]
    return [name for name in (*unknown, *OPENED_LATER) if load(name)]


def load(library: str | Path, mode: int = ctypes.DEFAULT_MODE) -> str:
    """Load a library for good; the loader's own words where that fails."""
    try:
        ctypes.CDLL(str(library), mode)
    except OSError as error:
        return str(error)
    return ""


def main(arguments: list[str]) -> int:
    """Print what is missing; 0 if it is the driver alone, or nothing."""
    if CUDA not in ort.get_available_providers():
        print(f"onnxruntime {ort.__version__} here is not the GPU build", file=sys.stderr)
        return 2
    if "--as-it-is" in arguments:
        print(f"as it is:     missing {', '.join(missing_libraries()) or 'nothing'}", flush=True)
        return 0
    subprocess.run([sys.executable, "-m", __spec__.name, "--as-it-is"], check=True)
    load_cuda()
    missing = missing_libraries()
    print(f"as served:    missing {', '.join(missing) or 'nothing'}")
    refusal = load(SHARED, ctypes.RTLD_GLOBAL) or load(PROVIDER)
    print(f"the provider: {refusal or 'loaded'}")
    allowed = [] if has_driver() else [DRIVER]
    good = missing == allowed and (not refusal or refusal.startswith(f"{DRIVER}:"))
    print(
        f"onnxruntime {ort.__version__}: "
        + ("all of CUDA is here" if good else "CUDA cannot be loaded from this environment")
        + (f"; {DRIVER} comes with the driver of a GPU" if DRIVER in missing else "")
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
