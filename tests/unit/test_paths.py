import re
import unicodedata
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker_space.errors import InvalidRequest
from worker_space.paths import MAX_PATH_BYTES, MAX_SEGMENT_BYTES, MAX_SEGMENTS, workspace_path

ACCEPTED = {
    "a": "a",
    "main.py": "main.py",
    "/etc/passwd": "etc/passwd",
    "./src/./main.py": "src/main.py",
    "src/.": "src",
    ".gitignore": ".gitignore",
    "..hidden": "..hidden",
    "a..b/c...d": "a..b/c...d",
    "Notes (1) [draft] #2 & it's 100% + $5; done!.txt": "Notes (1) [draft] #2 & it's 100% + $5; done!.txt",
    "50%": "50%",
    "a%b": "a%b",
    "100%zz.txt": "100%zz.txt",
    "a%20b": "a%20b",
    "caf%C3%A9": "caf%C3%A9",
    "a/~b": "a/~b",
    "a/~$doc.docx": "a/~$doc.docx",
    "b~": "b~",
    "Überblick/naïve café.md": "Überblick/naïve café.md",
    "文書/ノート.txt": "文書/ノート.txt",
    "رسالة": "رسالة",
    "हिन्दी.txt": "हिन्दी.txt",
    "🦊.txt": "🦊.txt",
    "To do…": "To do…",
    "“quoted”": "“quoted”",
    "console.log": "console.log",
    "com10": "com10",
    "COM": "COM",
    "nulls.txt": "nulls.txt",
    "a.nul": "a.nul",
    "a" * 255: "a" * 255,
    "é" * 127: "é" * 127,
    "/".join(["a"] * 32): "/".join(["a"] * 32),
    "./" * 500 + "a": "a",
}

REFUSED = [
    *("", "/", ".", "./", "//", "a//b", "//a", "a/", "a//", "/a/", "././"),
    *("..", "../x", "/..", "a/..", "a/../b", "a/../../b", "a/b/..", "./..", "../../../../etc/passwd"),
    *(
        "%2e%2e/",
        "%2e%2e/x",
        "%2E%2E/x",
        ".%2e/x",
        "%2e./x",
        "%252e%252e/x",
        "%25252e%25252e",
        "a/%2e/b",
        "%2e",
        "%252e",
    ),
    *("..%2f", "..%2fx", "a%2fb", "a%2Fb", "a%252fb", "%2fetc", "..%5cx", "a%5cb", "..%c0%afx", "%c0%ae%c0%ae/x"),
    *(
        "%00",
        "a%00b",
        "a%0ab",
        "%7eroot",
        "%7Eroot",
        "%257eroot",
        "con%2etxt",
        "%20a",
        "a%20",
        "a%2e",
        "%ff",
        "e%cc%81",
    ),
    *("%" + "25" * 200, "%" + "25" * 9 + "41"),
    *(
        "．．／x",
        "．．",
        "..／x",
        "a／b",
        "a∕b",
        "a⁄b",
        "..∕x",
        "..⁄x",
        "a＼b",
        "a﹨b",
        "a⧵b",
        "a∖b",
        "a╱b",
        "a⧸b",
        "½",
    ),
    *("․․", "‥", "…", "...", "....", ".․", "․", "。", "・・", "·", ". .", "．", "a/…/b", "︙"),
    *("％2e％2e/x", "a％b", "a：b", "a＊b", "a？b", "a＂b", "a＜b", "a＞b", "a｜b", "℀"),
    *("a\0b", "\0", "a\nb", "a\tb", "a\rb", "a\x1bb", "a\x7fb", "a\x85b", "a\u2028b", "a\u2029b"),
    *("C:\\x", "C:/x", "c:x", "a\\b", "..\\x", "\\\\server\\share", "\\", "file:///etc/passwd", "s3://bucket/x", "a:b"),
    *("a*", "a?", 'a"b', "a<b", "a>b", "a|b"),
    *("~", "~root", "~/x", "/~root", "./~root", "～root"),
    *("CON", "con", "Con.txt", "nul.txt", "NUL", "aux", "PRN.tar.gz", "COM1", "com9.log", "LPT1", "COM¹", "lpt³.x"),
    *("a/CON/b", "con .txt", "CONIN$", "conout$.x", "ＣＯＮ", "ｎｕｌ.txt", "nul․txt", "COM①"),
    *(" ", " a", "a ", "a.", "a. ", "a/ b", "a /b", "a./b", ".. ", ".. /x", " ..", "a/b."),
    *("\u0301a", "a/\u0301b", "\u0338", "\u20dd", "e\u0301", "A\u030a", "\u212b", "\u0958"),
    *(
        "a\u200bb",
        "a\u200db",
        "a\ufeffb",
        "\u2060",
        "a\u200eb",
        "a\u202eb",
        "a\u2066b",
        "a\u00adb",
        "a\u061cb",
        "\U000e0041",
    ),
    *("a\u00a0b", "a\u2003b", "a\u3000b", "a\u202fb", "a\u1680b", "\u3164", "a\u115fb", "a\u2800b", "a\u034fb"),
    *(
        "\ufffd",
        "a\ufffdb",
        "\ud800",
        "a\udfffb",
        "a\ud83db",
        "\ue000",
        "\U000f0000",
        "a\uffffb",
        "\ufdd0",
        "\U0001fffe",
    ),
    *("a" * 256, "é" * 128, "/".join(["a"] * 33), "/".join(["a" * 255] * 4), "a" * 1025, "./" * 600 + "a", "x/" * 400),
]


