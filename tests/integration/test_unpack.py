"""Archives made by the real tools, real bombs, real kills."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import pytest

from shoal.agent.unpack.formats import ArchiveFormat
from shoal.common.errors import UnsafeArchive
from support.archives import END, Place, header, member, tar, walk

COMMANDS = {
    ArchiveFormat.TAR: ("tar", ["tar", "-cf"]),
    ArchiveFormat.TAR_GZ: ("gzip", ["tar", "-czf"]),
    ArchiveFormat.TAR_BZ2: ("bzip2", ["tar", "-cjf"]),
    ArchiveFormat.TAR_XZ: ("xz", ["tar", "-cJf"]),
    ArchiveFormat.TAR_ZST: ("zstd", ["tar", "--zstd", "-cf"]),
    ArchiveFormat.ZIP: ("zip", ["zip", "-qry"]),
}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Something like an environment."""
    top = tmp_path / "tree"
    (top / "bin").mkdir(parents=True)
    (top / "lib/python/empty").mkdir(parents=True)
    (top / "bin/python3").write_bytes(random.Random(1).randbytes(3_000_000))
    (top / "bin/python3").chmod(0o755)
    (top / "bin/python").symlink_to("python3")
    (top / "lib64").symlink_to("lib")
    os.link(top / "bin/python3", top / "bin/python3.11")
    (top / "lib" / ("ü" * 100)).mkdir()
    (top / "lib" / ("ü" * 100) / ("n" * 200)).write_text("long")
    for number in range(300):
        (top / f"lib/python/m{number}.py").write_text(f"number = {number}\n" * number)
    return top


@pytest.mark.parametrize("kind", COMMANDS)
def test_what_the_real_tools_write(place: Place, tree: Path, kind: ArchiveFormat) -> None:
    program, command = COMMANDS[kind]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    made = place.folder.parent / f"made.{kind}"
    subprocess.run([*command, str(made), "."], cwd=tree, check=True, timeout=60)
    done = place.unpack(made.read_bytes(), name=made.name, into="env", format=kind, sync=True)
    assert done.files == 305
    different = subprocess.run(
        ["diff", "-r", "--no-dereference", str(tree), str(place.folder / "env")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert different.stdout == ""
    assert os.access(place.folder / "env/bin/python3", os.X_OK)
    assert place.unpack(made.read_bytes(), name=made.name, into="env", format=kind).skipped


def test_ten_gigabytes_in_ten_megabytes(place: Place) -> None:
    """As one file, refused at its header; as a thousand files, when the ratio is reached."""

    def packed(data: bytes) -> bytes:
        stream = zlib.compressobj(9, wbits=31)
        return stream.compress(data) + stream.flush()

    zeros = packed(bytes(100 << 20))
    size = 100 * (100 << 20)
    big = tarfile.TarInfo("bomb")
    big.size = size
    one = packed(big.tobuf(tarfile.GNU_FORMAT)) + zeros * 100 + packed(END)
    assert len(one) < 11 << 20
    each = packed(bytes(10 << 20))
    many = b"".join(packed(header(b"f%d" % n, 10 << 20, b"0")) + each for n in range(1000)) + packed(END)
    assert len(many) < 11 << 20
    for bomb in (one, many):
        with pytest.raises(UnsafeArchive, match="200 times as large"):
            place.unpack(bomb, name="a.tar.gz", format=ArchiveFormat.TAR_GZ)
        assert walk(place.folder) == []


CHILD = """
import os, signal, sys
from pathlib import Path
from shoal.agent.unpack.formats import ArchiveFormat
from shoal.agent.unpack.members import Limits
from shoal.agent.unpack.unpacking import unpack_file
from shoal.common.paths import SafeRoot

left = int(sys.argv[3])
really = SafeRoot.replace_beneath

def dying(self, source, destination):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    really(self, source, destination)

SafeRoot.replace_beneath = dying
with SafeRoot(sys.argv[1]) as root, open(sys.argv[2], "rb") as file:
    unpack_file(root, file.fileno(), name="a.tar", into="", format=ArchiveFormat.TAR, limits=Limits(), stamp="s2",
                cancelled=lambda: False)
"""


def test_kill_9_between_two_renames(tmp_path: Path) -> None:
    new = tar(*(member(f"f{number}", b"new") for number in range(3)))
    for renames in range(11):
        (tmp_path / str(renames)).mkdir()
        place = Place(tmp_path / str(renames))
        place.unpack(tar(member("f1", b"old"), member("f9", b"old")), into="", stamp="s1")
        place.archive.write_bytes(new)
        child = subprocess.run(
            [sys.executable, "-c", CHILD, str(place.folder), str(place.archive), str(renames)], timeout=60, check=False
        )
        place.unpack(new, into="", stamp="s2")
        assert place.names() == ["f0", "f1", "f2"]
        assert {place.content(name) for name in place.names()} == {b"new"}
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL
    assert renames == 9


MEMORY = """
import os, resource, sys
from pathlib import Path
from shoal.agent.unpack.formats import ArchiveFormat
from shoal.agent.unpack.members import Limits
from shoal.agent.unpack.unpacking import unpack_file
from shoal.common.paths import SafeRoot

def unpack(name):
    with SafeRoot(sys.argv[1]) as root, open(name, "rb") as file:
        unpack_file(root, file.fileno(), name=name, into=os.path.basename(name), format=ArchiveFormat.TAR_GZ, limits=Limits(),
                    stamp="s", cancelled=lambda: False, sync=False)

unpack(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
unpack(sys.argv[3])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_is_bounded(place: Place) -> None:
    """200 MB in one file and 5,000 small ones cost hardly more than a few bytes."""
    small, large = place.folder.parent / "small", place.folder.parent / "large"
    noise = random.Random(2).randbytes(1 << 20)
    with tarfile.open(small, "w:gz") as archive:
        archive.add(__file__, "x")
    stream = zlib.compressobj(1, wbits=31)
    with large.open("wb") as file:
        file.write(stream.compress(header(b"big", 200 << 20, b"0")))
        for _ in range(200):
            file.write(stream.compress(noise))
        for number in range(5000):
            file.write(stream.compress(member(f"d{number % 100}/f{number}", b"x")))
        file.write(stream.compress(END) + stream.flush())
    command = [sys.executable, "-c", MEMORY, str(place.folder), str(small), str(large)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert int(done.stdout) * (1 if sys.platform == "darwin" else 1024) < 8 << 20
    assert len(walk(place.folder / "large")) == 5101
