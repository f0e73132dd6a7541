"""Where imports come from: addresses, buckets, hubs and folders, each listed and read in the same way."""
