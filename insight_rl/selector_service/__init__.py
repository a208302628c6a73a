"""The selector as a service: schema (messages), store (disk), hosting (runs and pools), app (HTTP)."""
