"""``python -m service new-key``: a fresh bearer key, and the line by which a server knows it."""

from __future__ import annotations

import argparse
import secrets

from service.cli.exit_status import OK
from service.http.keys import NAME, digest

KEY_BYTES = 32  # 256 bits: nothing to guess, so a plain SHA-256 is enough to store


def main(arguments: list[str]) -> int:
    """Print the key, once, and its line for the keys file."""
    name = _parse(arguments).name
    key = secrets.token_urlsafe(KEY_BYTES)
    print(f"key:  {key}")
    print(f"line: {digest(key.encode()).hex()}{f' {name}' if name else ''}")
    return OK


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m service new-key",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""\
Make a bearer key. It is printed once and stored nowhere.

  key:   give it to the client, who sends it as "Authorization: Bearer KEY"
  line:  add it to the server's keys file (--keys-file); it holds the key's SHA-256 and no secret
""",
    )
    parser.add_argument("name", nargs="?", type=_name, help="whose key it is, for the access log")
    return parser.parse_args(arguments)


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"expected 1 to 64 of A-Z a-z 0-9 . _ @ -, got {text!a}")
    return text
