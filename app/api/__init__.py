"""The HTTP face. Knows the dispatcher and the values of ``app.jobs``, nothing below."""
