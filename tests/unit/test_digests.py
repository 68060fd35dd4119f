"""Digests: the two algorithms, against hashlib and git's own numbers; what is not a digest is refused."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from shoal.common.digests import Hasher, digest_of_file, matches, new_hasher, parse_digest
from shoal.common.errors import UsageError

HELLO_GIT = "git-sha1:ce013625030ba8dba906f756967f9e9ca394464a"  # `echo hello | git hash-object --stdin`
EMPTY_GIT = "git-sha1:e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
EMPTY_SHA256 = "sha256:" + hashlib.sha256(b"").hexdigest()


def test_git_blob_id_is_gits_own():
    hasher = new_hasher(HELLO_GIT, 6)
    hasher.update(b"hel")
    hasher.update(memoryview(b"lo\n"))
    assert hasher.result() == HELLO_GIT
    assert new_hasher(EMPTY_GIT, 0).result() == EMPTY_GIT


def test_sha256_is_the_default_and_needs_no_size():
    hasher = new_hasher("", None)
    hasher.update(b"abc")
    assert hasher.algorithm == "sha256"
    assert hasher.result() == "sha256:" + hashlib.sha256(b"abc").hexdigest()
    assert new_hasher(EMPTY_SHA256, None).result() == EMPTY_SHA256


def test_git_blob_id_needs_the_size():
    with pytest.raises(UsageError, match="size"):
        new_hasher(HELLO_GIT, None)


def test_git_blob_id_with_a_wrong_size_differs():
    hasher = new_hasher(HELLO_GIT, 7)
    hasher.update(b"hello\n")
    assert hasher.result() != HELLO_GIT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        "sha256:" + "0" * 63,
        "sha256:" + "0" * 65,
        "sha256:" + "g" * 64,
        "sha256:" + "0" * 63 + "\n",
        "sha256:" + "٠" * 64,  # digits, but not hex digits
        "SHA256:" + "0" * 64,
        "md5:" + "0" * 32,
        "git-sha1:" + "0" * 64,
        "0" * 64,
        "sha256:" + "0" * 10_000,
    ],
)
def test_what_is_not_a_digest_is_refused(text: str):
    with pytest.raises(UsageError) as caught:
        parse_digest(text)
    assert len(str(caught.value)) < 400


def test_an_unknown_algorithm_is_refused():
    with pytest.raises(UsageError, match="md5"):
        Hasher("md5")


def test_matches_ignores_the_case_of_hex_and_nothing_else():
    assert matches(HELLO_GIT.replace("ce01", "CE01"), HELLO_GIT)
    assert not matches(EMPTY_GIT, HELLO_GIT)
    assert not matches(EMPTY_SHA256, HELLO_GIT)


def test_an_empty_expectation_is_met_by_everything():
    assert matches("", HELLO_GIT)


def test_an_empty_answer_meets_no_expectation():
    with pytest.raises(UsageError):
        matches(HELLO_GIT, "")


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (2 << 20) + 3])
def test_a_file_is_hashed_whole_and_from_its_beginning(tmp_path: Path, size: int):
    data = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    try:
        os.lseek(fd, size // 2, os.SEEK_SET)
        assert digest_of_file(fd, "", size) == "sha256:" + hashlib.sha256(data).hexdigest()
        git = hashlib.sha1(b"blob %d\0" % size + data).hexdigest()
        assert digest_of_file(fd, "git-sha1:" + "0" * 40, size) == "git-sha1:" + git
    finally:
        os.close(fd)
