"""What the page refuses: files that are not of the index, and other sites."""

import json
import socket

import pytest
from page_client import error

TRICKS = [
    "../outside.png",
    "..%2foutside.png",
    "%2e%2e/outside.png",
    "pictures/../../outside.png",
    "pictures/..%2f..%2foutside.png",
    "%2fetc%2fpasswd",
    "/etc/passwd",
    "//etc/passwd",
    "pictures/0.png%00.jpg",
    "pictures%5c0.png",
    "pictures/link.png",
    "speech/0.flac",
    "pictures",
    "pictures/",
    "",
    ".",
    "..",
    "%ff%fe",
    "pictures/0.png/",
    "./pictures/0.png",
    "C:%5cboot.ini",
    "a" * 3000,
]


@pytest.mark.parametrize("trick", TRICKS)
def test_tricky_ids_name_no_other_file(url, trick):
    # Over a raw socket, because an HTTP client would normalise these paths.
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    for more in ("", "?size=thumbnail"):
        with socket.create_connection((host, int(port))) as connection:
            request = f"GET /api/picture/{trick}{more} HTTP/1.1\r\nHost: {host}\r\n"
            connection.sendall(f"{request}Connection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 404"), head
        assert "\n" not in json.loads(body)["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 400),
        ({"host": "evil.example:80"}, 400),
        ({"host": ""}, 400),
        ({"host": "127.0.0.1.evil.example"}, 400),
        ({"host": "[::2]:1"}, 400),
        ({"host": "8.8.8.8"}, 400),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_other_sites_are_refused(client, spoken, headers, status):
    request = client.build_request("POST", "/api/search", files={"speech": ("a.wav", spoken)})
    request.headers.update(headers)
    error(client.send(request), status)
    if "host" in headers:
        error(client.get("/", headers=headers), 400)


def test_the_page_itself_is_not_refused(client, url, spoken):
    own = {"origin": url.rstrip("/"), "sec-fetch-site": "same-origin"}
    files = {"speech": ("a.wav", spoken)}
    assert client.post("/api/search", files=files, headers=own).status_code == 200
    for host in ("localhost", "localhost:1234", "[::1]:80", "127.0.0.5"):
        assert client.get("/", headers={"host": host}).status_code == 200


def test_every_answer_carries_the_headers(client):
    for answer in (
        client.get("/"),
        client.get("/nothing"),
        client.post("/api/search"),
        client.get("/", headers={"host": "evil.example"}),
    ):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store" and "server" not in answer.headers


def test_the_page_names_no_other_host(client):
    page = client.get("/").text
    for name in (
        "page.js",
        "page.css",
        "capture.js",
        "microphone.js",
        "api.js",
        "draw.js",
        "explain.js",
        "icon.svg",
    ):
        answer = client.get(f"/static/{name}")
        assert answer.status_code == 200
        page += answer.text
    assert "//" not in page.replace("http://www.w3.org/2000/svg", "").replace("// ", "")
    assert "<script>" not in page and "style=" not in page and "onclick" not in page
