"""`python -m trainer_svc`: runs a trainer until SIGTERM. Settings: `trainer_svc.settings`."""

from __future__ import annotations

from meshkit.lifecycle import main
from meshkit.service_command import read_settings
from trainer_svc.bootstrap import bootstrap
from trainer_svc.settings import TrainerSettings

if __name__ == "__main__":
    settings = read_settings(TrainerSettings, "trainer_svc")
    main("trainer", settings, lambda runtime: bootstrap(settings, runtime), has_children=True)