@pytest.mark.parametrize(("text", "stored"), ACCEPTED.items())
def test_a_portable_name_is_kept_as_it_is_written(text: str, stored: str) -> None:
    assert workspace_path(text) == stored


@pytest.mark.parametrize("text", REFUSED, ids=ascii)
def test_what_is_no_portable_relative_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        workspace_path(text)


@pytest.mark.parametrize("text", [text for text in REFUSED if text.strip("./")], ids=ascii)
def test_no_folder_has_a_name_that_a_file_cannot_have(text: str) -> None:
    if text in {"a/", "/a/"}:
        assert workspace_path(text, allow_root=True) == "a"
    else:
        with pytest.raises(InvalidRequest):
            workspace_path(text, allow_root=True)


@pytest.mark.parametrize("text", ["", "/", ".", "./", "/.", "/./", "././."])
def test_a_folder_may_be_the_root(text: str) -> None:
    assert workspace_path(text, allow_root=True) == ""


@pytest.mark.parametrize("text", ["//", "///", "a//", "..", "../", "./..", "/../", "%2e%2e"])
def test_a_folder_is_never_above_the_root(text: str) -> None:
    with pytest.raises(InvalidRequest):
        workspace_path(text, allow_root=True)


def test_only_text_is_a_path() -> None:
    with pytest.raises(InvalidRequest, match="must be text, not bytes"):
        workspace_path(b"a")  # type: ignore[arg-type]


def test_a_refusal_quotes_the_path_shortly_and_says_what_to_do() -> None:
    with pytest.raises(InvalidRequest) as refused:
        workspace_path("a\n" * 500)
    message = str(refused.value)
    assert "'a\\na\\n" in message
    assert "U+000A" in message
    assert len(message) < 400
    assert "\n" not in message


SPECIAL = st.sampled_from(
    [
        "..",
        ".",
        "/",
        "%",
        "2e",
        "2f",
        "25",
        "~",
        "\\",
        " ",
        "．",
        "／",
        "∕",
        "‥",
        "%2e",
        "%2F",
        "%25",
        "CON",
        "\u0301",
        "é",
        "ﬁ",
        "a",
    ]
)
HOSTILE = st.one_of(
    st.text(max_size=60),
    st.lists(SPECIAL, max_size=14).map("".join),
    st.lists(st.one_of(SPECIAL, st.text(max_size=4)), max_size=10).map("".join),
    st.lists(st.text(alphabet="abcxyz .-_é", min_size=1, max_size=6), min_size=1, max_size=6).map("/".join),
)


def accepted(text: str, *, folder: bool = False) -> str | None:
    try:
        return workspace_path(text, allow_root=folder)
    except InvalidRequest:
        return None


@given(HOSTILE, st.booleans())
@example("a%20b/c", False)
def test_an_accepted_path_keeps_every_promise(text: str, folder: bool) -> None:
    path = accepted(text, folder=folder)
    if path is None:
        return
    assert accepted(path, folder=folder) == path
    if folder and path == "":
        return
    assert not path.startswith(("/", "~"))
    assert not path.endswith("/")
    assert unicodedata.is_normalized("NFC", path)
    assert len(path.encode()) <= MAX_PATH_BYTES
    segments = path.split("/")
    assert 1 <= len(segments) <= MAX_SEGMENTS
    for segment in segments:
        assert 1 <= len(segment.encode()) <= MAX_SEGMENT_BYTES
        assert not re.search(r'[\x00-\x1f\x7f\\:*?"<>|]', segment)
        assert segment == segment.strip(" ")
        assert segment.strip(".")
    decoded = path
    for _ in range(len(path)):
        for reading in (decoded, unicodedata.normalize("NFKC", decoded)):
            assert len(reading.split("/")) == len(segments)
            assert not {"", ".", ".."} & set(reading.split("/"))
            assert not re.search(r'[\x00-\x1f\x7f\\:*?"<>|\ufffd]', reading)
        decoded = unquote(decoded)


@given(HOSTILE)
def test_a_percent_encoded_path_is_judged_by_what_it_decodes_to(text: str) -> None:
    if any(0xD800 <= ord(character) < 0xE000 for character in text):
        return
    if accepted(text) is None and text not in ("", "/", ".", "./") and "/" not in text:
        assert accepted(quote(text, safe="")) is None


@given(st.lists(st.text(alphabet="abcdefgh-_ 0123456789", min_size=1, max_size=12), min_size=1, max_size=8))
def test_plain_names_are_accepted(segments: list[str]) -> None:
    names = [f"x{segment}x" for segment in segments]
    assert accepted("/".join(names)) == "/".join(names)
    assert accepted("/" + "/./".join(names)) == "/".join(names)
