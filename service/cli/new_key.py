"""``python -m service new-key``: a fresh bearer key, and the line by which a server knows it."""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Callable

from service.cli.exit_status import OK
from service.http.key_lines import NAME, OPTIONS
from service.http.keys import digest

KEY_BYTES = 32  # 256 bits: nothing to guess, so a plain SHA-256 is enough to store
HELP = {
    "scopes": "what it is for, with commas: classify, metrics, admin (default: the first two)",
    "rate": "requests that it may send in a second, like 10/s or 0.5/s (default: any number)",
    "concurrency": "requests that it may have unanswered at once (default: any number)",
}


def main(arguments: list[str]) -> int:
    """Print the key, once, and its line for the keys file."""
    options = vars(_parse(arguments))
    key = secrets.token_urlsafe(KEY_BYTES)
    words = [options["name"], *(options[name] for name in OPTIONS)]
    print(f"key:  {key}")
    print("line:", digest(key.encode()).hex(), *filter(None, words))
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
    for name, text in HELP.items():
        parser.add_argument(f"--{name}", type=_option(name), help=text)
    return parser.parse_args(arguments)


def _option(name: str) -> Callable[[str], str]:
    """The word of the line that says this of a key."""

    def word(text: str) -> str:
        try:
            OPTIONS[name](text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{error}, got {text!a}") from None
        return f"{name}={text}"

    return word


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"expected 1 to 64 of A-Z a-z 0-9 . _ @ -, got {text!a}")
    return text
