"""LangChain's own standard tests of chat models, for ChatOpenAI with the address in SIDECAR_ADDRESS. Run by pytest in its environment.

Tests of pictures are left out (they fetch theirs from the Internet; `test_clients.py` sends one), and those of PDF files and of sound,
which the sidecar does not carry.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests

ADDRESS = f"{os.environ['SIDECAR_ADDRESS']}/v1"


class TestChat(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "client-0", "base_url": ADDRESS, "api_key": "none", "stream_usage": True, "max_retries": 0}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "client-1"

    @pytest.mark.xfail(strict=True, reason="a speaker's name (messages[].name) is refused: not every provider can be told it")
    def test_message_with_name(self, model: BaseChatModel) -> None:
        super().test_message_with_name(model)


class TestEmbeddings(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self) -> type[OpenAIEmbeddings]:
        return OpenAIEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": "client-0", "base_url": ADDRESS, "api_key": "none"}
