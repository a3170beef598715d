"""Where the data of development servers lives, and as whom they run.

PostgreSQL refuses to run as root. As root, servers therefore run as an unprivileged
account, and where a folder above the data directory is closed to that account (a
checkout under a mode-700 /root) their data lives outside of the checkout. The mode of
a folder that we did not make is never changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import secrets
import shutil
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pourtier_grpc.devtools.process import Account, DevServerError

OUTSIDE = (Path("/var/lib/pourtier"), Path("/var/tmp/pourtier"))  # noqa: S108 - checked
ACCOUNT_FILE = "account"


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A folder for servers' data; made by `open_state`.

    `account` is whom servers run as, None where they run as ourselves. `keeper` owns
    the files that we write and servers only read; None for ourselves. The keeper is
    the account where that is a person, who then can use the same data without root;
    it never is `nobody`, whom other programs may run as too.
    """

    directory: Path
    account: Account | None = None
    keeper: Account | None = None

    def folder(self, name: str) -> Path:
        """A folder for our own files, which the account may pass through."""
        path = self.directory / name
        if _make_directory(path, 0o711 if self.account else 0o700):
            _give(path, self.keeper)
        return path

    def server_folder(self, path: Path) -> Path:
        """A folder, directly under one of ours, that the server alone writes to."""
        if _make_directory(path, 0o700):
            _give(path, self.account)
        return path

    def write(self, path: Path, text: str, *, for_server: bool = False) -> None:
        """Replaces a small file at once, mode 0600; `for_server` lets the account read.

        A new file is renamed into place, so that no link planted there is followed.
        """
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(temporary, flags, 0o600), "w") as file:
            file.write(text)
        _give(temporary, self.account if for_server else self.keeper)
        temporary.replace(path)

    def read(self, path: Path) -> str | None:
        """The stripped text of a file of ours, None where there is none."""
        try:
            return path.read_text().strip() or None
        except FileNotFoundError:
            return None

    def secret(self, path: Path) -> str:
        """The random secret kept in that file, made at first use; URL-safe."""
        known = self.read(path)
        if known is None:
            known = secrets.token_urlsafe(24)
            self.write(path, known + "\n")
        return known

    def reachable_copy(
        self, root: Path, parts: Sequence[str], binaries: Sequence[str]
    ) -> Path:
        """A folder from which the account can run `binaries` (paths under `root`).

        Normally `root` itself. Where the account cannot reach it, `parts` of it are
        copied into the state directory, once for each version found there.
        """
        probes = [root / part for part in (*parts, *binaries)]
        if not self.account or not any(closed_to(self.account, p) for p in probes):
            return root
        found = [f"{path}:{path.stat().st_mtime_ns}" for path in probes]
        key = hashlib.sha256("\n".join(found).encode()).hexdigest()[:12]
        copies = self.folder("programs")
        name = Path(binaries[0]).name
        target = copies / f"{name}-{key}"
        if target.is_dir():
            return target
        for old in copies.glob(f"{name}-*"):
            shutil.rmtree(old)
        unfinished = copies / f"{name}-{key}.new"
        for part in (*parts, *binaries):
            source, copy = root / part, unfinished / part
            copy.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, copy, symlinks=True, dirs_exist_ok=True)
            else:
                shutil.copy2(source, copy)
        _open_to_all(unfinished)
        unfinished.rename(target)
        return target


def open_state(data_dir: Path, *, outside: Iterable[Path] = OUTSIDE) -> State:
    """The state of a data directory; the directory is made where it is missing.

    `outside` are the folders tried in turn for data that cannot live inside. Raises
    DevServerError where the directory is another user's, or where data made earlier
    can no longer be reached.
    """
    data_dir = Path(os.path.abspath(data_dir)).resolve()  # noqa: PTH100 - before resolve
    parent = data_dir.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        if os.geteuid() != 0:
            _make_directory(data_dir, 0o700)
            if not os.access(data_dir, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError("it belongs to another user")
            return State(directory=data_dir)
    except OSError as error:
        raise DevServerError(
            f"cannot use the data directory {data_dir}: {error}; set"
            " POURTIER_DATA_DIR to a folder of your own"
        ) from error
    key = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:12]
    candidates = [base / key for base in outside]
    for place in (data_dir, *candidates):
        account = _recorded_account(place)
        if account is not None:
            return _state(place, account, inside=place == data_dir)
    account = _choose_account(data_dir)
    closed = closed_to(account, data_dir if data_dir.exists() else parent)
    if closed is None:
        if _make_directory(data_dir, 0o711):
            _give(data_dir, None if _is_shared(account) else account)
        return _record(_state(data_dir, account, inside=True))
    place = _make_outside(candidates, account)
    state = _record(_state(place, account, inside=False))
    state.write(place / "belongs-to", f"{data_dir}\n")
    return state


