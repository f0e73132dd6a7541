"""The scheduler, the catalog, the auth service, the queue and the object store, as the trainer calls them."""
