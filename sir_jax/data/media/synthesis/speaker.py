"""A process that says one text by several voices.

    python -m sir_jax.data.media.synthesis.speaker < request.json

The request is {"text", "language", "voices"}, each voice the fields of `Voice`. For each voice in
turn it writes whether that spoke, the size of what follows, and the samples as int16, or the reason
in words. eSpeak NG keeps state between utterances and dies at a few texts: in a process of its own
the same text sounds the same every time, and who waits for it lives on.
"""

import json
import struct
import sys
from typing import BinaryIO

from sir_jax.data.media.synthesis.engines import engine
from sir_jax.data.media.synthesis.voice import Voice
from sir_jax.errors import UserError
from sir_jax.runtime.process import end_with_parent

REPLY = struct.Struct(">?I")


def speak(request: dict, replies: BinaryIO) -> None:
    """Answer a request.

    Args:
      request: see the module.
      replies: stream that the replies are written to.
    """
    for voice in (Voice(**fields) for fields in request["voices"]):
        try:
            wave = engine(voice.engine).speak(
                request["text"], voice.name, voice.rate, voice.pitch, request["language"]
            )
            spoke, body = True, wave.tobytes()
        except (UserError, RuntimeError, OSError) as error:
            spoke, body = False, str(error).encode("utf-8", "replace")
        replies.write(REPLY.pack(spoke, len(body)) + body)
        replies.flush()


if __name__ == "__main__":
    end_with_parent()
    speak(json.load(sys.stdin), sys.stdout.buffer)
