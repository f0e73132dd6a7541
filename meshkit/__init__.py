"""What every service of the mesh shares, by capability: lifecycle, rpc, auth, postgres, jetstream, blob, telemetry, embedded servers, testing."""
