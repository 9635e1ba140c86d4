"""Official files fetched once: checked before they are used, put in place as a whole."""

import contextlib
import dataclasses
import errno
import hashlib
import http.client
import shutil
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

# Large enough that Python's share of the time does not show, and small enough to hold. Nothing else
# depends on it.
_CHUNK_BYTES = 1 << 20
# Of silence, and not of the whole download. After ten minutes of it a program would seem to hang;
# six seconds would give up a server that is only slow.
_TIMEOUT_SECONDS = 60.0
# What a system says of a name that is too long, or that is a file and a folder at once.
_OF_A_NAME = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.EINVAL}


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """An official file and what it must be.

    Attributes:
      url: where it is.
      size: in bytes.
      md5: its digest, as the publisher gives it, in hexadecimal.
    """

    url: str
    size: int
    md5: str


def fetch_archive(archive: RemoteFile, target: Path) -> None:
    """Fetch a tar archive and make the folder in it the folder ``target``.

    Either all of the folder is there afterwards or nothing is left behind.

    Args:
      archive: gzipped tar whose members are all in one folder called as ``target``.
      target: does not exist, or holds the same files by another process.

    Raises:
      OSError: no connection, or a folder that cannot be written.
      FileExistsError: ``target`` holds something else.
      ValueError: another size or digest, or a member that is not a regular file or
        lies outside the folder.
    """
    with _built_as_a_whole(target) as folder:
        downloaded = folder.with_name("archive")
        download(archive, downloaded)
        unpack(downloaded, folder)


def fetch_files(files: Mapping[str, RemoteFile], target: Path) -> None:
    """Fetch files by name into the new folder ``target``, all of them or none.

    Raises:
      OSError, FileExistsError, ValueError: as ``fetch_archive``.
    """
    with _built_as_a_whole(target) as folder:
        for name, file in files.items():
            download(file, folder / name)


def download(remote: RemoteFile, path: Path) -> None:
    """Write a remote file to a new ``path`` and check its size and digest.

    Raises:
      OSError: no connection, or no room.
      ValueError: another size or digest; no more than the official size is written.
    """
    # MD5, because that is what the publishers give. It guards against damage and a changed file,
    # not against an attacker; builds of Python without it for security allow this use.
    digest, size = hashlib.md5(usedforsecurity=False), 0
    try:
        with (
            urllib.request.urlopen(remote.url, timeout=_TIMEOUT_SECONDS) as response,
            # Mode x, which fails where there is a file: nobody's data are overwritten.
            path.open("xb") as file,
        ):
            while chunk := response.read(_CHUNK_BYTES):
                size += len(chunk)
                # While it is read, so that a server that never ends does not fill the disk.
                if size > remote.size:
                    raise ValueError(
                        f"{remote.url} is longer than the {remote.size} bytes of the official file"
                    )
                digest.update(chunk)
                file.write(chunk)
    except (OSError, http.client.HTTPException) as error:
        raise OSError(f"could not fetch {remote.url}: {error}") from error
    if size != remote.size:
        raise ValueError(
            f"{remote.url} ended after {size} bytes; the official file has {remote.size}"
        )
    if digest.hexdigest() != remote.md5:
        raise ValueError(
            f"{remote.url} has the MD5 {digest.hexdigest()}; the official file has {remote.md5}"
        )


def unpack(path: Path, folder: Path) -> None:
    """Write the regular files of a gzipped tar archive into ``folder``.

    The digest has vouched for the archive; that nothing is written elsewhere is checked
    nonetheless, member by member.

    Args:
      path: of the archive, whose members are all in one folder of the same name.
      folder: exists and is empty.

    Raises:
      ValueError: a member outside the folder, twice, neither file nor folder, or of a name that
        cannot be one; no file at all; or not a gzipped tar archive.
    """
    try:
        # Not extractall: its filters allow links and members beside the one folder, and a member
        # that comes twice would silently replace the first.
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                _unpack_member(archive, member, folder)
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise ValueError(f"{path.name} cannot be unpacked: {error}") from error
    if not any(folder.iterdir()):
        raise ValueError(f"the archive holds no file in a folder {folder.name!r}")


def _unpack_member(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    name = PurePosixPath(member.name)
    # Backslashes and colons separate and name drives on Windows.
    odd = name.is_absolute() or ".." in name.parts or "\\" in member.name or ":" in member.name
    if odd or name.parts[:1] != (folder.name,):
        raise ValueError(f"the archive has the member {member.name!r} outside {folder.name!r}")
    if member.isdir():
        return  # made with the first file in it
    content = archive.extractfile(member) if member.isreg() else None
    if content is None or len(name.parts) < 2:
        raise ValueError(
            f"the archive has the member {member.name!r}, which is not a regular file in a folder"
        )
    destination = folder.joinpath(*name.parts[1:])
    try:
        if destination.exists():
            raise ValueError(f"the archive has the member {member.name!r} twice")
        destination.parent.mkdir(parents=True, exist_ok=True)
        file = destination.open("xb")
    except OSError as error:
        if error.errno not in _OF_A_NAME:
            raise
        raise ValueError(
            f"the archive has the member {member.name!r}, which cannot be a file beside the "
            f"others: {error.strerror}"
        ) from error
    with content, file:
        shutil.copyfileobj(content, file)


@contextlib.contextmanager
def _built_as_a_whole(target: Path) -> Iterator[Path]:
    """A scratch folder of the same name, which becomes ``target`` if all goes well."""
    above = target.parent
    made = [folder for folder in (above, *above.parents) if not folder.exists()]
    try:
        above.mkdir(parents=True, exist_ok=True)
        # On the same file system as the target, where a rename is atomic.
        with tempfile.TemporaryDirectory(dir=above, prefix=f".{target.name}-") as scratch:
            folder = Path(scratch) / target.name
            folder.mkdir()
            yield folder
            _put(folder, target)
    # Also for an interrupt, which is no Exception: the folders that were made on the way go, where
    # they are empty.
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _put(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError as error:
        # Another process may have been quicker, with the same files.
        if not all((target / file.name).exists() for file in folder.iterdir()):
            raise FileExistsError(
                f"{target} cannot be made from a download, is there something else? {error}"
            ) from error
