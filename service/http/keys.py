"""Bearer keys: the server knows their SHA-256 digests, never a key, and says whose one it is.

What a line of their file may say is in ``key_lines``, what a key takes of what it may in
``accounts``.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from pathlib import Path

from service.http.accounts import Account
from service.http.key_lines import Key
from service.http.problems import Unauthorized
from service.settings import Settings, SettingsError

MAX_FILE_BYTES = 2**16
MAX_KEY_BYTES = 512  # a longer one is nobody's, and is refused unhashed


class KeysNotThere(SettingsError):
    """The file of the keys cannot be read, which may be otherwise a moment later."""


class Keys:
    """The keys that may enter; false where there are none, and then everyone may.

    Attributes:
        clients: names that keys are given for.
    """

    def __init__(self, known: Sequence[Key]) -> None:
        self._accounts = [Account(key) for key in known]
        self.clients = len({key.name for key in known})

    def __len__(self) -> int:
        return len(self._accounts)

    def has(self, scope: str) -> bool:
        """Whether some key has a scope."""
        return any(scope in account.key.scopes for account in self._accounts)

    def find(self, authorization: Sequence[bytes]) -> Account:
        """Whose key a request carries.

        Args:
            authorization: the values of its Authorization headers.

        Raises:
            Unauthorized: the same for every reason.
        """
        found = None
        if (key := _bearer(authorization)) is not None:
            given = digest(key)
            for one in self._accounts:  # all of them, always: time tells nothing
                if hmac.compare_digest(one.key.digest, given):
                    found = one
        if found is None:
            raise Unauthorized(
                "expected Authorization: Bearer KEY, with a key that this server knows"
            )
        return found

    def become(self, others: Keys) -> None:
        """Know those from now on. A key that stays keeps count of what it takes."""
        before = {account.key.digest: account for account in self._accounts}
        for account in others._accounts:
            if account.key.digest in before:
                before[account.key.digest].renew(account.key)
        self._accounts = [before.get(one.key.digest, one) for one in others._accounts]
        self.clients = others.clients


def _bearer(authorization: Sequence[bytes]) -> bytes | None:
    """The key of the only header, if that is what it carries."""
    if len(authorization) != 1:
        return None
    scheme, _, key = authorization[0].partition(b" ")
    key = key.strip(b" ")
    return key if scheme.lower() == b"bearer" and 0 < len(key) <= MAX_KEY_BYTES else None


def digest(key: bytes) -> bytes:
    """SHA-256. A key is 256 random bits, so a slow hash would guard nothing more."""
    return hashlib.sha256(key).digest()


def read_keys(settings: Settings) -> Keys:
    """The keys that the settings name.

    Raises:
        SettingsError: the file cannot be read (KeysNotThere), or a line of it is no key. Its
            content is not told.
    """
    known = _parse_all("key_sha256: entry", enumerate(settings.key_sha256, 1))
    if settings.keys_file is not None:
        known += _read_file(settings.keys_file)
    return Keys(known)


def _read_file(path: Path) -> list[Key]:
    where = f"keys_file {path}"
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise KeysNotThere(f"{where}: it cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise SettingsError(f"{where}: expected at most {MAX_FILE_BYTES} bytes")
    lines = data.decode("utf-8-sig", "replace").split("\n")
    stripped = ((number, line.partition("#")[0].strip()) for number, line in enumerate(lines, 1))
    known = _parse_all(f"{where}: line", ((number, line) for number, line in stripped if line))
    if not known:
        raise SettingsError(f"{where}: expected a key, found none; see python -m service new-key")
    return known


def _parse_all(where: str, texts: Iterable[tuple[int, str]]) -> list[Key]:
    """One key per numbered text; two with one digest would leave open whose it is."""
    known: dict[bytes, tuple[int, Key]] = {}
    for number, text in texts:
        try:
            key = Key.parse(text)
        except ValueError as error:
            raise SettingsError(f"{where} {number}: {error}") from None
        if key.digest in known:
            first = known[key.digest][0]
            raise SettingsError(f"{where} {number}: the same SHA-256 as in {first}")
        known[key.digest] = number, key
    return [key for _, key in known.values()]
