"""The steps that every rpc passes, whatever its kind, in one order."""
