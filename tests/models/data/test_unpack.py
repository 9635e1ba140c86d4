"""Archives that are refused although their digest is right, member by member."""

import gzip
import io
import tarfile

import pytest

from sharpflow.models.data.download import fetch_archive

FOLDER = "cifar-10-batches-bin"


def archive_of(members):
    """A gzipped tar with members given as (name or TarInfo, content)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for member, content in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            if content is not None:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content or b""))
    return buffer.getvalue()


def special(name, kind, linkname=""):
    """A member that is neither file nor folder, or a folder."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, linkname
    return info


@pytest.mark.parametrize(
    "member",
    [
        ("../evil", b"x"),
        ("/tmp/evil", b"x"),
        (f"{FOLDER}/../../evil", b"x"),
        (f"{FOLDER}/../{FOLDER}-2/evil", b"x"),
        ("other/evil", b"x"),
        (f"{FOLDER}-2/evil", b"x"),
        (f"{FOLDER}\\..\\..\\evil", b"x"),
        ("C:/evil", b"x"),
        (FOLDER, b"x"),
        (f"{FOLDER}/data_batch_1.bin", b"twice"),
        (f"{FOLDER}/{'long' * 100}", b"x"),
        (f"{FOLDER}/{'deep/' * 1000}x", b"x"),
        (f"{FOLDER}/data_batch_1.bin/within", b"x"),
        (special("../evil", tarfile.DIRTYPE), None),
        (special(f"{FOLDER}/link", tarfile.SYMTYPE, "/etc"), None),
        (special(f"{FOLDER}/link", tarfile.LNKTYPE, "/etc/passwd"), None),
        (special(f"{FOLDER}/pipe", tarfile.FIFOTYPE), None),
        (special(f"{FOLDER}/device", tarfile.CHRTYPE), None),
    ],
    ids=lambda member: repr(getattr(member[0], "name", member[0])),
)
def test_an_archive_with_a_bad_member_leaves_nothing(tmp_path, served, as_remote, member):
    content = archive_of([(f"{FOLDER}/data_batch_1.bin", bytes(3073)), member])
    (served / "evil.tar.gz").write_bytes(content)
    around = set(tmp_path.parent.rglob("*"))
    name = getattr(member[0], "name", member[0])
    with pytest.raises(ValueError) as caught:
        fetch_archive(as_remote(served / "evil.tar.gz"), tmp_path / "root" / FOLDER)
    assert f"the archive has the member {name!r}" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert set(tmp_path.parent.rglob("*")) == around


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no archive at all", "cannot be unpacked"),
        (archive_of([("cifar-10-batches-bin/data_batch_1.bin", bytes(9000))])[:60], "unpacked"),
        (gzip.compress(b"no tar"), "cannot be unpacked"),
        (archive_of([(special(FOLDER, tarfile.DIRTYPE), None)]), "holds no file in a folder"),
    ],
    # named, as the contents hold the time and would differ from worker to worker
    ids=["not an archive", "truncated", "no tar", "no files"],
)
def test_an_archive_that_cannot_be_unpacked_leaves_nothing(
    tmp_path, served, as_remote, content, message
):
    (served / "bad.tar.gz").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        fetch_archive(as_remote(served / "bad.tar.gz"), tmp_path / "root" / FOLDER)
    assert list(tmp_path.iterdir()) == []
