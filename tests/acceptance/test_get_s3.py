"""``shoal get s3://…`` from a real store: every byte once, every key right, no secret anywhere."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cli import Shoal, delivered, leftovers
from support.contents import SyntheticFile, as_content, read_all
from support.s3 import Asked, Store

MIB = 1 << 20
ACCESS, SECRET = "AKIASHOALTESTONE", "s3cr3t-of-the-first-store"
BIG = read_all(as_content(SyntheticFile(9 * MIB + 17, seed=3)))
FILES = {
    "config.json": b'{"a": 1}\n',
    "empty.bin": b"",
    "big.bin": BIG,
    "deep/er/vocab.txt": b"[PAD]\n" * 1000,
    "odd/sp ace+plus.txt": b"plus",
    "odd/per%25cent & ü #1?.txt": b"percent",
    "odd/~tilde_-'(paren)'.txt": b"paren",
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store", access=ACCESS, secret=SECRET) as found:
        for name, content in FILES.items():
            found.write(f"models/v1/{name}", content)
        found.write("models/v10/other.txt", b"not below v1/")
        yield found


@pytest.fixture
def shoal(tmp_path: Path, store: Store) -> Shoal:
    person = Shoal(tmp_path / "person", environ={"SHOAL_LOG_LEVEL": "debug"})
    (person.cwd / "shoal.toml").write_text(store.profile("one"))
    return person


def assert_no_secret(*texts: str) -> None:
    for text in texts:
        for secret in (ACCESS, SECRET, "X-Amz-Signature", "X-Amz-Credential"):
            assert secret.lower() not in text.lower(), text


def test_a_prefix_arrives_and_is_not_fetched_twice(shoal: Shoal, store: Store, tmp_path: Path) -> None:
    to = tmp_path / "to"
    first = shoal.get("s3://models/v1/", "--to", to, "--profile", "one")
    assert f"{len(FILES)} of {len(FILES)} files fetched" in first.stderr
    assert delivered(to) == FILES
    assert leftovers(to) == []
    assert store.log.bytes_served() == sum(map(len, FILES.values()))
    assert all(asked.headers["if-match"].startswith('"') for asked in store.log.objects)
    assert all("x-amz-signature" in map(str.lower, asked.query) for asked in store.log.objects)

    store.log.clear()
    again = shoal.get("s3://models/v1/", "--to", to, "--profile", "one")
    assert f"{len(FILES)} were there already" in again.stderr
    assert store.log.objects == []
    assert_no_secret(first.stderr, first.stdout, again.stderr, (to / ".shoal" / "manifest.json").read_text())


def test_a_single_object_and_its_digest(shoal: Shoal, tmp_path: Path) -> None:
    to = tmp_path / "to"
    digest = hashlib.sha256(BIG).hexdigest()
    shoal.get("s3://models/v1/big.bin", "--to", to, "--profile", "one", "--sha256", digest)
    assert delivered(to) == {"big.bin": BIG}
    entry = json.loads((to / ".shoal" / "manifest.json").read_text())["objects"][0]
    assert (entry["digest"], entry["source"]) == (f"sha256:{digest}", "s3://models/v1/big.bin")

    wrong = shoal.run("get", "s3://models/v1/big.bin", "--to", tmp_path / "b", "--profile", "one", "--sha256", "0" * 64)
    wrong.expect(6)
    assert delivered(tmp_path / "b") == {}


def test_selection_and_dry_run(shoal: Shoal, store: Store, tmp_path: Path) -> None:
    listed = shoal.get("s3://models/v1/", "--profile", "one", "--include", "*.txt", "--dry-run", "--json").document()
    assert sorted(each["path"] for each in listed["sources"]["s3://models/v1/"]) == sorted(
        name for name in FILES if name.endswith(".txt")
    )
    assert store.log.objects == []


@pytest.mark.parametrize(
    ("uri", "exit_code", "words"),
    [
        ("s3://models/v1/none.bin", 3, "no such object"),
        ("s3://models/v1", 3, "write s3://models/v1/ for everything under it"),
        ("s3://models/v2/", 3, "there are no files"),
        ("s3://missing/v1/", 3, "no such bucket"),
        ("s3://missing/v1", 3, "no such bucket"),
    ],
)
def test_what_is_not_there(shoal: Shoal, tmp_path: Path, uri: str, exit_code: int, words: str) -> None:
    ended = shoal.run("get", uri, "--to", tmp_path / "to", "--profile", "one").expect(exit_code)
    assert words in ended.stderr
    assert_no_secret(ended.stderr)


def test_wrong_keys_and_no_keys(shoal: Shoal, store: Store, tmp_path: Path) -> None:
    wrong_profile = store.profile("wrong", secret_access_key='"not-the-secret"')
    (shoal.cwd / "shoal.toml").write_text(f'{wrong_profile}[s3.none]\nendpoint = "{store.url}"\nanonymous = true\n')
    wrong = shoal.run("get", "s3://models/v1/", "--to", tmp_path / "a", "--profile", "wrong").expect(3)
    assert "profile 'wrong'" in wrong.stderr and "does not accept the keys" in wrong.stderr
    assert "not-the-secret" not in wrong.stderr
    none = shoal.run("get", "s3://models/v1/", "--to", tmp_path / "a", "--profile", "none").expect(3)
    assert "profile 'none'" in none.stderr
    unknown = shoal.run("get", "s3://models/v1/", "--to", tmp_path / "a", "--profile", "nobody").expect(2)
    assert "known are wrong, none" in unknown.stderr
    chain = shoal.run("get", "s3://models/v1/", "--to", tmp_path / "a", environ={"AWS_EC2_METADATA_DISABLED": "true"})
    assert "no keys were found" in chain.expect(3).stderr
    assert_no_secret(wrong.stderr, none.stderr, unknown.stderr, chain.stderr)


def test_keys_by_reference_and_the_aws_chain(shoal: Shoal, store: Store, tmp_path: Path) -> None:
    (shoal.home / "secret").write_text(f"{SECRET}\n")
    (shoal.cwd / "shoal.toml").write_text(
        f'[s3.one]\nendpoint = "{store.url}"\naccess_key_id_env = "ONE_KEY"\nsecret_access_key_file = "{shoal.home}/secret"\n'
    )
    shoal.get("s3://models/v1/config.json", "--to", tmp_path / "a", "--profile", "one", environ={"ONE_KEY": ACCESS})
    chain = {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ENDPOINT_URL": store.url}
    shoal.get("s3://models/v1/config.json", "--to", tmp_path / "b", environ=chain)
    (shoal.home / ".aws").mkdir()
    (shoal.home / ".aws" / "credentials").write_text(
        f"[theirs]\naws_access_key_id = {ACCESS}\naws_secret_access_key = {SECRET}\n"
    )
    (shoal.home / ".aws" / "config").write_text(f"[profile theirs]\nendpoint_url = {store.url}\nregion = us-east-1\n")
    shoal.get("s3://models/v1/config.json", "--to", tmp_path / "c", "--profile", "theirs")
    for name in "abc":
        assert delivered(tmp_path / name) == {"config.json": FILES["config.json"]}


def test_a_profile_for_one_bucket_and_the_rules(shoal: Shoal, store: Store, tmp_path: Path) -> None:
    (shoal.cwd / "shoal.toml").write_text(store.profile("one", bucket='"data"'))
    ended = shoal.run("get", "s3://models/v1/", "--to", tmp_path / "a", "--profile", "one").expect(7)
    assert "for bucket data alone" in ended.stderr
    for rules, exit_code in (
        ({"SHOAL_SECURITY_HTTPS_ONLY": "true"}, 7),
        ({"SHOAL_SECURITY_ALLOW": "s3://data/*"}, 7),
        ({"SHOAL_SECURITY_DENY": "127.0.0.1"}, 7),
        ({"SHOAL_SECURITY_ALLOW": "s3://models/v1/*"}, 0),
        ({"SHOAL_SECURITY_ALLOW": "127.0.0.1", "SHOAL_SECURITY_DENY": "s3://models/v2/*"}, 0),
    ):
        (shoal.cwd / "shoal.toml").write_text(store.profile("one"))
        shoal.run(
            "get", "s3://models/v1/config.json", "--to", tmp_path / "b", "--profile", "one", environ=rules
        ).expect(exit_code)


def test_an_object_that_changes_after_the_listing(shoal: Shoal, store: Store, tmp_path: Path) -> None:
    """Same size, other bytes: the ETag tells. What arrives under the final name is never a mixture."""

    def change(asked: Asked) -> None:
        if asked.is_object and not changed:
            changed.append(True)
            store.write("models/v1/big.bin", BIG[::-1])

    changed: list[bool] = []
    store.answer = change
    to = tmp_path / "to"
    ended = shoal.run("get", "s3://models/v1/big.bin", "--to", to, "--profile", "one").expect(1)
    assert "it changed at the store after the job was listed" in ended.stderr
    assert delivered(to) == {}
    shoal.get("s3://models/v1/big.bin", "--to", to, "--profile", "one")
    assert delivered(to) == {"big.bin": BIG[::-1]}


def test_what_is_there_is_accepted_by_size_and_etag_and_else_fetched_again(
    shoal: Shoal, store: Store, tmp_path: Path
) -> None:
    to = tmp_path / "to"
    arguments = ("s3://models/v1/", "--to", to, "--profile", "one")
    shoal.get(*arguments)
    store.write("models/v1/config.json", b'{"a": 2}\n')
    store.log.clear()
    assert "1 of 7 files fetched" in shoal.get(*arguments).stderr
    assert {asked.path for asked in store.log.objects} == {"/models/v1/config.json"}
    assert delivered(to) == {**FILES, "config.json": b'{"a": 2}\n'}

    (to / "deep/er/vocab.txt").write_bytes(b"other")
    assert "1 of 7 files fetched" in shoal.get(*arguments).stderr
    assert delivered(to)["deep/er/vocab.txt"] == FILES["deep/er/vocab.txt"]

    # Same size, same time: only a digest tells.
    big = to / "big.bin"
    before = big.stat()
    big.write_bytes(b"x" + BIG[1:])
    os.utime(big, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "0 of 7 files fetched" in shoal.get(*arguments).stderr
    assert "big.bin" in shoal.run("verify", to).expect(6).stderr
    shoal.run("verify", to, "--repair", "--profile", "one").expect(0)
    assert delivered(to)["big.bin"] == BIG
    assert "7 of 7 files fetched" in shoal.get(*arguments, "--force").stderr
    shoal.run("verify", to).expect(0)


def test_many_small_objects_take_few_questions(shoal: Shoal, store: Store, tmp_path: Path) -> None:
    files = {f"{n:04}.bin": b"%d" % n * 50 for n in range(300)}
    for name, content in files.items():
        store.write(f"small/{name}", content)
    shoal.get("s3://small/", "--to", tmp_path / "to", "--profile", "one")
    assert delivered(tmp_path / "to") == files
    assert len(store.log.objects) == len(files)


@pytest.mark.parametrize(
    ("status", "code", "times", "exit_code"),
    [(503, "SlowDown", 2, 0), (500, "InternalError", 2, 0), (403, "AccessDenied", 1, 0), (400, "ExpiredToken", 1, 0),
     (403, "AccessDenied", 99, 3), (403, "InvalidObjectState", 99, 3), (404, "NoSuchKey", 99, 3)],
)  # fmt: skip
def test_error_answers(
    shoal: Shoal, store: Store, tmp_path: Path, status: int, code: str, times: int, exit_code: int
) -> None:
    """A signature that is refused is asked for anew, once; a store that is busy is asked again later; the rest is told."""
    left = [times]

    def refuse(asked: Asked) -> tuple[int, bytes] | None:
        if not asked.is_object or not left[0]:
            return None
        left[0] -= 1
        text = f"<Error><Code>{code}</Code><StringToSign>{SECRET}</StringToSign><Message>{ACCESS}</Message></Error>"
        return status, text.encode()

    store.answer = refuse
    ended = shoal.run("get", "s3://models/v1/config.json", "--to", tmp_path / "to", "--profile", "one")
    ended.expect(exit_code)
    assert_no_secret(ended.stderr)
    if exit_code:
        assert code in ended.stderr or "archive" in ended.stderr
    else:
        assert delivered(tmp_path / "to") == {"config.json": FILES["config.json"]}
