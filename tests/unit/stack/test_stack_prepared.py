"""What a mesh of containers is prepared with: every part gets what its settings ask for, and nothing of another's."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from cryptography import x509

from auth_svc.settings import AuthSettings
from auth_svc.store.key_folder import KeyFolder
from catalog_svc.settings import CatalogSettings
from meshkit.service_command import read_settings
from meshkit.settings import SETTINGS_DIR_VARIABLE, ServiceSettings
from reeltune_cli.stack.prepared import PARTS, Preparation, prepare
from scheduler_svc.settings import SchedulerSettings
from scheduler_svc.signing_keys import load_signing_keys
from trainer_svc.settings import TrainerSettings

SETTINGS: dict[str, type[ServiceSettings]] = {
    "auth": AuthSettings,
    "catalog": CatalogSettings,
    "scheduler": SchedulerSettings,
    "trainer": TrainerSettings,
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared")
    prepare(Preparation(out=out, prefix="reeltune-", namespace="video"))
    return out


@pytest.mark.parametrize("part", SETTINGS)
def test_each_prepared_setting_is_one_of_the_service(prepared: Path, part: str) -> None:
    fields = {f"{part}_{name}" for name in SETTINGS[part].model_fields}
    files = {path.name for path in (prepared / part / "settings").iterdir()}
    assert files <= fields
    secrets = {name for name, field in SETTINGS[part].model_fields.items() if "SecretStr" in str(field.annotation)}
    assert {f"{part}_{name}" for name in secrets} == {
        name for name in files if name.removeprefix(f"{part}_") in secrets
    }


def test_a_service_reads_its_settings_from_the_folder_and_the_environment_comes_first(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(SETTINGS_DIR_VARIABLE, str(prepared / "auth" / "settings"))
    monkeypatch.setenv("AUTH_KEYS_DIR", str(prepared / "auth" / "keys"))
    settings = read_settings(AuthSettings, "auth_svc")
    assert settings.postgres_dsn.get_secret_value().startswith("postgresql://auth:")
    monkeypatch.setenv("AUTH_POSTGRES_DSN", "postgresql://other")
    assert read_settings(AuthSettings, "auth_svc").postgres_dsn.get_secret_value() == "postgresql://other"
    monkeypatch.setenv(SETTINGS_DIR_VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(SystemExit, match="no folder"):
        read_settings(AuthSettings, "auth_svc")


def test_what_is_missing_is_named_and_no_value_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(SETTINGS_DIR_VARIABLE, str(tmp_path))
    (tmp_path / "trainer_join_secret").write_text("canary-secret")
    (tmp_path / "trainer_port").write_text("canary-port")
    with pytest.raises(SystemExit) as told:
        read_settings(TrainerSettings, "trainer_svc")
    assert "TRAINER_DATA_DIR" in str(told.value)
    assert "canary" not in str(told.value)


def test_done_again_nothing_changes_and_an_edited_setting_stays(prepared: Path) -> None:
    edited = prepared / "catalog" / "settings" / "catalog_s3_access_key"
    edited.write_text("of another store")
    before = {path: path.read_bytes() for path in prepared.rglob("*") if path.is_file()}
    prepare(Preparation(out=prepared, prefix="reeltune-", namespace="video"))
    assert {path: path.read_bytes() for path in prepared.rglob("*") if path.is_file()} == before


def test_secrets_are_readable_by_their_owner_alone(prepared: Path) -> None:
    open_files = {
        str(path.relative_to(prepared))
        for path in prepared.rglob("*")
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077 and path.suffix not in (".crt", ".pem")
    }
    # Read by the user of the database's own image; no other container is given its folder.
    assert open_files <= {"postgres/password", "grafana/password"} | {
        f"{part}/keys/.lock" for part in ("auth", "scheduler")
    }


@pytest.mark.parametrize("part", PARTS)
def test_certificates_name_the_identity_and_the_names_of_the_service(prepared: Path, part: str) -> None:
    certificate = x509.load_pem_x509_certificate((prepared / part / "tls" / "tls.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://reeltune/{part}"]
    assert f"reeltune-{part}.video.svc" in names.get_values_for_type(x509.DNSName)
    certificate.verify_directly_issued_by(
        x509.load_pem_x509_certificate((prepared / "authority" / "ca.pem").read_bytes())
    )


def test_no_part_is_given_what_belongs_to_another(prepared: Path) -> None:
    secrets = json.loads((prepared / "authority" / "secrets.json").read_text())
    shared = {"join_secret", "scheduler_nats", "trainer_nats", "catalog_s3", "scheduler_s3"}
    for name, value in secrets.items():
        holders = {
            path.relative_to(prepared).parts[0]
            for path in prepared.rglob("*")
            if path.is_file() and path.parts[-2] != "authority" and value.encode() in path.read_bytes()
        }
        assert len(holders) == 1 or name in shared, (name, holders)


def test_replicas_that_may_not_write_share_the_keys(prepared: Path) -> None:
    folders = [prepared / part / "keys" for part in ("auth", "scheduler")]
    before = {path for folder in folders for path in folder.iterdir()}
    for folder in folders:
        folder.chmod(0o500)
    try:
        keys = KeyFolder(folders[0])
        assert keys.ensure_keys()
        assert keys.refresh_key()
        assert load_signing_keys(folders[1])
    finally:
        for folder in folders:
            folder.chmod(0o700)
    assert {path for folder in folders for path in folder.iterdir()} == before
