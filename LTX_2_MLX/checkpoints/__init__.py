"""Files to networks: headers, loading, adapters, where published files are."""
