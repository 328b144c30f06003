"""From gateway to worker: wake-ups over Celery."""
