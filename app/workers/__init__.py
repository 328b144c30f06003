"""The worker process: Celery's entry point and signals."""
