"""Connects Qiskit Runtime clients before 0.49; newer ones need only environment variables.

Those clients ask IBM for a token whatever ``IAM_URL`` says. Copy this file beside your program:

    from connect import connect

    service = connect("http://localhost:8000", token="your API key")
"""

from __future__ import annotations

import os
from typing import Any

from qiskit_ibm_runtime import QiskitRuntimeService
from qiskit_ibm_runtime.accounts import account
from qiskit_ibm_runtime.api import auth

_TOKEN_MANAGER = auth.IAMTokenManager


def connect(url: str, token: str, instance: str | None = None) -> QiskitRuntimeService:
    """The service at a URL, for every client from 0.41 on.

    Args:
        url: of the gateway, without a path.
        token: API key; any word where the service asks for none.
        instance: CRN or name; without it, all of yours.
    """
    catalog = f"{url}/catalog"
    os.environ.update(IAM_URL=url, GLOBAL_SEARCH_URL=url, GLOBAL_CATALOG_URL=catalog)

    def token_manager(key: str, **options: Any) -> Any:
        return _TOKEN_MANAGER(key, **(options | {"url": url}))

    # Before 0.49 the client does not look at the variables.
    auth.IAMTokenManager = token_manager
    account.get_iam_api_url = lambda _: url
    account.get_global_search_api_url = lambda _: url
    account.get_global_catalog_api_url = lambda _: catalog
    return QiskitRuntimeService(
        channel="ibm_quantum_platform",
        token=token,
        # The client leaves a URL as it is when it holds the word "experimental".
        url=f"{url}/experimental/api/v1",
        instance=instance,
    )
