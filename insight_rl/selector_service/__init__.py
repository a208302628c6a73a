"""The selector as a service: schema (what is said), store (what is kept), hosting (what it means), app (HTTP)."""
