"""The local stack: Valkey, gateway and worker on one machine, with one command."""
