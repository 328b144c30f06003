"""What does an ASGI server load? The gateway, as the environment configures it."""

from app.bootstrap import build_gateway
from app.config import Settings

app = build_gateway(Settings())