def closed_to(account: Account, path: Path) -> Path | None:
    """The first folder or file on the way that the account may not use, or None.

    Looks at mode bits only; an access list that opens a folder is not seen, and the
    data then lives outside, which works too.
    """
    path = path.resolve()
    for step in (*reversed(path.parents), path):
        found = step.stat()
        shift = 0
        if found.st_uid == account.uid:
            shift = 6
        elif found.st_gid == account.gid:
            shift = 3
        needed = _needed(found.st_mode)
        if (found.st_mode >> shift) & needed != needed:
            return step
    return None


def _needed(mode: int) -> int:
    """The bits it takes to pass through a folder, run a program or read a file."""
    if stat.S_ISDIR(mode):
        return 0o1
    return 0o5 if mode & 0o111 else 0o4


def account_of(uid: int) -> Account | None:
    """The unprivileged account with that user id; None for root or an unknown id.

    PostgreSQL's initdb needs a passwd entry for the user it runs as.
    """
    if uid == 0:
        return None
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return None
    return Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)


def _choose_account(data_dir: Path) -> Account:
    candidates = [int(os.environ.get("SUDO_UID", "0") or 0)]
    candidates += [p.stat().st_uid for p in (data_dir, data_dir.parent) if p.exists()]
    for uid in candidates:
        account = account_of(uid)
        if account is not None:
            return account
    try:
        account = account_of(pwd.getpwnam("nobody").pw_uid)
    except KeyError:
        account = None
    if account is None:
        raise DevServerError(
            "the embedded servers cannot run as root, and this machine has no user"
            " 'nobody' to run them as; start as an ordinary user"
        )
    return account


def _is_shared(account: Account) -> bool:
    return account.name == "nobody"


def _state(place: Path, account: Account, *, inside: bool) -> State:
    closed = closed_to(account, place) if place.exists() else None
    if closed is not None:
        raise DevServerError(
            f"the data in {place} belongs to servers run as {account.name}, who can"
            f" no longer pass through {closed}; open that folder to them again, or"
            " set POURTIER_DATA_DIR to another folder"
        )
    personal = inside and not _is_shared(account)
    return State(directory=place, account=account, keeper=account if personal else None)


def _record(state: State) -> State:
    if state.account is not None:
        state.write(state.directory / ACCOUNT_FILE, f"{state.account.uid}\n")
    return state


def _recorded_account(place: Path) -> Account | None:
    try:
        text = (place / ACCOUNT_FILE).read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return account_of(int(text)) if text.isdigit() else None


def _make_outside(candidates: Sequence[Path], account: Account) -> Path:
    reasons: list[str] = []
    for place in candidates:
        try:
            for folder in (place.parent, place):
                _make_directory(folder, 0o711)
                _require_ours(folder)
            closed = closed_to(account, place)
            if closed is None:
                return place
            reasons.append(f"{closed} is closed to {account.name}")
        except (OSError, DevServerError) as error:
            reasons.append(str(error))
    raise DevServerError(
        "found no place for the servers' data that"
        f" {account.name} can reach ({'; '.join(reasons)}); set POURTIER_DATA_DIR to"
        " a folder that every user can pass through"
    )


def _require_ours(folder: Path) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise DevServerError(f"{folder} is not a folder")
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        owner = account_of(found.st_uid)
        raise DevServerError(
            f"{folder} was made by {owner.name if owner else 'someone else'} or is"
            " writable for others, and is not trusted"
        )


def _make_directory(path: Path, mode: int) -> bool:
    """Makes it with exactly that mode; False, and no change, where it exists."""
    try:
        path.mkdir(mode)
    except FileExistsError:
        return False
    path.chmod(mode)
    return True


def _give(path: Path, owner: Account | None) -> None:
    if owner is not None and os.geteuid() == 0:
        os.chown(path, owner.uid, owner.gid, follow_symlinks=False)


def _open_to_all(copy: Path) -> None:
    for folder, _, files in os.walk(copy):
        Path(folder).chmod(0o755)
        for name in files:
            path = Path(folder) / name
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
