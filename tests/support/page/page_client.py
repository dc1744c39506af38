"""Requests to the page's server."""


def ask(client, part, name, data, **fields):
    return client.post("/api/search", files={part: (name, data)}, data=fields)


def error(answer, status):
    """Return the message of a refusal, which must be one line."""
    assert answer.status_code == status, answer.text
    message = answer.json()["error"]
    assert list(answer.json()) == ["error"] and message and "\n" not in message
    return message
