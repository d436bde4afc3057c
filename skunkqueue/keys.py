"""The keys that sign whatever has to be unpickled, and where they are kept."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from skunkqueue.envelope import SIGNATURE
from skunkqueue.errors import BadSignature, WrongCall

CALL: Final = b"run"
VALUE: Final = b"value"
"""What a signature is for; one made for the one is no good for the other."""

_FINGERPRINT: Final = 4
_ADVICE: Final = "set SKUNKQUEUE_KEY on both"


class Keys:
    """Secrets that sign what has to be unpickled: the first signs, all verify. They show in no repr and no pickle."""

    def __init__(self, *secrets: bytes) -> None:
        if not secrets or not all(secrets):
            raise WrongCall("signing needs at least one key, and none that is empty")
        self._secrets = {_fingerprint(secret): secret for secret in secrets}
        self._first = _fingerprint(secrets[0])

    @classmethod
    def load(cls) -> Keys:
        """From SKUNKQUEUE_KEY (several, by commas or white space), else from this user's key file, made if need be."""
        secrets = _split(os.environ.get("SKUNKQUEUE_KEY", ""))
        return cls(*(secrets or _read_key_file(key_file())))

    def __call__(self) -> Keys:
        """Keys that are loaded already are their own keyring."""
        return self

    def __repr__(self) -> str:
        return f"Keys({', '.join(fingerprint.hex() for fingerprint in self._secrets)})"

    def __reduce__(self) -> Any:
        raise TypeError("keys do not travel")

    def sign(self, purpose: bytes, data: bytes) -> bytes:
        """The fingerprint of the first key, and what only its holders can make of this data for this purpose."""
        return self._first + _digest(self._secrets[self._first], purpose, data)

    def verify(self, purpose: bytes, data: bytes, signature: bytes) -> None:
        """Raises BadSignature unless one of the keys signed this data for this purpose."""
        here = "this worker" if purpose == CALL else "this program"
        if not signature:
            raise BadSignature(f"it is not signed, and would have to be unpickled; {here} executes nothing of it")
        if len(signature) != SIGNATURE:
            raise BadSignature(f"its signature has {len(signature)} bytes where {SIGNATURE} were wanted")
        fingerprint = signature[:_FINGERPRINT]
        if fingerprint not in self._secrets:
            ours = ", ".join(known.hex() for known in self._secrets)
            raise BadSignature(f"it is signed with {fingerprint.hex()}, {here} has {ours}: {_ADVICE}")
        if not _same(_digest(self._secrets[fingerprint], purpose, data), signature[_FINGERPRINT:]):
            raise BadSignature(
                f"its signature by {fingerprint.hex()} does not fit: it was changed, or made for another run or queue"
            )


Keyring = Callable[[], Keys]


def _digest(secret: bytes, purpose: bytes, data: bytes) -> bytes:
    import hmac  # late: it loads OpenSSL

    return hmac.digest(secret, bytes([len(purpose)]) + purpose + data, "sha256")


def _same(one: bytes, other: bytes) -> bool:
    import hmac

    return hmac.compare_digest(one, other)


def _fingerprint(secret: bytes) -> bytes:
    return _digest(secret, b"fingerprint", b"")[:_FINGERPRINT]


_loaded: tuple[object, Keys] | None = None


def default_keys() -> Keys:
    """The keys of this process; read again when the environment says otherwise."""
    global _loaded
    source: object = os.environ.get("SKUNKQUEUE_KEY")
    if not source:
        source = os.environ.get("XDG_DATA_HOME"), os.environ.get("HOME")
    loaded = _loaded  # another thread may replace it meanwhile
    if loaded is None or loaded[0] != source:
        _loaded = loaded = (source, Keys.load())
    return loaded[1]


def _split(text: str) -> list[bytes]:
    return [part.encode("utf-8", "surrogateescape") for part in text.replace(",", " ").split()]


def key_file() -> str:
    """Where this user's key lies. Raises WrongCall where the user has no folder."""
    return os.path.join(user_folder("SKUNKQUEUE_KEY"), "key")


def user_folder(instead: str) -> str:
    """The folder for this user's key and runs. Raises WrongCall where there is none: then ``instead`` has to be set."""
    import platformdirs

    try:
        folder = platformdirs.user_data_dir("skunkqueue", appauthor=False)
    except RuntimeError:
        folder = ""
    if not os.path.isabs(folder):  # it would be another one in each working directory
        raise WrongCall(f"this user has no home folder: set {instead}, or HOME to an absolute path")
    return folder


def _read_key_file(path: str) -> list[bytes]:
    try:
        if not os.path.exists(path):
            _make_key_file(path)
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            _check_private(path, os.fstat(file.fileno()))
            text = file.read()
    except OSError as error:
        raise WrongCall(f"the key file {path} cannot be read or made ({error}); set SKUNKQUEUE_KEY instead") from error
    if not _split(text):
        raise WrongCall(f"the key file {path} is empty: delete it to have a new one made, or set SKUNKQUEUE_KEY")
    return _split(text)


def _check_private(path: str, file: os.stat_result) -> None:
    """Refuse a key that another user may know, or can replace. Whoever knows the key can have workers execute code."""
    if sys.platform == "win32":
        return
    mode, me = stat.S_IMODE(file.st_mode), os.geteuid()
    if file.st_uid != me:
        raise WrongCall(
            f"the key file {path} belongs to another user (uid {file.st_uid}, this process has {me}): "
            f"delete it to have a new one made, or set SKUNKQUEUE_KEY"
        )
    if mode & 0o077:
        raise WrongCall(f"the key file {path} is open to others (mode {mode:03o}): chmod 600 it, or set SKUNKQUEUE_KEY")
    folder = os.path.dirname(path)
    if stat.S_IMODE(os.stat(folder).st_mode) & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
        raise WrongCall(
            f"everybody can replace the key file {path}: chmod 700 the folder {folder}, or set SKUNKQUEUE_KEY"
        )


def _make_key_file(path: str) -> None:
    """Make it whole or not at all; of several processes or threads at once, one makes it and all use its key."""
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with _locked(folder) as is_locked:
        if not os.path.exists(path):
            _write_key_file(path, may_rename=is_locked)
    _sync_folder(folder)


def _write_key_file(path: str, *, may_rename: bool) -> None:
    draft = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(32).hex().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        _publish(draft, path, may_rename=may_rename)
    finally:
        if os.path.exists(draft):
            os.unlink(draft)


def _publish(draft: str, path: str, *, may_rename: bool) -> None:
    """Give the draft its name, unless the name is taken. A rename would replace a key, so it needs the lock."""
    try:
        os.link(draft, path)
    except FileExistsError:
        pass  # another process was first
    except OSError:  # a file system without hard links
        if not may_rename:
            raise
        os.rename(draft, path)


@contextmanager
def _locked(folder: str) -> Iterator[bool]:
    """Hold the folder's lock, which ends with its holder. Gives False on a file system that has no such locks."""
    if sys.platform == "win32":
        yield True  # a rename replaces nothing there
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _sync_folder(folder: str) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
