"""The grammar of sources: what each form means, one canonical text per source, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.common.errors import UsageError
from shoal.common.uri import FileUri, HttpUri, HubUri, RepoKind, S3Uri, check_revision, parse_list_file, parse_uri

MODEL, DATASET, SPACE = RepoKind.MODEL, RepoKind.DATASET, RepoKind.SPACE


def hub(kind: RepoKind, repo_id: str, revision: str | None = None, path: str = "") -> HubUri:
    return HubUri(kind=kind, repo_id=repo_id, revision=revision, path=path)


@pytest.mark.parametrize(
    ("text", "source", "canonical"),
    [
        ("hf://acme/tiny", hub(MODEL, "acme/tiny"), "hf://acme/tiny"),
        ("HF://acme/tiny/", hub(MODEL, "acme/tiny"), "hf://acme/tiny"),
        (" hf://acme/tiny ", hub(MODEL, "acme/tiny"), "hf://acme/tiny"),
        ("hf://models/acme/tiny", hub(MODEL, "acme/tiny"), "hf://acme/tiny"),
        ("hf://acme/tiny@main", hub(MODEL, "acme/tiny", "main"), "hf://acme/tiny"),
        ("hf://acme/Tiny-1.5_x@v1.0", hub(MODEL, "acme/Tiny-1.5_x", "v1.0"), "hf://acme/Tiny-1.5_x@v1.0"),
        ("hf://datasets/acme/set", hub(DATASET, "acme/set"), "hf://datasets/acme/set"),
        ("hf://spaces/acme/app@dev", hub(SPACE, "acme/app", "dev"), "hf://spaces/acme/app@dev"),
        ("hf://acme/tiny/a/b.bin", hub(MODEL, "acme/tiny", None, "a/b.bin"), "hf://acme/tiny/a/b.bin"),
        ("hf://acme/tiny@dev/a/b.bin", hub(MODEL, "acme/tiny", "dev", "a/b.bin"), "hf://acme/tiny@dev/a/b.bin"),
        ("hf://acme/tiny@main/a", hub(MODEL, "acme/tiny", "main", "a"), "hf://acme/tiny/a"),
        ("hf://acme/tiny@refs%2Fpr%2F1", hub(MODEL, "acme/tiny", "refs/pr/1"), "hf://acme/tiny@refs%2Fpr%2F1"),
        ("hf://acme/tiny@refs/pr/1", hub(MODEL, "acme/tiny", "refs/pr/1"), "hf://acme/tiny@refs%2Fpr%2F1"),
        ("hf://acme/tiny@refs/pr/1/a/b", hub(MODEL, "acme/tiny", "refs/pr/1", "a/b"), "hf://acme/tiny@refs%2Fpr%2F1/a/b"),
        ("hf://datasets/acme/s@refs/convert/parquet/d", hub(DATASET, "acme/s", "refs/convert/parquet", "d"),
         "hf://datasets/acme/s@refs%2Fconvert%2Fparquet/d"),
        ("hf://acme/tiny@feature%2Fx/a", hub(MODEL, "acme/tiny", "feature/x", "a"), "hf://acme/tiny@feature%2Fx/a"),
        # As in the Hub's own client the path is literal: a file may have such a name.
        ("hf://acme/tiny/100%.txt", hub(MODEL, "acme/tiny", None, "100%.txt"), "hf://acme/tiny/100%.txt"),
        ("hf://acme/tiny/a@b?c#d", hub(MODEL, "acme/tiny", None, "a@b?c#d"), "hf://acme/tiny/a@b?c#d"),
        ("https://huggingface.co/acme/tiny", hub(MODEL, "acme/tiny"), "hf://acme/tiny"),
        ("http://huggingface.co/acme/tiny/", hub(MODEL, "acme/tiny"), "hf://acme/tiny"),
        ("https://hf.co/acme/tiny?library=x#y", hub(MODEL, "acme/tiny"), "hf://acme/tiny"),
        ("https://huggingface.co/acme/tiny/tree/main", hub(MODEL, "acme/tiny", "main"), "hf://acme/tiny"),
        ("https://huggingface.co/datasets/acme/s/tree/dev/a", hub(DATASET, "acme/s", "dev", "a"), "hf://datasets/acme/s@dev/a"),
        ("https://huggingface.co/acme/tiny/resolve/main/a%20b.bin?download=true",
         hub(MODEL, "acme/tiny", "main", "a b.bin"), "hf://acme/tiny/a b.bin"),
        ("https://huggingface.co/acme/tiny/blob/refs%2Fpr%2F1/x", hub(MODEL, "acme/tiny", "refs/pr/1", "x"),
         "hf://acme/tiny@refs%2Fpr%2F1/x"),
        ("https://huggingface.co/acme/tiny/tree/refs/pr/1", hub(MODEL, "acme/tiny", "refs/pr/1"),
         "hf://acme/tiny@refs%2Fpr%2F1"),
        ("s3://bucket/a/key", S3Uri(bucket="bucket", key="a/key"), "s3://bucket/a/key"),
        ("s3://bucket/prefix/", S3Uri(bucket="bucket", key="prefix/"), "s3://bucket/prefix/"),
        ("S3://bucket", S3Uri(bucket="bucket", key=""), "s3://bucket/"),
        ("s3://bucket/a%20b?c", S3Uri(bucket="bucket", key="a%20b?c"), "s3://bucket/a%20b?c"),
        ("file:///data/x/", FileUri(path="/data/x"), "file:///data/x"),
        ("file://localhost/data/a%20b", FileUri(path="/data/a b"), "file:///data/a%20b"),
        ("file:///", FileUri(path="/"), "file:///"),
    ],
)  # fmt: skip
def test_what_a_uri_means(text: str, source: object, canonical: str) -> None:
    parsed = parse_uri(text)
    assert parsed == source
    assert parsed.canonical() == canonical
    again = parse_uri(canonical)
    assert again.canonical() == canonical


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("https://example.org", "https://example.org/"),
        ("HTTPS://Example.ORG:443/A", "https://example.org/A"),
        ("http://example.org:80/", "http://example.org/"),
        ("http://example.org:8080/", "http://example.org:8080/"),
        ("http://example.org:/x", "http://example.org/x"),
        ("https://example.org./x", "https://example.org/x"),
        ("https://example.org/a/./b/../c", "https://example.org/a/c"),
        ("https://example.org/../../x", "https://example.org/x"),
        ("https://example.org/%2e%2E/x", "https://example.org/x"),
        ("https://example.org/a/..", "https://example.org/"),
        ("https://example.org//a//b/", "https://example.org//a//b/"),
        ("https://example.org/%7euser/%c3%a9%2f", "https://example.org/~user/%C3%A9%2F"),
        ("https://example.org/é x", "https://example.org/%C3%A9%20x"),
        ("https://example.org/100%", "https://example.org/100%25"),
        ("https://example.org/a#part", "https://example.org/a"),
        ("https://example.org/a?", "https://example.org/a"),
        ("https://example.org?x=1", "https://example.org/?x=1"),
        ("https://example.org/a?x=%7e&sig=a%2Bb/c==", "https://example.org/a?x=%7e&sig=a%2Bb/c=="),
        ("https://bücher.example/x", "https://xn--bcher-kva.example/x"),
        ("http://[::1]:8080/x", "http://[::1]:8080/x"),
        ("http://[0:0:0:0:0:0:0:1]/x", "http://[::1]/x"),
        ("http://127.0.0.1:9/x", "http://127.0.0.1:9/x"),
        ("https://huggingface.co/", "https://huggingface.co/"),
        ("https://huggingface.co/docs/transformers", "https://huggingface.co/docs/transformers"),
        ("https://huggingface.co/api/models/acme/tiny", "https://huggingface.co/api/models/acme/tiny"),
        ("https://huggingface.co.evil.org/acme/tiny", "https://huggingface.co.evil.org/acme/tiny"),
        ("https://huggingface.co:8443/acme/tiny", "https://huggingface.co:8443/acme/tiny"),
    ],
)
def test_http_urls_are_normalised(text: str, canonical: str) -> None:
    source = parse_uri(text)
    assert isinstance(source, HttpUri)
    assert source.canonical() == canonical
    assert parse_uri(canonical) == source


def test_parts_of_an_http_url() -> None:
    source = parse_uri("https://example.org:444/a/b%20c.bin?x=1")
    assert isinstance(source, HttpUri)
    assert (source.scheme, source.host, source.port) == ("https", "example.org", 444)
    assert (source.origin, source.name) == ("https://example.org:444", "b c.bin")
    folder = parse_uri("http://[::1]/a/")
    assert isinstance(folder, HttpUri)
    assert (folder.origin, folder.name) == ("http://[::1]", "")


def test_the_urls_of_other_hubs_are_known_when_they_are_configured() -> None:
    endpoints = ["http://127.0.0.1:8080/hub", "https://mirror.example"]
    for text in ("http://127.0.0.1:8080/hub/acme/tiny", "https://mirror.example/acme/tiny/tree/main"):
        assert parse_uri(text, hub_endpoints=endpoints).canonical() == "hf://acme/tiny"
    for text in ("http://127.0.0.1:8080/acme/tiny", "http://127.0.0.1:80/hub/acme/tiny", "https://huggingface.co/a/b"):
        assert isinstance(parse_uri(text, hub_endpoints=endpoints), HttpUri)


@pytest.mark.parametrize("text", ["acme/tiny", "acme/tiny@dev", "datasets/acme/set", "acme/tiny/config.json"])
def test_a_bare_repo_is_taken_where_the_caller_says_so(text: str) -> None:
    assert parse_uri(text, bare_hub=True) == parse_uri(f"hf://{text}")
    with pytest.raises(UsageError, match="no scheme"):
        parse_uri(text)


@pytest.mark.parametrize("text", ["./acme/tiny", "/acme/tiny", "~/tiny", "tiny", "C:\\x", "hf:acme/tiny", "acme"])
def test_a_local_path_is_no_bare_repo(text: str) -> None:
    with pytest.raises(UsageError):
        parse_uri(text, bare_hub=True)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "hf://", "hf:///", "hf://acme", "hf://acme/", "hf:///tiny", "hf://datasets/acme", "hf://acme/tiny@",
        "hf://acme/tiny@/x", "hf://acme//tiny", "hf://acme/tiny//x", "hf://acme/tiny/../x", "hf://acme/tiny/./x",
        "hf://acme/-tiny", "hf://acme/tiny.", "hf://acme/ti--ny", "hf://acme/ti..ny", "hf://acme/tiny.git",
        "hf://ac me/tiny", "hf://acmé/tiny", f"hf://acme/{'x' * 97}", "hf://dataset/acme/set", "hf://buckets/a/b",
        "hf://kernels/a/b", "hf://acme/tiny@a..b", "hf://acme/tiny@%2e%2e", "hf://acme/tiny@a b", "hf://acme/tiny@-x",
        "hf://acme/tiny@x%", "hf://acme/tiny@x%00", "hf://acme/tiny@%ff", "hf://acme/tiny@a~1", "hf://acme/tiny@x.lock",
        "hf://acme/tiny\n", "hf://acme/ti\0ny", "hf://acme/tiny/\u202ex", "hf://acme/tiny/\udc80",
        "https://huggingface.co/acme/tiny/resolve/main/a%2Fb", "https://huggingface.co/acme/tiny/resolve/main/a%00b",
        "https://huggingface.co/acme/tiny/resolve/main/a//b",
        "s3://", "s3:///key", "s3://b", "s3://bucket//key", "s3://bucket/a/../b", "s3://buc ket/x", "s3://bucket/a\x07",
        "http://", "https:///x", "http://exa mple/x", "http://-x/", "http://x..y/", "http://x:0/", "http://x:65536/",
        "http://x:8a/", "http://[::1/", "http://[1::2::3]/", "http://[::1]x/", "http://a\\b/", "http://a/b\\c",
        f"http://{'a.' * 130}x/", "http://x\u3000y/", f"http://x/{'a' * 9000}",
        "file://", "file://host/x", "file://rel", "file:///a/../b", "file:///a//b", "file:///%00", "file:///a%zz",
        "ftp://example.org/x", "javascript://x", "gs://bucket/x", "example.org/x", "//example.org/x",
    ],
)  # fmt: skip
def test_what_is_malformed_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_uri(text)
    assert caught.value.thing.startswith("source ")
    assert repr(text)[1:20] in caught.value.thing
    assert caught.value.cause
    assert caught.value.remedy
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "text",
    [
        "https://user:hunter2@example.org/x",
        "https://hunter2@example.org/x",
        "https://a@hunter2@example.org/x",
        f"https://{'u' * 300}:hunter2@example.org/x",
        "s3://KEY:hunter2@bucket/x",
        "hf://user:hunter2@acme/tiny",
        "ftp://user:hunter2@example.org/x",
        "user:hunter2@acme/tiny",
        "ftp://example.org/x?X-Amz-Signature=hunter2",
    ],
)
def test_a_credential_in_a_uri_is_refused_and_not_repeated(text: str) -> None:
    for bare in (False, True):
        with pytest.raises(UsageError) as caught:
            parse_uri(text, bare_hub=bare)
        assert "hunter2" not in str(caught.value)


def test_a_signed_url_keeps_its_signature_to_itself() -> None:
    source = parse_uri("https://cdn.example/x?Signature=abcdef&Expires=1")
    assert "abcdef" in source.canonical()
    assert "abcdef" not in repr(source)
    assert "abcdef" not in f"{source}"


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/12", "a" * 40, "feature/x_y-z", "ünïcode"])
def test_names_that_git_takes_are_revisions(revision: str) -> None:
    assert check_revision(revision) == revision


@pytest.mark.parametrize("revision", ["", "..", "a..b", "a b", "/a", "a/", "a//b", ".a", "a/.b", "a.", "@", "a@{1}", "a^",
                                      "a:b", "a*", "a[", "a\\b", "a?", "-a", "a.lock", "x" * 251, "a\u200b"])  # fmt: skip
def test_names_that_git_refuses_are_no_revisions(revision: str) -> None:
    with pytest.raises(UsageError, match="revision"):
        check_revision(revision)


def test_a_list_is_read_line_by_line() -> None:
    lines = [
        "\ufeff# models\r\n",
        "\n",
        "  acme/tiny  # the small one\n",
        "hf://acme/tiny@main\n",
        "https://huggingface.co/acme/tiny\n",
        "\t\n",
        "https://example.org/x#fragment\n",
        "datasets/acme/set",
    ]
    found = [source.canonical() for source in parse_list_file(lines)]
    assert found == ["hf://acme/tiny", "https://example.org/x", "hf://datasets/acme/set"]


def test_a_bad_line_is_named_by_its_number() -> None:
    with pytest.raises(UsageError, match=r"^repos\.txt line 3, source 'nonsense'"):
        parse_list_file(["a/b", "", "nonsense"], name="repos.txt")
    assert parse_list_file([]) == []


@given(
    st.text(max_size=40),
    st.sampled_from(["", "hf://a/b", "https://h/", "http://", "s3://bkt/", "file:///", "hf://a/b@"]),
)
def test_any_text_is_refused_or_has_one_canonical_form(text: str, start: str) -> None:
    try:
        source = parse_uri(start + text)
    except UsageError:
        return
    canonical = source.canonical()
    assert parse_uri(canonical).canonical() == canonical
