"""A judge behind an address: a language model on a server that speaks as OpenAI's does (vLLM, llama.cpp, Ollama and others)."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from lga_lightning.evaluation.judge import PROMPT, REPLY_TOKENS, Judge
from lga_lightning.exceptions import JudgeError, SettingError

KEY = "LGA_JUDGE_KEY"  # the environment variable that holds the key
WORKERS = 8  # questions at a time
ATTEMPTS = 3
PAUSE = 1.0  # seconds before the second attempt; twice as many before the next
LONGEST_REPLY = 1 << 20  # bytes
SHOWN = 200  # characters of what a server said, in messages


class ServerJudge(Judge):
    """A model behind an OpenAI-compatible address.

    A question that meets with a timeout, a broken connection or a busy server is asked again; any other failure is final. The
    key is read from the environment variable ``LGA_JUDGE_KEY`` when a question is sent, to the address given alone: where that
    redirects, nothing follows.

    Args:
        address: The address before ``/chat/completions``, as ``http://localhost:8000/v1``.
        model: What the server calls the model.
        timeout: Seconds without a byte after which a question counts as lost.

    Raises:
        SettingError: If the address is none or has a password in it, or the timeout is not positive.
    """

    def __init__(self, address: str, model: str, timeout: float = 60.0) -> None:
        super().__init__()
        if not timeout > 0:
            raise SettingError(f"`judge_timeout` must be a positive number of seconds, got {timeout}.")
        _check_address(address)
        self.address, self.model, self.timeout = address.rstrip("/"), model, timeout

    def replies(self, prompts: Sequence[str]) -> Iterator[str]:
        """Replies of the server, several questions under way at once.

        Args:
            prompts: The prompts.

        Raises:
            JudgeError: If one gets no reply.
        """
        with ThreadPoolExecutor(WORKERS) as pool:
            yield from pool.map(self._persist, prompts)

    def settings(self) -> dict[str, Any]:
        """Address, model and prompt."""
        return {"address": self.address, "model": self.model, "prompt": PROMPT}

    def _persist(self, prompt: str) -> str:
        """Ask until there is a reply, or no hope."""
        for attempt in range(ATTEMPTS - 1):
            with suppress(_BusyError):
                return self._ask(prompt)
            time.sleep(PAUSE * 2**attempt)
        try:
            return self._ask(prompt)
        except _BusyError as error:
            raise JudgeError(f"{error} It was asked {ATTEMPTS} times.") from error

    def _ask(self, prompt: str) -> str:
        key = os.environ.get(KEY, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise JudgeError(
                f"The environment variable {KEY} holds characters that no key has, a line break, say. Set it anew."
            )
        question = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": REPLY_TOKENS,
        }
        request = urllib.request.Request(
            f"{self.address}/chat/completions",
            data=json.dumps(question).encode(),
            headers={"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {}),
        )
        try:
            with urllib.request.build_opener(_NoRedirects).open(request, timeout=self.timeout) as response:
                said = response.read(LONGEST_REPLY).decode(errors="replace")
        except urllib.error.HTTPError as error:
            raise self._refusal(error, key) from error
        except (OSError, HTTPException) as error:  # a URLError is an OSError, and so is a TimeoutError
            reason = getattr(error, "reason", error)
            late = isinstance(reason, TimeoutError)
            what = f"said nothing for {self.timeout:g} s" if late else f"cannot be reached ({reason!r})"
            raise _BusyError(
                f"The judge at {self.address} {what}. Check that the server runs and that --edits.judge is its address; a slow "
                "one gets more time with --edits.judge_timeout."
            ) from error
        return self._content(said, key)

    def _content(self, said: str, key: str) -> str:
        """The reply in what a server sends."""
        try:
            content = json.loads(said)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise JudgeError(
                f"The judge at {self.address} sent something that is no chat completion ({type(error).__name__}): "
                f"{_shown(said, key)} Check that the address is that of an OpenAI-compatible server, up to and with /v1."
            ) from error
        return content.strip() if isinstance(content, str) else ""  # null where a model only thinks

    def _refusal(self, error: urllib.error.HTTPError, key: str) -> Exception:
        """What to raise for a status of failure."""
        body = ""
        with error, suppress(OSError, HTTPException):  # it may say nothing more
            body = error.read(LONGEST_REPLY).decode(errors="replace")
        body = _shown(body, key)
        said = f"The judge at {self.address} answered with HTTP {error.code}: {body}"
        if error.code == 429 or error.code >= 500:
            return _BusyError(f"{said} Try again later, or ask another server.")
        advice = {
            401: f"Put the key into the environment variable {KEY}.",
            403: f"Put a key that may ask this model into the environment variable {KEY}.",
            404: f"Check the address, which ends in /v1 mostly, and the model's name, {self.model!r} (--edits.judge_model).",
        }
        redirected = (
            "It redirects, which is not followed, so that the key goes nowhere else: give the address it leads to."
        )
        otherwise = redirected if error.code < 400 else f"Check the model's name, {self.model!r} (--edits.judge_model)."
        return JudgeError(f"{said} {advice.get(error.code, otherwise)}")


class _BusyError(Exception):
    """A failure that may pass."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the request would take the key along."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Nothing, so that the status counts as an error."""


def is_address(judge: str) -> bool:
    """Whether a judge is named by an address, and not as a model.

    Args:
        judge: A name.
    """
    return judge.lower().startswith(("http://", "https://"))


def _check_address(address: str) -> None:
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError as error:
        raise SettingError(f"The judge's address {address!r} cannot be used: {error}.") from error
    if "@" in parts.netloc or parts.query:
        raise SettingError(
            "The judge's address holds a password, or has a query, which may. Addresses go into result files: give the "
            f"address alone, and the key in the environment variable {KEY}."
        )
    if not is_address(address) or not parts.hostname:
        raise SettingError(f"The judge's address must be like 'http://localhost:8000/v1', got {address!r}.")


def _shown(said: str, key: str) -> str:
    """The beginning of what a server said, in one line and without the key."""
    line = " ".join((said.replace(key, "(key)") if key else said).split())
    return f"{line[:SHOWN]!r}."
