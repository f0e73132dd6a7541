"""What the checks of images, compose and chart have in common: the folder, the settings, and what is prepared."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from auth_svc.settings import AuthSettings
from catalog_svc.settings import CatalogSettings
from meshkit.settings import SETTINGS_DIR_VARIABLE, ServiceSettings
from scheduler_svc.settings import SchedulerSettings
from trainer_svc.settings import TrainerSettings

ROOT = Path(__file__).parents[3]
DOCKER = ROOT / "deploy" / "docker"
COMPOSE = ROOT / "deploy" / "compose" / "compose.yaml"
CHART = ROOT / "deploy" / "helm" / "reeltune"
SETTINGS: Mapping[str, type[ServiceSettings]] = {
    "auth": AuthSettings,
    "catalog": CatalogSettings,
    "scheduler": SchedulerSettings,
    "trainer": TrainerSettings,
}


def image_targets() -> set[str]:
    """Returns what images there are, without `reeltune-`: the last stages of the Dockerfiles."""
    stages = re.findall(r"^FROM \S+ AS (\S+)", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    return {stage for stage in stages if not stage.startswith("build") and stage not in ("sources", "end")} | {
        "trainer-jetson"
    }


def faults_of_environment(service: str, names: Iterable[str], prepared: Path) -> list[str]:
    """Returns what is wrong with the variables that a service is given: unknown ones, and required ones that lack."""
    fields = SETTINGS[service].model_fields
    prefix = f"{service}_".upper()
    given = set(names) - {SETTINGS_DIR_VARIABLE}
    known = {f"{prefix}{name}".upper() for name in fields}
    from_files = {path.name.upper() for path in (prepared / service / "settings").iterdir()}
    required = {f"{prefix}{name}".upper() for name, field in fields.items() if field.is_required()}
    secret = {f"{prefix}{name}".upper() for name, field in fields.items() if "SecretStr" in str(field.annotation)}
    return [
        *(f"{name} is no setting of {service}" for name in sorted(given - known)),
        *(f"{name} is not set" for name in sorted(required - given - from_files)),
        *(f"{name} is a secret and stands in the environment" for name in sorted(given & secret)),
    ]


def load_all(text: str) -> list[dict[str, object]]:
    """Returns the documents of a YAML stream."""
    return [document for document in yaml.safe_load_all(text) if document]
