"""Where entries, files, uploads and findings are kept; the only place with SQL."""
